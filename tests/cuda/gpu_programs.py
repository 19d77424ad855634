"""Programs whose kernels for CUDA are looked at without a GPU: captured as jobs, which thunderc compiles for any architecture.

    jobs("gpt")                      the jobs of a program, captured and not compiled
    executable(job, "sm_90", path)   what thunderc makes of one (proto/plan.proto)"""
import os
import subprocess

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder
from thunder import device, jobs as thunder_jobs, wire

PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


class Captured(BaseException):  # not an Exception, which some of what is on the way catches
    pass


def jobs(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    return captured(PROGRAMS[name]())


def captured(calls, target="cuda:sm_90"):
    """The jobs of the calls: what they would have asked of a daemon."""
    found = []

    def run(job, stats):
        found.append(job.message)
        raise Captured

    outside, compiled = os.environ.get("THUNDER_TARGET"), thunder_jobs.Job.run
    os.environ["THUNDER_TARGET"], thunder_jobs.Job.run = target, run
    try:
        for call in calls:
            try:
                call()
            except Captured:
                continue
            raise AssertionError("nothing was compiled")
    finally:
        thunder_jobs.Job.run = compiled
        if outside is None:
            del os.environ["THUNDER_TARGET"]
        else:
            os.environ["THUNDER_TARGET"] = outside
    return found


def folders():
    """Where NVIDIA's libraries are looked for: as the client does."""
    return [f for f in (os.environ.get("THUNDER_CUDA_LIBS") or device.library_folders()).split(":") if f]


def need(*files):
    """Their paths; without one of them the test is skipped, but not in CI: deploy/setup.sh installs them there. A file of a wheel's
    folders of libraries ("libnvrtc.so.13"), or beside such a folder ("include/cublasLt.h")."""
    found = [next((path for folder in folders() for path in (os.path.join(folder, f), os.path.join(folder, "..", f)) if os.path.exists(path)), None) for f in files]
    missing = [f for f, path in zip(files, found) if path is None]
    if missing:
        assert os.environ.get("CI") != "true", f"CI has {missing}: deploy/setup.sh installs NVIDIA's wheels"
        pytest.skip(f"{', '.join(missing)} not in THUNDER_CUDA_LIBS and not in a wheel of this environment (deploy/setup.sh with THUNDER_CUDNN=1)")
    return found


def environment():
    return {**os.environ, "THUNDER_CUDA_LIBS": ":".join(folders())}


def executable(job, arch, path):
    job.target.arch = arch
    path.write_bytes(job.SerializeToString(deterministic=True))
    command = [os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderc"), "--dump-after=none", "-o", f"{path}.out", path]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    message = wire.Executable()
    with open(f"{path}.out", "rb") as f:
        message.ParseFromString(f.read())
    return message


# ---- what programs are made of ----

def rand(*shape, dtype=torch.float32, grad=True):
    return torch.randn(shape).to(dtype).requires_grad_(grad)


class Call:
    """What thunder made of something (`fn`), and what it is called with."""

    def __init__(self, fn, arguments):
        self.fn, self.arguments = fn, arguments

    def __call__(self):
        return self.fn(*self.arguments)


def compiled(fn, *tensors, dynamic=None):
    return Call(thunder.compile(fn, fullgraph=True, dynamic=dynamic), tensors)


def step(model, optimizer, loss, *batch, **options):
    return Call(thunder.train_step(model, optimizer(model.parameters()), loss, **options), batch)


class Gpt(nn.Module):
    def __init__(self, width=768, heads=12, vocab=1000, layers=2, length=128, dropout=0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.token, self.place = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "ln1": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
            "ln2": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)}) for _ in range(layers))
        self.ln = nn.LayerNorm(width)

    def forward(self, x):
        b, t = x.shape
        h = F.dropout(self.token(x) + self.place(torch.arange(t, device=x.device)), self.dropout, self.training)
        for m in self.blocks:
            q, k, v = m["qkv"](m["ln1"](h)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            h = h + m["out"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1))
            h = h + F.dropout(m["down"](F.gelu(m["up"](m["ln2"](h)))), self.dropout, self.training)
        return F.linear(self.ln(h), self.token.weight)


class Llama(nn.Module):
    def __init__(self, width=1024, heads=16, groups=4, vocab=1000, layers=2, length=64):
        super().__init__()
        self.heads, self.groups, each = heads, groups, width // heads
        self.token = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "n1": nn.RMSNorm(width), "q": nn.Linear(width, width, bias=False), "kv": nn.Linear(width, 2 * groups * each, bias=False),
            "out": nn.Linear(width, width, bias=False), "n2": nn.RMSNorm(width), "gate": nn.Linear(width, 3 * width, bias=False),
            "up": nn.Linear(width, 3 * width, bias=False), "down": nn.Linear(3 * width, width, bias=False)}) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocab, bias=False)
        angle = torch.arange(float(length))[:, None] * 1e4 ** (-torch.arange(each / 2) * 2 / each).repeat(2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        b, t = x.shape
        h = self.token(x)
        for m in self.blocks:
            n = m["n1"](h)
            q = self.rotate(m["q"](n).view(b, t, self.heads, -1).transpose(1, 2))
            k, v = m["kv"](n).view(b, t, 2, self.groups, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, self.rotate(k), v, is_causal=True, enable_gqa=True)
            h = h + m["out"](y.transpose(1, 2).reshape(b, t, -1))
            n = m["n2"](h)
            h = h + m["down"](F.silu(m["gate"](n)) * m["up"](n))
        return self.head(self.norm(h))


def token_loss(y, t):
    return F.cross_entropy(y.flatten(0, 1), t.flatten())


def tokens(b, t):
    return torch.randint(0, 1000, (b, t))


# ---- the programs; each gives calls that compile one job ----

@program
def gpt():
    x = tokens(2, 128)
    yield step(Gpt(dropout=0.1), torch.optim.AdamW, token_loss, x, x, clip_grad_norm=1.0)


@program
def gpt_bf16():
    x = tokens(2, 128)
    yield step(Gpt(), torch.optim.AdamW, token_loss, x, x, clip_grad_norm=1.0, precision="bf16-mixed")


@program
def gpt_f16():
    x = tokens(2, 128)
    yield step(Gpt(), torch.optim.AdamW, token_loss, x, x, clip_grad_norm=1.0, precision="f16-mixed", accumulate=2)


@program
def llama():
    x = tokens(2, 64)
    yield step(Llama(), torch.optim.AdamW, token_loss, x, x)


@program
def llama_bf16():
    x = tokens(2, 64)
    yield step(Llama(), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True), token_loss, x, x, precision="bf16-mixed", accumulate=2)


