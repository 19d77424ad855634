"""thunder.train_step: forward, backward, gradient sync, clipping and optimizer as one plan."""
import contextlib
import os
import time
import warnings

import torch

from . import _C, capture, device, dynamo, encode, jobs, memory, runtime, wire
from .arguments import check_batch, check_gpu, check_memory_budget, check_precision, check_train_step, scaler_of
from .errors import CompileError, DaemonError, Unsupported
from .region import Backend, Settings
from .signature import Layout, Signature
from .stats import CompileStats

_HYPERS = {"sgd": ("lr", "momentum", "dampening", "weight_decay"), "adam": ("lr", "betas", "eps", "weight_decay")}
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "f16-mixed": torch.float16}


class _Compiled:
    """What the compiler knows of an optimizer: its kind, the state it keeps, the numbers it reads at each step."""

    def __init__(self, optimizer, skips):
        """`skips`: a step may be skipped on the device, which counts them then."""
        self.optimizer, self.skips = optimizer, skips
        self.kind = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}.get(type(optimizer), "none")
        if self.kind == "adam" and any(g.get("decoupled_weight_decay") for g in optimizer.param_groups):
            self.kind = "adamw"
        if any(g.get("differentiable") for g in optimizer.param_groups):
            self.kind = "none"

    def groups(self, params):
        """The groups as a plan has them, (group, whether its momentum buffers are new), and the number of each parameter's: where
        there is dampening, a buffer begins with the whole gradient. `params`: (parameter, group)."""
        keys = [(g, self.is_new(p, self.optimizer.param_groups[g])) for p, g in params]
        used = sorted(set(keys))
        return used, tuple(used.index(k) for k in keys)

    def is_new(self, p, group):
        return bool(group.get("momentum", 0) and group.get("dampening", 0)) and self.optimizer.state.get(p, {}).get("momentum_buffer") is None

    def flags(self, groups):
        """What changes the generated code, for each group of a plan."""
        found = []
        for number, new in groups:
            group = self.optimizer.param_groups[number]
            found.append((bool(group.get("nesterov")), bool(group.get("momentum", 0)), bool(group.get("amsgrad")), bool(group.get("maximize")),
                          group.get("weight_decay", 0) != 0, new))
        return tuple(found)

    def state(self, p, group):
        """The state tensors of a parameter, made where they are missing, as the optimizer itself makes them."""
        if self.kind == "sgd" and not group["momentum"]:
            return []
        state = self.optimizer.state[p]
        if self.kind == "sgd":
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            return [state["momentum_buffer"]]
        where = p.device if self.skips else torch.device("cpu")  # else the plan counts in host memory
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=where)
        elif state["step"].device != where:  # of another precision, or of a fused or capturable optimizer
            state["step"] = state["step"].to(where)
        names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group["amsgrad"] else [])
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [state["step"], *(state[name] for name in names)]

    def numbers(self, groups):
        for number, _ in groups:
            group = self.optimizer.param_groups[number]
            for name in _HYPERS["sgd" if self.kind == "sgd" else "adam"]:
                value = group[name]
                for one in value if isinstance(value, (tuple, list)) else (value,):
                    yield float(one)


