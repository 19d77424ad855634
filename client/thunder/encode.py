"""Encoding: a captured graph and its signature as a thunder.wire.Trace (proto/trace.proto) and its Names.

Driven by the operator table: an ATen overload names a row; arguments go to the row's operands and attributes by name. No
compiler logic: nothing is inferred, rewritten or simplified here.
"""
import linecache
import operator
import re

import torch

from . import capture, dynamo, optable, wire
from .errors import Unsupported

# Arguments of ATen that say nothing a trace keeps: places and layouts are the signature's matter.
_IGNORED = {"layout", "pin_memory", "memory_format", "non_blocking", "copy", "implicit", "cudnn_enabled", "generator", "out",
            "out_dtype"}
_SHAPE_FUNCTIONS = {"sym_size.int", "sym_stride.int", "sym_numel.default", "sym_storage_offset.default"}


def is_shape_node(node):
    """Does the node compute an integer or a bool outside of tensors?"""
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymBool, int, bool)) and node.op != "placeholder"


def overload_name(node):
    target = node.target
    return target.name().removeprefix("aten::") if isinstance(target, torch._ops.OpOverload) else str(target)


def row_of(node):
    """The table's row for an ATen node; None when there is none."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace not in ("aten", "thunder_capture"):
        return None
    return optable.by_overload(f"{node.target._opname}.{node.target._overloadname}")


def check(exported):
    """The operators of a captured graph that Thunder does not compile, as Unsupported errors (empty: none)."""
    problems = []
    settle_numbers(exported)
    for node in exported.gm.graph.nodes:
        number = capture.node_number(node)
        try:
            if node in exported.regions:
                region = exported.regions[node]
                for body in (region.forward_export, region.backward_export):
                    for problem in check(body) if body else ():
                        raise Unsupported(problem.operator, problem.reason)
                continue
            _check_node(node, exported.device)
        except Unsupported as error:
            error.node = number
            problems.append(error)
    return problems


def settle_numbers(exported):
    """Python floats that may change from call to call stay values where each user takes them as an operand. Others, and what is
    computed of them, become constants that TorchDynamo guards."""
    for node in list(exported.gm.graph.nodes):
        value = node.meta.get("val")
        if isinstance(value, torch.SymFloat) and not (
                capture.is_item(node) and capture.is_python_number(node.args[0]) and all(_takes_as_operand(user, node) for user in node.users)):
            node.replace_all_uses_with(capture.specialize(value))
            exported.gm.graph.erase_node(node)


def _takes_as_operand(user, node):
    row = row_of(user)
    if row is None:
        return False
    operands = {spec["name"] for spec in row.operands if not spec.get("variadic")}
    places = [i for i, a in enumerate(user.args) if a is node]
    names = {user.target._schema.arguments[i].name for i in places} | {k for k, a in user.kwargs.items() if a is node}
    return bool(names) and names <= operands


def _check_node(node, device):
    if capture.is_item(node) and capture.is_python_number(node.args[0]):
        return
    if node.op in ("placeholder", "output") or capture.is_marker(node) or node.target is operator.getitem:
        return
    if node.op == "get_attr":
        return
    if node.op != "call_function":
        raise Unsupported(str(node.target), "not a function call")
    if is_shape_node(node):
        return
    row = row_of(node)
    if row is None:
        raise Unsupported(str(node.target), "not in Thunder's operator table yet")
    value = node.meta.get("val")
    for tensor in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(tensor, torch.Tensor):
            if capture.is_data_dependent(tensor):
                raise Unsupported(str(node.target), "the size of its result depends on data")
            if tensor.device.type != device and not capture.is_number_in_host_memory(tensor, device):
                raise Unsupported(str(node.target), f"makes a tensor on {tensor.device}, the graph runs on {device}")
            if str(tensor.dtype).removeprefix("torch.") not in wire.DTYPES:
                raise Unsupported(str(node.target), f"makes a tensor of {tensor.dtype}")
    _arguments(node, row, device)


def _is_number_for_others(node, device):
    """A tensor of rank 0 that is made in host memory beside tensors on another device, and read by those alone: where it is does not matter."""
    if not capture.is_number_in_host_memory(node.meta.get("val"), device):
        return False
    return all(user.op != "output" and (not isinstance(user.meta.get("val"), torch.Tensor) or user.meta["val"].device.type == device or _is_number_for_others(user, device))
               for user in node.users)


def _arguments(node, row, device):
    """Arguments by name, without those that say nothing. Raises Unsupported for one that the row does not know."""
    given = {}
    schema = node.target._schema
    for i, spec in enumerate(schema.arguments):
        if i < len(node.args):
            value = node.args[i]
        elif spec.name in node.kwargs:
            value = node.kwargs[spec.name]
        elif spec.has_default_value():
            value = spec.default_value
        else:
            continue
        if spec.name not in row.argument_names:
            if value is None or spec.name in _IGNORED or (spec.has_default_value() and value == spec.default_value):
                continue
            if spec.name == "device" and (torch.device(value).type == device or _is_number_for_others(node, device)):
                continue
            raise Unsupported(str(node.target), f"argument {spec.name}={value} is not supported")
        if value is not None:
            given[spec.name] = value
    return given


class Encoder:
    """Builds one Trace and its Names. `encode()` is the front."""

    def __init__(self):
        self.trace, self.names = wire.Trace(), wire.Names()
        self.trace.version = 1
        self.strings, self.name_strings = {"": 0}, {"": 0}
        self.dims, self.types, self.symbols = {}, {}, {}
        self.values = {}      # FX node -> value, or list of values
        self.n_values = 0
        self.bodies = []      # graphs still to be written
        self.operators = []   # of each op: (ATen name, number of the TorchDynamo node)
        self.trace.type_dims_begin.append(0)
        self.trace.graph_outputs_begin.append(0)
        self.trace.op_operands_begin.append(0)
        self.trace.op_attrs_begin.append(0)
        self.trace.sharding_begin.extend([0, 0])

    # ---- tables ----
    def string(self, text):
        return self.strings.setdefault(text, len(self.strings))

    def name(self, text):
        return self.name_strings.setdefault(text, len(self.name_strings))

    def dim(self, value):
        """Index of a dimension expression: an int, a SymInt or a sympy expression."""
        if isinstance(value, torch.fx.Node):
            value = value.meta["val"]
        expr = capture.expression(value) if isinstance(value, (int, torch.SymInt)) else value
        if isinstance(expr, int):
            return self._dim(wire.DIM_CONST, expr, 0)
        return self._sympy(expr)

    def _dim(self, kind, a, b):
        key = (kind, a, b)
        if key not in self.dims:
            self.dims[key] = len(self.dims)
            self.trace.dim_kind.append(kind)
            self.trace.dim_a.append(a)
            self.trace.dim_b.append(b)
        return self.dims[key]

    def _sympy(self, expr):
        if expr.is_Integer:
            return self._dim(wire.DIM_CONST, int(expr), 0)
        if expr.is_Symbol:
            if expr not in self.symbols:
                raise Unsupported("a size", f"depends on {expr}, which no input gives")
            return self._dim(wire.DIM_SYMBOL, self.symbols[expr], 0)
        kind, parts = self._operation(expr)
        if kind is None:
            raise Unsupported("a size", f"is the expression {expr}, which the IR does not have")
        index = self.dim(parts[0])
        for part in parts[1:]:
            index = self._dim(kind, index, self.dim(part))
        return index

    @staticmethod
    def _operation(expr):
        """The IR's kind of a sympy expression and its operands, or (None, ())."""
        kinds = {"Add": wire.DIM_ADD, "Mul": wire.DIM_MUL, "FloorDiv": wire.DIM_FLOORDIV, "CleanDiv": wire.DIM_FLOORDIV,
                 "Mod": wire.DIM_MOD, "PythonMod": wire.DIM_MOD, "Min": wire.DIM_MIN, "Max": wire.DIM_MAX}
        name = type(expr).__name__
        if name == "Pow" and expr.args[1].is_Integer and 0 < int(expr.args[1]) < 16:
            return wire.DIM_MUL, [expr.args[0]] * int(expr.args[1])
        return (kinds[name], list(expr.args)) if name in kinds else (None, ())

    def type(self, dtype, sizes, flags=0):
        key = (dtype, tuple(self.dim(s) for s in sizes), flags)
        if key not in self.types:
            self.types[key] = len(self.types)
            t = self.trace
            t.type_dtype.append(wire.DTYPES[str(dtype).removeprefix("torch.")])
            t.type_dims.extend(key[1])
            t.type_dims_begin.append(len(t.type_dims))
            t.type_sharding.append(0)
            t.type_flags.append(flags)
        return self.types[key]

    def type_of(self, value):
        return self.type(value.dtype, value.size())

    def add_value(self, type_index, name=""):
        self.trace.value_type.append(type_index)
        self.names.value_name.append(self.name(name))
        self.n_values += 1
        return self.n_values - 1

    # ---- graphs ----
    def add_symbols(self, inputs):
        """Symbols come from integer inputs first, then from sizes of inputs; then what guards found equal of them."""
        for value, item in enumerate(inputs):
            if isinstance(item.value, torch.SymInt):
                self._symbol(item.value, 1, value, 0)
        for value, item in enumerate(inputs):
            if isinstance(item.value, torch.Tensor):
                for d, size in enumerate(item.value.size()):
                    if isinstance(size, torch.SymInt):
                        self._symbol(size, 0, value, d)
        for pair in capture.equal_sizes([item.value for item in inputs])[:256]:  # as many as the daemon takes
            if all(self._expressible(e) for e in pair):
                self.trace.equal.extend([self.dim(e) for e in pair])

    def _expressible(self, expr):
        """Of this trace's symbols, and divided by nothing that may be 0."""
        if expr.is_Integer or expr in self.symbols:
            return True
        kind, parts = self._operation(expr)
        if kind in (wire.DIM_FLOORDIV, wire.DIM_MOD):
            by = parts[1]
            return self._expressible(parts[0]) and (by.is_Integer and by > 0 or by in self.symbols and self.trace.symbol_min[self.symbols[by]] > 0)
        return kind in (wire.DIM_ADD, wire.DIM_MUL) and all(map(self._expressible, parts))

    def _symbol(self, size, source, value, dim):
        expr = capture.expression(size)
        if not getattr(expr, "is_Symbol", False) or expr in self.symbols:
            return
        self.symbols[expr] = len(self.symbols)
        low, high = capture.symbol_range(size)
        t = self.trace
        t.symbol_source.append(source)
        t.symbol_value.append(value)
        t.symbol_dim.append(dim)
        t.symbol_min.append(low)
        t.symbol_max.append(high)
        t.symbol_multiple.append(1)

    def graph(self, name, exported, nodes, inputs, output_nodes):
        """Writes one graph. `nodes`: its FX inputs; `inputs`: (name, fake value or SymInt) for each. `output_nodes`: FX nodes, or
        a fake tensor in a None gradient's place (zeros)."""
        t = self.trace
        t.graph_name.append(self.string(name))
        t.graph_inputs.append(len(inputs))
        for node, (label, value) in zip(nodes, inputs):
            if isinstance(value, torch.Tensor):
                flags = wire.FLAG_WEAK if capture.is_python_number(node) else 0
                if capture.is_number_in_host_memory(value, exported.device):
                    flags |= wire.FLAG_HOST
                self.values[node] = self.add_value(self.type(value.dtype, value.size(), flags), label)
            else:
                self.values[node] = self.add_value(self.type(torch.int64, (), wire.FLAG_HOST), label)
        first = len(self.operators)
        for node in exported.gm.graph.nodes:
            if node.op in ("placeholder", "output") or capture.is_marker(node):
                continue
            if node.target is operator.getitem:
                made = self.values[node.args[0]]
                self.values[node] = made[node.args[1]]
            elif node in exported.regions:
                self.region(exported, node)
            elif capture.is_item(node):
                self.values[node] = self.values[node.args[0]]
            elif node.op == "get_attr":
                continue
            elif not is_shape_node(node):
                self.operator(exported, node)
        outputs = []
        for node in output_nodes:
            if isinstance(node, torch.Tensor):
                outputs.append(self.zeros(exported, node))
            else:
                value = self.values[node]
                outputs.append(value)
        t.graph_ops.append(len(self.operators) - first)
        t.graph_outputs.extend(outputs)
        t.graph_outputs_begin.append(len(t.graph_outputs))

    def begin_op(self, name, exported, node, state=None):
        t = self.trace
        t.op_name.append(self.string(name))
        state = state or (exported.state_of(node) if node is not None else None)
        t.op_flags.append(wire.OP_NO_GRAD if state and not state.grad else 0)
        t.op_autocast.append(wire.DTYPES[str(state.autocast).removeprefix("torch.")] if state and state.autocast else 0)
        t.op_executor.append(0)
        file, line, text, scope = source_of(node) if node is not None else ("", 0, "", "")
        self.names.op_file.append(self.name(file))
        self.names.op_line.append(line)
        self.names.op_text.append(self.name(text))
        self.names.op_scope.append(self.name(scope))
        number = capture.node_number(node) if node is not None else None
        self.operators.append((str(node.target) if node is not None else name, number))

    def end_op(self, operands, attrs, result_types, names=()):
        """Operand values, attributes [(name, kind, value)], and the types of the results (NONE: not known here)."""
        t = self.trace
        t.operands.extend(operands)
        t.op_operands_begin.append(len(t.operands))
        for name, kind, value in attrs:
            self.attribute(name, kind, value)
        t.op_attrs_begin.append(len(t.attr_name))
        t.op_results.append(len(result_types))
        return [self.add_value(ty, names[i] if i < len(names) else "") for i, ty in enumerate(result_types)]

    def attribute(self, name, kind, value):
        t = self.trace
        t.attr_name.append(self.string(name))
        count = 0
        if kind == "scalar":
            kind = "bool" if isinstance(value, (bool, torch.SymBool)) else "float" if isinstance(value, float) else "int"
        if kind == "int":
            number, stored = wire.ATTR_INT, self.dim(value)
        elif kind == "float":
            number, stored = wire.ATTR_FLOAT, len(t.floats)
            t.floats.append(float(value))
        elif kind == "bool":
            number, stored = wire.ATTR_BOOL, int(bool(value))
        elif kind == "str":
            number, stored = wire.ATTR_STRING, self.string(value)
        elif kind == "dtype":
            number, stored = wire.ATTR_DTYPE, wire.DTYPES[str(value).removeprefix("torch.")]
        elif kind == "graph":
            number, stored = wire.ATTR_GRAPH, value
        elif kind == "ints":
            items = list(value) if isinstance(value, (list, tuple, torch.Size)) else [value]
            number, stored, count = wire.ATTR_INTS, len(t.attr_ints), len(items)
            t.attr_ints.extend([self.dim(i) for i in items])
        elif kind == "bools":
            items = list(value) if isinstance(value, (list, tuple)) else [value]
            number, stored, count = wire.ATTR_BOOLS, len(t.attr_ints), len(items)
            t.attr_ints.extend(int(bool(i)) for i in items)
        else:
            raise AssertionError(f"attribute {name} of kind {kind}")
        t.attr_kind.append(number)
        t.attr_value.append(stored)
        t.attr_count.append(count)

    def scalar(self, exported, node, value):
        """A Python number in an operand's place: a torch.scalar of its own."""
        self.begin_op("torch.scalar", exported, node)
        kind = torch.bool if isinstance(value, bool) else torch.float64 if isinstance(value, float) else torch.int64
        result, = self.end_op([], [("value", "scalar", value)], [self.type(kind, (), wire.FLAG_WEAK)])
        return result

    def zeros(self, exported, like):
        self.begin_op("torch.zeros", exported, None)
        dtype = like.dtype if like.dtype.is_floating_point else torch.float32
        result, = self.end_op([], [("size", "ints", list(like.size())), ("dtype", "dtype", dtype)], [self.type(dtype, like.size())])
        return result

    def operand(self, exported, node, value):
        if isinstance(value, torch.fx.Node):
            made = value.meta.get("val")
            if not isinstance(made, (torch.SymInt, int)) or value.op == "placeholder" and value in self.values:
                if isinstance(made, torch.SymInt):
                    return self.scalar(exported, node, made)
                return self.values[value]
            return self.scalar(exported, node, made)
        if isinstance(value, (bool, int, float)):
            return self.scalar(exported, node, value)
        raise Unsupported(str(node.target), f"operand {value!r}")

    def operator(self, exported, node):
        row = row_of(node)
        if row is None:
            raise Unsupported(str(node.target), "not in Thunder's operator table yet", capture.node_number(node))
        given = _arguments(node, row, exported.device)
        operands = []
        for spec in row.operands:
            value = given.get(spec["name"])
            if spec.get("variadic"):
                operands.extend(self.operand(exported, node, v) for v in value or ())
            elif value is None:
                if not spec.get("optional"):
                    raise Unsupported(str(node.target), f"without {spec['name']}", capture.node_number(node))
                operands.append(wire.NONE)
            else:
                operands.append(self.operand(exported, node, value))
        attrs = [(spec["name"], spec["kind"], given[spec["name"]]) for spec in row.attrs if spec["name"] in given]
        value, name = node.meta.get("val"), row.name
        if name in ("torch.split", "torch.chunk") and isinstance(node.args[0].meta["val"].size(given.get("dim", 0)), torch.SymInt):
            # How many pieces there are is known here, of a symbol alone it is not.
            sizes = [piece.size(given.get("dim", 0)) for piece in value]
            name, attrs = "torch.split_with_sizes", [("split_sizes", "ints", sizes), ("dim", "int", given.get("dim", 0))]
        results = list(value) if isinstance(value, (list, tuple)) else [value]
        types = [self.type_of(r) if isinstance(r, torch.Tensor) else wire.NONE for r in results]
        if row.results >= 0:
            types = (types + [wire.NONE] * row.results)[:row.results]
        if name == "torch._native_batch_norm_legit_no_training" and exported.device != "cpu":
            types[1:] = [wire.NONE] * 2  # the statistics that nobody reads: empty on the CPU, and so in the table
        if name in ("torch._native_batch_norm_legit_functional", "torch._native_batch_norm_legit.no_stats") and value[0].dtype in (torch.bfloat16, torch.float16):
            # As the operators make them; PyTorch's shape function says other dtypes on the CPU than on a GPU.
            statistics = [given[n].meta["val"].dtype for n in ("running_mean", "running_var") if n in given]
            types[1:] = [self.type(dtype, v.size()) for dtype, v in zip([torch.float32] * 2 + statistics, value[1:])]
        self.begin_op(name, exported, node)
        made = self.end_op(operands, attrs, types, [node.name])
        self.values[node] = made if isinstance(value, (list, tuple)) else made[0]

    def region(self, exported, node):
        region = exported.regions[node]
        forward = region.forward_export
        operands = [self.values[a] for a in node.args[0]]
        flat = [*forward.outputs, *(forward.written[i] for i in region.mutated)]
        body = self.later(f"{region.kind}_{len(self.bodies)}", forward, flat)
        types = [self.type_of(v) for v in node.meta["val"]]
        if region.kind == "checkpoint":
            attrs, name = [("body", "graph", body)], "torch.checkpoint"
        else:
            backward = region.backward_export
            if len(tensors(backward.inputs)) != len(forward.outputs):
                raise Unsupported("autograd.Function", "its backward takes other values than its forward gives", region.number)
            given = [backward.outputs[i] for i in region.places if i < len(backward.outputs)]
            gradients = [g if isinstance(g, torch.fx.Node) else a.meta["val"] for g, a in zip(given, node.args[0])]
            if len(gradients) != len(operands):
                raise Unsupported("autograd.Function", "its backward returns another number of gradients than it has inputs",
                                  region.number)
            other = self.later(f"{region.kind}_backward_{len(self.bodies)}", backward, gradients)
            attrs = [("fwd", "graph", body), ("bwd", "graph", other), ("n_outputs", "int", region.n_outputs)]
            name = "torch.custom_grad"
        self.begin_op(name, exported, node, region.state)
        self.values[node] = self.end_op(operands, attrs, types, [node.name])

    def later(self, name, exported, outputs):
        self.bodies.append((name, exported, outputs))
        return len(self.bodies)


