"""Runs a program in eager PyTorch and compiled, and compares everything a user can see."""
import copy

import torch
from torch.utils import _pytree as pytree


def clones(tree):
    """The same tensors anew, memory sharing between them aside."""
    return pytree.tree_map(lambda x: x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
                           if isinstance(x, torch.Tensor) else x, tree)


def observe(call, args, kwargs, parameters=()):
    """What a call gives: outputs, gradients of all inputs and parameters, inputs after the call, sharing, strides, versions."""
    out = call(*args, **kwargs)
    flat, spec = pytree.tree_flatten(out)
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    inputs = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    seen = {"spec": str(spec), "flat": [t.detach().clone() if isinstance(t, torch.Tensor) else t for t in flat],
            "strides": [t.stride() for t in tensors], "requires_grad": [t.requires_grad for t in tensors],
            "versions": [t._version for t in tensors + inputs], "inputs": [t.detach().clone() for t in inputs],
            "sharing": sharing(inputs + tensors), "offsets": [t.storage_offset() for t in tensors]}
    wanted = [t for t in tensors if t.requires_grad]
    if wanted:
        generator = torch.Generator().manual_seed(5)
        grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in wanted]
        leaves = [t for t in [*inputs, *parameters] if t.requires_grad and t.is_leaf]
        seen["grads"] = torch.autograd.grad(wanted, leaves, grads, allow_unused=True)
    return seen


def sharing(tensors):
    """Which tensors share memory, and at what distance."""
    first, found = {}, []
    for i, t in enumerate(tensors):
        key = t.untyped_storage().data_ptr() if t.numel() else -i - 1
        base = first.setdefault(key, i)
        found.append((base, t.data_ptr() - tensors[base].data_ptr() if t.numel() else 0))
    return found


def same(a, b, tolerance, what):
    assert len(a) == len(b), what
    for i, (x, y) in enumerate(zip(a, b)):
        if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
            if x is None and isinstance(y, torch.Tensor) or y is None and isinstance(x, torch.Tensor):
                assert not (x if y is None else y).any(), f"{what} {i}: a gradient where eager has none"
                continue
            assert type(x) is type(y) and x == y, f"{what} {i}: {x!r} in eager, {y!r} compiled"
            continue
        assert x.dtype == y.dtype, f"{what} {i}: {x.dtype} in eager, {y.dtype} compiled"
        torch.testing.assert_close(y, x, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"{what} {i}: {m}", equal_nan=True)


def check(fn, arguments, options, make_compiled, calls=2):
    """Compares `calls` calls of eager and compiled `fn`."""
    torch.manual_seed(1)
    tolerance = options.get("tolerance", 2e-5)
    if options.get("module"):
        eager = fn()
        other = copy.deepcopy(eager)
        compiled = make_compiled(other)
    else:
        eager, other, compiled = fn, None, make_compiled(fn)
    for _ in range(calls):
        args = arguments()
        kwargs = options.get("kwargs", dict)()
        args2, kwargs2 = clones((args, kwargs))
        want = observe(eager, args, kwargs, eager.parameters() if other is not None else ())
        got = observe(compiled, args2, kwargs2, other.parameters() if other is not None else ())
        assert want["spec"] == got["spec"]
        for key in ("strides", "requires_grad", "sharing", "offsets", "versions"):
            assert want[key] == got[key], f"{key}: {want[key]} in eager, {got[key]} compiled"
        same(want["flat"], got["flat"], tolerance, "output")
        same(want["inputs"], got["inputs"], tolerance, "input after the call")
        same(want.get("grads", ()), got.get("grads", ()), tolerance * 5, "gradient")
        if other is not None:
            same([b.clone() for b in eager.buffers()], [b.clone() for b in other.buffers()], tolerance, "buffer")
            assert list(eager.state_dict()) == list(compiled.state_dict())
    return compiled
