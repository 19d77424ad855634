"""The precisions of thunder.train_step against eager PyTorch: torch.autocast, torch.amp.GradScaler, models in bfloat16. On the cpu, and with CUDA's
kernels run by the host.

Two kinds of comparison. What a step does with the scale (when it skips, grows, clips, averages) is compared in f64, which autocast leaves
alone: to 1e-12. What it computes in half precision is compared with eager's own distance from f64."""
import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

quick = pytest.mark.quick
HUGE = 5e307  # times a scale of 16 it is infinite in f64


@pytest.fixture(params=["cpu", "cuda:simt"])
def target(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.delenv("THUNDER_TARGET", raising=False)
    else:
        monkeypatch.setenv("THUNDER_TARGET", request.param)
        monkeypatch.delenv("THUNDER_EXECUTORS", raising=False)
    return request.param


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        return self.down(F.gelu(self.norm(self.up(x))))

    @staticmethod
    def batch(generator):
        return torch.randn(8, 6, generator=generator), torch.randint(0, 5, (8,), generator=generator)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.n1, self.n2 = nn.Embedding(13, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        # No bias for the keys: its gradient is 0 and rounding, which Adam makes steps of.
        self.qkv, self.out, self.up, self.down = nn.Linear(16, 48, bias=False), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        h = self.token(x)
        q, k, v = (y.view(*x.shape, 2, 8).transpose(1, 2) for y in self.qkv(self.n1(h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        h = h + self.down(F.gelu(self.up(self.n2(h))))
        return F.linear(h, self.token.weight)

    @staticmethod
    def batch(generator):
        return torch.randint(0, 13, (4, 6), generator=generator), torch.randint(0, 13, (4, 6), generator=generator)


MODELS = {"mlp": Mlp, "transformer": Transformer}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),  # not a part of the plan
}


def loss_fn(out, target):
    """The target: (classes, what the loss is multiplied by)."""
    y, factor = target
    return F.cross_entropy(out.flatten(0, -2), y.flatten()) * factor


def data(kind, n, dtype, planted=(), seed=3):
    generator = torch.Generator().manual_seed(seed)
    for i in range(n):
        x, y = MODELS[kind].batch(generator)
        factor = torch.tensor(HUGE if i in planted else 1.0, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        yield x.to(dtype) if x.is_floating_point() else x, (y, factor)


def model_of(kind, dtype, seed=0):
    torch.manual_seed(seed)
    return MODELS[kind]().to(dtype)


def new_scaler(**settings):
    return torch.amp.GradScaler("cpu", **{"init_scale": 1024.0, "growth_interval": 3, **settings})


def eager(model, optimizer, scaler, batches, clip=None, accumulate=1, half=torch.float16, ranks=1):
    """As PyTorch's page "Automatic Mixed Precision examples" has it. With several ranks each batch is a list of theirs, and gradients are averaged."""
    seen = []
    for i, batch in enumerate(batches):
        losses = []
        for x, y in [batch] if ranks == 1 else batch:
            with torch.autocast("cpu", half):
                loss = loss_fn(model(x), y)
            scaler.scale(loss / accumulate).backward()
            losses.append(loss.item())
        if (i + 1) % accumulate:
            seen.append((losses,))
            continue
        for p in model.parameters():
            p.grad /= ranks
        norm = None
        if clip:
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), clip).item()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        seen.append((losses, norm, scaler.get_scale() < before, scaler.get_scale(), scaler._get_growth_tracker()))
    return seen


def compiled(step, batches):
    seen = []
    for x, y in batches:
        loss = step(x, y).item()
        if step.pending:
            seen.append(([loss],))
        else:
            norm = None if step.clip is None else step.grad_norm.item()
            seen.append(([loss], norm, step.skipped.item(), step.scaler.get_scale(), step.scaler._get_growth_tracker()))
    return seen


def state_of(optimizer):
    """Every state tensor by parameter and name. What a first step that was skipped has not made is 0."""
    found = {}
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            for name, value in optimizer.state.get(p, {}).items():
                if isinstance(value, torch.Tensor):
                    found[i, name] = value
    return found


def close(want, got, tolerance):
    want, got = (torch.tensor(x, dtype=torch.float64) for x in (want, got))
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def same_run(want, got, tolerance=1e-12):
    assert [s[2:] for s in got] == [s[2:] for s in want]  # skipped, scale, good steps in a row
    for w, g in zip(want, got):
        close(w[0], g[0], tolerance)
        if len(w) > 1 and w[1] is not None:
            close(w[1], g[1], tolerance)


def same_state(a, b, oa, ob, tolerance=1e-12):
    for (name, p), q in zip(a.named_parameters(), b.named_parameters()):
        torch.testing.assert_close(q[1], p, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")
    want, got = state_of(oa), state_of(ob)
    assert want.keys() <= got.keys()
    for key, value in got.items():
        torch.testing.assert_close(value, want.get(key, torch.zeros_like(value)), rtol=tolerance, atol=tolerance, msg=lambda m: f"{key}: {m}")


# ---- what is done with the scale, in f64 ----

def pair(kind, optimizer, planted, n=12, clip=None, accumulate=1, **settings):
    a = model_of(kind, torch.float64)
    b = copy.deepcopy(a)
    oa, ob = OPTIMIZERS[optimizer](a.parameters()), OPTIMIZERS[optimizer](b.parameters())
    sa, sb = new_scaler(**settings), new_scaler(**settings)
    want = eager(a, oa, sa, data(kind, n, torch.float64, planted), clip, accumulate)
    step = thunder.train_step(b, ob, loss_fn, clip_grad_norm=clip, accumulate=accumulate, precision="f16-mixed", loss_scale=sb)
    got = compiled(step, data(kind, n, torch.float64, planted))
    assert not thunder.compile_stats(step).eager_pieces
    return (want, got), (a, b, oa, ob)


@quick
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_skips_and_grows_as_grad_scaler(target, optimizer, clip):
    runs, models = pair("mlp", optimizer, (0, 5, 6), clip=clip)
    skipped = [s[2] for s in runs[0]]
    assert skipped == [i in (0, 5, 6) for i in range(12)]
    assert [s[3] for s in runs[0]] == [512, 512, 512, 1024, 1024, 512, 256, 256, 256, 512, 512, 512]
    same_run(*runs)
    same_state(*models)


def test_transformer(target):
    runs, models = pair("transformer", "adamw", (2,), n=6, clip=1.0)
    assert [s[2] for s in runs[0]] == [False, False, True, False, False, False]
    same_run(*runs)
    same_state(*models)


@quick
def test_buffers_that_a_skipped_step_did_not_begin(target):
    """With dampening a momentum buffer begins with the whole gradient: of the first step that counts."""
    runs, models = pair("mlp", "dampened", (0, 1, 4), n=8)
    assert sum(s[2] for s in runs[0]) == 3
    same_run(*runs)
    same_state(*models)


@quick
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "dampened"])
def test_a_checkpoint_after_a_skipped_first_step(target, optimizer):
    """It holds zeros where PyTorch's holds no state yet, since only the device knows of the skip; going on from it gives PyTorch's bits."""
    model = model_of("mlp", torch.float32)
    known = OPTIMIZERS[optimizer](model.parameters())
    step = thunder.train_step(model, known, loss_fn, precision="f16-mixed", loss_scale=new_scaler())
    compiled(step, data("mlp", 1, torch.float32, (0,)))
    assert step.skipped.item()
    saved = known.state_dict()
    assert not any(t.any() for state in saved["state"].values() for t in state.values() if isinstance(t, torch.Tensor))
    ends = []
    for state in (saved["state"], {}):
        twin = copy.deepcopy(model)
        fresh = OPTIMIZERS[optimizer](twin.parameters())
        fresh.load_state_dict({**saved, "state": state})
        for x, y in data("mlp", 3, torch.float32):
            loss_fn(twin(x), y).backward()
            fresh.step()
            fresh.zero_grad()
        ends.append([*twin.parameters(), *state_of(fresh).values()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.filterwarnings("ignore:thunder. RMSprop runs in eager")
def test_an_optimizer_in_eager_pytorch_is_skipped_too(target):
    runs, models = pair("mlp", "rmsprop", (0, 3), n=6, clip=0.5)
    assert [s[2] for s in runs[0]] == [True, False, False, True, False, False]
    same_run(*runs)
    same_state(*models)


@pytest.mark.parametrize("planted", [(), (5,), (3, 8)])  # the second and the last micro-batch of an update
def test_accumulation(target, planted):
    runs, models = pair("mlp", "adamw", planted, clip=0.5, accumulate=4)
    assert [s[2] for s in runs[0] if len(s) > 1] == [any(4 * u <= i < 4 * u + 4 for i in planted) for u in range(3)]
    same_run(*runs)
    same_state(*models)


@quick
@pytest.mark.parametrize("planted", [(), (4,)])
def test_flush(target, planted):
    """Two micro-batches of an update of three: the average of two."""
    a = model_of("mlp", torch.float64)
    b = copy.deepcopy(a)
    oa, ob = OPTIMIZERS["adam"](a.parameters()), OPTIMIZERS["adam"](b.parameters())
    sa, sb = new_scaler(), new_scaler()
    batches = list(data("mlp", 5, torch.float64, planted))
    eager(a, oa, sa, batches[:3], 0.5, 3)
    eager(a, oa, sa, batches[3:], 0.5, 2)
    step = thunder.train_step(b, ob, loss_fn, clip_grad_norm=0.5, accumulate=3, precision="f16-mixed", loss_scale=sb)
    for x, y in batches:
        step(x, y)
    step.flush()
    assert step.skipped.item() is bool(planted)
    assert sb.state_dict() == sa.state_dict()
    same_state(a, b, oa, ob)


@quick
def test_a_scale_that_stays(target):
    model = model_of("mlp", torch.float64)
    step = thunder.train_step(model, OPTIMIZERS["adam"](model.parameters()), loss_fn, precision="f16-mixed", loss_scale=1000)
    kept = [p.detach().clone() for p in model.parameters()]
    x, (y, _) = next(data("mlp", 1, torch.float64))
    step(x, (y, torch.tensor(HUGE, dtype=torch.float64)))
    assert step.skipped.item() and step.scaler.get_scale() == 1000.0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept))
    step(x, (y, torch.tensor(1.0, dtype=torch.float64)))
    assert not step.skipped.item() and step.scaler.get_scale() == 1000.0
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), kept))


