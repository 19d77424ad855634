"""Generated kernels' own f32 functions (executors/cpu/prelude.c) against f64, in units in the last place, over all magnitudes,
both signs, the edges of their pieces and what is special."""
import pytest
import torch

import thunder


def arguments():
    """Floats of every exponent: random bits, and each power of two with its neighbours."""
    bits = torch.randint(-2**31, 2**31, (400_000,), generator=torch.Generator().manual_seed(1), dtype=torch.int64).to(torch.int32).view(torch.float32)
    powers = 2.0 ** torch.arange(-149, 128, dtype=torch.float64)
    near = torch.linspace(-100, 100, 200_001, dtype=torch.float64)
    edges = torch.tensor([0.0, 0.625, 0.927734375, 0.7071067811865475, 10.0, 88.72283, -87.33654, -103.97])
    x = torch.cat([bits, powers.float(), -powers.float(), near.float(), edges, -edges])
    return torch.cat([x, torch.nextafter(x, torch.full_like(x, float("inf"))), torch.nextafter(x, torch.full_like(x, -float("inf")))])


# Results below the smallest normal number are left out of the count: they may be flushed or rounded twice.
@pytest.mark.parametrize("name, limit", [("exp", 2.0), ("log", 2.0), ("tanh", 2.0), ("erf", 2.0), ("sigmoid", 4.0)])
def test_functions(name, limit):
    fn = getattr(torch, name)
    x = arguments()
    got, want = thunder.compile(lambda a: fn(a), fullgraph=True)(x), fn(x.double())
    assert torch.equal(got.isnan(), want.isnan())
    rounded = want.float()
    assert torch.equal(got[rounded.isinf()], rounded[rounded.isinf()])
    counted = rounded.isfinite() & (rounded.abs() >= 2.0**-126)
    w, g = want[counted], got[counted].double()
    ulp = 2.0 ** (torch.floor(torch.log2(w.abs())) - 23)
    error = ((g - w).abs() / ulp)
    worst = int(error.argmax())
    print(f"{name}: {error.max().item():.2f} units at {x[counted][worst].item():.9g}")
    assert error.max() <= limit, f"{name}({x[counted][worst].item():.9g}) is {g[worst].item():.9g}, want {w[worst].item():.9g}: {error.max().item():.1f} units"
    tiny = rounded.abs() < 2.0**-126
    assert (got[tiny].double() - want[tiny]).abs().max() <= 2.0**-126
