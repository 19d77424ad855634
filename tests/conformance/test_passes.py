"""Golden traces: each pass makes of the committed trace before it exactly the committed trace after it, and both compute the
same on the reference executor, on as many ranks as the program is for.

    python tests/conformance/test_passes.py --update     writes the golden files anew (look at the difference before you commit)

golden/<program>/capture.tir was captured from the program in PROGRAMS by thunder.compile or thunder.train_step."""
import glob
import math
import os
import re
import sys

import pytest
import torch

from refrun import RefRun, inputs_of, random_inputs

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
PASSES = ["number", "autocast", "grad", "forward", "backward", "optimizer", "ddp", "claim", "decompose", "canonicalize", "fold", "cse", "dce",
          "unbarrier", "sink", "pick", "host", "library", "fuse", "batch", "layout", "memory_plan"]
# program: options of its compile
PROGRAMS = {
    "symbolic": ["forward"],
    "symbolic-batch": ["forward_backward"],
    "equal-sizes": ["forward_backward"],
    "views": ["forward"],
    "attention": ["forward_backward"],
    "linear": ["train_step", "adamw", "clip", "weight_decay", "world=2"],
    "gpt": ["train_step", "adamw", "clip", "weight_decay", "world=2", "bucket=2048"],
    "llama": ["train_step", "sgd", "momentum", "nesterov", "accumulates", "world=2"],
    "cnn": ["train_step", "adam", "amsgrad"],
    "updates": ["train_step", "sgd", "momentum", "clip", "target=cuda:simt"],
    "loss-scale": ["train_step", "adamw", "clip", "weight_decay", "loss_scale", "target=cuda:simt"],
    "loss-scale-ranks": ["train_step", "sgd", "momentum", "accumulates", "loss_scale", "world=2"],
}
LONG = ("gpt", "llama", "cnn")  # executed, but their texts after each pass are too long to be read


def world_of(program):
    return next((int(o[6:]) for o in PROGRAMS[program] if o.startswith("world=")), 1)


def path_of(program, name, plan):
    return os.path.join(GOLDEN, program, f"{name}{'-backward' if plan == 'backward' and name != 'backward' else ''}.tir")


def chain(program, runner, capture):
    """(pass, plan, text before, text after) of each pass that changes something."""
    now = {"forward": capture}
    for name in PASSES:
        if name in ("forward", "backward"):
            if "forward_backward" not in PROGRAMS[program]:
                continue
            before = now.get("joint", now["forward"])
            now.setdefault("joint", before)
            now[name] = runner.apply(name, before, PROGRAMS[program])
            yield name, name, before, now[name]
            continue
        for plan in ("forward", "backward"):
            if plan in now:
                before = now[plan]
                now[plan] = runner.apply(name, before, PROGRAMS[program])
                if now[plan] != before:
                    yield name, plan, before, now[plan]


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p not in LONG])
def test_golden(program, ref):
    stages = list(chain(program, ref, read(path_of(program, "capture", "forward"))))
    for name, plan, _, after in stages:
        path = path_of(program, name, plan)
        assert os.path.exists(path), f"{path} is missing: {__file__} --update"
        assert after == read(path), f"the pass {name} makes something else of {program} than {path} says"
    written = {path_of(program, n, p) for n, p, *_ in stages} | {path_of(program, "capture", "forward")}
    assert set(glob.glob(os.path.join(GOLDEN, program, "*.tir"))) == written


def values_for(text, generator):
    """Inputs that suit what they are: optimizer state is not negative, hyper-parameters lie in (0.1, 0.9)."""
    tensors = random_inputs(text, generator, sizes={f"s{i}": 3 for i in range(100)})
    kinds = [(kind, shape) for _, _, shape, kind in inputs_of(text) if kind not in ("seed", "offset")]
    for i, (kind, shape) in enumerate(kinds):
        if kind == "state":
            tensors[i] = tensors[i].abs() if shape else torch.full_like(tensors[i], 3)
        elif kind == "hyper":
            tensors[i] = torch.rand(tensors[i].shape, generator=generator, dtype=tensors[i].dtype) * 0.8 + 0.1
    return tensors


def ranks_of(text, world, seed=0):
    """Ranks have the same parameters and state, and data of their own."""
    first = values_for(text, torch.Generator().manual_seed(seed))
    kinds = [kind for *_, kind in inputs_of(text) if kind not in ("seed", "offset")]
    ranks = [first]
    for rank in range(1, world):
        other = values_for(text, torch.Generator().manual_seed(seed + rank))
        ranks.append([o if kind in ("user", "accumulator") else f for kind, f, o in zip(kinds, first, other)])
    return ranks