class _Bound:
    """A phase's plan with its inputs in place. Binding hundreds of parameters and states takes longer than launching a plan on a GPU; seeing
    that they are still the same objects does not: so what an update was bound to is kept for the next one. What differs at each call
    stays open: the batch, the seed, the optimizer's numbers."""

    def __init__(self, region, phase, arguments):
        step = region.step
        self.region, self.known = region, step.known if phase != "accumulate" and step.known.kind != "none" else None
        self.used, groups = region.groups(arguments)
        self.plan, self.groups = region.plan(phase, self.used, groups), groups
        self.params = [arguments[i] for i, _ in region.params]
        groups = [step.optimizer.param_groups[self.used[g][0]] for g in groups]
        self.made_now = [p for p in self.params if self.known and p not in step.optimizer.state]
        states = [t for p, group in zip(self.params, groups) for t in self.known.state(p, group)] if self.known else []
        if step.scaler is not None:
            scale, good_steps = step.scale_state(region.where)
            states = [scale, *states, good_steps]
        states = iter(states)
        accumulators = iter([step.accumulator(p) for p in self.params])
        self.mine = tuple(i for i, _ in region.params)
        self.counts = [step.accumulate] if step.scaler is not None and step.accumulate > 1 and phase != "flush" else []
        # Parameters, states, constants: kept. The batch: where it goes, without a reference.
        self.inputs, self.batch, self.numbers, self.seeds, self.offsets = [], [], [], [], []
        kept, given = {*self.mine}, enumerate([*arguments, *region.constants])
        for position, kind in enumerate(self.plan.input_kinds):
            value = None
            if kind == wire.INPUT_SEED:
                self.seeds.append(position)
            elif kind == wire.INPUT_OFFSET:
                self.offsets.append(position)
            elif kind == wire.INPUT_HYPER:
                self.numbers.append(position)
            elif kind == wire.INPUT_ACCUMULATOR:
                value = next(accumulators)
            elif kind == wire.INPUT_STATE:
                value = next(states)
            else:
                at, value = next(given)
                if at < len(arguments) and at not in kept:
                    self.batch.append((position, at))
                    value = None
            self.inputs.append(value)
        self.seen = self.identity(arguments)

    def identity(self, arguments):
        """Everything that the binding came from, but the groups' parameters (_StepRegion.trained): equal values say that it holds. The
        objects are alive, as the inputs hold them."""
        step = self.region.step
        scale = step.scale_state(self.region.where) if step.scaler is not None else ()
        return _C.identity(arguments, self.mine, step.optimizer.state, tuple(scale)), step.known.flags(self.used), step.clip is not None

    def fits(self, arguments):
        return self.seen == self.identity(arguments)

    def forget_new_buffers(self):
        """The step that was to begin momentum buffers was skipped: the next one begins them."""
        for p, group in zip(self.params, self.groups):
            if self.used[group][1]:
                self.region.step.optimizer.state.pop(p, None)

    def bind(self, arguments, scale):
        inputs, step = self.inputs.copy(), self.region.step
        for position, i in self.batch:
            inputs[position] = arguments[i]
        numbers = [*self.counts, *(self.known.numbers(self.used) if self.known else ()), *([float(step.clip)] if step.clip is not None else ())]
        if step.scaler is not None:
            scaler = step.scaler
            numbers += [scaler.get_growth_factor(), scaler.get_backoff_factor(), float(scaler.get_growth_interval())]
            scale *= step.accumulate  # gradients have their share of an update already
        numbers.append(scale)
        for position, number in zip(self.numbers, numbers):
            inputs[position] = number
        if self.seeds or self.offsets:
            seed, offset = device.draw(self.region.where)
            for position in self.seeds:
                inputs[position] = seed
            for position in self.offsets:
                inputs[position] = offset
        return inputs


class _Answer(Exception):
    """What TrainStep.memory asked for: ends the call before anything runs."""

    def __init__(self, memory):
        self.memory = memory


