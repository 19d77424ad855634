"""Capture: from a TorchDynamo graph to functional ATen.

This file and dynamo.py alone touch private names of PyTorch. dynamo.py runs TorchDynamo (guards, one graph per frame). For
each graph `annotate` notes the grad mode and autocast state of every node, and `export` lowers a
graph with `aot_export_module(..., trace_joint=False, pre_dispatch=True)`: functional ATen with composites kept
(`linear`, `layer_norm`, `scaled_dot_product_attention`, ...) and inputs that are written back listed.

That route alone would silently lose things, so they are taken out of its way first:
  - a custom `autograd.Function` arrives from TorchDynamo as `autograd_function_apply(fwd, bwd, args)` and a
    `torch.utils.checkpoint` as `tag_activation_checkpoint(body, args)`. Both become a call of one opaque operator
    `thunder_capture::region(args, number)`; their bodies are exported by themselves into `Exported.regions`.
  - grad mode and autocast are markers between nodes: the state of the TorchDynamo node an ATen node comes from is
    what is recorded for it (`node_state`).
  - where gradients are off, autograd keeps the history that a tensor had before it was written to: what is written becomes
    `thunder_capture::straight_through(value, tensor before)`. Views that functionalization makes anew there, because their
    base was written to before, are recorded as the views they are (`_Runner.recorded`).
"""
import contextlib
import warnings

import torch
import torch._dynamo
import torch.fx
import torch.fx.traceback as fx_traceback
from torch._functorch.aot_autograd import aot_export_module
from torch._guards import TracingContext, detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, guard_scalar
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import FloorDiv

from . import optable
from .device import compiles_ahead
from .errors import Unsupported

_set_grad_enabled = torch._C._set_grad_enabled
_MARKERS = (_set_grad_enabled, _enter_autocast, _exit_autocast)
_autograd_function_apply = torch.ops.higher_order.autograd_function_apply
_tag_activation_checkpoint = torch.ops.higher_order.tag_activation_checkpoint
_TRACE_KEY = "thunder"

_regions = []  # the regions of the capture under way, by number


# ---- Gradients, sizes, nodes ---------------------------------------------------------------------------------------------

def undifferentiable(gradients):
    """Gradients that raise when they are differentiated again."""
    given = [g for g in gradients if g is not None]
    aliases = [g.detach().requires_grad_() for g in given]
    if aliases:
        message = b"thunder: a compiled function has no second derivatives; leave what is differentiated twice out of thunder.compile"
        made = torch._C._functions.DelayedError(message, len(aliases))(*aliases)
        given = [made] if isinstance(made, torch.Tensor) else list(made)
    rest = iter(given)
    return [None if g is None else next(rest) for g in gradients]


def mark_stepped(optimizer):
    """What optimizer.step() notes for learning rate schedulers, which else warn that they were called before it."""
    optimizer._opt_called = True


def has_gradient_hooks(p):
    return bool(p._backward_hooks or p._post_accumulate_grad_hooks)


def has_step_hooks(optimizer):
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def placeholders(gm):
    return [n for n in gm.graph.nodes if n.op == "placeholder"]


def output_nodes(gm):
    """The nodes (or constants) a graph module returns, flat."""
    output = next(n for n in reversed(gm.graph.nodes) if n.op == "output")
    return list(pytree.tree_leaves(output.args[0]))


def example(node):
    """The fake value TorchDynamo computed for a node: what eager would give."""
    value = node.meta.get("example_value", None)
    return node.meta.get("val") if value is None else value


def source_name(node):
    """The Python expression a graph input comes from ("L['self']._modules['l']..."), or its name."""
    arg = node.meta.get("grapharg")
    source = getattr(arg, "source", None)
    try:
        return source.name if isinstance(source.name, str) else source.name()
    except Exception:
        return str(node.target)


def is_parameter(value):
    return isinstance(value, torch.nn.Parameter)


def storage_key(tensor):
    """Equal for two fake tensors that share memory."""
    return tensor.untyped_storage()._cdata


def input_behind(node):
    """The input that a node's tensor is a view of, or None. Inputs may share memory in the call that is captured and not in later
    ones (TorchDynamo has no guard for that), so it is the one that the views were made of."""
    key = storage_key(example(node))
    while node is not None and node.op != "placeholder":
        node = next((n for n in node.all_input_nodes if any(storage_key(t) == key for t in pytree.tree_leaves(example(n)) if isinstance(t, torch.Tensor))), None)
    return node


def expression(value):
    """The sympy expression of a SymInt, or the int itself."""
    return value.node.expr if isinstance(value, torch.SymInt) else int(value)


