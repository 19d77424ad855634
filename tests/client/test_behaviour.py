"""What users do around thunder.compile and thunder.train_step: data loaders that fork, schedulers, checkpoints, operators that
are not compiled, dumps, executors switched off."""
import copy
import os
import re
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

LOADER = """
import torch, thunder
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.full((4,), float(i)), torch.full((1,), float(i))
def loader(): return DataLoader(Numbers(), batch_size=4, num_workers=2, multiprocessing_context="fork")
def epochs(n, loader, step):
    for _ in range(n):
        total = sum(float(step(x, y)) for x, y in loader)
    return total
torch.manual_seed(0)
before = loader()
list(before)
model = torch.nn.Linear(4, 1)
step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=1e-4), torch.nn.functional.mse_loss)
first = epochs(70, before, step)
between = loader()
wide = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
other = thunder.train_step(wide, torch.optim.AdamW(wide.parameters(), lr=1e-3), torch.nn.functional.mse_loss)
epochs(65, between, other)
last = epochs(65, loader(), step)
assert last < first, (first, last)
print("epochs 200")
"""


def run(text, tmp_path, timeout=240, **env):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(path)], env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout)


def test_data_loaders_that_fork(tmp_path):
    """Created before, between and after compiles; a hang is the timeout."""
    done = run(LOADER, tmp_path)
    assert done.returncode == 0 and "epochs 200" in done.stdout, done.stderr


def small(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def data(n, seed=5):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, 4, generator=g, dtype=torch.float64), torch.randn(6, 3, generator=g, dtype=torch.float64)) for _ in range(n)]


def eager_step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def same(mine, other, tolerance=1e-12):
    for (name, a), b in zip(mine.named_parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")


@pytest.mark.quick
def test_a_scheduler_compiles_nothing():
    model, other = small(), small()
    optimizer, theirs = (torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (model, other))
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12, cycle_momentum=True) for o in (optimizer, theirs)]
    step = thunder.train_step(model, optimizer, F.mse_loss)
    compiles = None
    for x, y in data(11):
        loss = step(x, y)
        torch.testing.assert_close(loss, eager_step(other, theirs, x, y), rtol=1e-12, atol=1e-12)
        compiles = compiles or sum(step.stats.compiles.values())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that the scheduler comes before optimizer.step(), say
            for s in schedulers:
                s.step()  # the rate and both betas change
    same(model, other)
    assert sum(step.stats.compiles.values()) == compiles == 1


@pytest.mark.quick
def test_add_param_group_and_requires_grad():
    model, other = small(), small()
    pairs = [(model, torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)), (other, torch.optim.SGD(other[0].parameters(), lr=0.1, momentum=0.9))]
    step = thunder.train_step(model, pairs[0][1], F.mse_loss)
    batches = data(9)

    def advance(part):
        for x, y in part:
            torch.testing.assert_close(step(x, y), eager_step(other, pairs[1][1], x, y), rtol=1e-12, atol=1e-12)
            other.zero_grad()
        same(model, other)
    advance(batches[:3])
    for m, o in pairs:
        o.add_param_group({"params": list(m[3].parameters()), "lr": 0.01})
    advance(batches[3:6])
    for m, _ in pairs:
        m[0].weight.requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    advance(batches[6:])
    assert torch.equal(frozen, model[0].weight)


@pytest.mark.quick
def test_train_and_eval_modes():
    model = small()
    model[1].p = 0.5
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), F.mse_loss)
    x, y = data(1)[0]
    assert len({float(step(x, y)) for _ in range(6)}) > 1, "dropout in training"
    model.eval()
    wanted = float(F.mse_loss(model(x), y).detach())
    assert {round(float(step(x, y)), 12) for _ in range(3)} == {round(wanted, 12)}
    assert abs(float(step.eval(x, y)) - wanted) < 1e-12
    model.train()
    assert len({float(step(x, y)) for _ in range(6)}) > 1


