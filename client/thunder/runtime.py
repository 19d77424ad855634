"""Running plans: the loaded program, and regions of a user's function as callables on PyTorch tensors."""
import torch

from . import capture, device, wire

_CAPTURED = (wire.INPUT_USER, wire.INPUT_PARAMETER, wire.INPUT_BUFFER, wire.INPUT_INTEGER)


class Plan:
    """One plan of a program: the kinds of its inputs and outputs, and `run`."""

    def __init__(self, native):
        from . import _C
        self.native, self.set_threads = native, _C.set_threads
        self.input_kinds, self.input_symbols = list(native.input_kinds), list(native.input_symbols)
        self.output_kinds = list(native.output_kinds)
        self.output_bases = list(native.output_bases)
        self.ran = False  # once at least

    def run(self, inputs):
        """Tensors (and ints) in, in the plan's order; a list with a tensor for each fresh, gradient or saved output and
        None for the others."""
        self.ran = True
        self.set_threads(torch.get_num_threads())
        return self.native.run(inputs)

    def run_step(self, inputs):
        """The same; counts a training step, which thunderctl shows."""
        self.ran = True
        self.set_threads(torch.get_num_threads())
        return self.native.run_step(inputs)

    def run_profiled(self, inputs, is_step):
        """(what run or run_step gives, times by region as in ext/module.c)."""
        self.ran = True
        self.set_threads(torch.get_num_threads())
        return self.native.run_profiled(inputs, is_step)

    def describe(self, encoded):
        """(kind, name, operator, source) of each region; operator and source are None where no op of the captured graph is known."""
        rows = []
        for kind, name, op in self.native.regions:
            known = 0 <= op < len(encoded.operators)
            rows.append((kind, f"wait {name}" if kind == "wait" else name, encoded.operators[op][0] if known else None,
                         (encoded.source(op) or encoded.scope(op)) if known else None))
        return rows

    def label(self, encoded):
        """Names the regions' NVTX ranges. Equal graphs share a plan: it keeps the lines of the first."""
        self.native.set_labels([f"{name} | {source or operator}" if operator else name for _, name, operator, source in self.describe(encoded)])


class Program:
    """A loaded Executable: plans by name."""

    def __init__(self, data):
        from . import _C
        native = _C.load(data)
        self.plans = {p.name: Plan(p) for p in native.plans}


class Executor:
    """Calls the plans of one region. `inputs`: what the captured graph takes, constants last. `encoded`: the captured graph. `where`: the
    device of the tensors that are not the caller's."""

    def __init__(self, program, signature, encoded, where, stats):
        self.signature, self.encoded, self.where, self.stats = signature, encoded, where, stats
        self.forward_plan = program.plans["forward"]
        self.backward_plan = program.plans.get("backward")
        kinds = self.forward_plan.output_kinds
        self.n_outputs = len(signature.outputs)
        self.fresh = [i for i, o in enumerate(signature.outputs) if o.kind == wire.OUTPUT_FRESH]
        self.saved = [i for i, k in enumerate(kinds) if k == wire.OUTPUT_SAVED]
        self.bumped = [(i, o.versions) for i, o in enumerate(signature.outputs) if o.versions and o.replaces is None]
        self.integers = [i for i, item in enumerate(signature.inputs) if item.kind == wire.INPUT_INTEGER]
        self.plain = self.forward_plan.input_kinds == [item.kind for item in signature.inputs]
        self.seeded = any(wire.INPUT_SEED in plan.input_kinds for plan in program.plans.values())
        self.sizes = ()  # symbols that the backward plan takes as integers: no saved tensor has them as a size
        if self.backward_plan is not None:
            given = zip(self.backward_plan.input_kinds, self.backward_plan.input_symbols)
            self.sizes = [encoded.symbols[s] for kind, s in given if kind == wire.INPUT_INTEGER]
            self.tangents = [i for i in self.fresh if signature.outputs[i].value.dtype.is_floating_point]
            self.gradients = [(i, base) for i, (kind, base) in
                              enumerate(zip(self.backward_plan.output_kinds, self.backward_plan.output_bases))
                              if kind == wire.OUTPUT_GRADIENT]

    def run_forward(self, inputs, seed=None):
        """(outputs, saved). `seed`, with its offset, is drawn where the plan takes one and none is given."""
        if not self.plain:
            seed, offset = device.draw(self.where) if seed is None else seed
            given, inputs = iter(inputs), []
            for kind in self.forward_plan.input_kinds:
                inputs.append(seed if kind == wire.INPUT_SEED else offset if kind == wire.INPUT_OFFSET else next(given))
        made = self.stats.run(self.forward_plan, inputs, self.encoded, "forward")
        for i, count in self.bumped:
            output = self.signature.outputs[i]
            tensor = inputs[output.base] if output.kind == wire.OUTPUT_WRITTEN else made[i]
            for _ in range(count):
                torch.autograd.graph.increment_version(tensor)
        return made, [made[i] for i in self.saved]

    def run_backward(self, saved, tangents, seed, sizes=()):
        """Gradients by position of the input; None where there is none. `seed` is the forward half's: what it drew is drawn
        again, not saved. `sizes`: values of `self.sizes` in the forward half's call."""
        inputs, kept, given, numbers = [], iter(saved), iter(tangents), iter(sizes)
        for kind in self.backward_plan.input_kinds:
            inputs.append(next(kept) if kind == wire.INPUT_SAVED else seed[0] if kind == wire.INPUT_SEED else
                          seed[1] if kind == wire.INPUT_OFFSET else next(numbers) if kind == wire.INPUT_INTEGER else next(given))
        made = self.stats.run(self.backward_plan, inputs, self.encoded, "backward")
        gradients = [None] * len(self.signature.inputs)
        for position, base in self.gradients:
            gradients[base] = made[position]
        return gradients


