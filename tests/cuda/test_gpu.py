"""On a GPU: training and thunder.compile against eager PyTorch, dropout, memory that steps hold, faults. Everything else about CUDA is tested without one."""
import copy
import gc
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import thunder

import gpu_programs as programs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")]

LENGTH, WORDS = 64, 1000
MODELS = {"gpt": lambda: programs.Gpt(width=128, heads=4, vocab=WORDS, length=LENGTH), "llama": lambda: programs.Llama(width=128, heads=4, groups=2, vocab=WORDS, length=LENGTH)}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def exact_products():
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def model_of(name):
    model = MODELS[name]().cuda()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.02)
    return model


def batches(n):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, WORDS, (4, LENGTH + 1), generator=generator).cuda() for _ in range(n)]
    return [(r[:, :-1].contiguous(), r[:, 1:].contiguous()) for r in rows]


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def eager_losses(model, data, mixed=False):
    optimizer, losses = adamw(model), []
    for x, y in data:
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            loss = programs.token_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def linear_step(size=64):
    model = torch.nn.Linear(size, size).cuda()
    x, y = torch.randn(32, size).cuda(), torch.randn(32, size).cuda()
    return model, thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), F.mse_loss), x, y


# ---- training ----

@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision, limit", [(None, 1e-5), ("bf16-mixed", 1e-3)])
def test_losses_of_20_steps(name, precision, limit):
    model, data = model_of(name), batches(4) * 5
    want = eager_losses(copy.deepcopy(model), data, precision is not None)
    step = thunder.train_step(model, adamw(model), programs.token_loss, clip_grad_norm=1.0, precision=precision)
    got = [step(x, y).item() for x, y in data]
    assert max(abs(g - w) / abs(w) for g, w in zip(got, want)) < limit, list(zip(got, want))
    assert want[-1] < want[0] - 0.1  # it learns the four batches by heart


def deterministic_losses(precision):
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    model = model_of("gpt")
    step = thunder.train_step(model, adamw(model), programs.token_loss, precision=precision)
    return [step(x, y).item() for x, y in batches(5)]


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
def test_two_runs_have_the_same_bits(precision):
    """In processes of their own: nothing that the first has chosen is found by the second."""
    script = f"import test_gpu; print(test_gpu.deterministic_losses({precision!r}))"
    first, second = (subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(os.path.abspath(__file__)), capture_output=True, text=True, timeout=240) for _ in range(2))
    assert first.returncode == 0 and first.stdout.startswith("["), first.stderr
    assert second.stdout == first.stdout


def test_the_learning_rate_of_a_replay_is_todays():
    model, step, x, y = linear_step()
    for _ in range(4):  # the later ones are replays
        step(x, y)
    step.optimizer.param_groups[0]["lr"] = 0.0
    before = model.weight.detach().clone()
    step(x, y)
    assert torch.equal(model.weight, before)


def test_exponentials_of_f32_alone_are_exact_to_the_last_bits():
    x = torch.linspace(-87, 88, 1 << 16).cuda()
    want = x.double().exp()
    assert ((thunder.compile(torch.exp)(x).double() - want) / want).abs().max() < 3e-7  # two units in the last place; ex2.approx of x log2(e): 80 times that



# ---- thunder.profile ----

def test_regions_of_a_profile_make_up_the_step():
    """Layers that take much longer than their launches: then the regions' times are the step's."""
    width, rows = 4096, 8192
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(4))).cuda()
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=1e-4), F.mse_loss, precision="bf16-mixed")
    x, y = torch.randn(rows, width).cuda(), torch.randn(rows, width).cuda()
    for _ in range(5):  # replays, in the end
        step(x, y)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(10):
        step(x, y)
    end.record()
    end.synchronize()
    plain = start.elapsed_time(end) / 10 * 1e-3
    with thunder.profile(step, steps=5) as p:
        for _ in range(7):
            step(x, y)
    regions, (recorded,) = p.regions, p._recorded()
    assert p.steps == 5 and len(regions) == recorded.plan.native.instructions + 2
    on_device = [r for r in regions if r.kind not in ("scalars", "wait")]
    assert all(r.time > 0 for r in on_device if r.kind in ("kernel", "library"))
    total = sum(r.time for r in on_device)
    assert 0.6 * plain < total < 1.4 * plain, (total, plain)
    for begin, end, times in recorded.calls:  # one after the other, within the call; the wait is said to return at the end of the last
        spans = [(row[2], row[3]) for row in times[:-2] if row[2] >= 0]
        assert all(a[1] <= b[0] + 2000 for a, b in zip(spans, spans[1:]))
        assert all(stop <= end for _, stop in spans)
    products = [r for r in regions if r.flops]
    assert {r.unit for r in products} == {"bf16"} and sum(r.flops for r in products) == (3 * 4 - 1) * 2 * rows * width * width
    if all(r.roofline is not None for r in products):
        assert all(0 < r.roofline < 1.2 for r in products), [(r.name, r.roofline) for r in products]
    step(x, y)  # a replay again
    assert "GB/s" in p.table() or "TB/s" in p.table()