def hint(value):
    """An int, or what a SymInt is in the call that is captured; asking makes no guard."""
    return value.node.hint if isinstance(value, torch.SymInt) else value


def equal_sizes(values):
    """Pairs of sympy expressions that guards of this capture found equal: how many elements one tensor and another have, what is divisible."""
    shape_env = next((s.node.shape_env for v in values for s in (v.size() if isinstance(v, torch.Tensor) else [v]) if isinstance(s, torch.SymInt)), None)
    found = [guard.expr for guard in shape_env.guards] if shape_env else []
    pairs = [(e.lhs, e.rhs) for e in found if type(e).__name__ == "Equality"]
    return [(FloorDiv(*a.args) * a.args[1], a.args[0]) if b == 0 and type(a).__name__ in ("Mod", "PythonMod") else (a, b) for a, b in pairs]


def symbol_range(value):
    """(smallest, largest or -1) of the symbols' values that the guards of this capture allow."""
    bound = value.node.shape_env.bound_sympy(value.node.expr)
    low, high = (int(b) if b.is_Integer and abs(b) < 2**62 else None for b in (bound.lower, bound.upper))
    return max(low or 0, 0), -1 if high is None else high


# ---- State of nodes ---------------------------------------------------------------------------------------------------

class State:
    """Grad mode and autocast region (of the graph's device type) a node runs in; `writes`: it may write to an operand."""

    __slots__ = ("grad", "autocast", "writes", "device")

    def __init__(self, grad, autocast, writes=False, device="cpu"):
        self.grad, self.autocast, self.writes, self.device = grad, autocast, writes, device  # bool; torch dtype or None

    def __eq__(self, other):
        return self.grad == other.grad and self.autocast == other.autocast


def device_type(gm):
    """Where a graph runs: on cuda where one of its tensors is there (numbers may be in host memory all the same), else on the cpu. On meta it does
    not run: it is only compiled."""
    values = [node.meta.get("example_value", node.meta.get("val")) for node in gm.graph.nodes]
    found = {v.device.type for v in pytree.tree_leaves(values) if isinstance(v, torch.Tensor)}
    return next((device for device in ("cuda", "meta") if device in found), "cpu")


def autocast_device(device):
    """The device type that PyTorch's autocast is asked of for tensors on `device`; it has none for meta."""
    return "cpu" if device == "meta" else device


def is_number_in_host_memory(value, device):
    """A tensor of rank 0 on the cpu, which PyTorch takes beside tensors on another device."""
    return device != "cpu" and isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dim() == 0


def ambient_state(device="cpu"):
    of = autocast_device(device)
    autocast = torch.get_autocast_dtype(of) if torch.is_autocast_enabled(of) else None
    return State(torch.is_grad_enabled(), autocast, device=device)


def annotate(gm, state=None):
    """Numbers the nodes of a TorchDynamo graph and returns the list of their states, by number."""
    state = state or ambient_state(device_type(gm))
    states, entered = [], {}
    grad, autocast = state.grad, state.autocast
    for number, node in enumerate(gm.graph.nodes):
        node.meta["custom"] = {**node.meta.get("custom", {}), _TRACE_KEY: number}
        if node.op == "call_function":
            if node.target is _set_grad_enabled:
                grad = bool(node.args[0])
            elif node.target is _enter_autocast:
                entered[node] = autocast
                device, dtype, enabled = (tuple(node.args) + (None, None, True))[:3]
                if device == autocast_device(state.device):
                    autocast = (dtype or torch.get_autocast_dtype(device)) if enabled else None
            elif node.target is _exit_autocast:
                autocast = entered.pop(node.args[0], state.autocast)
            elif "enter" in str(getattr(node.target, "__name__", "")) and "inference_mode" in str(node.target):
                raise Unsupported("inference_mode", "entered inside the compiled function", number)
        states.append(State(grad, autocast, _may_write(node), state.device))
    return states


def node_number(node):
    """Number of the TorchDynamo node an ATen node was recorded from, or None."""
    return (node.meta.get("custom") or {}).get(_TRACE_KEY)


def _set_autocast(state):
    torch.set_autocast_enabled(autocast_device(state.device), state.autocast is not None)
    if state.autocast is not None:
        torch.set_autocast_dtype(autocast_device(state.device), state.autocast)


# ---- Regions: sub-graphs that keep a meaning of their own -------------------------------------------------------------