def same(before, after, what, tolerance=1e-5):
    for rank, (a, b) in enumerate(zip(before, after)):
        assert len(a) == len(b), f"{what}: {len(a)} outputs before, {len(b)} after"
        for i, (x, y) in enumerate(zip(a, b)):
            torch.testing.assert_close(y, x, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m: f"{what}, rank {rank}, output {i}: {m}")


@pytest.mark.parametrize("program", PROGRAMS)
def test_executed_before_and_after(program, ref):
    world, seen = world_of(program), 0
    for name, plan, before, after in chain(program, ref, read(path_of(program, "capture", "forward"))):
        if name in ("grad", "forward", "backward", "optimizer", "autocast"):
            continue  # other inputs and outputs after than before: the tests below; with autocast another precision
        ranks = ranks_of(before, world)
        assert [i[1:] for i in inputs_of(before) if i[3] not in ("seed", "offset")] == [i[1:] for i in inputs_of(after) if i[3] not in ("seed", "offset")]
        same(ref.run(before, ranks, seed=11), ref.run(after, ranks, seed=11), f"{program} after {name} ({plan})")
        seen += 1
    assert seen >= 5


def outputs_of(text):
    """Kind of each output of graph 0: ("fresh", None), ("gradient", 3), …"""
    return [(kind, int(base) if base else None) for kind, base in re.findall(r"^  return %\d+ (\w+)(?:\((\d+))?", text, re.M)]


def wide(text):
    """The program in f64: rounding aside."""
    return text.replace("f32", "f64")


@pytest.mark.parametrize("program", [p for p in PROGRAMS if "forward" not in PROGRAMS[p]])
def test_gradients_are_slopes(program, ref):
    """grad: against central differences of the captured program, in f64, along a random direction for each input."""
    before = wide(ref.apply("number", read(path_of(program, "capture", "forward"))))
    after = ref.apply("grad", before, PROGRAMS[program])
    base = values_for(before, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    primal = ref.run(before, base, seed=5)
    fresh = [i for i, (kind, _) in enumerate(outputs_of(before)) if kind == "fresh" and primal[i].is_floating_point()]
    step = "train_step" in PROGRAMS[program]
    tangents = [torch.randn(primal[i].shape, generator=generator, dtype=torch.float64) for i in fresh] if not step else []
    scale = [torch.tensor(4.0), torch.tensor(2.0, dtype=torch.float64)][:("loss_scale" in PROGRAMS[program]) * (1 + ("accumulates" in PROGRAMS[program]))]
    share = math.prod(s.item() for s in scale[:1]) / math.prod(s.item() for s in scale[1:])  # of the loss: scale / micro-batches
    out = ref.run(after, base + tangents + scale, seed=5)
    kinds, checked = outputs_of(after), 0
    for o, (kind, which) in enumerate(kinds):
        if kind != "gradient":
            continue
        direction = torch.randn(base[which].shape, generator=generator, dtype=torch.float64)
        def loss(scale):
            moved = [t + scale * direction if i == which else t for i, t in enumerate(base)]
            results = ref.run(before, moved, seed=5)
            return results[fresh[0]] if step else sum((results[i] * t).sum() for i, t in zip(fresh, tangents))
        h = 1e-5
        slope = (loss(h) - loss(-h)) / (2 * h) * share
        torch.testing.assert_close((out[o] * direction).sum(), slope, rtol=2e-6, atol=2e-8, msg=lambda m: f"{program}, input {which}: {m}")
        checked += 1
    assert checked >= 2


def test_halves_make_the_whole(ref):
    """forward and backward: what the joint trace gives, through the values that are saved."""
    texts = {(name, plan): (before, after) for name, plan, before, after in chain("attention", ref, read(path_of("attention", "capture", "forward")))}
    joint, forward = texts["forward", "forward"]
    backward = texts["backward", "backward"][1]
    given = values_for(joint, torch.Generator().manual_seed(1))
    kinds = [kind for *_, kind in inputs_of(joint)]
    primal = [t for t, kind in zip(given, kinds) if kind != "tangent"]
    want, out = ref.run(joint, given, seed=2), ref.run(forward, primal, seed=2)
    fresh = sum(kind == "fresh" for kind, _ in outputs_of(forward))
    got = out[:fresh] + ref.run(backward, out[fresh:] + [t for t, kind in zip(given, kinds) if kind == "tangent"], seed=2)
    same([want], [got], "attention in two halves", 1e-6)


def test_two_ranks_train_as_one(ref):
    """optimizer and ddp on two ranks: AdamW of PyTorch on the mean gradient of both, clipped by its norm."""
    stages = {name: after for name, plan, _, after in chain("gpt", ref, read(path_of("gpt", "capture", "forward")))}
    text = stages["memory_plan"]
    ranks = ranks_of(text, 2)
    got = ref.run(text, ranks, seed=1)
    kinds = [kind for *_, kind in inputs_of(text) if kind not in ("seed", "offset")]
    captured = len([1 for *_, kind in inputs_of(stages["grad"]) if kind not in ("seed", "offset")])
    grads = ref.run(stages["grad"], [r[:captured] for r in ranks], seed=1)
    by_input = {base: (grads[0][o] + grads[1][o]) / 2 for o, (kind, base) in enumerate(outputs_of(stages["grad"])) if kind == "gradient"}
    hyper = [float(t) for t, kind in zip(ranks[0], kinds) if kind == "hyper"]
    lr, beta1, beta2, eps, weight_decay, max_norm = hyper
    params = [torch.nn.Parameter(ranks[0][i].clone()) for i in by_input]
    for p, g in zip(params, by_input.values()):
        p.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
    assert norm > max_norm
    state = [t for t, kind in zip(ranks[0], kinds) if kind == "state"]
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    for i, p in enumerate(params):
        optimizer.state[p] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (t.clone() for t in state[3 * i:3 * i + 3])))
    optimizer.step()
    signature = outputs_of(text)
    for rank in range(2):
        written = {base: got[rank][o] for o, (kind, base) in enumerate(signature) if kind == "written"}
        torch.testing.assert_close(got[rank][1], norm, rtol=1e-5, atol=1e-6)
        for i, p in zip(by_input, params):
            torch.testing.assert_close(written[i], p.detach(), rtol=2e-5, atol=2e-6)


