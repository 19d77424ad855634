"""The same programs as test_capture, through the real parts: capture, thunderd, a worker, the plan, libthunder."""
import time

import pytest
import torch
import torch.nn.functional as F

import compare
import programs
import thunder

quick = pytest.mark.quick


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=quick, id="sizes"), pytest.param(True, id="symbols")])
@pytest.mark.parametrize("name", programs.CASES)
def test_program(name, dynamic):
    fn, arguments, options = programs.CASES[name]
    compiled = compare.check(fn, arguments, options, lambda f: thunder.compile(f, fullgraph=True, dynamic=dynamic))
    assert thunder.compile_stats(compiled).jobs and not thunder.compile_stats(compiled).eager_pieces


@pytest.mark.parametrize("number", range(len(programs.REDUCED)))
@pytest.mark.parametrize("dynamic", [False, True], ids=["sizes", "symbols"])
@pytest.mark.parametrize("layout", ["rows", "transposed", "every_other"])
def test_gradients_whose_shapes_no_saved_tensor_has(number, dynamic, layout):
    """... and that need an input as it lies in memory."""
    def arguments():
        x, w = torch.randn(3, 7), torch.randn(5, 7)
        x = x if layout == "rows" else torch.randn(7, 3).t() if layout == "transposed" else torch.randn(3, 7, 2)[..., 0]
        return x.requires_grad_(), w.requires_grad_()
    compiled = compare.check(programs.REDUCED[number], arguments, {}, lambda f: thunder.compile(f, fullgraph=True, dynamic=dynamic))
    assert not thunder.compile_stats(compiled).eager_pieces