def test_the_scale_never_grows_to_infinity(target):
    """_amp_update_scale_ keeps a scale whose next one f32 does not hold, and counts on."""
    runs, _ = pair("mlp", "sgd", (), n=5, init_scale=2.0 ** 127, growth_interval=2)
    assert [s[3:] for s in runs[0]] == [(2.0 ** 127, 1), (2.0 ** 127, 0), (2.0 ** 127, 1), (2.0 ** 127, 0), (2.0 ** 127, 1)]
    same_run(*runs)


def test_settings_are_read_at_each_call(target):
    model = model_of("mlp", torch.float64)
    step = thunder.train_step(model, OPTIMIZERS["sgd"](model.parameters()), loss_fn, precision="f16-mixed")
    assert step.scaler.state_dict() == torch.amp.GradScaler("cpu").state_dict()  # PyTorch's defaults
    batches = data("mlp", 4, torch.float64)
    step(*next(batches))
    step.scaler.set_growth_interval(2)
    step.scaler.set_growth_factor(8.0)
    step(*next(batches))
    assert step.scaler.get_scale() == 8 * 65536.0
    step.scaler.update(32.0)
    step(*next(batches))
    assert step.scaler.get_scale() == 32.0 and step.scaler._get_growth_tracker() == 1
    compiles = thunder.compile_stats(step).compiles
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 4.0})
    step(*next(batches))
    assert step.scaler.get_scale() == 32.0 and thunder.compile_stats(step).compiles == compiles


