"""Batches (ir/passes/batch.c, executors/cuda/batch.c): training steps on CUDA's threads on the host, against eager PyTorch; plans that
hold few launches, nothing copied and everything in place; the same kernels compiled for a GPU where NVRTC is there."""
import copy
import math
import os
import re
import subprocess

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

import gpu_programs
import test_kernels

pytestmark = pytest.mark.quick
THUNDERC = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderc")


class Net(nn.Module):
    """Parameters of sizes that no vector divides, one larger than a block's part, a transposed one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 33), nn.Linear(33, 7), nn.Linear(7, 129)
        self.d, self.e, self.f = nn.Linear(129, 66), nn.Linear(66, 3, bias=False), nn.LayerNorm(7)
        self.scale, self.shift = nn.Parameter(torch.rand(1) + 0.5), nn.Parameter(torch.rand(1))
        self.turned = nn.Parameter(torch.randn(3, 3).t())

    def forward(self, x):
        h = self.f(self.b(torch.tanh(self.a(x))))
        h = self.e(torch.tanh(self.d(torch.tanh(self.c(h)))))
        return (h @ self.turned) * self.scale + self.shift


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


def data(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 5, generator=generator).to(dtype), torch.randn(6, 3, generator=generator).to(dtype)) for _ in range(n)]


@pytest.fixture
def simt(monkeypatch):
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")


def run(model, optimizer, batches, clip, **options):
    eager, other = model, copy.deepcopy(model)
    torch._dynamo.reset()
    o, p = optimizer(eager.parameters()), optimizer(other.parameters())
    step = thunder.train_step(other, p, F.mse_loss, clip_grad_norm=clip, **options)
    for x, y in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.get("precision") == "bf16-mixed"):
            loss = F.mse_loss(eager(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(eager.parameters(), clip) if clip else None
        o.step()
        o.zero_grad()
        yield loss.detach(), norm, step(x, y), step.grad_norm if clip else None, eager, other, step


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps(simt, optimizer, clip):
    for loss, norm, got, got_norm, eager, other, step in run(Net(), OPTIMIZERS[optimizer], data(4), clip):
        torch.testing.assert_close(got, loss, rtol=1e-5, atol=1e-6)
        if clip:
            torch.testing.assert_close(got_norm, norm, rtol=1e-5, atol=1e-6)
    for (name, a), b in zip(eager.named_parameters(), other.parameters()):
        # AdamW divides by what may be near zero; f64 below is exact
        torch.testing.assert_close(b, a, rtol=2e-5, atol=2e-4 if optimizer == "adamw" else 2e-6, msg=lambda m: f"{name}: {m}")


def test_steps_f64(simt):
    for loss, norm, got, got_norm, eager, other, step in run(Net().double(), OPTIMIZERS["adamw"], data(4, torch.float64), 0.1):
        torch.testing.assert_close(got, loss, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(got_norm, norm, rtol=1e-10, atol=1e-12)
    for a, b in zip(eager.parameters(), other.parameters()):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)


def test_steps_bf16_mixed(simt):
    for loss, norm, got, got_norm, eager, other, step in run(Net(), OPTIMIZERS["adamw"], data(3), 0.5, precision="bf16-mixed"):
        torch.testing.assert_close(got, loss, rtol=0.03, atol=0.01)
        torch.testing.assert_close(got_norm, norm, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("precision", [None, "f16-mixed"], ids=["sums", "numbers"])
def test_order_of_blocks_does_not_matter(monkeypatch, precision):
    """The same bits, whatever block comes first; of f16-mixed the bias corrections too, a batch that has numbers alone."""
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    results = []
    for seed in ("", "1", "2"):
        monkeypatch.setenv("TH_SIMT_SEED", seed)
        torch.manual_seed(0)
        *_, (_, _, got, norm, _, other, _) = run(Net(), OPTIMIZERS["adamw"], data(3), 0.1, precision=precision)
        results.append([got, norm, *(p.detach() for p in other.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def main_of(text):
    text = text[text.index("graph @0"):]
    return text[:text.index("\n}")].splitlines()


def dumped(monkeypatch, tmp_path, target, rows=4, **options):
    """The folder of the job of one step, with what each pass made of it where it was compiled here."""
    monkeypatch.setenv("THUNDER_TARGET", target)
    monkeypatch.setenv("THUNDER_DUMP", str(tmp_path))
    try:
        list(run(Net(), OPTIMIZERS["adamw"], [(torch.randn(rows, 5), torch.randn(rows, 3))], 0.1, **options))  # of a size that is in no cache
    except (thunder.errors.CompileError, ValueError):
        pass  # NVRTC is not here, or no GPU: the job is written all the same
    jobs = [path for path, _, files in os.walk(tmp_path) if "job.bin" in files]
    return max(jobs, key=lambda path: os.path.getsize(os.path.join(path, "job.bin")))


def plan(job, *flags):
    done = subprocess.run([THUNDERC, os.path.join(job, "job.bin"), "--dump-after=memory_plan", *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return main_of(done.stdout)


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
def test_plan(monkeypatch, tmp_path, precision):
    """Few launches; parameters and states in their own buffers; no copy and no more memory than without batches."""
    job = dumped(monkeypatch, tmp_path, "cuda:simt", precision=precision)
    lines, apart = plan(job), plan(job, "--disable=batch")
    launches, launches_apart = (sum(" launch(" in l and "#executor(cuda)" in l for l in p) for p in (lines, apart))
    n = sum(" parameter " in l for l in lines)
    batches = [l for l in lines if "batch: " in l]
    updates = [l for l in batches if "borrowed(" in l]
    written = sum(l.count("borrowed(") for l in updates)
    sizes = [int(re.search(r"batch: (\d+)", l)[1]) for l in batches]
    assert len(batches) >= 2 and sum(sizes) >= n and launches == launches_apart - sum(sizes) + len(sizes)
    assert written >= 3 * (n - 4) and not any("arena(" in l for l in updates)
    assert sum(" copy(" in l for l in lines) == sum(" copy(" in l for l in apart)
    arena, arena_apart = (max(int(o) for l in p for o in re.findall(r"arena\((\d+)\)", l)) for p in (lines, apart))
    places = [places_of(l) for l in lines]
    bytes_of = {name: size for found in places for name, size in found.items()}
    together = max(sum(bytes_of.get(name, 0) for name in set(re.findall(r"%\d+", l))) for l in batches)
    assert arena <= arena_apart + together  # what a batch reads and writes lives at one time


def places_of(line):
    """Bytes of each result that lies in the arena."""
    names, _, rest = line.partition(" = ")
    types = re.findall(r"(bool|[a-z]+\d+)\[([\d, ]*)\] (?:host )?strides\([^)]*\) (\w+)", rest[rest.rfind("} :"):])
    size = {"bool": 1, "bf16": 2, "f16": 2, "f32": 4, "i64": 8, "f64": 8}
    return {name: size[dtype] * math.prod(int(n) for n in dims.split(", ") if n) for name, (dtype, dims, place) in zip(re.findall(r"%\d+", names), types) if place == "arena"}


def test_plan_that_may_skip(monkeypatch, tmp_path):
    """What f16-mixed adds to bf16-mixed: the counters of all parameters are one launch, written where they are; no copy, no memory to speak of."""
    plans = []
    for precision in ("bf16-mixed", "f16-mixed"):
        (tmp_path / precision).mkdir()
        plans.append(plan(dumped(monkeypatch, tmp_path / precision, "cuda:sm_90", rows=7, precision=precision)))
    mixed, scaled = plans
    n = sum(" parameter " in l for l in scaled)
    counters = [l for l in scaled if f"batch: {n}}}" in l]
    assert len(counters) == 1 and counters[0].count("f32[] strides() borrowed(") == n
    launches, launches_scaled = (sum(" launch(" in l and "#executor(cuda)" in l for l in p) for p in (mixed, scaled))
    assert launches_scaled < launches + n
    assert sum(" copy(" in l for l in scaled) == sum(" copy(" in l for l in mixed)
    arena, arena_scaled = (max(int(o) for l in p for o in re.findall(r"arena\((\d+)\)", l)) for p in (mixed, scaled))
    assert arena_scaled <= arena + 128 * 8 * n


class Many(nn.Module):
    """More parameters than one kernel adds up squares of, or one batch updates."""

    def __init__(self, n):
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.randn(3 + i % 5)) for i in range(n))

    def forward(self, x):
        return torch.stack([(p * x).sum() for p in self.parts]).sum()


def test_many_parameters(tmp_path):
    """All squares in one batch, before they are added up; the updates in batches of one number of members, so that one kernel is compiled for them."""
    n = 300
    model = Many(n)
    step = thunder.train_step(model, torch.optim.AdamW(model.parameters(), lr=1e-2), lambda y, t: (y - t).square(), clip_grad_norm=0.1)
    job, = gpu_programs.captured([lambda: step(torch.ones(()), torch.ones(()))])
    path = tmp_path / "job.bin"
    path.write_bytes(job.SerializeToString(deterministic=True))
    done = subprocess.run([THUNDERC, str(path), "--dump-after=batch"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    batches = [l for l in main_of(done.stdout) if "batch: " in l]
    sizes = [int(re.search(r"batch: (\d+)", l)[1]) for l in batches]
    squares = [size for l, size in zip(batches, sizes) if l.count("f32[]") == size]
    updates = [size for l, size in zip(batches, sizes) if l[l.rfind("} :"):].count("f32[") == 3 * size]
    assert squares == [n] and updates == [100, 100, 100], sizes


def test_compiles_for_a_gpu(monkeypatch, tmp_path):
    test_kernels.need_nvrtc()
    job = dumped(monkeypatch, tmp_path, "cuda:sm_90", precision="bf16-mixed")
    done = subprocess.run([THUNDERC, os.path.join(job, "job.bin"), "--dump-after=none", "-o", str(tmp_path / "plan")], capture_output=True, text=True, timeout=120, env=gpu_programs.environment())
    assert done.returncode == 0, done.stderr
    assert any("batch: " in line for line in plan(job))


BATCH = """graph @0 "main" {
  %0 : f32[3] user
  %1 : f32[4] user
  %2, %3 = fusion(%0, %1) {body: @1, batch: 2} : f32[3], f32[4] #executor(cuda)
  return %2 fresh
  return %3 fresh
}
graph @1 "batch" {
  %4 : f32[3]
  %5 : f32[4]
  %6 = neg(%4) : f32[3]
  %7 = neg(%5) : f32[4]
  return %6
  return %7
}
"""


@pytest.mark.parametrize("old, new, error", [
    ("", "", None),
    ("batch: 2", "batch: 3", "are no batch of 3"),
    ("batch: 2", "batch: 1", "two components or more"),
    ("%7 = neg", "%7 = abs", "components 0 and 1 of the batch differ"),
    ("[4]", "[]", "components 0 and 1 of the batch differ"),
    ("%7 = neg(%5) : f32[4]", "%7 = neg(%4) : f32[3]", None),
    ("return %6\n  return %7", "return %7\n  return %6", None),
], ids=["right", "count", "one", "op", "rank", "wiring", "outputs"])
def test_verified(tmp_path, old, new, error):
    path = tmp_path / "batch.tir"
    text = BATCH.replace(old, new) if old else BATCH
    if old and error is None:  # one component reads another: types as they then are
        text, error = text.replace("f32[4]", "f32[3]"), "component"
    path.write_text(text)
    done = subprocess.run([THUNDERC, "--dump-after=none", str(path)], capture_output=True, text=True, timeout=60)
    if error:
        assert done.returncode == 1 and error in done.stderr
    else:
        assert "component" not in done.stderr and "no batch" not in done.stderr  # regions are no program to begin with: other rules
