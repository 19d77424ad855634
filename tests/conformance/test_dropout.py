"""What dropout's masks are like, on each executor: how many are kept, by which factor, and that nothing beside them tells anything of them, neighbours,
rows, calls, layers, steps. Seeds are fixed, so a test that passes does so always; bounds are five standard deviations of what is counted."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import thunder

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")]
ROWS = 256
SIGMAS = 5


@pytest.fixture(params=["cpu", "simt", pytest.param("cuda", marks=GPU)])
def executor(request, monkeypatch):
    """(device, columns of the masks)"""
    if request.param == "simt":
        monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    torch.manual_seed(11)
    return ("cuda", 4096) if request.param == "cuda" else ("cpu", 512)


@pytest.fixture(params=[0.1, 0.5, 0.9])
def p(request):
    return request.param


def normal(count, n, q):
    """How many standard deviations `count` of n is from n * q."""
    return (count - n * q) / math.sqrt(n * q * (1 - q))


def independent(a, b, p):
    """Masks (bool) of probability 1 - p, as far as pairs tell: how often both are kept."""
    a, b, q = a.reshape(-1), b.reshape(-1), (1 - p) ** 2
    assert abs(normal((a & b).sum().item(), a.numel(), q)) < SIGMAS + 1  # pairs at a lag share their elements: a little wider
    assert not torch.equal(a, b)


def chi_square(counts, expected):
    """Standard deviations of Pearson's statistic from what it is of independent draws."""
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    freedom = counts.numel() - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def masks(executor, p, calls=1, fn=None):
    device, columns = executor
    compiled = thunder.compile(fn or (lambda x: F.dropout(x, p)), fullgraph=True)
    x = torch.ones(ROWS, columns, device=device)
    return [compiled(x) for _ in range(calls)]


def test_how_many_are_kept_and_by_which_factor(executor, p):
    y, = masks(executor, p)
    kept, n = y != 0, y.numel()
    assert abs(normal(kept.sum().item(), n, 1 - p)) < SIGMAS
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    variance = p / (1 - p)
    assert abs(y.double().mean().item() - 1) < SIGMAS * math.sqrt(variance / n)
    fourth = ((1 / (1 - p) - 1) ** 4 * (1 - p) + p - variance ** 2) / n  # of the mean of (y - 1)^2
    assert abs(((y.double() - 1) ** 2).mean().item() - variance) < SIGMAS * math.sqrt(fourth) + 1e-6  # p = 0.5: all are alike


def test_neighbours_and_rows(executor, p):
    y, = masks(executor, p)
    kept = y != 0
    flat = kept.reshape(-1)
    for lag in (1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 128, 255, 256, 1024, y.shape[1], y.shape[1] + 1, 4 * y.shape[1], flat.numel() // 2):
        independent(flat[:-lag], flat[lag:], p)
    independent(kept[:-1], kept[1:], p)
    for along in (0, 1):  # no row and no column is kept more than others
        sums, n = kept.sum(along), kept.shape[along]
        assert max(abs(normal(s, n, 1 - p)) for s in sums.tolist()) < SIGMAS + 1.5  # the most of thousands, of few draws each


def test_blocks_and_patterns(executor, p):
    y, = masks(executor, p)
    kept = (y != 0).reshape(-1).cpu()
    n, q = kept.numel(), 1 - p
    counts = kept.reshape(-1, 256).sum(1).double()  # binomial: what is expected of the sum of squares
    spread = ((counts - 256 * q) ** 2 / (256 * q * p)).sum().item()
    deviation = math.sqrt(2 * counts.numel() * (1 + (1 / (q * p) - 6) / (2 * 256)))
    assert abs(spread - counts.numel()) < SIGMAS * deviation
    for width in (2, 3):  # all patterns of so many neighbours
        numbers = (kept.reshape(-1)[:n // width * width].reshape(-1, width) * 2 ** torch.arange(width)).sum(1)
        found = torch.bincount(numbers, minlength=2 ** width).double()
        expected = torch.tensor([math.prod(q if bit else p for bit in bits) for bits in itertools.product((0, 1), repeat=width)]).double() * found.sum()
        bits_first = torch.tensor([int("".join(map(str, reversed(bits))), 2) for bits in itertools.product((0, 1), repeat=width)])
        assert abs(chi_square(found[bits_first], expected)) < SIGMAS


def test_calls_places_and_seeds(executor, p):
    def two(x):
        h = F.dropout(x, p)
        return h, F.dropout(x, p), F.dropout(F.dropout(x, p) + 1, p)
    first, second = masks(executor, p, 2, two)
    torch.manual_seed(11)
    again, _ = masks(executor, p, 2, two)
    assert all(torch.equal(a, b) for a, b in zip(again, first))
    torch.manual_seed(12)
    other, = masks(executor, p, 1, two)
    drawn = [t != 0 for t in (*first, *second, *other)]
    for a, b in itertools.combinations(drawn, 2):
        independent(a, b, p)


def test_the_gradient_has_the_same_mask(executor, p):
    """Of a plain dropout, and of one between kernels of several kinds, where the backward pass draws the mask anew."""
    device, columns = executor
    x = torch.ones(ROWS, columns, device=device, requires_grad=True)
    y = thunder.compile(lambda x: F.dropout(x, p), fullgraph=True)(x)
    weight = torch.randn(ROWS, columns, device=device)
    y.backward(weight)
    assert torch.equal(x.grad != 0, (y != 0) & (weight != 0))
    torch.testing.assert_close(x.grad, weight * y.detach(), rtol=1e-6, atol=0)

    def between(x, keep):
        h = F.dropout(F.layer_norm(x, (x.shape[-1],)), p)
        return (h * keep).sum(-1), h
    x = torch.randn(ROWS, columns, device=device, requires_grad=True)
    sums, h = thunder.compile(between, fullgraph=True)(x, weight)
    sums.sum().backward()
    twin = x.detach().clone().requires_grad_()
    mask = (h != 0).float() / (1 - p)
    (F.layer_norm(twin, (columns,)) * mask * weight).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-5)


def test_layers_and_steps(executor, p):
    """A step whose gradients are the masks of its layers: SGD at a rate of 1 takes them off the weights. On a GPU the later steps are replays."""
    device, columns = executor

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList(torch.zeros(ROWS // 4, columns) for _ in range(3))

        def forward(self, x):
            return sum((F.dropout(w, p) * x).sum() for w in self.weights)
    model = Layers().to(device)
    step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), lambda y, _: y)
    x, drawn = torch.ones((), device=device), []
    for _ in range(5):
        before = [w.detach().clone() for w in model.weights]
        step(x, x)
        for old, w in zip(before, model.weights):
            taken = old - w.detach()
            drawn.append(taken > 0.5)
            assert abs(normal(drawn[-1].sum().item(), taken.numel(), 1 - p)) < SIGMAS
    for a, b in itertools.combinations(drawn, 2):
        independent(a, b, p)