class _Function(torch.autograd.Function):
    """A region with a backward plan, as one node of PyTorch's autograd graph."""

    @staticmethod
    def forward(ctx, executor, *inputs):
        ctx.seed = device.draw(executor.where) if executor.seeded else None
        made, saved = executor.run_forward(inputs, ctx.seed)
        ctx.executor, ctx.sizes = executor, ()
        if executor.sizes:
            known = _sizes(executor.signature, inputs)
            ctx.sizes = [known[s] for s in executor.sizes]
        ctx.set_materialize_grads(False)
        ctx.integers = [None if isinstance(s, torch.Tensor) else s for s in saved]
        ctx.save_for_backward(*(s for s in saved if isinstance(s, torch.Tensor)))
        outputs = tuple(made[i] for i in executor.fresh)
        ctx.mark_non_differentiable(*(t for i, t in zip(executor.fresh, outputs)
                                      if not executor.signature.outputs[i].requires_grad))
        ctx.shapes = [(t.shape, t.dtype) for i, t in zip(executor.fresh, outputs) if i in executor.tangents]
        return outputs

    @staticmethod
    def backward(ctx, *grads):
        with torch.no_grad():
            gradients = _Function.gradients(ctx, grads)
        return (None, *(capture.undifferentiable(gradients) if torch.is_grad_enabled() else gradients))

    @staticmethod
    def gradients(ctx, grads):
        executor = ctx.executor
        tensors = iter(ctx.saved_tensors)
        saved = [next(tensors) if s is None else s for s in ctx.integers]
        wanted = [g for i, g in zip(executor.fresh, grads) if i in executor.tangents]
        tangents = [torch.zeros(shape, dtype=dtype, device=executor.where) if g is None else g.to(dtype).contiguous()
                    for g, (shape, dtype) in zip(wanted, ctx.shapes)]
        return executor.run_backward(saved, tangents, ctx.seed, ctx.sizes)


def call(executor, inputs):
    """Runs a region: what its function returns to TorchDynamo, views re-created, written inputs written."""
    signature = executor.signature
    if signature.differentiated and torch.is_grad_enabled():
        fresh = _Function.apply(executor, *inputs)
        outputs = [None] * executor.n_outputs
        for i, value in zip(executor.fresh, fresh):
            outputs[i] = value
    else:
        outputs, _ = executor.run_forward(inputs)
    for i in executor.fresh:
        replaced = signature.outputs[i].replaces
        if replaced is not None:
            inputs[replaced].copy_(outputs[i])
    known = _sizes(signature, inputs) if signature.symbolic else None
    for i, output in enumerate(signature.outputs):
        if output.kind == wire.OUTPUT_VIEW_OF_INPUT:
            outputs[i] = _view(inputs[output.base], output, known)
        elif output.kind == wire.OUTPUT_VIEW_OF_OUTPUT:
            outputs[i] = _view(outputs[output.base], output, known)
    results = []
    for kind, which in signature.results:
        if kind == "output":
            results.append(outputs[which])
        elif kind == "input":
            results.append(inputs[which])
        elif kind == "integer":
            results.append(_resolve(which, known))
        else:
            results.append(which)
    return results


def _view(base, output, known):
    value = output.value
    if output.cut or not output.requires_grad and base.requires_grad:
        base = base.detach().requires_grad_(output.requires_grad)  # a view of a leaf says so even where gradients were off
    sizes, strides = [_resolve(n, known) for n in value.size()], [_resolve(n, known) for n in value.stride()]
    return base.as_strided(sizes, strides, base.storage_offset() + _resolve(output.offset, known))


def _sizes(signature, inputs):
    """Value of each symbol in this call."""
    known = {}
    for item, given in zip(signature.inputs, inputs):
        if isinstance(item.value, torch.SymInt):
            known[capture.expression(item.value)] = int(given)
        elif isinstance(item.value, torch.Tensor):
            for size, actual in zip(item.value.size(), given.size()):
                if isinstance(size, torch.SymInt):
                    known[capture.expression(size)] = int(actual)
    return known


def _resolve(value, known):
    return int(capture.expression(value).xreplace(known)) if isinstance(value, torch.SymInt) else value


def overlaps(tensors, written):
    """Does an input that is written share bytes with another one?"""
    spans = []
    for i, t in enumerate(tensors):
        if not isinstance(t, torch.Tensor) or not t.numel() or t.is_meta:
            continue
        start = t.data_ptr()
        length = t.numel() if t.is_contiguous() else 1 + sum((n - 1) * s for n, s in zip(t.size(), t.stride()))
        spans.append((start, start + length * t.element_size(), i in written))
    spans.sort()
    reach = reach_written = 0
    for start, end, is_written in spans:
        if start < reach_written or is_written and start < reach:
            return True
        reach = max(reach, end)
        if is_written:
            reach_written = max(reach_written, end)
    return False