def test_a_skipped_update_changes_nothing(ref):
    """loss-scale-ranks, after the last pass: an infinity in one rank's batch, and on both all that an update writes is as it was, but for the
    accumulators and the scale; without it nothing is."""
    text = [after for *_, after in chain("loss-scale-ranks", ref, read(path_of("loss-scale-ranks", "capture", "forward")))][-1]
    inputs = [kind for *_, kind in inputs_of(text)]
    written = [(o, base) for o, (kind, base) in enumerate(outputs_of(text)) if kind == "written"]
    scale, count = [i for i, kind in enumerate(inputs) if kind == "state"][0], [i for i, kind in enumerate(inputs) if kind == "state"][-1]
    for planted in (False, True):
        ranks = ranks_of(text, 2)
        for rank in ranks:
            rank[inputs.index("hyper")].fill_(2.0)  # micro-batches
            backoff = rank[[i for i, kind in enumerate(inputs) if kind == "hyper"][-2]].item()
        if planted:
            ranks[1][inputs.index("user")].view(-1)[0] = float("inf")
        for given, got in zip(ranks, ref.run(text, ranks, seed=1)):
            assert got[1].item() is planted
            for o, base in written:
                if inputs[base] == "accumulator":
                    assert not got[o].any()
                elif base == count:
                    assert got[o].item() == (0 if planted else 4)
                elif base == scale:
                    assert got[o].item() == pytest.approx(3 * backoff if planted else 3)
                else:
                    assert torch.equal(got[o], given[base]) is planted


# ---- making the golden files ----