class _StepRegion:
    """One captured graph of the step, with a plan for each phase that was needed."""

    def __init__(self, gm, step):
        self.step, self.gm = step, gm
        self.states = capture.annotate(gm)
        self.layout = Layout(gm, self.states)
        if self.layout.recipes[0][0] != "fresh":
            raise Unsupported("the loss", "is an input or a view; it must be a new tensor")
        self.exported = capture.export(capture.with_hidden_outputs(gm, [n for n, _ in self.layout.hidden]), states=self.states)
        problems = encode.check(self.exported)
        if problems:
            p = problems[0]
            raise CompileError(f"{p.operator} cannot be compiled ({p.reason}); thunder.train_step needs the whole step", "UNIMPLEMENTED")
        self.constants = [tensor for _, tensor in self.exported.constants]
        self.signature, self.plans, self.trained, self.bound = None, {}, None, None

    def check_hooks(self):
        """Gradients stay in the plan, and so does the optimizer's step: who asked to see them must not wait in vain."""
        for name, p in self.step.model.named_parameters():
            if p.requires_grad and capture.has_gradient_hooks(p):
                raise CompileError(f"parameter {name} has a hook on its gradient, which a step does not run; remove it, or use thunder.compile and "
                                   "the optimizer itself", "UNIMPLEMENTED")
        optimizer = self.step.optimizer
        if self.step.known.kind != "none" and capture.has_step_hooks(optimizer):
            raise CompileError(f"{type(optimizer).__name__} has a step hook, which a step does not run; remove it, or use thunder.compile and the "
                               "optimizer itself", "UNIMPLEMENTED")

    def prepare(self, arguments):
        self.check_hooks()
        self.plans, self.bound = {}, None
        owners = {id(p): i for i, group in enumerate(self.step.optimizer.param_groups) for p in group["params"]}
        self.signature = s = Signature(self.layout, self.exported, [*arguments, *self.constants], True)
        if not s.differentiated:
            raise CompileError("the loss does not depend on a parameter that requires grad", "INVALID_ARGUMENT")
        self.params = []
        for i, (item, value) in enumerate(zip(s.inputs, arguments)):
            if item.requires_grad and item.kind == wire.INPUT_PARAMETER and id(value) in owners:
                self.params.append((i, owners[id(value)]))
            else:
                item.requires_grad = False
        if runtime.overlaps(arguments, {i for i, _ in self.params} | {i for i, item in enumerate(s.inputs) if item.written_by >= 0}):
            raise CompileError("a parameter or buffer that the step writes shares memory with another of its inputs; give it memory of its own: "
                               "p.data = p.data.clone()", "UNIMPLEMENTED")
        self.loss = s.results[0][1]
        self.encoded = encode.encode(self.exported, s)
        self.where = device.of(arguments)

    def groups(self, arguments):
        """What _Compiled.groups says of the parameters, in the optimizer's groups as they are now."""
        owners = {id(p): i for i, group in enumerate(self.step.optimizer.param_groups) for p in group["params"]}
        return self.step.known.groups([(arguments[i], owners.get(id(arguments[i]), 0)) for i, _ in self.params])

    def flags(self, used):
        return self.step.known.flags(used) if self.step.known.kind != "none" else ()

    def plan(self, phase, used, groups):
        """The plan of a phase. `used`, `groups`: what _Compiled.groups says of the parameters."""
        step, flags = self.step, self.flags(used)
        key = phase, flags, groups, step.clip is not None, step.accumulate > 1 or phase != "update", step.world
        if key not in self.plans:
            job = self.job(phase, key[4], flags, groups)
            program = job.run(step.stats)
            self.check_memory(program.plans["step"])
            step.stats.plans += list(program.plans)
            step.held.append(program.plans["step"])
            self.plans[key] = program.plans["step"]
        return self.plans[key]

    def job(self, phase, accumulates, flags, groups):
        step = self.step
        message = wire.TrainStep(phase=phase, optimizer=step.known.kind, clip=step.clip is not None, accumulates=accumulates,
                                 loss_output=self.loss, param_group=groups if step.known.kind != "none" else (),
                                 loss_scale=step.scaler is not None)
        for nesterov, momentum, amsgrad, maximize, decay, first in flags:
            message.groups.add(nesterov=nesterov, momentum=momentum, amsgrad=amsgrad, maximize=maximize, weight_decay=decay,
                               first_step=first)
        return jobs.Job(self.encoded, "train_step", self.where, executors=step.executors, world=step.world, train_step=message,
                        memory_limit=step.memory_budget)

    def memory(self, arguments):
        """The MemoryPlan of an update, compiled for what `device.target` says, not loaded."""
        step = self.step
        used, groups = self.groups(arguments)
        job = self.job("update", step.accumulate > 1, self.flags(used), groups)
        return memory.plan_of(job.compile(step.stats.progress).data, self.encoded, step.memory_budget or job.message.target.memory or None)

    def check_memory(self, plan):
        """Refuses a plan that needs more than it may, or than there is, before it runs."""
        step, advice = self.step, []
        if step.memory_budget is None and self.where.type != "cuda":
            return
        needs = memory.loaded(plan, self.encoded, step.memory_budget)
        if step.precision is None and any(p.dtype == torch.float32 for p in step.model.parameters()):
            advice.append('precision="bf16-mixed": what matrix products read and make takes half')
        if step.memory_budget is not None and needs.peak > step.memory_budget:
            raise CompileError(needs.refusal(step.memory_budget, "memory_budget is", step.accumulate, advice), "RESOURCE_EXHAUSTED")
        if self.where.type != "cuda":
            return
        new = needs.own + needs.results + (0 if step.optimizer.state else needs.state)
        left = memory.available(self.where) + jobs.held_bytes()
        if new > left:
            advice.append(f"other tensors of this process take {memory.text_of(torch.cuda.memory_allocated(self.where))} with what is counted above")
            raise torch.OutOfMemoryError(needs.refusal(left, f"of that, {memory.text_of(new)} is yet to be allocated; {self.where} has left", step.accumulate, advice))

    def check_pending(self):
        """An update is one plan over the parameters of this graph: earlier micro-batches of it must not have had others."""
        if not self.step.touched:
            return
        mine = {id(self.arguments[i]) for i, _ in self.params}
        for name, p in self.step.model.named_parameters():
            if id(p) in self.step.touched and id(p) not in mine:
                raise CompileError(f"parameter {name} has gradients of an earlier micro-batch of this update, and the graph of the last one is "
                                   "without it; give micro-batches of one update the same parameters, or use accumulate=1", "UNIMPLEMENTED")

    def run(self, phase, arguments, scale):
        step, update = self.step, phase != "accumulate"
        self.arguments = arguments
        if update:
            self.check_pending()
        lasting = phase == "update" and step.accumulate == 1 and step.known.kind != "none"
        bound = self.bound if lasting and self.bound is not None and self.bound.fits(arguments) else _Bound(self, phase, arguments)
        self.bound = None
        try:
            made = step.stats.run(bound.plan, bound.bind(arguments, scale), self.encoded, "step" if phase == "update" else phase, update)
        except BaseException:
            for p in bound.made_now:  # as if the call had not been
                step.optimizer.state.pop(p, None)
            raise
        bound.made_now = ()
        if lasting and not any(new for _, new in bound.used):  # new buffers are not new again
            self.bound = bound
        if update:
            step.touched.clear()
        else:
            step.touched.update(id(p) for p in bound.params)
        if update:
            extra = iter(made[0 if phase == "flush" else len(self.signature.outputs):])
            step.grad_norm = next(extra) if step.clip is not None else None
            step.skipped = next(extra) if step.scaler is not None else None
        if update and step.known.kind == "none":
            for position, (kind, base) in enumerate(zip(bound.plan.output_kinds, bound.plan.output_bases)):
                if kind == wire.OUTPUT_GRADIENT:
                    arguments[base].grad = made[position]
            if step.skipped is None or not step.skipped:  # this waits for a GPU, as GradScaler.step does
                step.optimizer.step()
            for p in bound.params:
                p.grad = None
        elif update:
            capture.mark_stepped(step.optimizer)
            torch.autograd.graph.increment_version(bound.params)
            if step.scaler is not None and any(new for _, new in bound.used) and step.skipped:  # waits for a GPU, until buffers are there
                bound.forget_new_buffers()
        return made

    def __call__(self, *arguments):
        with torch.no_grad():
            return self._call(arguments)

    def _call(self, arguments):
        step = self.step
        trained = _C.identity((), (), *[group["params"] for group in step.optimizer.param_groups])
        if self.trained != trained:  # the first call, or add_param_group
            started = time.perf_counter()
            self.prepare(arguments)
            step.stats.captured(started)
            self.trained = trained
            step.stats.regions += 1
        if step.asked:
            raise _Answer(self.memory(arguments))
        if self.where.type == "meta":
            raise CompileError("the step's tensors are on meta, where nothing can run; TrainStep.memory takes such", "INVALID_ARGUMENT")
        step.begin()
        last = step.pending + 1 >= step.accumulate
        made = self.run("update" if last else "accumulate", arguments, 1.0 / step.accumulate)
        step.flushable = (self, arguments)
        step.pending = 0 if last else step.pending + 1
        step.stats.calls += 1
        signature, results = self.signature, []
        for i, output in enumerate(signature.outputs):
            if output.replaces is not None:
                arguments[output.replaces].copy_(made[i])
            elif output.kind == wire.OUTPUT_VIEW_OF_INPUT:
                made[i] = runtime._view(arguments[output.base], output, None)
            elif output.kind == wire.OUTPUT_WRITTEN:
                torch.autograd.graph.increment_version(arguments[output.base])
        for i, output in enumerate(signature.outputs):
            if output.kind == wire.OUTPUT_VIEW_OF_OUTPUT:
                made[i] = runtime._view(made[output.base], output, None)
        for kind, which in signature.results:
            results.append(made[which] if kind == "output" else arguments[which].detach() if kind == "input" else which)
        return results


