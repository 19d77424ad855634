"""Signature of a captured graph: what the outside world sees of its inputs and outputs.

An output that shares memory with an input or with another output is a view in eager PyTorch; the plan does not make a
tensor for it, the caller re-creates it (`runtime.py`). Which outputs share memory is read from the fake tensors that
TorchDynamo computed: their storages are those eager would have.
"""
import torch

from . import capture, wire
from .errors import Unsupported


class Input:
    """One input of the graph. `value` is its fake tensor (or SymInt), `name` the Python expression it comes from."""

    def __init__(self, node, value, name=None):
        self.node, self.value = node, value
        self.name = name or capture.source_name(node)
        self.kind = wire.INPUT_USER if isinstance(value, torch.Tensor) else wire.INPUT_INTEGER
        self.requires_grad = False
        self.donated = False
        self.written_by = -1


class Output:
    """One output of the trace. `node`: its ATen node. Views: `base` input or output and offset in elements from it."""

    def __init__(self, kind, node, value, base=0, offset=0):
        self.kind, self.node, self.value, self.base, self.offset = kind, node, value, base, offset
        self.requires_grad = isinstance(value, torch.Tensor) and value.requires_grad
        self.versions = value._version if kind == wire.OUTPUT_FRESH else 0  # how often eager bumps the version counter
        self.replaces = None   # FRESH: input that gets this value by an autograd-visible copy
        self.cut = False       # views: made where gradients are off, so that none go on to the base


class Layout:
    """What a TorchDynamo graph returns, before it is exported: the graph with hidden outputs in front (intermediates that
    several outputs are views of) and a recipe for every output of the user's."""

    def __init__(self, gm, states):
        self.gm, self.states, self.mixed = gm, states, any(s.grad for s in states)
        self.inputs = [Input(n, capture.example(n)) for n in capture.placeholders(gm)]
        returned = capture.output_nodes(gm)
        by_node = {item.node: i for i, item in enumerate(self.inputs)}
        groups = {}  # storage -> positions of outputs in it that are no views of inputs
        self.recipes = []
        for position, node in enumerate(returned):
            if not isinstance(node, torch.fx.Node):
                self.recipes.append(("constant", node))
                continue
            value = capture.example(node)
            if isinstance(value, (torch.SymInt, int)):
                self.recipes.append(("integer", value))
                continue
            if not isinstance(value, torch.Tensor):
                raise Unsupported("graph output", f"is a {type(value).__name__}, not a tensor", capture.node_number(node))
            source = capture.input_behind(node)
            if node in by_node:
                self.recipes.append(("input", by_node[node]))
            elif source is not None:
                base = capture.example(source)
                _same_dtype(value, base, node)
                self.recipes.append(("view of input", by_node[source], node, value, _offset(value, base), self._is_cut(node)))
            else:
                groups.setdefault(capture.storage_key(value), []).append(position)
                self.recipes.append(("fresh", node, value))
        self._share(gm, groups)

    def _share(self, gm, groups):
        """Outputs that share an intermediate's memory become views of one of them, or of a hidden output."""
        self.hidden = []
        for key, positions in groups.items():
            nodes = {self.recipes[p][1] for p in positions}
            if len(positions) == 1:
                continue
            whole = [p for p in positions if _is_whole(self.recipes[p][2])]
            if whole:
                base_node, base_value = self.recipes[whole[0]][1:3]
                base = ("output", whole[0])
            elif len(nodes) == 1:  # the same view returned several times
                base_node, base_value = self.recipes[positions[0]][1:3]
                whole, base = [positions[0]], ("output", positions[0])
            else:
                base_node = _find_base(gm, key)
                base_value = capture.example(base_node)
                base = ("hidden", len(self.hidden))
                self.hidden.append((base_node, base_value))
            for p in positions:
                if whole and p == whole[0]:
                    continue
                _, node, value = self.recipes[p]
                _same_dtype(value, base_value, node)
                if node is base_node:
                    self.recipes[p] = ("same", base)
                else:
                    self.recipes[p] = ("view of output", base, node, value, _offset(value, base_value), self._is_cut(node, base_node))

    def writes(self, position):
        """How often a call raises the version counter of the input at that position."""
        value = self.inputs[position].value
        return value._version if _is_whole(value) else capture.count_writes(self.gm, position)

    def _is_cut(self, node, base=None):
        """Is one of the views between `base` (an input) and `node` made where gradients are off, in a graph that has some?"""
        key = capture.storage_key(capture.example(node))
        while self.mixed and node is not None and node is not base and node.op != "placeholder":
            state = self.states[capture.node_number(node)]
            if not state.grad and not state.writes:
                return True
            node = next((n for n in node.all_input_nodes if isinstance(capture.example(n), torch.Tensor) and capture.storage_key(capture.example(n)) == key), None)
        return False