class Region:
    """A call of a higher-order operator, seen from the outside as one opaque operator."""

    def __init__(self, kind, body, backward, state, number):
        self.kind = kind            # "checkpoint", "custom_grad"
        self.body = body            # GraphModule
        self.backward = backward    # GraphModule or None
        self.state = state          # State it was called in
        self.number = number        # of the TorchDynamo node
        self.places = ()            # positions of the body's inputs that are tensors; the others are sizes
        self.outputs = None         # spec of the body's result; set by the first run
        self.n_outputs = 0          # tensors the user gets
        self.mutated = ()           # positions of args the body writes
        self.forward_export = self.backward_export = None


_library = torch.library.Library("thunder_capture", "FRAGMENT")
_library.define("region(Tensor[] args, int number) -> Tensor[]")


def _fresh(value):
    """A new fake tensor of the same sizes and strides."""
    if not isinstance(value, torch.Tensor):
        raise Unsupported("higher-order operator", f"returns a {type(value).__name__}, not a tensor")
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device)


def _region_fake(args, number):
    """Result of a region for the tracer: runs the body on fake tensors, hands out fresh ones."""
    region = _regions[number]
    with torch._C.DisableTorchFunction(), _preserved_modes():
        fakes = [_fresh(a) for a in args]
        given = [example(n) for n in placeholders(region.body)]
        for place, fake in zip(region.places, fakes):
            given[place] = fake
        versions = [f._version for f in fakes]
        _set_autocast(region.state)
        _set_grad_enabled(region.state.grad)
        out = torch.fx.Interpreter(region.body).run(*given)
        if region.kind == "custom_grad":
            outs, saved = out[0], out[1]
            flat = _tensors(outs)
            region.n_outputs = len(flat)
            flat = flat + _tensors(saved)
        else:
            flat = _tensors(out)
            region.n_outputs = len(flat)
        region.mutated = tuple(i for i, f in enumerate(fakes) if f._version != versions[i])
        if region.mutated and region.kind == "custom_grad":
            raise Unsupported("autograd.Function", "its forward writes to an input", region.number)
        return [_fresh(t) for t in flat] + [_fresh(args[i]) for i in region.mutated]


def _straight_through(value, source):
    with torch._C.DisableTorchFunction():
        return _fresh(value)


_library.define("straight_through(Tensor value, Tensor source) -> Tensor")


def _tensors(tree):
    leaves = pytree.tree_leaves(tree)
    if not all(isinstance(leaf, (torch.Tensor, torch.SymInt)) or leaf is None for leaf in leaves):
        raise Unsupported("higher-order operator", "returns or saves something that is no tensor and no size")
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


torch.library.register_fake("thunder_capture::region", _region_fake, lib=_library)  # of the Meta key too, in torch 2.11 to 2.13
torch.library.register_fake("thunder_capture::straight_through", _straight_through, lib=_library)


@contextlib.contextmanager
def _preserved_modes():
    grad, kept = torch.is_grad_enabled(), [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
    try:
        yield
    finally:
        with torch._C.DisableTorchFunction():
            _set_grad_enabled(grad)
            for device, enabled, dtype in kept:
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)


# ---- Export -----------------------------------------------------------------------------------------------------------

class Exported:
    """A graph of functional ATen. `inputs` and `outputs` are FX nodes (outputs may hold constants); `written` maps the
    position of an input to the node whose value is written back into it. `constants`: (node, tensor) of what is baked
    into the graph; they come after the inputs as inputs of their own."""

    def __init__(self, gm, inputs, outputs, written, states):
        self.gm, self.inputs, self.outputs, self.written, self.states = gm, inputs, outputs, written, states
        self.device = states[0].device if states else "cpu"
        self.regions = {}
        self.constants = []
        for node in gm.graph.nodes:
            if node.op == "get_attr":
                value = gm
                for part in str(node.target).split("."):
                    value = getattr(value, part)
                if not isinstance(value, torch.Tensor):
                    raise Unsupported("a constant", f"{node.target} is a {type(value).__name__}")
                node.meta["val"] = value
                self.constants.append((node, value.detach()))

    def state_of(self, node):
        number = node_number(node)
        state = self.states[number] if number is not None and number < len(self.states) else None
        if state and state.writes and not state.grad and _only_moves(node):
            return State(True, state.autocast, device=state.device)
        return state


_IN_PLACE = {"setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor", "ilshift", "irshift"}


def _may_write(node):
    """Could this node of TorchDynamo's write to one of its operands?"""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (name.strip("_") in _IN_PLACE or name.endswith("_") and not name.endswith("__")
            or node.kwargs.get("out") is not None or bool(node.kwargs.get("inplace")) or any(a is True for a in node.args))