@pytest.mark.quick
@pytest.mark.parametrize("make", [lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2), lambda m: torch.optim.SGD(m.parameters(), lr=1e-2, momentum=0.9)])
def test_load_state_dict_before_and_between_steps(make):
    teacher = small()
    theirs = make(teacher)
    batches = data(10)
    for x, y in batches[:4]:
        eager_step(teacher, theirs, x, y)
    saved = copy.deepcopy((teacher.state_dict(), theirs.state_dict()))
    model = small()
    optimizer = make(model)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(copy.deepcopy(saved[1]))  # before the first step: eager's state
    step = thunder.train_step(model, optimizer, F.mse_loss)
    wanted = [eager_step(teacher, theirs, x, y) for x, y in batches[4:7]]
    for (x, y), w in zip(batches[4:7], wanted):
        torch.testing.assert_close(step(x, y), w, rtol=1e-12, atol=1e-12)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(copy.deepcopy(saved[1]))  # between steps: back in time
    for (x, y), w in zip(batches[4:7], wanted):
        torch.testing.assert_close(step(x, y), w, rtol=1e-12, atol=1e-12)
    again = make(other := small())  # and what Thunder leaves is what eager goes on with
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for x, y in batches[7:]:
        torch.testing.assert_close(step(x, y), eager_step(other, again, x, y), rtol=1e-12, atol=1e-12)
    for p, q in zip(model.parameters(), teacher.parameters()):
        mine, eager = optimizer.state[p], theirs.state[q]
        assert {k: (v.dtype, v.shape) for k, v in mine.items()} == {k: (v.dtype, v.shape) for k, v in eager.items()}


@pytest.mark.quick
def test_losses_in_tuples_and_dicts():
    model, other = small(), small()
    kinds = {"tuple": lambda out, y: (F.mse_loss(out, y), out * 2, "note"), "dict": lambda out, y: {"loss": F.mse_loss(out, y), "out": out.detach()}}
    for kind, loss_fn in kinds.items():
        optimizer, theirs = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
        step = thunder.train_step(model, optimizer, loss_fn)
        x, y = data(1)[0]
        wanted = other(x).detach()
        got = step(x, y)
        loss = eager_step(other, theirs, x, y)
        if kind == "tuple":
            assert type(got) is tuple and got[2] == "note"
            pairs = [(got[0], loss), (got[1], wanted * 2)]
        else:
            assert sorted(got) == ["loss", "out"]
            pairs = [(got["loss"], loss), (got["out"], wanted)]
        for a, b in pairs:
            assert not a.requires_grad
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        same(model, other)


@pytest.mark.quick
def test_another_optimizer_is_named_once():
    model, other = small(), small()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
        step = thunder.train_step(model, optimizer, F.mse_loss)
        theirs = torch.optim.RMSprop(other.parameters(), lr=1e-2)
        for x, y in data(4):
            torch.testing.assert_close(step(x, y), eager_step(other, theirs, x, y), rtol=1e-10, atol=1e-12)
    assert sum("RMSprop runs in eager PyTorch" in str(w.message) for w in said) == 1
    same(model, other, 1e-9)


@pytest.mark.quick
def test_what_is_not_compiled_is_a_piece_of_its_own():
    def f(a):
        b = (a * 2).sin()
        c = torch.linalg.eigvalsh(b @ b.T)  # this line
        return (c.exp() * 3).sum()
    a = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    compiled = thunder.compile(f)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            got = compiled(a)
    wanted = f(a)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(torch.autograd.grad(got, a), torch.autograd.grad(wanted, a))
    told = [str(w.message) for w in said if "thunder:" in str(w.message)]
    assert len(told) == 1 and "eigh" in told[0] and "# this line" in told[0] and "test_behaviour.py" in told[0], told
    stats = thunder.compile_stats(compiled)
    assert len(stats.eager_pieces) == 1 and stats.eager_pieces[0].calls == 3 and "test_behaviour.py" in stats.eager_pieces[0].source
    assert stats.regions == 2, "before and after the piece"
    torch._dynamo.reset()
    with pytest.raises(thunder.CompileError) as error:
        thunder.compile(f, fullgraph=True)(a)
    assert "eigh" in str(error.value) and "# this line" in str(error.value)