class _StepBackend:
    def __init__(self, step):
        self.step = step

    def __call__(self, gm, example_inputs, **_):
        started = time.perf_counter()
        try:
            return _StepRegion(gm, self.step)
        except (CompileError, DaemonError, Unsupported) as error:
            raised = error if not isinstance(error, Unsupported) else CompileError(
                f"{error.operator} cannot be compiled ({error.reason}); thunder.train_step needs the whole step", "UNIMPLEMENTED")

            def fail(*_):
                raise raised
            return fail
        finally:
            self.step.stats.captured(started, on=True)  # then TorchDynamo makes its guards


class TrainStep:
    """What thunder.train_step returns: a training step that is called with one batch at a time.

    Attributes:
        grad_norm: global 2-norm of the gradients of the last update, before clipping: a tensor of rank 0. None before the first
            update, and always None without clip_grad_norm.
        pending (int): micro-batches since the last update; 0 unless ``accumulate`` is above 1.
        skipped: with precision "f16-mixed", whether the last update was skipped because its gradients were not finite: a bool tensor of
            rank 0 on the model's device. None before the first update, and always None with another precision.
        scaler: with precision "f16-mixed", the torch.amp.GradScaler whose scale the step uses and updates; its settings are read at each
            call, and its state_dict belongs into a checkpoint. Else None.
        clip: clip_grad_norm; another number counts from the next update on.
        model, optimizer, loss_fn, accumulate: as given.
        world (int): ranks whose gradients are averaged (WORLD_SIZE).

    Threads: one at a time. Ranks make the same calls in the same order: an update is a collective.
    """

    def __init__(self, model, optimizer, loss_fn, clip_grad_norm, accumulate, precision, parallel, executors, loss_scale, memory_budget):
        check_train_step(model, optimizer, loss_fn, clip_grad_norm, executors)
        check_precision(precision, model)
        check_memory_budget(memory_budget)
        if parallel not in (None, "ddp"):
            raise ValueError(f"parallel={parallel!r}: this version knows None and 'ddp'")
        if not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"accumulate={accumulate!r}: want a number of micro-batches, at least 1")
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.clip, self.accumulate, self.executors = clip_grad_norm, accumulate, executors
        self.world = int(os.environ.get("WORLD_SIZE") or 1)
        self.stats = CompileStats()
        where = capture.autocast_device(device.of(model.parameters()).type)
        self.scaler = scaler_of(loss_scale, precision, where)
        self.known = _Compiled(optimizer, self.scaler is not None)
        self.grad_norm, self.skipped, self.pending, self.flushable = None, None, 0, None
        self._accumulators, self._begun = {}, self.world == 1
        self.precision, self.memory_budget = precision, memory_budget
        self.asked = False    # what is called for is the memory plan
        self.held = []        # plans, which hold device memory from step to step
        self.touched = set()  # parameters that have gradients of earlier micro-batches
        if self.known.kind == "none":
            warnings.warn(f"thunder: {type(optimizer).__name__} runs in eager PyTorch after the plan", stacklevel=3)

        autocast = _AUTOCAST.get(precision)

        def forward(*args, **kwargs):
            if autocast is not None:
                with torch.autocast(where, dtype=autocast):
                    out = model(*args, **kwargs) if loss_fn is None else loss_fn(model(*args[:-1], **kwargs), args[-1])
            else:
                out = model(*args, **kwargs) if loss_fn is None else loss_fn(model(*args[:-1], **kwargs), args[-1])
            loss = out["loss"] if isinstance(out, dict) else out[0] if isinstance(out, (tuple, list)) else out
            return loss, out
        self._forward = dynamo.PerShape(forward, _StepBackend(self))
        self._eval = dynamo.PerShape(lambda *args, **kwargs: forward(*args, **kwargs)[1], Backend(Settings(True, executors), self.stats))

    @property
    def _thunder_stats(self):
        return self.stats

    @property
    def compile_stats(self):
        """The CompileStats of the step, ``eval`` included; as thunder.compile_stats(step)."""
        return self.stats

    def begin(self):
        """All ranks start from rank 0's parameters, buffers and loss scale."""
        if self._begun:
            return
        if device.of(self.model.parameters()).type != "cpu":
            raise CompileError(f"{self.world} ranks train a model on {device.of(self.model.parameters())}; in this version ranks average gradients in host "
                               "memory only: move the model to the cpu, or run one rank", "UNIMPLEMENTED")
        state = self.scale_state(torch.device("cpu")) if self.scaler is not None else ()
        for tensor in [*self.model.parameters(), *self.model.buffers(), *state]:
            whole = tensor.detach().contiguous()
            _C.broadcast(whole)
            if whole.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(whole)
        self._begun = True

    def scale_state(self, where):
        """The scaler's tensors on the device: the scale (f32) and the good steps in a row (i32), made as the scaler itself makes them."""
        scaler = self.scaler
        if scaler._scale is None:
            scaler._lazy_init_scale_growth_tracker(where)
        elif scaler._scale.device != where:
            scaler._scale, scaler._growth_tracker = scaler._scale.to(where), scaler._growth_tracker.to(where)
        return scaler._scale, scaler._growth_tracker

    def accumulator(self, p):
        if self.accumulate == 1:
            return None
        if id(p) not in self._accumulators:
            self._accumulators[id(p)] = torch.zeros_like(p, requires_grad=False, memory_format=torch.preserve_format)
        return self._accumulators[id(p)]

    def __call__(self, *args, **kwargs):
        """One micro-batch: ``step(*batch, **kwargs)``; keyword arguments go to the model. Each ``accumulate``-th call ends with an update.

        Returns what loss_fn (or, without one, the model) returned, detached: the same structure, shapes and dtypes. The loss is
        this rank's, not the average over ranks. Raises CompileError and DaemonError when it has to compile (the first call, another
        shape, another flag of the optimizer), ThunderError when a collective fails: a peer differs, has left, or did not come in
        time. Such a rank cannot go on with collectives. Ctrl-C ends the wait for peers in the main thread.
        """
        self.stats.called_at = time.perf_counter()
        try:
            with torch.enable_grad():
                return self._forward(*args, **kwargs)[1]
        except dynamo.NOT_CAPTURED as error:
            raise self._refused(error, args, kwargs) from error

    def _refused(self, error, args, kwargs):
        dynamo.breaks()  # said here, not with the next function
        check_batch(self.model, self.loss_fn, args, kwargs)
        return dynamo.not_captured(error)

    def memory(self, *args, gpu=None, **kwargs):
        """What an update for this batch needs in device memory, as a MemoryPlan: ``print(step.memory(x, y))``. Compiles the step for it, and runs
        and allocates nothing.

        Args:
            args, kwargs: as in a call; tensors on ``meta`` will do.
            gpu: None: the device of the tensors. "a100", "h100", "h200" or "b200": a GPU that need not be there; model and batch are on the cpu or on
                ``meta``. The compile needs NVRTC, and cuDNN where the GPU's program is to use it (pip install nvidia-cuda-nvrtc nvidia-cudnn-cu13).

        Raises what a first call raises but for what running raises; ValueError for an unknown ``gpu``, TypeError for tensors that are on a GPU
        already.
        """
        check_gpu(gpu, device.of([*self.model.parameters()]))
        self.asked = True
        try:
            with torch.enable_grad(), device.compiling_for(gpu) if gpu else contextlib.nullcontext():
                self._forward(*args, **kwargs)
        except _Answer as answer:
            return answer.memory
        except dynamo.NOT_CAPTURED as error:
            raise self._refused(error, args, kwargs) from error
        finally:
            self.asked = False

    def release(self):
        """Gives back the device memory and the CUDA graphs that the plans of this step hold between calls; the next call takes them
        again. On the cpu nothing is held. Returns None."""
        for plan in self.held:
            plan.native.release()

    def flush(self):
        """Updates from the micro-batches since the last update, and does nothing when there are none: the end of an epoch whose length
        is no multiple of ``accumulate``. The gradients are the average of those micro-batches, over all ranks. Returns None."""
        if not self.pending:
            return
        region, arguments = self.flushable
        with torch.no_grad():
            region.run("flush", arguments, 1.0 / self.pending)
        self.pending = 0

    def eval(self, *args, **kwargs):
        """The forward part alone, without gradients and without an update; takes and returns what a call of the step does. The
        model's mode is left as it is: call ``model.eval()`` before where dropout and batch norm shall rest. No collective."""
        try:
            with torch.no_grad():
                return self._eval(*args, **kwargs)
        except dynamo.NOT_CAPTURED as error:
            raise self._refused(error, args, kwargs) from error


