"""Every operator: the cpu executor against eager PyTorch (values, gradients, strides), and the reference executor on the
traces of the same compile: the captured one against PyTorch, and every later one against the captured one."""
import collections
import inspect
import json
import os
import re
import warnings

import pytest
import torch
from torch.utils import _pytree as pytree

import thunder
from refrun import inputs_of
from samples import SAMPLES

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CASES = [(f"{row}-{i}", fn, tensors) for row, cases in SAMPLES.items() for i, (fn, tensors) in enumerate(cases)]
# Not in SAMPLES, and where they are tested instead.
ELSEWHERE = {
    "torch.scalar": "every program with a Python number", "torch.sdpa_backward": "gradients of scaled_dot_product_attention",
    "torch.dropout_mask": "gradient of dropout (test_random.py)", "torch.rand": "test_random.py", "torch.rand_like": "test_random.py",
    "torch.randn": "test_random.py", "torch.randn_like": "test_random.py", "torch.bernoulli": "test_random.py",
    "torch.checkpoint": "tests/client/programs.py", "torch.custom_grad": "tests/client/programs.py",
    "torch.straight_through": "tests/client/programs.py",
    "torch.sgd_step": "tests/client/test_train_step.py", "torch.adam_step": "tests/client/test_train_step.py",
}


def test_every_row_has_a_sample():
    with open(os.path.join(os.environ["THUNDER_BUILD_DIR"], "ir", "ops.json"), encoding="utf-8") as f:
        rows = {r["name"] for r in json.load(f) if r["name"].startswith("torch.")}
    assert rows - set(SAMPLES) - set(ELSEWHERE) == set()
    assert set(SAMPLES) - rows == set()


TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def close(got, want, what, factor=1):
    assert len(got) == len(want), what
    for i, (g, w) in enumerate(zip(got, want)):
        if g is None or w is None:
            other = w if g is None else g
            assert other is None or not other.any(), f"{what} {i}: a gradient on one side only"
            continue
        assert g.dtype == w.dtype and g.shape == w.shape, f"{what} {i}: {g.dtype} {tuple(g.shape)}, wanted {w.dtype} {tuple(w.shape)}"
        limit = TOLERANCE.get(w.dtype, 0) * factor
        torch.testing.assert_close(g, w, rtol=limit, atol=limit, equal_nan=True, msg=lambda m, i=i: f"{what} {i}: {m}")


def call(fn, tensors):
    leaves = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    out = [t for t in pytree.tree_leaves(fn(*leaves)) if isinstance(t, torch.Tensor)]
    # A region's backward half takes a tangent for each floating point output; those that need no gradient get zeros.
    tangents = [torch.randn(t.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64, device="cpu").to(t.device, t.dtype) * t.requires_grad
                for i, t in enumerate(out) if t.is_floating_point()]
    wanted = [t for t in leaves if t.requires_grad]
    pairs = [(t, g) for t, g in zip((t for t in out if t.is_floating_point()), tangents) if t.requires_grad]
    grads = torch.autograd.grad([t for t, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True) if pairs else []
    return leaves, out, tangents, grads


@pytest.mark.parametrize("name, fn, tensors", CASES, ids=[c[0] for c in CASES])
def test_op(name, fn, tensors, ref):
    _, want, tangents, want_grads = call(fn, tensors)
    compiled = thunder.compile(fn, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a piece that runs in eager PyTorch is a failure here
        leaves, got, _, grads = call(compiled, tensors)
    assert thunder.compile_stats(compiled).regions, "nothing was compiled"
    assert [t.stride() for t in got] == [t.stride() for t in want]
    close([t.detach() for t in got], [t.detach() for t in want], f"{name}: cpu, output")
    close(grads, want_grads, f"{name}: cpu, gradient", 5)
    check_stages(name, fn, thunder.last_traces(compiled), leaves, want, tangents, want_grads, ref)


def check_stages(name, fn, traces, leaves, want, tangents, want_grads, ref):
    """The reference executor on every stage: outputs and gradients as PyTorch's."""
    stages = collections.defaultdict(dict)
    for t in traces:
        stage, plan = t.title.rstrip(")").split(" (")
        stages[stage][plan] = str(t)
    # TorchDynamo orders inputs by first use; they carry the names of the function's parameters.
    by_name = dict(zip(inspect.signature(fn).parameters, leaves))
    given = [by_name[n] for n, *_ in inputs_of(stages["capture"]["forward"])]
    wanted = [t for t in leaves if t.requires_grad]
    for stage, plans in stages.items():
        text = plans.get("forward", "")
        kinds = [kind for *_, kind in inputs_of(text)] if text else []
        if not text:  # the pass `backward`: shown with the other half
            continue
        joint = kinds.count("tangent") > 0
        out = ref.run(text, given + tangents if joint else given)
        close(out[:len(want)], [t.detach() for t in want], f"{name}: ref after {stage}, output")
        if joint:
            close(out[len(want):], gradients_in_order(text, want_grads, wanted, given), f"{name}: ref after {stage}, gradient", 5)
        elif "backward" in stages["memory_plan"] and stage not in ("capture", "number", "autocast"):
            saved = out[len(want):]
            backward = stages["backward" if stage == "forward" else stage]["backward"]
            fed, parts = [], {"saved": iter(saved), "tangent": iter(tangents)}
            for *_, kind in inputs_of(backward):
                if kind not in ("seed", "offset"):
                    fed.append(next(parts[kind]))
            close(ref.run(backward, fed), gradients_in_order(backward, want_grads, wanted, given), f"{name}: ref after {stage}, gradient", 5)


def gradients_in_order(text, want_grads, wanted, given):
    """Gradients in the order in which the trace returns them: `return %7 gradient(1)` is that of input 1."""
    order = [int(i) for i in re.findall(r"^  return %\d+ gradient\((\d+)\)", text, re.M)]
    by_id = {id(t): g for t, g in zip(wanted, want_grads)}
    return [by_id[id(given[i])] for i in order]
