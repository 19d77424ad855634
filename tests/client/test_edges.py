"""Where a call is unlike the one that was captured, and what is left to Python: said, counted, or one clear error; never another result."""
import copy
import warnings

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

pytestmark = pytest.mark.quick


def test_views_of_inputs_that_shared_memory_once():
    def f(q, k):
        return (q * 2).sum(), k.transpose(0, 1)
    x = torch.arange(16.0).view(4, 2, 2)
    compiled = thunder.compile(f)
    compiled(x[0], x[1])
    assert torch.equal(compiled(x[0], x[3])[1], x[3].t())
    other = torch.randn(2, 2)
    assert compiled(x[0], other)[1].data_ptr() == other.data_ptr()


def test_a_written_input_that_shares_memory_with_a_parameter():
    def f(w, v):
        r = w * 2
        v.mul_(0.5)
        return r + w * 3
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted, got = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
        assert torch.equal(thunder.compile(f)(got, got.detach()), f(wanted, wanted.detach()))


def test_second_derivatives_are_an_error():
    f = thunder.compile(lambda t: (t ** 3).sum())
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    g, = torch.autograd.grad(f(x), x, create_graph=True)
    assert torch.allclose(g, 3 * x.detach() ** 2)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        g.sum().backward()


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(cell):
    torch.manual_seed(0)
    module, x = cell(3, 4), torch.randn(2, 5, 3)

    def run(x):
        state = None
        for t in range(x.shape[1]):
            state = module(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state
    compiled = thunder.compile(run, fullgraph=True)
    torch.testing.assert_close(compiled(x), run(x))
    for a, b in zip(torch.autograd.grad(compiled(x).sum(), module.parameters()), torch.autograd.grad(run(x).sum(), module.parameters())):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fn, argument", [
    (lambda a: torch.fft.rfft(a).abs(), torch.randn(4, 8)), (lambda a: a.conj().sum(), torch.randn(4, dtype=torch.complex64)),
    (lambda a: torch.linalg.inv(a) + 1, torch.eye(3) * 2), (lambda a: torch.linalg.solve(a, a) + 1, torch.eye(3) * 2)], ids=["abs", "conj", "inv", "solve"])
def test_what_thunder_has_not_runs_in_pieces(fn, argument):
    compiled = thunder.compile(fn)
    torch.testing.assert_close(compiled(argument), fn(argument))
    pieces = thunder.compile_stats(compiled).eager_pieces
    assert pieces and all(p.calls == 1 for p in pieces)


def test_an_input_that_no_plan_takes():
    compiled = thunder.compile(lambda a: a + 1)
    with pytest.warns(UserWarning, match="tensor on meta"):
        assert compiled(torch.randn(3, device="meta")).device.type == "meta"
    with pytest.raises(thunder.CompileError, match="tensor on meta"):
        thunder.compile(lambda a: a + 1, fullgraph=True)(torch.randn(3, device="meta"))


def with_print(x):
    y = x * 2
    print(end="")
    return y + 1


def with_branch(x):
    return x * 2 if x.sum() > 0 else x * 3


@pytest.mark.parametrize("fn, argument, said", [(nn.LSTM(3, 4), torch.randn(2, 5, 3), "LSTM"), (with_print, torch.ones(3), "print"), (with_branch, torch.ones(3), "branching")],
                         ids=["lstm", "print", "branch"])
def test_what_torchdynamo_leaves_to_python_is_said_and_counted(fn, argument, said):
    compiled = thunder.compile(fn)
    with pytest.warns(UserWarning, match=said):
        got = compiled(argument)
    wanted = fn(argument)
    torch.testing.assert_close(got, wanted)
    piece, = thunder.compile_stats(compiled).eager_pieces
    assert piece.calls is None and "not counted" in str(piece) and (said == "LSTM" or __file__ in piece.source)
    compiled(argument)
    assert len(thunder.compile_stats(compiled).eager_pieces) == 1
    with pytest.raises(thunder.CompileError, match=f"as one graph.*{said}"):
        thunder.compile(fn, fullgraph=True)(argument)


def test_more_modules_than_torchdynamo_keeps_for_one_function():
    compiled = [thunder.compile(nn.Sequential(nn.Linear(4 + i, 3), nn.ReLU()), fullgraph=True) for i in range(10)]
    for i, m in enumerate(compiled):
        m(torch.randn(2, 4 + i))
    assert [thunder.compile_stats(m).regions for m in compiled] == [1] * 10


def test_the_ninth_shape_of_a_step():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    other = copy.deepcopy(model)
    optimizer, eager = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    step = thunder.train_step(model, optimizer, F.mse_loss)
    for n in (*range(1, 11), 3, 7):
        x, y = torch.randn(n, 3, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)
        eager.zero_grad()
        wanted = F.mse_loss(other(x), y)
        wanted.backward()
        eager.step()
        torch.testing.assert_close(step(x, y), wanted.detach())
    assert step.stats.regions == 10
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()))


def test_dampening_of_a_parameter_that_joins_later():
    def train(compiled):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))).double()
        model[2].requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, dampening=0.5)
        step = thunder.train_step(model, optimizer, F.mse_loss) if compiled else None
        for i in range(6):
            if i == 3:
                model[2].requires_grad_(True)
            x, y = torch.randn(2, 4, 3, dtype=torch.float64)
            if compiled:
                step(x, y)
                continue
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        return list(model.parameters())
    for a, b in zip(train(True), train(False)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x, which):
        return (self.a if which == "a" else self.b)(self.trunk(x)).mean()