def _only_moves(node):
    """An ATen view, or a base with a view put back: where something is written without gradients, functionalization makes them of
    what keeps its history."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._opname.endswith("_scatter") or any(r.alias_info is not None for r in node.target._schema.returns)


def remember_number(tensor, number):
    """Lets tensor.item() give TorchDynamo's `number`, which knows its value, and not a new one that depends on data."""
    inner = torch._from_functional_tensor(tensor.elem) if isinstance(tensor, FunctionalTensor) else tensor
    if isinstance(inner, FakeTensor):
        inner.item_memo = number


def _is_view(node):
    """Does this node of TorchDynamo's give a view of an operand?"""
    def keys(nodes):
        return {storage_key(t) for n in nodes for t in pytree.tree_leaves(example(n)) if isinstance(t, torch.Tensor)}
    return bool(keys([node]) & keys(node.all_input_nodes))


def makes_dropout(node):
    """A dropout that makes a tensor of its own. Functionalization takes its result for a possible alias of its input and
    lets nobody write to it in place; a copy (which the compiler drops) may be written to."""
    if node.op != "call_function" or node.target not in (torch.nn.functional.dropout, torch.dropout):
        return False
    given = dict(zip(("input", "p", "training", "inplace"), node.args)) | node.kwargs
    p = given.get("p", 0.5)
    if isinstance(p, torch.fx.Node):  # TorchDynamo's for a module whose number differs from that of the module before it
        p = specialize(example(p))
    return given.get("training", given.get("train", True)) is True and p > 0 and not given.get("inplace", False)


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """F.batch_norm by the operator whose writes to the running statistics are seen. On cuda PyTorch takes cuDNN's, which is decomposed
    only after writes were made explicit: those would be lost."""
    if training:
        torch.nn.functional._verify_batch_size(x.size())
    return torch.native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps)[0]


def _attention(query, key, value, *args, **kwargs):
    """F.scaled_dot_product_attention, which asks no shape function of PyTorch's whether a key has a value: as symbols their numbers, and the
    mask's, stay two where nobody says that they are one."""
    _same_size(key.size(-2), value.size(-2))
    mask = args[0] if args else kwargs.get("attn_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() > 1:
        for size, given in ((query.size(-2), mask.size(-2)), (key.size(-2), mask.size(-1))):
            _same_size(size, given)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, *args, **kwargs)


def _same_size(a, b):
    """A guard that two sizes are one where they are so in the call that is captured."""
    if (isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt)) and hint(a) == hint(b):
        torch._check(a == b)


_CALLED_AS = {  # functions of a TorchDynamo graph -> what is called in their place
    torch.nn.functional.batch_norm: _batch_norm,
    torch.nn.functional.scaled_dot_product_attention: _attention,
    torch.batch_norm: lambda x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled: _batch_norm(x, mean, var, weight, bias, training, momentum, eps),
}