@pytest.mark.quick
def test_a_step_that_cannot_be_compiled_is_an_error():
    model = small()
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda out, y: torch.linalg.eigvalsh(out.T @ out).sum())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(thunder.CompileError, match="eigh"):
        step(*data(1)[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def take(w, i):
    a = w.sin() * 2
    b = torch.gather(a, 1, i)  # first
    return b.cos()


def take_too(w, i):
    a = w.sin() * 2
    b = torch.gather(a, 1, i)  # second
    return b.cos()


@pytest.mark.quick
def test_a_failure_of_the_data_names_the_operator_and_the_line():
    """Kernels hold more than one op: the one that indexes is named. Equal graphs share a plan: then all their lines are."""
    w, i = torch.randn(5, 4), torch.tensor([[7]])
    first, second = thunder.compile(take), thunder.compile(take_too)
    with pytest.raises(IndexError, match=r"an index is out of range, in a kernel with aten.gather.default\n  at .*test_behaviour.py:\d+: b = .*# first$"):
        first(w, i)
    for f in (second, first):
        with pytest.raises(IndexError, match=r"# first\n  or at .*test_behaviour.py:\d+: .*# second$"):
            f(w, i)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place, self.head = nn.Embedding(5, 4), nn.Embedding(3, 4), nn.Linear(4, 6)

        def forward(self, x):
            return self.head(self.token(x) + self.place(torch.arange(x.shape[1])))  # two tables

    def loss_fn(out, y):
        return F.cross_entropy(out.flatten(0, 1), y.flatten())  # classes
    model = Net()
    before = copy.deepcopy(model.state_dict())
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn)
    for x, y, line in [([1, 7], [1, 2], "# two tables"), ([1, 2, 3, 4], [0, 0, 0, 0], "# two tables"), ([1, 2], [1, 9], "# classes")]:
        with pytest.raises(IndexError, match=rf"in a kernel with aten[^\n]*\n  at [^\n]*{line}$"):
            step(torch.tensor([x]), torch.tensor([y]))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(thunder.ThunderError, match=r"division by zero, in a kernel with aten.floor_divide.default\n  at .*# divided$"):
        thunder.compile(lambda a, b: (a + 1) // b * 2)(torch.tensor([4]), torch.tensor([0]))  # divided


@pytest.mark.quick
def test_without_executors_nothing_falls_back():
    """No compiler, no executor: an error, not eager PyTorch."""
    model = small()
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), F.mse_loss, executors=())
    with pytest.raises(thunder.CompileError, match="executor"):
        step(*data(1)[0])
    with pytest.raises(thunder.CompileError, match="nosuch"):
        thunder.compile(lambda a: a + 1, executors=("nosuch",))(torch.ones(3))


def test_the_demo_fails_without_executors(tmp_path):
    demo = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "examples", "train_gpt.py")
    done = subprocess.run([sys.executable, demo, "--steps", "2"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "THUNDER_EXECUTORS": ""})
    assert done.returncode != 0 and "executor" in done.stderr, done.stderr


@pytest.mark.quick
def test_dump(tmp_path):
    text = """
    import torch, thunder
    def f(a):
        return (a * 2.5).relu().sum()
    print(float(thunder.compile(f)(torch.ones(3))))
    """
    done = run(text, tmp_path, THUNDER_DUMP=str(tmp_path / "dump"))
    assert done.returncode == 0, done.stderr
    place, = (tmp_path / "dump").iterdir()
    files = sorted(p.name for p in place.iterdir())
    assert {"job.bin", "trace.bin", "names.bin"} <= set(files)
    passes = [f for f in files if f.endswith(".tir")]
    assert len(passes) > 8
    first = (place / passes[0]).read_text()
    assert "2.5" in first and "relu" in first and "program.py" in first, "the user's lines are named"
    thunderc = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderc")
    done = subprocess.run([thunderc, str(place / passes[0]), "--dump-after=all"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^// after ", done.stdout, re.M)) >= len(passes) - 2
    job = subprocess.run([thunderc, str(place / "job.bin"), "--dump-after=all"], capture_output=True, text=True, timeout=60)
    assert job.returncode == 0 and "relu" in job.stdout, job.stderr


@pytest.mark.quick
def test_torch_compile_backend():
    model = small()
    x, _ = data(1)[0]
    torch.testing.assert_close(torch.compile(model, backend="thunder")(x), model(x))


@pytest.mark.quick
def test_jit_is_compile():
    assert thunder.jit is thunder.compile


@pytest.mark.quick
def test_overlapping_inputs_are_said_once():
    def f(a, b):
        a.mul_(2)
        return b + 1
    compiled, whole = thunder.compile(f), torch.arange(6.0)
    compiled(torch.ones(4), torch.ones(4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            got, other = whole.clone(), whole.clone()
            torch.testing.assert_close(compiled(got[:4], got[2:]), f(other[:4], other[2:]))
            assert torch.equal(got, other)
    assert sum("shares memory" in str(w.message) for w in said) == 1
    assert thunder.compile_stats(compiled).overlaps == 2 and thunder.compile_stats(compiled).calls == 1


@pytest.mark.quick
@pytest.mark.parametrize("what", [3, "f", len, nn.Linear(1, 1), lambda: 0], ids=["int", "str", "builtin", "module", "lambda"])
def test_what_was_not_compiled_has_no_stats(what):
    with pytest.raises(TypeError, match="was not made by thunder"):
        thunder.compile_stats(what)