def train_step(model, optimizer, loss_fn=None, clip_grad_norm=None, accumulate=1, precision=None, parallel=None, executors=None,
               loss_scale=None, memory_budget=None):
    """A training step as one plan: forward, backward, gradient sync over the job's ranks, clipping, optimizer.

    Args:
        model: module; without loss_fn, ``model(*batch)`` gives the loss.
        optimizer: SGD, Adam or AdamW are part of the plan; any other runs in eager PyTorch on `.grad` after it, said once.
        loss_fn: called as ``loss_fn(model(*batch[:-1]), batch[-1])``. It may return the loss, a tuple that begins with it, or a
            dict with the key "loss"; what it returns comes back whole.
        clip_grad_norm: largest global 2-norm of the gradients, a number above 0. `step.grad_norm` is the norm before
            clipping. None: no clipping.
        accumulate: micro-batches per update. Each call is one; gradients are averaged. `step.flush()` takes a partial tail.
        precision: None (as the parameters are); "f32", "f64" or "bf16": the same, and all floating-point parameters must be of that
            dtype; "bf16-mixed", "f16-mixed": the forward part runs under torch.autocast in bfloat16 or float16, parameters, gradients and
            state stay as they are. "f16-mixed" scales the loss.
        loss_scale: for "f16-mixed". None: as torch.amp.GradScaler() does; a GradScaler: with its settings, from its scale on, and kept in
            it; a number above 0: this scale, which stays. Either way an update whose gradients are not all finite changes nothing.
        parallel: None or "ddp". Either way ranks average their gradients where WORLD_SIZE is above 1, as thunderrun sets it; all
            begin with rank 0's parameters and buffers.
        executors: names in order of priority, as in thunder.compile.
        memory_budget: bytes that the step may need in all: parameters, optimizer state, batch, activations (TrainStep.memory says how many). To keep to it,
            activations are not stored but computed again in the backward part, those first that cost the least time; a step that needs more all
            the same is refused before it runs. None: on a GPU what it has, on the cpu no limit.

    Returns a TrainStep. The optimizer's state is the tensors in ``optimizer.state[p]``, and the numbers in ``param_groups`` are read
    at each call; ``p.grad`` is not set. Nothing is compiled before the first call.

    Raises TypeError or ValueError for an argument that is none of these: a model made by thunder.compile or wrapped in
    DistributedDataParallel (pass the original), an optimizer that has none of the model's parameters, LBFGS (it needs a closure), a
    parameter that ``precision`` rules out. The first call raises CompileError when the step cannot be compiled as a whole: there are no
    pieces in eager PyTorch.
    """
    return TrainStep(model, optimizer, loss_fn, clip_grad_norm, accumulate, precision, parallel, executors, loss_scale, memory_budget)