def captures():
    """The programs' captured traces."""
    import torch.nn as nn
    import torch.nn.functional as F
    import thunder

    class Gpt(nn.Module):  # a tied embedding, a dropout
        def __init__(self):
            super().__init__()
            self.token, self.ln, self.up, self.down = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            h = self.token(x)
            h = h + F.dropout(self.down(F.gelu(self.up(self.ln(h)))), 0.25)
            return F.linear(h, self.token.weight)

    class Llama(nn.Module):  # RMS norm, rotary, grouped queries, SwiGLU
        def __init__(self):
            super().__init__()
            self.norm = nn.RMSNorm(8)
            self.q, self.kv, self.o = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.gate, self.up, self.down = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)
            angle = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

        def rotate(self, x):
            a, b = x.chunk(2, -1)
            return x * self.cos + torch.cat([-b, a], -1) * self.sin

        def forward(self, x):
            b, t, _ = x.shape
            h = self.norm(x)
            q = self.rotate(self.q(h).view(b, t, 2, 4).transpose(1, 2))
            k, v = self.kv(h).view(b, t, 2, 1, 4).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, self.rotate(k), v, is_causal=True, enable_gqa=True)
            x = x + self.o(y.transpose(1, 2).reshape(b, t, 8))
            return x + self.down(F.silu(self.gate(x)) * self.up(x))

    class Five(nn.Module):  # parameters of two shapes
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Parameter(torch.randn(3)) for _ in range(4))
            self.w = nn.Parameter(torch.randn(2, 3))

        def forward(self, x):
            return (((x * self.w).sin() * self.a + self.b).cos() + self.c) * self.d

    def write_views(a, b):  # a view written in place
        c = a.view(6, 4).t()
        c[1:3, ::2] += b
        return c.sum(0), a[1]

    def attention(q, k, v):
        return F.dropout(F.scaled_dot_product_attention(q, k, v, is_causal=True), 0.5)

    def step(model, optimizer, loss, *inputs, **options):
        s = thunder.train_step(model, optimizer(model.parameters()), loss, **options)
        s(*inputs)
        return thunder.last_traces(s)[0]

    def compiled(fn, *inputs, **options):
        c = thunder.compile(fn, fullgraph=True, **options)
        c(*inputs)
        return thunder.last_traces(c)[0]

    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (2, 3))
    yield "symbolic", compiled(lambda x, w: (x @ w).softmax(-1).sum(0), torch.randn(5, 4), torch.randn(4, 3), dynamic=True)
    x, w, b = torch.randn(5, 4), torch.randn(3, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    torch._dynamo.mark_dynamic(x, 0)
    yield "symbolic-batch", compiled(lambda x, w, b: F.gelu(F.linear(x, w, b)).mean(), x, w, b)
    x, w, y = torch.randn(2, 3, 8, requires_grad=True), torch.randn(10, 8, requires_grad=True), torch.randint(0, 10, (2, 3))
    for t in (x, y):
        torch._dynamo.mark_dynamic(t, [0, 1])
    yield "equal-sizes", compiled(lambda x, w, y: F.cross_entropy(F.linear(x, w).flatten(0, 1), y.flatten()), x, w, y)
    yield "views", compiled(write_views, torch.randn(2, 12), torch.randn(2, 3))
    yield "attention", compiled(attention, *(torch.randn(2, 2, 3, 4, requires_grad=True) for _ in range(3)))
    yield "linear", step(nn.Linear(3, 2), torch.optim.AdamW, F.mse_loss, torch.randn(4, 3), torch.randn(4, 2), clip_grad_norm=1.0)
    yield "gpt", step(Gpt(), torch.optim.AdamW, lambda y, t: F.cross_entropy(y.flatten(0, 1), t.flatten()), tokens, tokens, clip_grad_norm=1.0)
    yield "llama", step(Llama(), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), F.mse_loss, torch.randn(2, 3, 8), torch.randn(2, 3, 8), accumulate=2)
    cnn = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    yield "updates", step(Five(), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), F.mse_loss, torch.randn(2, 3), torch.randn(2, 3), clip_grad_norm=1.0)
    yield "loss-scale", step(Five(), torch.optim.AdamW, F.mse_loss, torch.randn(2, 3), torch.randn(2, 3), clip_grad_norm=1.0, precision="f16-mixed")
    yield "loss-scale-ranks", step(nn.Linear(3, 2), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), F.mse_loss, torch.randn(4, 3), torch.randn(4, 2), accumulate=2,
                                   precision="f16-mixed")
    yield "cnn", step(cnn, lambda p: torch.optim.Adam(p, amsgrad=True), F.mse_loss, torch.randn(2, 2, 4, 4), torch.randn(2, 2))


def update():
    runner = RefRun()
    for program, text in captures():
        os.makedirs(os.path.join(GOLDEN, program), exist_ok=True)
        for path in glob.glob(os.path.join(GOLDEN, program, "*.tir")):
            os.remove(path)
        text = re.sub(r"^// after .*\n", "", str(text), count=1)
        text = re.sub(r"\S*test_passes\.py:\d+: ", "", text)  # a line number moves too easily
        with open(path_of(program, "capture", "forward"), "w", encoding="utf-8") as f:
            f.write(text)
        for name, plan, _, after in chain(program, runner, text) if program not in LONG else ():
            with open(path_of(program, name, plan), "w", encoding="utf-8") as f:
                f.write(after)
    runner.close()


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    update()
