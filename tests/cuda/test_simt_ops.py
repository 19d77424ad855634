"""Every operator of the conformance suite (tests/conformance/samples.py), compiled for CUDA and run by the host (executors/cuda/simt.h), against
eager PyTorch: values, gradients and strides. A second call runs blocks and threads in another order and gives the same bits. What the trace is
after each pass is tests/conformance/test_ops.py's matter."""
import os
import sys
import warnings

import pytest
import torch

import thunder

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "conformance"))
from samples import SAMPLES  # noqa: E402
from test_ops import call, close  # noqa: E402

CASES = {f"{row}-{i}": (fn, tensors) for row, cases in SAMPLES.items() for i, (fn, tensors) in enumerate(cases)}
QUICK = ("add", "gelu", "exp", "where", "pow", "sum", "amax", "softmax", "cross_entropy_loss", "layer_norm", "rms_norm", "embedding", "index_add",
         "scatter_add", "gather", "argmax", "cumsum", "cat", "max_pool2d", "batch_norm", "linear", "to", "var", "floor_divide", "scaled_dot_product_attention")


def cases():
    assert {f"torch.{name}" for name in QUICK} <= set(SAMPLES)
    for name in CASES:
        yield pytest.param(name, marks=[pytest.mark.quick] if name.removeprefix("torch.").removesuffix("-0") in QUICK else [])


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")  # eager PyTorch's, of samples that are there for it
@pytest.mark.parametrize("name", cases())
def test_op(name, monkeypatch):
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    monkeypatch.delenv("TH_SIMT_SEED", raising=False)
    torch._dynamo.reset()
    fn, tensors = CASES[name]
    _, want, _, want_grads = call(fn, tensors)
    compiled = thunder.compile(fn, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a piece that runs in eager PyTorch is a failure here
        _, got, _, grads = call(compiled, tensors)
    regions = thunder.compile_stats(compiled).regions
    assert regions, "nothing was compiled"
    assert [t.stride() for t in got] == [t.stride() for t in want]
    close([t.detach() for t in got], [t.detach() for t in want], f"{name}: output")
    close(grads, want_grads, f"{name}: gradient", 5)
    monkeypatch.setenv("TH_SIMT_SEED", "1")
    _, again, _, grads_again = call(compiled, tensors)
    close([t.detach() for t in again], [t.detach() for t in got], f"{name}: output in another order", 0)
    close(grads_again, grads, f"{name}: gradient in another order", 0)
    assert thunder.compile_stats(compiled).regions == regions