def test_resume_is_bit_for_bit(target, tmp_path):
    def run(which, load=None, save=None):
        model = model_of("transformer", torch.float32)
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        step = thunder.train_step(model, optimizer, loss_fn, clip_grad_norm=1.0, precision="f16-mixed", loss_scale=new_scaler(init_scale=2.0 ** 20))
        if load:
            saved = torch.load(load)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            step.scaler.load_state_dict(saved["scaler"])
        seen = compiled(step, list(data("transformer", 14, torch.float32))[which])
        if save:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": step.scaler.state_dict()}, save)
        return seen, model
    whole, model = run(slice(0, 14))
    scales = [s[3] for s in whole]
    assert any(b < a for a, b in zip(scales, scales[1:])) and any(b > a for a, b in zip(scales, scales[1:])), scales
    first, _ = run(slice(0, 7), save=tmp_path / "c.pt")
    second, other = run(slice(7, 14), load=tmp_path / "c.pt")
    assert repr(first + second) == repr(whole)  # NaN too
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))


# ---- two ranks ----

RANKS = """
import sys
sys.path.insert(0, {here!r})
import os, torch, thunder
from test_precision import OPTIMIZERS, compiled, data, loss_fn, model_of, new_scaler
rank = int(os.environ["RANK"])
model = model_of("mlp", torch.float64, seed=rank)
optimizer = OPTIMIZERS["adamw"](model.parameters())
scaler = new_scaler() if rank == 0 else new_scaler(init_scale=7.0)  # rank 0's counts
step = thunder.train_step(model, optimizer, loss_fn, clip_grad_norm=0.5, accumulate={accumulate}, parallel="ddp", precision="f16-mixed", loss_scale=scaler)
seen = compiled(step, data("mlp", 12, torch.float64, {{0: (), 1: (5, 6)}}[rank], seed=3 + rank))
torch.save((seen, model.state_dict()), sys.argv[1] + "/rank" + str(rank))
"""


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_ranks_of_which_one_overflows(tmp_path, accumulate):
    program = tmp_path / "ranks.py"
    program.write_text(RANKS.format(here=os.path.dirname(os.path.abspath(__file__)), accumulate=accumulate))
    thunderrun = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderrun")
    done = subprocess.run([thunderrun, "-n", "2", sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    (first, parameters), (second, others) = (torch.load(tmp_path / f"rank{r}") for r in range(2))
    assert repr([s[1:] for s in first]) == repr([s[1:] for s in second])  # the ranks agree, to the bit
    assert all(torch.equal(p, others[name]) for name, p in parameters.items())
    model = model_of("mlp", torch.float64)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    batches = zip(data("mlp", 12, torch.float64, (), seed=3), data("mlp", 12, torch.float64, (5, 6), seed=4))
    want = eager(model, optimizer, new_scaler(), batches, 0.5, accumulate, ranks=2)
    assert sum(s[2] for s in want if len(s) > 1) == 2
    same_run(want, [([*a[0], *b[0]], *a[1:]) for a, b in zip(first, second)], 1e-11)
    for name, p in model.named_parameters():
        torch.testing.assert_close(parameters[name], p.detach(), rtol=1e-11, atol=1e-11)


# ---- what is computed in half precision ----

def distance(models, exact):
    """Of each model's parameters from the exact one's: the root of the mean square."""
    return [torch.cat([(p.double() - q.double()).flatten() for p, q in zip(m.parameters(), exact.parameters())]).square().mean().sqrt().item() for m in models]


@pytest.mark.parametrize("precision", ["bf16-mixed", "f16-mixed", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kind", MODELS)
def test_values(target, kind, optimizer, precision):
    """Losses and parameters after six steps are no further from f64 than eager's are: by more than a quarter, of six losses by more than twice."""
    half = torch.float16 if precision == "f16-mixed" else torch.bfloat16
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    theirs = model_of(kind, dtype)
    ours, exact = copy.deepcopy(theirs), copy.deepcopy(theirs).double()
    step = thunder.train_step(ours, OPTIMIZERS[optimizer](ours.parameters()), loss_fn, clip_grad_norm=1.0, precision=precision)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "f16-mixed")
    o, e = OPTIMIZERS[optimizer](theirs.parameters()), OPTIMIZERS[optimizer](exact.parameters())
    losses = []
    for (x, y), (exact_x, exact_y) in zip(data(kind, 6, dtype), data(kind, 6, torch.float64)):
        with torch.autocast("cpu", half, enabled=precision != "bf16"):
            loss = loss_fn(theirs(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(o)
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        before = scaler.get_scale()
        scaler.step(o)
        scaler.update()
        o.zero_grad()
        exact_loss = loss_fn(exact(exact_x), exact_y)
        exact_loss.backward()
        nn.utils.clip_grad_norm_(exact.parameters(), 1.0)
        if scaler.get_scale() >= before:
            e.step()
        e.zero_grad()
        mine = step(x, y)
        assert mine.dtype == loss.dtype
        losses.append(((mine.double() - exact_loss).item(), (loss.double() - exact_loss).item()))
    if precision == "f16-mixed":
        assert step.scaler.state_dict() == scaler.state_dict()
    our_error, their_error = torch.tensor(losses, dtype=torch.float64).square().mean(0).sqrt().tolist()
    our_distance, their_distance = distance((ours, theirs), exact)
    print(f"{kind} {optimizer} {precision} {target}: losses {our_error:.1e} {their_error:.1e}, parameters {our_distance:.1e} {their_distance:.1e}")
    assert all(p.dtype == q.dtype for p, q in zip(ours.parameters(), theirs.parameters()))
    assert our_distance <= 1.25 * their_distance and our_error <= 2 * their_error


# ---- arguments ----

def step_of(model=None, **options):
    model = model or Mlp()
    return thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, **options)


@quick
@pytest.mark.parametrize("given, name", [("16-mixed", "f16-mixed"), ("f16", "f16-mixed"), ("bf16-true", "bf16"), ("32-true", "f32"), (torch.bfloat16, "bf16"), (16, "f16-mixed")])
def test_names_that_others_use(given, name):
    with pytest.raises(ValueError, match=rf"want None .*'f32', 'f64', 'bf16', 'bf16-mixed' or 'f16-mixed'; here it is called '{name}'"):
        step_of(precision=given)


@quick
def test_bf16_takes_a_model_in_bfloat16():
    with pytest.raises(ValueError, match=r"precision='bf16': parameter up.weight is torch.float32; convert the model first: model.to\(torch.bfloat16\)"):
        step_of(precision="bf16")


@quick
def test_f16_takes_no_model_in_float16():
    with pytest.raises(ValueError, match="precision='f16-mixed': parameter up.weight is torch.float16.*keep the parameters in f32"):
        step_of(Mlp().half(), precision="f16-mixed")


@quick
@pytest.mark.parametrize("given, kind, message", [
    (0, ValueError, "loss_scale=0: want a number above 0"), (float("inf"), ValueError, "loss_scale=inf: want a number above 0"), (-2.0, ValueError, "above 0"),
    (1e39, ValueError, "that f32 holds"), ("dynamic", TypeError, "loss_scale is 'dynamic'; want None"), (True, TypeError, "loss_scale is True"),
    (torch.amp.GradScaler("cpu", enabled=False), ValueError, r"the GradScaler is disabled.*torch.amp.GradScaler\('cpu'\)")])
def test_wrong_loss_scales(given, kind, message):
    with pytest.raises(kind, match=message):
        step_of(precision="f16-mixed", loss_scale=given)


@quick
@pytest.mark.parametrize("precision", [None, "f32", "bf16-mixed"])
def test_a_loss_scale_without_f16(precision):
    with pytest.raises(ValueError, match="loss_scale=1024.0: only precision='f16-mixed' scales the loss"):
        step_of(precision=precision, loss_scale=1024.0)


@quick
def test_other_precisions_have_no_scaler():
    step = step_of(Mlp().to(torch.bfloat16), precision="bf16")
    assert step.scaler is None and step.skipped is None
    step(*next(data("mlp", 1, torch.bfloat16)))
    assert step.skipped is None