def test_micro_batches_with_other_parameters_are_an_error():
    model = Heads()
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), accumulate=2)
    step(torch.randn(2, 3), "a")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(thunder.CompileError, match=r"parameter a\.weight has gradients of an earlier micro-batch"):
        step(torch.randn(2, 3), "b")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before)) and step.pending == 1
    step(torch.randn(2, 3), "a")
    assert step.pending == 0 and not torch.equal(model.a.weight, before[2])


def test_a_call_that_fails_is_no_micro_batch():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    step = thunder.train_step(model, optimizer, lambda out, y: F.cross_entropy(out, y), accumulate=2)
    good, bad, y = torch.tensor([1, 2]), torch.tensor([1, 9]), torch.tensor([0, 1])
    step(good, y)
    with pytest.raises(IndexError):
        step(bad, y)
    assert step.pending == 1 and not optimizer.state
    step(good, y)
    assert step.pending == 0 and optimizer.state


def test_parameters_over_one_memory():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data = model[0].weight.data
    with pytest.raises(thunder.CompileError, match="shares memory"):
        thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), F.mse_loss)(torch.randn(2, 3), torch.randn(2, 3))


def test_threads_set_later_count():
    x = torch.randn(300, 300)
    compiled, before = thunder.compile(lambda a: (a * 2).sin().sum(0)), torch.get_num_threads()
    wanted = compiled(x)
    try:
        torch.set_num_threads(before + 1)
        assert torch.equal(compiled(x), wanted) and thunder._C.set_threads(before) == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fn", [lambda x: x.view(x.shape[0], x.shape[1] // 4, -1) * 2, lambda x: torch.roll(x, 1, 0) * 2, lambda x: torch.cat([x[-1:], x[:-1]])],
                         ids=["patches", "roll", "cat"])
def test_symbolic_sizes_that_thunder_refuses_run_in_eager(fn):
    compiled = thunder.compile(fn)
    for n in (4, 6, 5):
        x = torch.randn(n, 4 * n, requires_grad=True)
        got, wanted = compiled(x), fn(x)
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(torch.autograd.grad(got.square().sum(), x), torch.autograd.grad(wanted.square().sum(), x))


def test_dropout_probabilities_that_differ_between_modules():
    torch.manual_seed(0)
    for p in (0.125, 0.25, 0.5):
        compiled = thunder.compile(nn.Sequential(nn.Linear(4, 4), nn.Dropout(p)), fullgraph=True)
        kept = compiled(torch.ones(4000, 4)) != 0
        assert abs(kept.double().mean().item() - (1 - p)) < 0.02
        assert thunder.compile_stats(compiled).regions == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_running_statistics_in_half_precision(dtype):
    norm, x = nn.BatchNorm1d(4).to(dtype).eval(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.testing.assert_close(thunder.compile(norm, fullgraph=True)(x), norm(x))


def test_hooks_that_a_step_would_not_run():
    model = nn.Linear(2, 1)
    handle = model.weight.register_hook(lambda g: g * 0)
    batch = torch.ones(1, 2), torch.zeros(1, 1)
    with pytest.raises(thunder.CompileError, match="parameter weight has a hook"):
        thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), F.mse_loss)(*batch)
    handle.remove()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_post_hook(lambda *_: None)
    with pytest.raises(thunder.CompileError, match="SGD has a step hook"):
        thunder.train_step(model, optimizer, F.mse_loss)(*batch)


def test_what_torchdynamo_refuses_in_a_step():
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None))
    with pytest.raises(thunder.CompileError, match="as one graph"):
        thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), F.mse_loss)(torch.randn(3, 4), torch.randn(3, 4))


@pytest.mark.parametrize("fn, shapes", [  # the first has a norm below eps
    (lambda a, b, t: F.cosine_similarity(a * torch.tensor([1, 1, 1e-10, 1, 1])[:, None], b), [(5, 7), (5, 7)]), (lambda a, b, t: F.cosine_similarity(a, b, dim=0, eps=3.0), [(5, 7), (1, 7)]),
    *((lambda a, b, t, r=r: F.cosine_embedding_loss(a, b, t, margin=0.1, reduction=r), [(5, 7), (5, 7)]) for r in ("none", "mean", "sum")),
    (lambda a, b, t: F.cosine_embedding_loss(a, b, t[0]), [(7,), (7,)]), (lambda a, b, t: F.hinge_embedding_loss(a, t, margin=0.5), [(5,), (5,)]),
    (lambda a, b, t: F.margin_ranking_loss(a, b, t, margin=0.5), [(5,), (5,)])])
def test_losses_that_pytorch_writes_in_place(fn, shapes):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    target = torch.tensor([1, -1, 1, -1, 1])
    ours, theirs = ([v.clone().requires_grad_() for v in values] for _ in range(2))
    compiled = thunder.compile(fn, fullgraph=True)(*ours, target)
    expected = fn(*theirs, target)
    compiled.sum().backward(), expected.sum().backward()
    torch.testing.assert_close(compiled, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)