def attend(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


@quick
@pytest.mark.parametrize("mask", [None, "causal", "rows", "wide"])
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_whose_numbers_of_queries_and_keys_change(mask, groups):
    """No shape function of PyTorch's says that keys and values are as many, and the mask's columns: capture does."""
    compiled, counts = thunder.compile(attend, fullgraph=True), []
    for batch, queries, keys in ((2, 8, 8), (2, 8, 12), (2, 9, 13), (3, 10, 14), (4, 5, 21), (3, 11, 6)):
        q, k, v = (torch.randn(batch, heads, n, 16, requires_grad=True) for heads, n in ((4, queries), (4 // groups, keys), (4 // groups, keys)))
        given = {"causal": {"is_causal": True}, "rows": {"attn_mask": torch.randn(queries, keys)}, "wide": {"attn_mask": torch.rand(batch, 1, 1, keys) < 0.8}}.get(mask, {})
        given["enable_gqa"] = groups > 1
        want, got = attend(q, k, v, **given), compiled(q, k, v, **given)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)
        for a, b in zip(*(torch.autograd.grad(out.nan_to_num().square().sum(), (q, k, v)) for out in (got, want))):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        counts.append(thunder.compile_stats(compiled).regions)
    assert counts[-1] == counts[3] <= 4 and not thunder.compile_stats(compiled).eager_pieces


@quick
def test_other_sizes_and_numbers_compile_once_more():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3))

    def scaled(x, scale):
        return model(x) * scale
    compiled = thunder.compile(scaled, fullgraph=True)
    for batch, scale in ((4, 0.5), (5, 0.25), (9, 3.0), (2, -1.0), (30, 0.5)):
        x = torch.randn(batch, 6)
        wanted = torch.autograd.grad(scaled(x, scale).square().mean(), model.parameters())
        got = torch.autograd.grad(compiled(x, scale).square().mean(), model.parameters())
        for a, b in zip(got, wanted):
            torch.testing.assert_close(a, b)
    assert thunder.compile_stats(compiled).regions == 2 and not thunder.compile_stats(compiled).eager_pieces


@quick
def test_sizes_that_are_equal_in_every_call():
    """Positions counted from the tokens and from the targets: PyTorch guards that the two products are equal."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 10))

    def loss(x, y):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    compiled = thunder.compile(loss, fullgraph=True)
    for tokens, targets in (((2, 3), (2, 3)), ((4, 5), (4, 5)), ((3, 6), (3, 6)), ((3, 4), (2, 6)), ((7, 8), (7, 8))):
        x, y = torch.randint(0, 10, tokens), torch.randint(0, 10, targets)
        wanted, got = (torch.autograd.grad(f(x, y), model.parameters()) for f in (loss, compiled))
        for a, b in zip(got, wanted):
            torch.testing.assert_close(a, b)
    assert thunder.compile_stats(compiled).regions == 2


@pytest.mark.parametrize("fn, shapes", [
    pytest.param(lambda a, b: a.reshape(-1, 2) + b.reshape(-1, 2), [((2, 4), (4, 2)), ((4, 6), (8, 3)), ((6, 8), (4, 12)), ((2, 6), (4, 3))], marks=quick),
    (lambda a, b: F.mse_loss(F.max_pool1d(a, 3).flatten(1), b.flatten(1)), [((2, 3, 9), (2, 9)), ((3, 3, 12), (3, 2, 6)), ((4, 3, 17), (4, 3, 5))]),
    (lambda a, b: a.reshape(b.shape[1], -1) @ b, [((4, 6), (8, 3)), ((6, 6), (9, 4)), ((8, 9), (12, 6))])])
def test_sizes_that_follow_from_guards(fn, shapes):
    torch.manual_seed(0)
    compiled = thunder.compile(fn, fullgraph=True)
    for size, other in shapes:
        a, b = torch.randn(size, dtype=torch.float64, requires_grad=True), torch.randn(other, dtype=torch.float64, requires_grad=True)
        wanted, got = (f(a, b) for f in (fn, compiled))
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(torch.autograd.grad(got.sum(), (a, b)), torch.autograd.grad(wanted.sum(), (a, b)))
    assert not thunder.compile_stats(compiled).eager_pieces


@quick
def test_abs_of_complex_numbers_runs_in_eager():
    def of_parts(x, y):
        return torch.abs(torch.complex(x, y)) * 2

    def of_an_input(z):
        return torch.abs(z) * 2
    x, y = torch.tensor([3.0, 0.0], requires_grad=True), torch.tensor([4.0, 0.0], requires_grad=True)
    for fn, given in ((of_parts, (x, y)), (of_an_input, (torch.tensor([3 + 4j, 0j], requires_grad=True),))):
        compiled = thunder.compile(fn)
        got, want = compiled(*given), fn(*given)
        assert torch.equal(got, want) and got.dtype == torch.float32 and thunder.compile_stats(compiled).eager_pieces
        for a, b in zip(torch.autograd.grad(got.sum(), given), torch.autograd.grad(want.sum(), given)):
            assert torch.equal(a, b)


def test_more_outputs_than_a_kernel_has():
    def fn(x):
        rows = x.sum(-1, keepdim=True)
        return [torch.sin(x * i) + rows for i in range(150)], [rows * i for i in range(70)]
    x = torch.randn(3, 5, dtype=torch.float64)
    compiled = thunder.compile(fn, fullgraph=True)
    torch.testing.assert_close(compiled(x), fn(x), rtol=1e-10, atol=1e-10)
    assert not thunder.compile_stats(compiled).eager_pieces


@quick
def test_seconds_of_a_first_call():
    """What compile_stats times lies one after the other within the calls, and only first calls add to it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda y, t: (y - t).square().mean())
    compiled = thunder.compile(lambda x: (x * 2).sin().sum())
    x, y = torch.randn(4, 6), torch.randn(4, 3)
    for fn, call in ((step, lambda: step(x, y)), (compiled, lambda: compiled(x))):
        began = time.perf_counter()
        call()
        took, seconds = time.perf_counter() - began, thunder.compile_stats(fn).seconds
        assert list(seconds) == ["capture", "compile", "load", "run"] and all(value > 0 for value in seconds.values())
        assert 0.8 * took < sum(seconds.values()) <= took, (took, seconds)
        before = dict(seconds)
        call()
        assert thunder.compile_stats(fn).seconds == before