@program
def mlp():
    model = nn.Sequential(nn.Linear(100, 300), nn.ReLU(), nn.Dropout(0.25), nn.Linear(300, 10))
    yield step(model, lambda p: torch.optim.Adam(p, amsgrad=True), F.mse_loss, rand(64, 100, grad=False), rand(64, 10, grad=False))


@program
def pools():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 10))
    yield step(model, torch.optim.SGD, F.mse_loss, rand(4, 8, 16, 16, grad=False), rand(4, 10, grad=False))


def reductions(dtype):
    for shape in ((64, 768), (33, 1001), (5, 60000)):
        for fn in (lambda x: x.sum(-1), lambda x: x.sum(0), lambda x: x.sum()):
            yield compiled(fn, rand(*shape, dtype=dtype, grad=False))
    yield compiled(lambda x: (x.amax(-1), x.mean(-1), x.amin(0)), rand(6, 40, 130, dtype=dtype, grad=False))


@program
def sums_f32():
    yield from reductions(torch.float32)


@program
def sums_bf16():
    yield from reductions(torch.bfloat16)


@program
def sums_f64():
    yield from reductions(torch.float64)


@program
def sums_i64():
    yield compiled(lambda x: (x.sum(-1), x.amax(0), x.sum()), torch.randint(0, 9, (33, 1001)))


@program
def softmax():
    for dtype in (torch.float32, torch.bfloat16):
        for n in (100, 768, 4096, 50257):
            yield compiled(lambda x: x.softmax(-1), rand(8, n, dtype=dtype))
            yield compiled(lambda x, y: F.cross_entropy(x, y), rand(8, n, dtype=dtype), torch.randint(0, 99, (8,)))


@program
def norms():
    for dtype in (torch.float32, torch.bfloat16):
        for n in (64, 768, 4096):
            yield compiled(lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b), rand(300, n, dtype=dtype), rand(n, dtype=dtype), rand(n, dtype=dtype))
            yield compiled(lambda x, y, w: F.rms_norm(x + y, (x.shape[-1],), w), rand(300, n, dtype=dtype), rand(300, n, dtype=dtype), rand(n, dtype=dtype))


@program
def pointwise():
    yield compiled(lambda x, y: F.gelu(x) * y + F.gelu(x, approximate="tanh"), rand(100, 256), rand(100, 256))
    yield compiled(lambda x, y: x.sin() + y.exp().t(), rand(100, 256), rand(256, 100))
    yield compiled(lambda x, y: (x.erf() / y).to(torch.float16), rand(100, 255, dtype=torch.float64), rand(255, dtype=torch.bfloat16))
    yield compiled(lambda x: (x // 7, x % 5, x ** 3), torch.randint(0, 99, (1000,)))
    yield compiled(lambda x: F.dropout(x, 0.5), rand(100, 256))


@program
def indices():
    yield compiled(lambda w, i: F.embedding(i, w), rand(1000, 96), tokens(4, 33))
    yield compiled(lambda x, i, y: x.scatter_add(1, i, y), rand(8, 50), torch.randint(0, 50, (8, 20)), rand(8, 20))
    yield compiled(lambda x, i, y: x.index_add(0, i, y), rand(50, 8), torch.randint(0, 50, (20,)), rand(20, 8))
    yield compiled(lambda x, i: x.gather(1, i), rand(8, 50), torch.randint(0, 50, (8, 20)))
    yield compiled(lambda x: (x.argmax(-1), x.argmin(0), x.cumsum(1)), rand(40, 70))
    yield compiled(lambda x: F.max_pool2d(x, 3, 2, 1), rand(2, 4, 17, 17))
    yield compiled(lambda x: torch.cat([x[:, ::2], x[:, 1::2].flip(0)], 1), rand(33, 40))


@program
def symbolic():
    x, w, b, y = rand(5, 64, grad=False), rand(48, 64), rand(48), torch.randint(0, 48, (5,))
    for t in (x, y):
        torch._dynamo.mark_dynamic(t, 0)
    yield compiled(lambda x, w, b, y: F.cross_entropy(F.gelu(F.linear(x, w, b)), y), x, w, b, y)
    yield compiled(lambda x: (x.softmax(-1), x.sum(0), x.mean()), rand(7, 9, grad=False), dynamic=True)