class _Runner(torch.nn.Module):
    """Runs a TorchDynamo graph node by node, with regions as opaque calls; remembers where it was."""

    def __init__(self, gm, states):
        super().__init__()
        self.__dict__.update(gm=gm, states=states, at=None, wrote=set(), mixed=any(s.grad for s in states))

    def forward(self, *args):
        owner = self

        class Interpreter(torch.fx.Interpreter):
            def run_node(self, node):
                if node.op not in ("placeholder", "output"):
                    owner.__dict__["at"] = node
                if is_marker(node):
                    return None
                state = owner.state_of(node)
                _set_autocast(state)
                if not state.grad and owner.mixed and node.op in ("call_function", "call_method"):
                    return owner.run_without_grad(self, node)
                return self.run_alone(node)

            def call_function(self, target, args, kwargs):
                return super().call_function(_CALLED_AS.get(target, target), args, kwargs)

            def run_alone(self, node):
                if node.op == "call_function" and node.target in (_autograd_function_apply, _tag_activation_checkpoint):
                    with self._set_current_node(node):
                        return owner.run_region(self, node)
                if isinstance(example(node), torch.SymFloat) and node.target == "item":
                    remember_number(self.env[node.args[0]], example(node))
                result = super().run_node(node)
                return result.clone() if makes_dropout(node) else result

        with fx_traceback.preserve_node_meta(), _preserved_modes():  # PyTorch checks that a graph leaves the modes as they were
            return Interpreter(self.gm, garbage_collect_values=False).run(*args)  # a base may be needed after its last use

    def state_of(self, node):
        return self.states[node_number(node)]

    @contextlib.contextmanager
    def recorded(self, interpreter, node):
        """What runs here is recorded with gradients on, though `node` runs with gradients off."""
        custom, state = node.meta["custom"], self.state_of(node)
        node.meta["custom"] = {**custom, _TRACE_KEY: len(self.states)}
        self.states.append(State(True, state.autocast, device=state.device))
        try:
            with interpreter._set_current_node(node):
                yield
        finally:
            node.meta["custom"] = custom

    def run_without_grad(self, interpreter, node):
        given = [(n, interpreter.env[n]) for n in node.all_input_nodes if isinstance(interpreter.env.get(n), torch.Tensor)]
        kept, writes = [], self.state_of(node).writes
        with self.recorded(interpreter, node):
            for _, t in given:
                torch._sync(t)
            for n, t in given if writes else ():
                whole = self.with_history(interpreter, n)
                if whole is not None:
                    kept.append((n, t, t._version, whole, whole.clone()))
        result = interpreter.run_alone(node)
        with self.recorded(interpreter, node):
            for n, t, version, whole, before in kept:
                if t._version != version:
                    self.wrote.add((node, n))  # the first of the two runs, which counts versions
                if (node, n) in self.wrote:
                    whole.copy_(torch.ops.thunder_capture.straight_through.default(whole, before))
            if not writes and _is_view(node):  # may be made anew from its base later, where gradients are on
                result = pytree.tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, result)
        return result

    def with_history(self, interpreter, node):
        """Of the tensors that share memory with `node`'s and require gradients, the largest: the base, or what there is of it."""
        if not isinstance(example(node), torch.Tensor):
            return None
        key, found = storage_key(example(node)), []
        for n, value in interpreter.env.items():
            fake = example(n)
            if isinstance(value, torch.Tensor) and isinstance(fake, torch.Tensor) and fake.requires_grad and storage_key(fake) == key:
                found.append((hint(fake.numel()), value))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def run_region(self, interpreter, node):
        number = node_number(node)
        args, kwargs = interpreter.fetch_args_kwargs_from_env(node)
        if node.target is _autograd_function_apply:
            body, backward, operands = args[0], args[1], args[2:]
            region = Region("custom_grad", body, backward, self.states[number], number)
        else:
            body, operands = args[0], args[1:]
            region = Region("checkpoint", body, None, self.states[number], number)
            if kwargs.get("context_fn") is not None:
                raise Unsupported("torch.utils.checkpoint", "context_fn is not supported", number)
        if not all(isinstance(a, (torch.Tensor, torch.SymInt)) for a in operands):
            raise Unsupported("autograd.Function" if backward_of(region) else "torch.utils.checkpoint",
                              "called with something that is no tensor and no size", number)
        region.places = tuple(i for i, a in enumerate(operands) if isinstance(a, torch.Tensor))
        operands = [operands[i] for i in region.places]
        index = len(_regions)
        _regions.append(region)
        results = torch.ops.thunder_capture.region(operands, index)
        for position, i in enumerate(region.mutated):
            value = results[len(results) - len(region.mutated) + position]
            operands[i].copy_(value)
        return tuple(results[:region.n_outputs])


def backward_of(region):
    return region.backward


def _fake_inputs(values):
    mode = detect_fake_mode([v for v in values if isinstance(v, torch.Tensor)])
    if mode is None:
        context = TracingContext.try_get()
        mode = context.fake_mode if context else torch._subclasses.FakeTensorMode()
    with mode:
        return [torch.empty_strided(v.size(), v.stride(), dtype=v.dtype, device=v.device)
                if isinstance(v, torch.Tensor) else v for v in values], mode


def count_writes(gm, position):
    """How often a TorchDynamo graph writes to an input. (The fake tensor TorchDynamo made for a part of a storage has another
    version to begin with.)"""
    values = [example(n) for n in placeholders(gm)]
    mode = detect_fake_mode(values)
    with mode, torch.no_grad(), _preserved_modes():
        given = [torch.empty_strided(v.size(), v.stride(), dtype=v.dtype, device=v.device) if isinstance(v, torch.Tensor) else v for v in values]
        torch.fx.Interpreter(gm).run(*given)
    return given[position]._version