_sources = {}


def source_of(node):
    """(file, line, text, module path) of the user's line a node comes from: the innermost frame outside of PyTorch and of this
    package (a model that is all nn.Sequential has none)."""
    trace = node.meta.get("stack_trace") or ""
    scope = ""
    stack = node.meta.get("nn_module_stack")
    if stack:
        path = next(reversed(stack.values()))[0]
        scope = re.sub(r"\._(modules|parameters|buffers)\b", "", str(path))
        scope = re.sub(r"\[['\"]?([^\]'\"]*)['\"]?\]", r".\1", scope)
        scope = ".".join(scope.lstrip("L").strip(".").split(".")[1:])
    if trace not in _sources:
        found = ("", 0, "")
        for file, line, text in dynamo.FRAME.findall(trace):
            if not file.startswith(dynamo.NOT_THE_USERS):
                found = (file, int(line), text.strip() or linecache.getline(file, int(line)).strip())
        _sources[trace] = found
    return (*_sources[trace], scope)


class Encoded:
    """A serialized trace, its names, for each op (ATen name, number of the TorchDynamo node), for each symbol its expression."""

    def __init__(self, trace, names, operators, symbols):
        self.trace, self.names, self.operators, self.symbols = trace, names, operators, symbols
        self.trace_bytes = trace.SerializeToString(deterministic=True)

    def source(self, op):
        """"file:line: text" of an op number, or None."""
        if not 0 <= op < len(self.names.op_line) or not self.names.op_line[op]:
            return None
        text = self.names.strings
        return f"{text[self.names.op_file[op]]}:{self.names.op_line[op]}: {text[self.names.op_text[op]]}"

    def scope(self, op):
        """The path of the module that an op number is of, or None."""
        return self.names.strings[self.names.op_scope[op]] or None