def _same_dtype(value, base, node):
    if value.dtype != base.dtype:
        raise Unsupported("graph output", "is a view in another dtype of a tensor it shares memory with", capture.node_number(node))


def _offset(value, base):
    return value.storage_offset() - base.storage_offset()


def _is_whole(value):
    """Does the tensor cover its storage, each element once?"""
    return value.numel() * value.element_size() == value.untyped_storage().nbytes() and value.storage_offset() == 0


def _find_base(gm, key):
    for node in gm.graph.nodes:
        value = capture.example(node) if node.op in ("call_function", "call_method") else None
        if isinstance(value, torch.Tensor) and capture.storage_key(value) == key and _is_whole(value):
            return node
    raise Unsupported("graph output", "several outputs share memory that no operator returned as a whole")


class Signature:
    """Inputs and outputs of a trace, made from a layout, its export and the tensors of the first call.

    `outputs` is in the trace's order: hidden bases, the user's outputs, values written back. `results` says for each output
    of the user's how to get it: ("output", i), ("input", i), ("constant", value), ("integer", value)."""

    def __init__(self, layout, exported, arguments, differentiate):
        self.inputs = list(layout.inputs)
        for i, (node, value) in enumerate(exported.constants):
            self.inputs.append(Input(node, value, f"constant{i}"))
        for item, argument in zip(self.inputs, arguments):
            if not isinstance(argument, torch.Tensor):
                continue
            item.requires_grad = differentiate and argument.requires_grad
            if capture.is_parameter(argument):
                item.kind = wire.INPUT_PARAMETER
            elif "_buffers[" in item.name or "_buffers_" in item.name:
                item.kind = wire.INPUT_BUFFER
        self.outputs, self.results = [], []
        n_hidden = len(layout.hidden)
        for i, (_, value) in enumerate(layout.hidden):
            self.outputs.append(Output(wire.OUTPUT_FRESH, exported.outputs[i], value))
        place = {}
        for position, recipe in enumerate(layout.recipes):
            if recipe[0] in ("fresh", "view of input", "view of output"):
                place[position] = len(place) + n_hidden
        for position, recipe in enumerate(layout.recipes):
            node = exported.outputs[n_hidden + position]
            kind = recipe[0]
            if kind in ("constant", "integer", "input"):
                self.results.append((kind, recipe[1]))
                continue
            if kind == "same":
                self.results.append(("output", self._index(recipe[1], place)))
                continue
            if kind == "fresh":
                output = Output(wire.OUTPUT_FRESH, node, recipe[2])
            elif kind == "view of input":
                output = Output(wire.OUTPUT_VIEW_OF_INPUT, node, recipe[3], recipe[1], recipe[4])
                output.cut = recipe[5]
            else:
                output = Output(wire.OUTPUT_VIEW_OF_OUTPUT, node, recipe[3], self._index(recipe[1], place), recipe[4])
                output.cut = recipe[5]
            self.results.append(("output", len(self.outputs)))
            self.outputs.append(output)
        for i, node in sorted(exported.written.items()):
            item, argument = self.inputs[i], arguments[i]
            if differentiate and item.value.requires_grad and not (argument.is_leaf and argument.requires_grad):
                output = Output(wire.OUTPUT_FRESH, node, item.value)
                output.replaces = i
            else:
                output = Output(wire.OUTPUT_WRITTEN, node, item.value, i)
                item.written_by = len(self.outputs)
            output.versions = layout.writes(i)
            self.outputs.append(output)
        self.symbolic = any(isinstance(i.value, torch.SymInt) or isinstance(i.value, torch.Tensor)
                            and any(isinstance(n, torch.SymInt) for n in i.value.size()) for i in self.inputs)
        self.differentiated = differentiate and any(item.requires_grad for item in self.inputs) and any(
            o.kind == wire.OUTPUT_FRESH and o.requires_grad for o in self.outputs)
        if not self.differentiated:
            for item in self.inputs:
                item.requires_grad = False

    @staticmethod
    def _index(base, place):
        return base[1] if base[0] == "hidden" else place[base[1]]