def check_inputs(gm):
    """Raises Unsupported for an input that no plan can take."""
    device, index = device_type(gm), None
    for node in placeholders(gm):
        value = example(node)
        if isinstance(value, (torch.SymInt, int)):
            continue
        if not isinstance(value, torch.Tensor):
            raise Unsupported("graph input", f"{source_name(node)} is a {type(value).__name__}, not a tensor", node_number(node))
        if value.device.type == "cuda":
            if index not in (None, value.device.index):
                raise Unsupported("graph input", f"{source_name(node)} is on {value.device}, others are on cuda:{index}; a region runs on one device", node_number(node))
            index = value.device.index
        elsewhere = value.device.type != device and not is_number_in_host_memory(value, device) or device == "meta" and not compiles_ahead()
        if elsewhere or value.layout != torch.strided or value.is_conj() or value.is_neg():
            kind = "lazily conjugated or negated" if value.is_conj() or value.is_neg() else str(value.layout)
            raise Unsupported("graph input", f"{source_name(node)} is a {kind} tensor on {value.device}", node_number(node))
        if type(value) is not FakeTensor and not isinstance(value, torch.nn.Parameter):
            raise Unsupported("graph input", f"{source_name(node)} is a {type(value).__name__}", node_number(node))


_decomposed = None


def _composites():
    """All operators that PyTorch composes of others, without an alias or a write among their operands."""
    from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace, _is_preservable_cia_op
    yield from _collect_all_valid_cia_ops_for_aten_namespace()
    # Not PyTorch's own list of all namespaces, which asks the dispatcher for everything once for each of the 56.
    for space in (getattr(torch.ops, name) for name in tuple(torch.ops._dir) if name != "aten"):
        if isinstance(space, torch._ops._OpNamespace):
            packets = (getattr(space, name) for name in space)
            overloads = (getattr(packet, name) for packet in packets for name in packet.overloads())
            yield from filter(_is_preservable_cia_op, overloads)


def _rewritten():
    """Recurrent cells and losses, which PyTorch's own C++ writes with operators in place where the graph has to be functional; x[..., i, ...]
    with one tensor of integers."""
    F, aten = torch.nn.functional, torch.ops.aten

    def lstm_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
        i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(hx[0], w_hh, b_hh)).chunk(4, 1)
        c = f.sigmoid() * hx[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def gru_cell(x, h, w_ih, w_hh, b_ih=None, b_hh=None):
        (ri, zi, ni), (rh, zh, nh) = F.linear(x, w_ih, b_ih).chunk(3, 1), F.linear(h, w_hh, b_hh).chunk(3, 1)
        z, n = (zi + zh).sigmoid(), (ni + (ri + rh).sigmoid() * nh).tanh()
        return (h - n) * z + n

    def cell(activation):
        return lambda x, h, w_ih, w_hh, b_ih=None, b_hh=None: activation(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))

    def reduced(loss, reduction):
        return (loss, loss.mean(), loss.sum())[reduction] if reduction else loss

    def cosine_similarity(a, b, dim=1, eps=1e-8):
        a, b = torch.broadcast_tensors(*(x.to(torch.result_type(a, b)) for x in (a, b)))

        def norm(x):  # not below eps, with the gradient of a norm that is not limited
            n = torch.linalg.vector_norm(x, 2, dim, True)
            return n + (n.clamp_min(eps) - n).detach()
        return (a / norm(a) * (b / norm(b))).sum(dim)

    def cosine_embedding_loss(a, b, target, margin=0.0, reduction=1):
        dim = target.dim()
        size = (a * a).sum(dim) + 1e-12, (b * b).sum(dim) + 1e-12
        cos = (a * b).sum(dim) / (size[0] * size[1]).sqrt()
        return reduced(torch.where(target == 1, 1 - cos, 0) + torch.where(target == -1, (cos - margin).clamp_min(0), 0), reduction)

    def hinge_embedding_loss(x, target, margin=1.0, reduction=1):
        return reduced(torch.where(target != 1, (margin - x).clamp_min(0), 0) + torch.where(target != -1, x, 0), reduction)

    def margin_ranking_loss(a, b, target, margin=0.0, reduction=1):
        return reduced((-target * (a - b) + margin).clamp_min(0), reduction)

    def index(x, indices):
        given = [(d, i) for d, i in enumerate(indices) if i is not None]
        if len(given) != 1 or given[0][1].dtype not in (torch.int64, torch.int32) or x.dim() == 0:
            return NotImplemented
        (d, i), n = given[0], x.size(given[0][0])
        i = i.long()
        picked = x.index_select(d, torch.where(i < 0, i + n, i).reshape(-1))
        return picked.reshape([*x.shape[:d], *i.shape, *x.shape[d + 1:]])
    return {aten.index.Tensor: index, aten.lstm_cell.default: lstm_cell, aten.gru_cell.default: gru_cell, aten.rnn_tanh_cell.default: cell(torch.tanh),
            aten.rnn_relu_cell.default: cell(torch.relu),
            **{getattr(aten, how.__name__).default: how
               for how in (cosine_similarity, cosine_embedding_loss, hinge_embedding_loss, margin_ranking_loss)}}


