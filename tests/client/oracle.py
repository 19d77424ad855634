"""An interpreter of wire traces in Python: each op of a CompileJob is run as the ATen overload its row names.

It stands in for daemon, compiler and executors: capture, encoding, signature, views, autograd and the contract of
train_step are tested against eager PyTorch without them. It reads nothing but the serialized job."""
import contextlib

import torch

from thunder import jobs, optable, wire

DTYPE = {number: getattr(torch, name) for name, number in wire.DTYPES.items()}


class Interpreter:
    def __init__(self, data, check_types=True):
        self.t = wire.Trace.FromString(data)
        self.check_types = check_types
        t = self.t
        self.graphs = []  # (first value, n inputs, first op, n ops, outputs)
        value = op = 0
        for g in range(len(t.graph_name)):
            first_value, first_op = value, op
            value += t.graph_inputs[g]
            for o in range(op, op + t.graph_ops[g]):
                value += t.op_results[o]
            op += t.graph_ops[g]
            outputs = list(t.graph_outputs[t.graph_outputs_begin[g]:t.graph_outputs_begin[g + 1]])
            self.graphs.append((first_value, t.graph_inputs[g], first_op, t.graph_ops[g], outputs))
        assert value == len(t.value_type) and op == len(t.op_name), "tables do not add up"
        assert len(t.input_kind) == t.graph_inputs[0] and len(t.output_kind) == len(self.graphs[0][4])
        self.symbols = []

    def dim(self, index):
        t = self.t
        kind, a, b = t.dim_kind[index], t.dim_a[index], t.dim_b[index]
        if kind == wire.DIM_CONST:
            return a
        if kind == wire.DIM_SYMBOL:
            return self.symbols[a]
        a, b = self.dim(a), self.dim(b)
        return {wire.DIM_ADD: lambda: a + b, wire.DIM_SUB: lambda: a - b, wire.DIM_MUL: lambda: a * b, wire.DIM_FLOORDIV: lambda: a // b,
                wire.DIM_MOD: lambda: a % b, wire.DIM_MIN: lambda: min(a, b), wire.DIM_MAX: lambda: max(a, b)}[kind]()

    def attrs(self, op):
        t, found = self.t, {}
        for i in range(t.op_attrs_begin[op], t.op_attrs_begin[op + 1]):
            kind, value, count = t.attr_kind[i], t.attr_value[i], t.attr_count[i]
            found[t.strings[t.attr_name[i]]] = {
                wire.ATTR_INT: lambda: self.dim(value), wire.ATTR_FLOAT: lambda: t.floats[value], wire.ATTR_BOOL: lambda: bool(value),
                wire.ATTR_STRING: lambda: t.strings[value], wire.ATTR_DTYPE: lambda: DTYPE[value], wire.ATTR_GRAPH: lambda: value,
                wire.ATTR_INTS: lambda: [self.dim(x) for x in t.attr_ints[value:value + count]],
                wire.ATTR_BOOLS: lambda: [bool(x) for x in t.attr_ints[value:value + count]]}[kind]()
        return found

    def run(self, inputs):
        """Outputs of graph 0."""
        t = self.t
        self.symbols = []
        for source, value, dim in zip(t.symbol_source, t.symbol_value, t.symbol_dim):
            self.symbols.append(int(inputs[value]) if source == 1 else inputs[value].size(dim))
        return self.graph(0, inputs)

    def graph(self, g, inputs):
        first_value, n_inputs, first_op, n_ops, outputs = self.graphs[g]
        assert len(inputs) == n_inputs, f"graph {g} takes {n_inputs} inputs, got {len(inputs)}"
        values = dict(zip(range(first_value, first_value + n_inputs), inputs))
        for v, x in values.items():
            self.check(v, x)
        value = first_value + n_inputs
        for op in range(first_op, first_op + n_ops):
            operands = [None if v == wire.NONE else values[v] for v in
                        self.t.operands[self.t.op_operands_begin[op]:self.t.op_operands_begin[op + 1]]]
            results = self.op(op, operands)
            n = self.t.op_results[op]
            for i in range(n):
                if i < len(results):
                    values[value + i] = results[i]
                    self.check(value + i, results[i])
            value += n
        return [values[v] for v in outputs]

    def check(self, value, x):
        """The type the trace gives a value is the one eager has."""
        index = self.t.value_type[value]
        if index == wire.NONE or not isinstance(x, torch.Tensor) or not self.check_types:
            return
        dims = [self.dim(d) for d in self.t.type_dims[self.t.type_dims_begin[index]:self.t.type_dims_begin[index + 1]]]
        assert list(x.shape) == dims, f"value {value}: {list(x.shape)} here, {dims} in the trace"
        if not any(self.t.op_autocast):
            assert x.dtype == DTYPE[self.t.type_dtype[index]], f"value {value}: {x.dtype} here, the trace differs"

    def op(self, op, operands):
        t = self.t
        name, attrs = t.strings[t.op_name[op]], self.attrs(op)
        autocast = t.op_autocast[op]
        with contextlib.ExitStack() as stack:
            if t.op_flags[op] & wire.OP_NO_GRAD:
                stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast("cpu", dtype=DTYPE[autocast] if autocast else torch.bfloat16, enabled=bool(autocast)))
            if name == "torch.scalar":
                return [attrs["value"]]
            if name == "torch.checkpoint":
                return self.graph(attrs["body"], operands)
            if name == "torch.custom_grad":
                return list(_Custom.apply(self, attrs["fwd"], attrs["bwd"], attrs["n_outputs"], *operands))
            if name == "torch.straight_through":
                return [_StraightThrough.apply(*operands)]
            if name == "torch.copy":  # aten::copy has no derivative in PyTorch
                return [operands[1].to(operands[0].dtype).expand_as(operands[0]).clone()]
            return self.aten(name, operands, attrs)

    def aten(self, name, operands, attrs):
        row = optable.by_name(name)
        given = dict(attrs)
        for i, spec in enumerate(row.operands):
            given[spec["name"]] = operands[i:] if spec["variadic"] else operands[i]
        given = {k: v for k, v in given.items() if v is not None}
        for overload in row.overloads:
            base, _, which = overload.partition(".")
            function = getattr(getattr(torch.ops.aten, base), which)
            arguments = {a.name: a for a in function._schema.arguments}
            if not set(given) <= set(arguments) or any(not a.has_default_value() and a.name not in given for a in arguments.values()):
                continue
            if any(isinstance(given[k], torch.Tensor) and "Tensor" not in str(arguments[k].type) for k in given):
                continue
            if any(isinstance(v, (int, float)) and str(arguments[k].type) in ("Tensor", "Optional[Tensor]") and len(row.overloads) > 1 and "Scalar" in " ".join(row.overloads)
                   and any(o.endswith("Scalar") for o in row.overloads) and not which.endswith(("Scalar", "Scalar_mode", "Scalar_Tensor"))
                   for k, v in given.items() if k in [o["name"] for o in row.operands]):
                continue
            if any(isinstance(v, list) and "List" not in str(arguments[k].type) and str(arguments[k].type) != "SymInt[]" for k, v in given.items()):
                continue
            result = function(**given)
            return list(result) if isinstance(result, (tuple, list)) else [result]
        raise AssertionError(f"{name}: no overload takes {sorted(given)}")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, source):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return None, grad


