"""Capture of graphs on cuda on machines without one: fake tensors, down to the wire."""
import operator

import pytest
import torch

from thunder import capture, encode, wire

F = torch.nn.functional


def graph(device, training, tracked):
    """TorchDynamo's graph of F.batch_norm."""
    fx = torch.fx.Graph()
    x, *rest = nodes = [fx.placeholder(name) for name in ("x", "mean", "var", "weight", "bias")]
    with torch._subclasses.FakeTensorMode():
        for node, shape in zip(nodes, [(2, 3, 4, 4), *[(3,)] * 4]):
            node.meta["example_value"] = torch.empty(shape, device=device, dtype=torch.bfloat16 if node is x else torch.float32)
    if not tracked:
        rest[:2] = None, None
    fx.output((fx.call_function(F.batch_norm, (x, *rest, training, 0.2, 1e-4)),))
    return torch.fx.GraphModule(torch.nn.Module(), fx)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("training, tracked", [(True, True), (True, False), (False, True)])
def test_batch_norm(device, training, tracked, monkeypatch):
    # PyTorch on a GPU goes on to cuDNN's operator here, whose writes nobody sees.
    monkeypatch.setattr(torch, "batch_norm", torch.cudnn_batch_norm)
    exported = capture.export(graph(device, training, tracked))
    assert exported.device == device and not encode.check(exported)
    name, = [encode.overload_name(n) for n in exported.gm.graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
    assert name == ("_native_batch_norm_legit_no_training" if not training else
                    "_native_batch_norm_legit_functional" if tracked else "_native_batch_norm_legit.no_stats")
    assert sorted(exported.written) == ([1, 2] if training and tracked else [])
    e = encode.Encoder()
    e.graph("main", exported, exported.inputs, [(n.name, n.meta["val"]) for n in exported.inputs], exported.outputs)
    statistics = [e.trace.value_type[v] for v in (6, 7)]
    assert (statistics == [wire.NONE] * 2) == (device == "cuda" and not training)


@pytest.mark.parametrize("read, taken", [(lambda x, n: x + n, True), (lambda x, n: x * (n + n), True), (lambda x, n: n, False), (lambda x, n: (x + n, n * 2), False)],
                         ids=["read", "read later", "returned", "returned later"])
def test_numbers_made_in_host_memory(read, taken):
    """torch.scalar_tensor beside tensors on cuda: PyTorch takes it there; what is returned would have to be on the cpu."""
    fx = torch.fx.Graph()
    x = fx.placeholder("x")
    with torch._subclasses.FakeTensorMode():
        x.meta["example_value"] = torch.empty(2, 3, device="cuda")
    n = fx.call_function(torch.scalar_tensor, (2.0,))
    fx.output(tuple(v.node if isinstance(v, torch.fx.Proxy) else v for v in _flat(read(torch.fx.Proxy(x), torch.fx.Proxy(n)))))
    problems = encode.check(capture.export(torch.fx.GraphModule(torch.nn.Module(), fx)))
    assert [p.operator for p in problems] == ([] if taken else ["aten.scalar_tensor.default"])


def _flat(value):
    return value if isinstance(value, tuple) else (value,)
