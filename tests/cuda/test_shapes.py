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


@pytest.mark.parametrize("length", [20000, 33000], ids=["in shared memory", "read again"])
def test_softmax_of_awkward_rows(length, monkeypatch):
    """The sum of exponentials is made while the maximum is still being found: it must not matter where that stands, or whether there is one."""
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    torch._dynamo.reset()
    x = torch.randn((8, length), generator=torch.Generator().manual_seed(1))
    x[0] = torch.linspace(-200, 100, length)
    x[1] = torch.linspace(100, -200, length)
    x[2] = -torch.inf
    x[3, :length - 3] = -torch.inf
    x[4, 5] = torch.inf
    x[5, length // 2] = torch.nan
    x[6, 1:] = -torch.inf
    x[7] = -1e30
    want, got = softmax(x), thunder.compile(softmax, fullgraph=True)(x)
    assert want[2].isnan().all() and want[4].isnan().any() and want[5].isnan().all()
    torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("shape, dtype", [((6, 20000), torch.float32), ((5, 33000), torch.float32), ((4, 60002), torch.bfloat16), ((7, 500), torch.float32), ((300, 24), torch.float32)])
def test_cross_entropy_of_long_rows(shape, dtype, monkeypatch):
    """The target's logit is read by itself, and the gradient is written where the logits lie."""
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, generator=generator).to(dtype)
    target = torch.randint(0, shape[1], (shape[0],), generator=generator)
    target[0], target[1], target[2] = shape[1] - 1, 0, -100

    def loss(w):
        return torch.nn.functional.cross_entropy((w * 2).float(), target)

    results = []
    for fn in (loss, thunder.compile(loss, fullgraph=True)):
        w = x.clone().requires_grad_()
        value = fn(w)
        value.backward()
        results.append((value.detach(), w.grad))
    for got, want in zip(results[1], results[0]):
        torch.testing.assert_close(got, want, rtol=2e-5 if want.dtype == torch.float32 else 8e-3, atol=1e-7)