def _decompositions():
    """PyTorch's own ways to write operators in terms of others, for those that Thunder's table does not have."""
    global _decomposed
    if _decomposed is None:
        from torch._decomp import _core_aten_decompositions_post_autograd
        table = {**_core_aten_decompositions_post_autograd(), **{op: op.decompose for op in _composites()}}
        table.update(_rewritten())
        _decomposed = {op: how for op, how in table.items()
                       if isinstance(op, torch._ops.OpOverload) and not optable.by_overload(f"{op._opname}.{op._overloadname}")}
    return _decomposed


def export(gm, values=None, states=None):
    """Lowers a TorchDynamo graph to functional ATen. `values`: fake values of its inputs (default: what TorchDynamo
    noted). Raises Unsupported, naming the node it failed at."""
    top = values is None
    if states is None:
        states = annotate(gm)
    if top:
        check_inputs(gm)
        values = [example(n) for n in placeholders(gm)]
    fakes, _ = _fake_inputs(values)
    runner = _Runner(gm, states)
    first = len(_regions)
    try:
        with warnings.catch_warnings(), _preserved_modes():
            warnings.simplefilter("ignore")
            aten, signature = aot_export_module(runner, fakes, trace_joint=False, pre_dispatch=True,
                                                decompositions=_decompositions())
    except Unsupported as error:
        if error.node is None and runner.__dict__["at"] is not None:
            error.node = node_number(runner.__dict__["at"])
        raise
    except Exception as error:
        node = runner.__dict__["at"]
        number = node_number(node) if node is not None else None
        raise Unsupported(operator_name(node), str(error).strip().split("\n")[0][:300], number) from error
    exported = _read(aten, signature, states)
    if top:
        _export_regions(exported)
        del _regions[first:]
    return exported


def operator_name(node):
    """How a person would call the operator of a TorchDynamo or ATen node."""
    if node is None:
        return "the graph"
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    name = getattr(node.target, "__name__", None) or str(node.target)
    module = getattr(node.target, "__module__", None) or ""
    return f"{module}.{name}" if module.startswith("torch") else name


def _read(aten, signature, states):
    graph = aten.graph
    # Tokens keep operators with effects in order; such an operator is in no table, so the graph is split around it.
    inputs = [n for n in graph.nodes if n.op == "placeholder" and n.name not in signature.input_tokens]
    by_name = {n.name: i for i, n in enumerate(inputs)}
    returned = list(next(n for n in reversed(graph.nodes) if n.op == "output").args[0])[len(signature.output_tokens):]
    targets = dict(signature.user_inputs_to_mutate)
    written, outputs = {}, []
    n_written = len(returned) - len(signature.user_outputs)
    for position, value in enumerate(returned):
        if position < n_written:
            written[by_name[targets_of(targets, signature, value, position)]] = value
        else:
            outputs.append(value)
    return Exported(aten, inputs, outputs, written, states)


def targets_of(targets, signature, value, position):
    """Name of the input that output `position` is written back into (the signature is keyed by the output's name, which
    two inputs may share: then by order)."""
    names = list(targets.values())
    if len(names) > position:
        return names[position]
    return targets[value.name]


def _export_regions(exported):
    for node in exported.gm.graph.nodes:
        if node.op != "call_function" or node.target is not torch.ops.thunder_capture.region.default:
            continue
        region = _regions[node.args[1]]
        exported.regions[node] = region
        operands = [example(n) for n in placeholders(region.body)]
        for place, a in zip(region.places, node.args[0]):
            operands[place] = a.meta["val"]
        region.forward_export = export(region.body, operands, annotate(region.body, region.state))
        _export_regions(region.forward_export)
        results = [r for r in region.forward_export.outputs if r is not None]
        if region.backward is not None:  # it takes sizes too that the forward part saved
            region.backward_export = export(region.backward, [r.meta["val"] for r in results], annotate(region.backward, region.state))
            _export_regions(region.backward_export)
        region.forward_export.outputs = [r for r in results if isinstance(r.meta["val"], torch.Tensor)]


def specialize(number):
    """The value of a SymFloat in this capture. TorchDynamo captures anew for another one: it has a guard from here on, which is
    possible until the backend returns."""
    return guard_scalar(number)


def is_python_number(node):
    """Is this input one of the user's Python numbers, which TorchDynamo hands over as a tensor of rank 0?"""
    value = node.meta.get("val")
    return (node.op == "placeholder" and isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype is torch.float64
            and bool(node.users) and all(is_item(user) for user in node.users))