class _Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, interpreter, fwd, bwd, n_outputs, *args):
        results = interpreter.graph(fwd, [a.detach() for a in args])
        ctx.interpreter, ctx.bwd, ctx.results, ctx.n = interpreter, bwd, results, n_outputs
        return tuple(r.clone() for r in results)

    @staticmethod
    def backward(ctx, *grads):
        saved = [r.detach() for r in ctx.results[ctx.n:]]
        gradients = ctx.interpreter.graph(ctx.bwd, [g.detach() for g in grads[:ctx.n]] + saved)
        return (None, None, None, None, *gradients)


class Plan:
    def __init__(self, input_kinds, outputs, run):
        self.input_kinds, self.input_symbols = input_kinds, [0] * len(input_kinds)  # it takes no integers
        self.output_kinds = [k for k, _ in outputs]
        self.output_bases = [b for _, b in outputs]
        self.run, self.ran = run, False  # as runtime.Plan; nothing is loaded at a first call here


class Program:
    """Plans of a job as runtime.Program has them. Random ops are tied to the seed input."""

    def __init__(self, data):
        self.job = wire.CompileJob.FromString(data)
        self.interpreter = Interpreter(self.job.trace)
        self.t = self.interpreter.t
        self.kinds = list(self.t.input_kind)
        self.outputs = list(zip(self.t.output_kind, self.t.output_base))
        mode = self.job.options.mode
        if mode == "train_step":
            import oracle_step
            self.plans = {"step": oracle_step.make(self)}
            return
        self.plans = {"forward": Plan([*self.kinds, wire.INPUT_SEED, wire.INPUT_OFFSET], list(self.outputs), self.forward)}
        if mode == "forward_backward":
            saved = len(self.kinds) + 1
            self.plans["forward"].output_kinds += [wire.OUTPUT_SAVED] * saved
            self.plans["forward"].output_bases += [0] * saved
            self.wanted = [i for i, f in enumerate(self.t.input_flags) if f & wire.INPUT_REQUIRES_GRAD]
            self.tangents = [i for i, (k, _) in enumerate(self.outputs) if k == wire.OUTPUT_FRESH]
            self.plans["backward"] = Plan([wire.INPUT_SAVED] * saved + [wire.INPUT_TANGENT] * len(self.float_tangents()),
                                          [(wire.OUTPUT_GRADIENT, i) for i in self.wanted], self.backward)

    def float_tangents(self):
        outputs = self.interpreter.graphs[0][4]
        return [i for i in self.tangents if DTYPE[self.t.type_dtype[self.t.value_type[outputs[i]]]].is_floating_point]

    def evaluate(self, inputs, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            return self.interpreter.run(inputs)

    def forward(self, inputs):
        *given, seed, _ = inputs
        for i, x in enumerate(given):  # strides are as the signature says
            if isinstance(x, torch.Tensor):
                strides = self.t.input_strides[self.t.input_strides_begin[i]:self.t.input_strides_begin[i + 1]]
                want = tuple(self.interpreter.dim(s) for s in strides) if strides and not self.t.symbol_source else None
                assert x.is_contiguous() if not strides else want in (None, x.stride()), f"input {i}: strides {x.stride()}, want {want}"
        with torch.no_grad():
            kept = [x.clone() if isinstance(x, torch.Tensor) else x for x in given]
            values = self.evaluate([x.detach() if isinstance(x, torch.Tensor) else x for x in given], seed)
            return self.hand_out(given, values) + (kept + [seed] if "backward" in self.plans else [])

    def hand_out(self, inputs, values):
        """Writes back what is written; fresh outputs in the strides the signature asks for."""
        made = [None] * len(values)
        values = [v.clone() if isinstance(v, torch.Tensor) else v for v in values]
        for i, (kind, base) in enumerate(self.outputs):
            if kind == wire.OUTPUT_WRITTEN:
                assert self.t.input_written_by[base] == i
                inputs[base].detach().data.copy_(values[i])
            elif kind == wire.OUTPUT_FRESH:
                strides = [self.interpreter.dim(s) for s in
                           self.t.output_strides[self.t.output_strides_begin[i]:self.t.output_strides_begin[i + 1]]]
                made[i] = torch.empty_strided(values[i].shape, strides, dtype=values[i].dtype) if strides else torch.empty(values[i].shape, dtype=values[i].dtype)
                made[i].data.copy_(values[i])
        return made

    def backward(self, inputs):
        n = len(self.kinds)
        given, seed, tangents = inputs[:n], inputs[n], inputs[n + 1:]
        assert all(t.is_contiguous() for t in tangents)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(i in self.wanted) if isinstance(x, torch.Tensor) else x for i, x in enumerate(given)]
            values = self.evaluate(leaves, seed)
        outs = [values[i] for i in self.float_tangents()]
        used = [(o, g) for o, g in zip(outs, tangents) if o.requires_grad]
        grads = torch.autograd.grad([o for o, _ in used], [leaves[i] for i in self.wanted], [g for _, g in used], allow_unused=True)
        return [torch.zeros_like(leaves[i]) if g is None else g for i, g in zip(self.wanted, grads)]


class Recorder:
    """Stands in for jobs.Job.run; keeps the jobs it was given."""

    def __init__(self):
        self.jobs = []

    def run(self, job, stats):
        job.origin = "compiled"
        stats.add_compile(job, 0.0, 0.0)
        self.jobs.append(job)
        return Program(job.bytes)


@contextlib.contextmanager
def installed():
    recorder, original = Recorder(), jobs.Job.run
    jobs.Job.run = lambda job, stats: recorder.run(job, stats)
    try:
        yield recorder
    finally:
        jobs.Job.run = original
