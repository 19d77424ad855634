"""Random operators: equal tags and seeds give equal numbers on every executor, the gradient meets the mask of its forward
pass, and the numbers are distributed as they should be."""
import torch
import torch.nn.functional as F

import thunder
from refrun import inputs_of


def test_dropout_keeps_its_mask_for_the_gradient():
    compiled = thunder.compile(lambda x: F.dropout(x, 0.3), fullgraph=True)
    for _ in range(3):
        x = torch.ones(200, 50, requires_grad=True)
        y = compiled(x)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())
        assert set(y.detach().unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
        assert abs((y == 0).double().mean().item() - 0.3) < 4 * (0.3 * 0.7 / y.numel()) ** 0.5


def test_the_result_of_dropout_is_written_in_place():
    def fn(x):
        h = F.dropout(x, 0.5)
        h[:, 0] *= 3
        return h
    x = torch.ones(300, 2, requires_grad=True)
    y = thunder.compile(fn, fullgraph=True)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and set(y[:, 0].tolist()) == {0.0, 6.0} and set(y[:, 1].tolist()) == {0.0, 2.0}


def test_masks_differ_between_calls_and_places_and_follow_the_seed():
    compiled = thunder.compile(lambda x: (F.dropout(x, 0.5), F.dropout(x, 0.5)), fullgraph=True)
    x = torch.ones(1000)
    torch.manual_seed(7)
    first, second = compiled(x)
    third, _ = compiled(x)
    assert not torch.equal(first, second) and not torch.equal(first, third)
    torch.manual_seed(7)
    again, _ = compiled(x)
    assert torch.equal(first, again)


def test_two_backward_passes_of_interleaved_calls():
    compiled = thunder.compile(lambda x: F.dropout(x, 0.5), fullgraph=True)
    a, b = torch.ones(500, requires_grad=True), torch.ones(500, requires_grad=True)
    ya, yb = compiled(a), compiled(b)
    (yb.sum() + ya.sum()).backward()
    assert torch.equal(a.grad, ya.detach()) and torch.equal(b.grad, yb.detach())


def test_distributions():
    def draw(x, p):
        return torch.rand(40000), torch.rand_like(x), torch.randn(40000), torch.randn_like(x), torch.bernoulli(p)
    x, p = torch.empty(200, 200, dtype=torch.float64), torch.full((40000,), 0.2)
    compiled = thunder.compile(draw, fullgraph=True)
    u, u64, n, n64, b = compiled(x, p)
    for t in (u, u64):
        assert 0 <= t.min() and t.max() < 1
        assert abs(t.mean() - 0.5) < 4 * (1 / 12 / 40000) ** 0.5 and abs(t.var() - 1 / 12) < 0.002
    for t in (n, n64):
        assert abs(t.mean()) < 4 / 200 and abs(t.var() - 1) < 0.04 and abs((t.abs() < 1).double().mean() - 0.6827) < 0.01
    assert u64.dtype == n64.dtype == torch.float64 and abs(b.mean() - 0.2) < 4 * (0.16 / 40000) ** 0.5
    assert not torch.equal(u.view(-1), u64.float().view(-1))


def test_the_reference_executor_draws_the_same(ref):
    """The plan run with a seed, and the captured trace on the reference executor with the same one."""
    def draw(x, p):
        return F.dropout(x, 0.4), torch.rand_like(x), torch.randn_like(x), torch.bernoulli(p)
    compiled = thunder.compile(draw, fullgraph=True)
    x, p = torch.randn(37, 3), torch.full((50,), 0.3)
    torch.manual_seed(3)
    got = compiled(x, p)
    torch.manual_seed(3)
    seed = torch.empty((), dtype=torch.int64).random_().item()
    for trace in thunder.last_traces(compiled):
        names = {"x": x, "p": p}
        given = [names[n] for n, *_, kind in inputs_of(trace) if kind not in ("seed", "offset")]
        for g, w in zip(ref.run(trace, given, seed=seed), got):
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6, msg=lambda m: f"{trace.title}: {m}")