def is_item(node):
    return node.op == "call_function" and node.target is torch.ops.aten._local_scalar_dense.default


def is_region(node):
    return node.op == "call_function" and node.target is torch.ops.thunder_capture.region.default


_ASSERTIONS = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "_functional_assert_async", "sym_constrain_range",
               "sym_constrain_range_for_size"}


def is_marker(node):
    """A node without a value: a marker of a mode, or an assertion about sizes and dtypes that the guards already made."""
    if node.op != "call_function":
        return False
    return node.target in _MARKERS or getattr(node.target, "_opname", None) in _ASSERTIONS


def is_data_dependent(value):
    """Does the size of a value depend on data (an unbacked symbol)?"""
    return bool(free_unbacked_symbols(value))


# ---- Splitting around what cannot be compiled -------------------------------------------------------------------------

def split(gm, bad, states):
    """Splits a TorchDynamo graph: nodes numbered in `bad` run in eager PyTorch. Returns (outer graph module, list of
    (name of submodule, is it eager)). Grad mode and autocast are set anew inside each piece."""
    from torch.fx.passes.split_module import split_module

    piece, eager, where = {}, [], 0
    current = None
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr") or is_marker(node):
            continue
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem" and node.args[0] in piece and not isinstance(
                example(node.args[0]), torch.Tensor):
            piece[node] = piece[node.args[0]]  # a tuple never leaves its piece
            continue
        wanted = node_number(node) in bad
        if current is None or wanted != current:
            where, current = len(eager), wanted
            eager.append(wanted)
        piece[node] = where
    order = list(gm.graph.nodes)
    clean = torch.fx.GraphModule(gm, gm.graph)
    for node in reversed(list(clean.graph.nodes)):
        if is_marker(node):
            clean.graph.erase_node(node)
    clean.recompile()
    numbers = {node_number(n): piece.get(n, 0) for n in order}
    outer = split_module(clean, None, lambda n: numbers.get(node_number(n), 0), keep_original_order=True)
    base = ambient_state(states[0].device if states else "cpu")
    pieces = []
    for name, module in outer.named_children():
        if not name.startswith("submod_") or not isinstance(module, torch.fx.GraphModule):
            continue
        _reinsert_markers(module, states, base)
        pieces.append((name, eager[int(name.split("_")[1])]))
    return outer, pieces


def _reinsert_markers(gm, states, base):
    graph, state, opened = gm.graph, base, None
    for node in list(graph.nodes):
        if node.op in ("placeholder", "get_attr"):
            continue
        number = node_number(node)
        wanted = base if node.op == "output" or number is None else states[number]
        with graph.inserting_before(node):
            if wanted.autocast != state.autocast:
                if opened is not None:
                    graph.call_function(_exit_autocast, (opened,))
                    opened = None
                if wanted.autocast != base.autocast:
                    enabled = wanted.autocast is not None
                    opened = graph.call_function(_enter_autocast, (wanted.device, wanted.autocast, enabled, None))
            if wanted.grad != state.grad:
                graph.call_function(_set_grad_enabled, (wanted.grad,))
        state = wanted
    gm.recompile()


def with_hidden_outputs(gm, nodes):
    """The graph with `nodes` returned before everything else."""
    if not nodes:
        return gm
    graph, table = torch.fx.Graph(), {}
    graph.output(graph.graph_copy(gm.graph, table))
    output = next(n for n in graph.nodes if n.op == "output")
    old = output.args[0]
    output.args = (tuple(table[n] for n in nodes) + tuple(pytree.tree_leaves(old, is_leaf=lambda x: x is None)),)
    for a, b in zip(gm.graph.nodes, graph.nodes):
        b.meta = dict(a.meta)
    return torch.fx.GraphModule(gm, graph)  # with what the graph refers to: bodies of checkpoints


def return_tuple(gm):
    """Makes a graph that returns one value return a tuple of it, as TorchDynamo's graphs do; says whether it did."""
    output = next(n for n in reversed(gm.graph.nodes) if n.op == "output")
    if isinstance(output.args[0], (tuple, list)):
        return False
    output.args = ((output.args[0],),)
    gm.recompile()
    return True


def has_work(gm):
    """Does the graph compute anything?"""
    return any(n.op in ("call_function", "call_method", "call_module") and not is_marker(n) for n in gm.graph.nodes)


def replace_submodule(outer, name, call):
    """Puts a plain callable in a submodule's place."""
    del outer._modules[name]
    outer.__dict__[name] = call