def test_a_profiled_step_has_the_same_bits():
    torch.use_deterministic_algorithms(True)
    try:
        model, data = model_of("gpt"), batches(6)
        twin = copy.deepcopy(model)
        plain, watched = (thunder.train_step(m, adamw(m), programs.token_loss, clip_grad_norm=1.0) for m in (model, twin))
        want = [plain(x, y) for x, y in data]
        got = [watched(x, y) for x, y in data[:2]]
        with thunder.profile(watched) as p:
            got += [watched(x, y) for x, y in data[2:4]]
        got += [watched(x, y) for x, y in data[4:]]
        assert p.steps == 2 and all(torch.equal(a, b) for a, b in zip(got, want))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    finally:
        torch.use_deterministic_algorithms(False)


# ---- f16 ----

def scaled_loss(y, target):
    t, factor = target
    return programs.token_loss(y, t) * factor


def new_scaler():
    return torch.amp.GradScaler("cuda", init_scale=256.0, growth_interval=4)


@pytest.mark.parametrize("optimizer", [adamw, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)], ids=["adamw", "sgd"])
def test_f16_skips_and_grows_as_grad_scaler(optimizer):
    """Twenty steps, replays of a graph from the third on; the losses of two of them are too large for float16."""
    ours = model_of("gpt")
    theirs = copy.deepcopy(ours)
    o, p, scaler = optimizer(theirs), optimizer(ours), new_scaler()
    step = thunder.train_step(ours, p, scaled_loss, clip_grad_norm=1.0, precision="f16-mixed", loss_scale=new_scaler())
    for i, (x, y) in enumerate(batches(4) * 5):
        factor = torch.tensor(1e30 if i in (7, 13) else 1.0, device="cuda")
        with torch.autocast("cuda", torch.float16):
            want = scaled_loss(theirs(x), (y, factor))
        scaler.scale(want).backward()
        scaler.unscale_(o)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        scaler.step(o)
        scaler.update()
        o.zero_grad()
        before = [t.clone() for t in ours.parameters()] if i in (7, 13) else None
        got = step(x, (y, factor))
        torch.testing.assert_close(got, want.detach(), rtol=1e-3, atol=0, msg=lambda m, i=i: f"step {i}: {m}")
        assert step.scaler.state_dict() == scaler.state_dict(), i
        assert step.skipped.item() is (before is not None)
        assert before is None or all(torch.equal(b, t) for b, t in zip(before, ours.parameters()))
    assert {p.state[t]["step"].item() for t in ours.parameters() if "step" in p.state[t]} == ({18.0} if optimizer is adamw else set())
    assert not thunder.compile_stats(step).eager_pieces


def test_f16_from_and_to_other_precisions():
    """Counters of steps go to where the precision has them, and eager PyTorch goes on from there."""
    model, (x, y) = model_of("gpt"), batches(1)[0]
    optimizer, where = adamw(model), []
    for precision in ("bf16-mixed", "f16-mixed", "bf16-mixed", "f16-mixed"):
        step = thunder.train_step(model, optimizer, programs.token_loss, precision=precision, loss_scale=1024.0 if precision == "f16-mixed" else None)
        for _ in range(3):
            step(x, y)
        where += {(s["step"].device.type, s["step"].item()) for s in optimizer.state.values()}
    assert where == [("cpu", 3.0), ("cuda", 6.0), ("cpu", 9.0), ("cuda", 12.0)]
    programs.token_loss(model(x), y).backward()
    optimizer.step()
    assert {s["step"].item() for s in optimizer.state.values()} == {13.0}


def test_f16_waits_for_nothing():
    """A step that may be skipped is launched as any other: the GPU decides."""
    model, (x, y) = model_of("gpt"), batches(1)[0]
    step = thunder.train_step(model, adamw(model), programs.token_loss, clip_grad_norm=1.0, precision="f16-mixed")
    for _ in range(4):
        step(x, y)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- thunder.compile ----

@pytest.mark.parametrize("name", MODELS)
def test_compile_forward_and_backward(name):
    model, (x, y) = model_of(name), batches(1)[0]
    twin = copy.deepcopy(model)
    want = programs.token_loss(twin(x), y)
    want.backward()
    compiled = thunder.compile(model, fullgraph=True)
    for _ in range(3):
        model.zero_grad()
        got = programs.token_loss(compiled(x), y)
        got.backward()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        for (n, p), q in zip(model.named_parameters(), twin.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=n: f"{n}: {m}")