def tensors(nodes):
    return [n for n in nodes if isinstance(n.meta["val"], torch.Tensor)]


def encode(exported, signature):
    """The trace of a captured graph."""
    e = Encoder()
    e.add_symbols(signature.inputs)
    e.graph("main", exported, [*exported.inputs, *(n for n, _ in exported.constants)], [(short_name(i.name), i.value) for i in signature.inputs],
            [o.node for o in signature.outputs])
    done = 0
    while done < len(e.bodies):  # bodies may own bodies
        name, body, outputs = e.bodies[done]
        if body.constants:
            raise Unsupported("a constant tensor", "inside a checkpoint or an autograd.Function")
        nodes = tensors(body.inputs)  # sizes are known outside of it
        e.graph(name, body, nodes, [(f"arg{i}", n.meta["val"]) for i, n in enumerate(nodes)], outputs)
        done += 1
    _signature(e, signature)
    e.trace.strings.extend(e.strings)
    e.names.strings.extend(e.name_strings)
    return Encoded(e.trace, e.names, e.operators, list(e.symbols))


def _signature(e, signature):
    t = e.trace
    t.input_strides_begin.append(0)
    for item in signature.inputs:
        t.input_kind.append(item.kind)
        t.input_flags.append((wire.INPUT_DONATED if item.donated else 0) | (wire.INPUT_REQUIRES_GRAD if item.requires_grad else 0))
        t.input_written_by.append(item.written_by)
        if isinstance(item.value, torch.Tensor) and not item.value.is_contiguous():
            t.input_strides.extend(e.dim(s) for s in item.value.stride())
        t.input_strides_begin.append(len(t.input_strides))
    t.output_strides_begin.append(0)
    for output in signature.outputs:
        t.output_kind.append(output.kind)
        t.output_base.append(output.base)
        view = output.kind in (wire.OUTPUT_VIEW_OF_INPUT, wire.OUTPUT_VIEW_OF_OUTPUT)
        if view or not output.value.is_contiguous():
            t.output_strides.extend(e.dim(s) for s in output.value.stride())
        t.output_strides_begin.append(len(t.output_strides))
        t.output_offset.append(e.dim(output.offset))


def short_name(source):
    """"L['self']._modules['blocks']._modules['0']._parameters['weight']" -> "self.blocks.0.weight"."""
    text = re.sub(r"\._(modules|parameters|buffers)\b", "", source)
    text = re.sub(r"\[['\"]?([^\]'\"]*)['\"]?\]", r".\1", text)
    return text.removeprefix("L.").removeprefix("G.")
