"""Kernels of rows at the borders of what a thread holds, compiled for CUDA and run by the host (simt), against eager PyTorch."""
import pytest
import torch

import thunder

pytestmark = pytest.mark.quick


def softmax_and_column_sums(x):
    y = torch.softmax(x, -1)
    return y, y.sum(0)


def softmax(x):
    return torch.softmax(x, -1)


def rounded_and_beside_a_sum(x):
    """The sum's second kernel goes on where the first stopped, with names of its own."""
    y = x.to(torch.bfloat16)
    return y, y.sum().neg().abs().neg().floor().abs().neg().abs()


CASES = [(softmax_and_column_sums, (300, 767), torch.float32), (softmax_and_column_sums, (300, 1535), torch.float32),  # 24 turns of one element
         (softmax_and_column_sums, (300, 1536), torch.float32), (softmax, (2, 60002), torch.bfloat16), (softmax, (3, 33000), torch.float32),
         (rounded_and_beside_a_sum, (300, 1000), torch.float32)]


@pytest.mark.parametrize("fn, shape, dtype", CASES, ids=[f"{fn.__name__}-{shape[1]}" for fn, shape, _ in CASES])
def test_against_eager(fn, shape, dtype, monkeypatch):
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    torch._dynamo.reset()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    want, got = fn(x), thunder.compile(fn, fullgraph=True)(x)
    for a, b in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
        torch.testing.assert_close(a, b, rtol=2e-5 if b.dtype == torch.float32 else 8e-3, atol=1e-5)