def test_a_stream_of_the_callers():
    compiled, x = thunder.compile(lambda x: (x * 2).sum(-1), fullgraph=True), torch.randn(1000, 1000).cuda()
    compiled(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = torch.zeros(1000, 1000, device="cuda")
        for _ in range(50):
            y = y + x  # the call has to come after all of these
        got = compiled(y)
    stream.synchronize()
    torch.testing.assert_close(got, x.sum(-1) * 100, rtol=1e-3, atol=1e-1)


# ---- random numbers ----

def test_dropout():
    n = 1 << 20
    compiled, x = thunder.compile(lambda x: F.dropout(x, 0.25), fullgraph=True), torch.ones(n).cuda()
    torch.manual_seed(3)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(3)
    assert torch.equal(compiled(x), first) and not torch.equal(first, second)
    for y in (first, second):
        kept = (y != 0).double().mean().item()
        assert abs(kept - 0.75) < 5 * (0.75 * 0.25 / n) ** 0.5
        assert torch.equal(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))
    both = ((first != 0) & (second != 0)).double().mean().item()
    assert abs(both - 0.75**2) < 1e-2  # two calls are independent


def test_dropout_of_a_gradient_is_that_of_the_value():
    x = torch.ones(1 << 16, device="cuda", requires_grad=True)
    y = thunder.compile(lambda x: F.dropout(x, 0.5), fullgraph=True)(x)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)


def test_dropout_differs_from_replay_to_replay():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(64, 1)).cuda()
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), F.mse_loss)
    x, y = torch.randn(8, 64).cuda(), torch.randn(8, 1).cuda()
    assert len({step(x, y).item() for _ in range(6)}) == 6


# ---- what steps hold ----

def test_a_loss_that_is_kept_stays():
    _, step, x, y = linear_step()
    kept = [step(x, y) for _ in range(5)]
    seen = [loss.item() for loss in kept]
    for _ in range(3):
        step(x, y)
    assert [loss.item() for loss in kept] == seen and len(set(seen)) == 5


def test_parameters_that_move():
    model, step, x, y = linear_step()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for i in range(8):
        if i == 4:
            model.weight.data = model.weight.data.clone() * 0.5
            twin.weight.data *= 0.5
        loss = F.mse_loss(twin(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, y), loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-5, atol=1e-6)


def test_an_inference_call_between_steps():
    model, step, x, y = linear_step()
    compiled = thunder.compile(model, fullgraph=True)
    for _ in range(6):
        step(x, y)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(step.eval(x, y), F.mse_loss(model(x), y), rtol=1e-5, atol=1e-5)


def test_release():
    model = model_of("gpt")
    step, data = thunder.train_step(model, adamw(model), programs.token_loss), batches(4)
    step(*data[0])
    step(*data[1])
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    step.release()
    given = held - torch.cuda.memory_allocated()
    assert given > 1 << 20
    losses = [step(x, y).item() for x, y in data]
    assert all(loss == loss for loss in losses)
    torch.cuda.synchronize()
    assert abs(torch.cuda.memory_allocated() - held) < 1 << 20


EXPANDABLE = """
import torch, thunder
import torch.nn.functional as F
model = torch.nn.Linear(256, 256).cuda()
step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), F.mse_loss)
losses = []
for i in range(12):
    x = torch.ones(64, 256, device="cuda")
    other = [torch.empty(1 << (20 + i % 5), device="cuda") for _ in range(3)]  # the allocator has something to grow and give back
    losses.append(step(x, x * 0).item())
    del other
    torch.cuda.empty_cache()
assert all(a > b for a, b in zip(losses, losses[1:])), losses
"""


def test_expandable_segments():
    env = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    done = subprocess.run([sys.executable, "-c", EXPANDABLE], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


# ---- faults ----

def test_an_index_out_of_range_is_said_later():
    compiled = thunder.compile(lambda w, i: F.embedding(i, w), fullgraph=True)
    w, i = torch.randn(10, 4).cuda(), torch.tensor([0, 9, 3]).cuda()
    compiled(w, i)
    compiled(w, i + 5)
    torch.cuda.synchronize()
    with pytest.raises(IndexError, match="out of range in an earlier call"):
        compiled(w, i)
    assert torch.equal(compiled(w, i), w[i])  # said once


def test_two_devices_are_refused():
    compiled = thunder.compile(lambda x, y: (x + 1, y * 2), fullgraph=True)
    with pytest.raises(thunder.CompileError, match="tensor on cpu"):
        compiled(torch.randn(3).cuda(), torch.randn(3))
    if torch.cuda.device_count() > 1:
        torch._dynamo.reset()
        compiled = thunder.compile(lambda x, y: (x + 1, y * 2), fullgraph=True)
        with pytest.raises(ValueError, match="a call runs on one device"):
            compiled(torch.randn(3, device="cuda:0"), torch.randn(3, device="cuda:1"))
