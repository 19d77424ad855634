"""Integer arithmetic at its edges: the cpu executor against eager PyTorch, and the reference executor on the captured trace."""
import pytest
import torch

import thunder
from refrun import inputs_of

pytestmark = pytest.mark.quick
SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]


def check(fn, tensors, ref):
    compiled = thunder.compile(fn, fullgraph=True)
    want, got = fn(*tensors), compiled(*tensors)
    assert not thunder.compile_stats(compiled).eager_pieces
    assert got.dtype == want.dtype and torch.equal(got, want), f"{got.tolist()}, want {want.tolist()}"
    text = next(str(t) for t in thunder.last_traces(compiled) if str(t.title).startswith("capture "))
    by_name = dict(zip(fn.__code__.co_varnames, tensors))
    given = [by_name[n] for n, *_ in inputs_of(text)]
    out = ref.run(text, given)[0]
    assert torch.equal(out, want), f"reference executor: {out.tolist()}, want {want.tolist()}"


@pytest.mark.parametrize("divisor", [1, 3, 127, 128, 254, 255])
def test_bytes_divide_by_all_bytes(divisor, ref):
    x = torch.arange(256).to(torch.uint8)
    for fn in (lambda x, y: x // y, lambda x, y: x % y, lambda x, y: torch.fmod(x, y), lambda x, y: torch.div(x, y, rounding_mode="trunc")):
        check(fn, (x, torch.full((256,), divisor, dtype=torch.uint8)), ref)
    if divisor == 255:
        check(lambda x: x // 255, (x,), ref)
        check(lambda x: x % 255, (x,), ref)


@pytest.mark.parametrize("dtype", SIGNED, ids=str)
def test_signed_division_by_minus_one(dtype, ref):
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    x = torch.tensor([low + 1, -7, -1, 0, 1, 7, high], dtype=dtype)
    for fn in (lambda x, y: x // y, lambda x, y: x % y, lambda x, y: torch.fmod(x, y)):
        check(fn, (x, torch.full((7,), -1, dtype=dtype)), ref)


@pytest.mark.parametrize("dtype", SIGNED, ids=str)
def test_overflow_wraps_around(dtype, ref):
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    check(lambda x: (x + 1) > x, (torch.full((20,), high, dtype=dtype),), ref)
    check(lambda x: (x - 1) < x, (torch.full((20,), low, dtype=dtype),), ref)
    check(lambda x: x * 2 // 2, (torch.full((20,), high, dtype=dtype),), ref)
    check(lambda x: x.abs() >= 0, (torch.full((20,), low, dtype=dtype),), ref)
    check(lambda x: (-x) > 0, (torch.full((20,), low, dtype=dtype),), ref)


@pytest.mark.parametrize("dtype", SIGNED, ids=str)
def test_powers(dtype, ref):
    x, y = torch.tensor([3, 7, 0, 0, 1, 2, -1, -1, -3, 5, -2], dtype=dtype), torch.tensor([39, 50, -1, 0, -1, -1, -3, -4, 41, 0, 63], dtype=dtype)
    check(lambda x, y: x ** y, (x, y), ref)
    check(lambda x: x ** 41, (x,), ref)
    check(lambda y: 3 ** y.abs(), (y,), ref)


def test_powers_of_bytes(ref):
    x, y = torch.tensor([3, 7, 0, 0, 255, 2], dtype=torch.uint8), torch.tensor([39, 50, 0, 5, 255, 7], dtype=torch.uint8)
    check(lambda x, y: x ** y, (x, y), ref)
