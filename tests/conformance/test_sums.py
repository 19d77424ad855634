"""Sums of many numbers in f32: every path of the code generator against f64. What one accumulator adds up naively is off by
percents here (and stands still at 2^24 where it adds ones)."""
import pytest
import torch

import thunder

pytestmark = pytest.mark.quick

SUMS = {
    "rows": (lambda x: x.sum(1), (2, 8_000_000)),
    "rows, an odd length": (lambda x: x.sum(1), (2, 1_000_003)),
    "rows of some blocks": (lambda x: x.sum(1), (700, 1024)),
    "rows of two dimensions": (lambda x: x.sum((1, 2)), (2, 1_500_000, 3)),
    "first and last": (lambda x: x.sum((0, 2)), (3000, 3, 700)),
    "columns": (lambda x: x.sum(0), (1_000_000, 3)),
    "many columns": (lambda x: x.sum(0), (50_001, 130)),
    "columns over two dimensions": (lambda x: x.mean((0, 1)), (3000, 3000, 2)),
    "columns over a short and a long one": (lambda x: x.sum((0, 1)), (5, 400_000, 3)),
    "columns over a long and a short one": (lambda x: x.sum((0, 1)), (400_000, 5, 3)),
    "columns that are kept in two dimensions": (lambda x: x.sum((0, 2)), (2000, 2, 300, 3)),
    "everything": (lambda x: x.sum(), (3000, 3001)),
    "of a sum": (lambda x: (x * x.sum(1, keepdim=True)).sum(0), (200_000, 3)),
    "running": (lambda x: x.cumsum(0)[-1], (1_000_000,)),
    "running along rows": (lambda x: x.cumsum(1)[:, -1], (3, 400_000)),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["sizes", "symbols"])
@pytest.mark.parametrize("name", SUMS)
def test_long_sums(name, dynamic):
    fn, shape = SUMS[name]
    x = torch.full(shape, 0.1)
    got, want = thunder.compile(fn, fullgraph=True, dynamic=dynamic)(x), fn(x.double())
    error = ((got.double() - want).abs() / want.abs()).max().item()
    assert error < 1e-5, f"{name}: {error:.1e}"


def test_ones_are_counted():
    x = torch.ones(20_000_000, 2)
    assert thunder.compile(lambda x: x.sum(0), fullgraph=True)(x).tolist() == [20_000_000.0] * 2


@pytest.mark.parametrize("name", ["rows of some blocks", "many columns", "columns over a long and a short one", "first and last"])
def test_sums_do_not_depend_on_threads(name):
    fn, shape = SUMS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    compiled, before, seen = thunder.compile(fn, fullgraph=True), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(compiled(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    torch.testing.assert_close(seen[0].double(), fn(x.double()), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (129, 3), (128, 3), (513, 2), (2, 513), (2, 512), (1024, 1024)])
def test_edges_of_blocks(shape):
    x = torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(1)).float()  # whole numbers: exact in any order
    for dynamic in (False, True):
        rows, columns = thunder.compile(lambda x: (x.sum(1), x.sum(0)), fullgraph=True, dynamic=dynamic)(x)
        assert torch.equal(rows, x.sum(1)) and torch.equal(columns, x.sum(0))
