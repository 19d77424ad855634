"""Checks of what users give to thunder.compile, thunder.train_step and torch.compile(options=...): a wrong argument is an error at
once that names it, what was expected, and what to try."""
import functools
import inspect
import math
import numbers
import subprocess

import torch

from . import device, paths


def _kind(value):
    """How an error names what was given in place of something else."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def check_compile(fullgraph, dynamic, executors, disabled_passes):
    """The options of thunder.compile."""
    check_settings(fullgraph, executors, disabled_passes)
    if dynamic is not None and not isinstance(dynamic, bool):
        raise TypeError(f"dynamic={dynamic!r}: want None, True or False")


def check_settings(fullgraph=False, executors=None, disabled_passes=()):
    if not isinstance(fullgraph, bool):
        raise TypeError(f"fullgraph={fullgraph!r}: want True or False")
    check_executors(executors)
    _names("disabled_passes", disabled_passes, "fuse")
    known = _passes() if disabled_passes else ()
    unknown = [name for name in disabled_passes if name not in known] if known else []
    if unknown:
        raise ValueError(f"disabled_passes={disabled_passes!r}: there is no pass {unknown[0]!r}; there are {', '.join(known)}")


def check_executors(executors):
    if executors is not None:
        _names("executors", executors, "cpu")


def _names(argument, value, example):
    if isinstance(value, str):
        raise TypeError(f"{argument}={value!r}: want a list of names, not one string; try {argument}=[{value or example!r}]")
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{argument}={value!r}: want a list or tuple of names, such as [{example!r}]")


@functools.cache
def _passes():
    """Names of the passes, in order; none where thunderc cannot be asked (then the compile says that a name is unknown)."""
    program = paths.program("thunderc")
    try:
        done = subprocess.run([program, "--list-passes"], capture_output=True, text=True, timeout=30) if program else None
    except (OSError, subprocess.SubprocessError):
        done = None
    return tuple(line.split()[0] for line in done.stdout.splitlines() if line.strip()) if done and done.returncode == 0 else ()


def check_train_step(model, optimizer, loss_fn, clip_grad_norm, executors):
    """The arguments of thunder.train_step that TrainStep does not look at itself."""
    _check_model(model, optimizer)
    _check_optimizer(optimizer, loss_fn)
    if isinstance(loss_fn, type):
        raise TypeError(f"loss_fn is the class {loss_fn.__name__}; want a function or an instance: {loss_fn.__name__}()")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"loss_fn is {_kind(loss_fn)}; want a function of the model's output and the last element of the batch, or None")
    _check_owned(model, optimizer, loss_fn)
    _check_clip(clip_grad_norm)
    check_executors(executors)


def check_memory_budget(budget):
    if budget is None:
        return
    if isinstance(budget, bool) or not isinstance(budget, numbers.Integral):
        raise TypeError(f"memory_budget={budget!r}: want a number of bytes, such as 16 * 2**30, or None")
    if not 0 < budget < 2**63:
        raise ValueError(f"memory_budget={budget!r}: want bytes, more than 0")


def check_gpu(gpu, where):
    """The GPU that TrainStep.memory is asked for, with parameters on device `where`."""
    if gpu is None and where.type == "meta":
        raise ValueError(f"the model is on meta: say for which GPU, gpu={next(iter(device.GPUS))!r} or another of {', '.join(device.GPUS)}")
    if gpu is not None and gpu not in device.GPUS:
        raise ValueError(f"gpu={gpu!r}: want one of {', '.join(device.GPUS)}, or None for the device of the tensors")
    if gpu is not None and where.type not in ("cpu", "meta"):
        raise TypeError(f"gpu={gpu!r}: the model is on {where} already; move it to the cpu or to meta, or leave gpu out")


def check_batch(model, loss_fn, args, kwargs):
    """The arguments of a call of a step that could not be captured. Raises TypeError where the model does not take them."""
    if loss_fn is not None and not args:
        raise TypeError("the step was called without positional arguments; with a loss_fn the last of them is the target: step(x, y)")
    inputs = args if loss_fn is None else args[:-1]
    try:
        inspect.signature(model.forward).bind(*inputs, **kwargs)
    except TypeError as error:
        last = "" if loss_fn is None else "; the last argument of the step is loss_fn's target: step(x, y). Without a target, leave loss_fn out and let the model return the loss"
        raise TypeError(f"the step's arguments do not fit {type(model).__name__}.forward{inspect.signature(model.forward)}: {error}{last}") from None


def _check_model(model, optimizer):
    if isinstance(model, torch.optim.Optimizer):
        hint = "; the order is thunder.train_step(model, optimizer, loss_fn)" if isinstance(optimizer, torch.nn.Module) else ""
        raise TypeError(f"model is the optimizer {type(model).__name__}; want a torch.nn.Module{hint}")
    if not isinstance(model, torch.nn.Module):
        hint = f": an instance, {model.__name__}(...), not the class" if isinstance(model, type) else ""
        raise TypeError(f"model is {_kind(model)}; want a torch.nn.Module{hint}")
    if hasattr(model, "_thunder_original"):
        raise TypeError("model was made by thunder.compile; pass the original module: train_step compiles it itself")
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        raise TypeError("model is a DistributedDataParallel; pass the original module, model.module: train_step averages gradients itself")


def _check_optimizer(optimizer, loss_fn):
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is the class {optimizer.__name__}; want an instance: {optimizer.__name__}(model.parameters(), lr=...)")
    if not isinstance(optimizer, torch.optim.Optimizer):
        hint = "; the order is thunder.train_step(model, optimizer, loss_fn)" if isinstance(loss_fn, torch.optim.Optimizer) else ""
        raise TypeError(f"optimizer is {_kind(optimizer)}; want a torch.optim.Optimizer{hint}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("optimizer: LBFGS needs a closure that computes the loss several times in a step, which train_step has not; "
                         "use another optimizer, or thunder.compile the model and call optimizer.step(closure) yourself")


def _check_owned(model, optimizer, loss_fn):
    modules = [m for m in (model, loss_fn) if isinstance(m, torch.nn.Module)]
    owned = {id(p) for m in modules for p in m.parameters()}
    given = [p for group in optimizer.param_groups for p in group["params"]]
    trains = any(p.requires_grad for p in model.parameters())  # else loss_fn may hold what is trained
    if trains and not any(id(p) in owned for p in given):
        raise ValueError(f"optimizer: none of its {len(given)} parameters belongs to the model, so nothing would be trained; make it from "
                         f"this model's: {type(optimizer).__name__}(model.parameters(), ...). A copy of a model has other parameters")


def _check_clip(value):
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"clip_grad_norm is {_kind(value)}; want None (no clipping) or a number above 0")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"clip_grad_norm={value!r}: want a finite number above 0, or None for no clipping")


_PRECISIONS = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "bf16-mixed": None, "f16-mixed": None}
_ELSEWHERE = {"32": "f32", "32-true": "f32", "float32": "f32", "64-true": "f64", "float64": "f64", "bf16-true": "bf16", "bfloat16": "bf16",
              "f16": "f16-mixed", "fp16": "f16-mixed", "float16": "f16-mixed", "16": "f16-mixed", "16-mixed": "f16-mixed"}  # what others say


def check_precision(precision, model):
    """The precision of a step, and that the model's parameters are as it says."""
    if precision is None:
        return
    if not isinstance(precision, str) or precision not in _PRECISIONS:
        name = _ELSEWHERE.get(str(precision).removeprefix("torch."))
        *most, last = map(repr, _PRECISIONS)
        hint = f"; here it is called {name!r}" if name else ""
        raise ValueError(f"precision={precision!r}: want None (as the parameters are), {', '.join(most)} or {last}{hint}")
    want = _PRECISIONS[precision]
    for name, p in model.named_parameters():
        if want is not None and p.is_floating_point() and p.dtype is not want:
            raise ValueError(f"precision={precision!r}: parameter {name} is {p.dtype}; convert the model first: model.to({want})")
        if precision == "f16-mixed" and p.dtype is torch.float16:
            raise ValueError(f"precision='f16-mixed': parameter {name} is {p.dtype}, and updates in it are lost; keep the parameters in f32, "
                             "model.float(): the step computes in float16 itself")


def scaler_of(loss_scale, precision, where):
    """The GradScaler of a step with loss scaling; None of another one. `where`: type of the model's device."""
    if precision != "f16-mixed":
        if loss_scale is not None:
            raise ValueError(f"loss_scale={_kind(loss_scale)}: only precision='f16-mixed' scales the loss, and precision is {precision!r}; "
                             "leave loss_scale out")
        return None
    if loss_scale is None:
        return torch.amp.GradScaler(where)
    if isinstance(loss_scale, torch.amp.GradScaler):
        if not loss_scale.is_enabled():
            raise ValueError(f"loss_scale: the GradScaler is disabled, or was made for a device that is not here; give torch.amp.GradScaler({where!r})")
        return loss_scale
    if isinstance(loss_scale, bool) or not isinstance(loss_scale, numbers.Real):
        raise TypeError(f"loss_scale is {_kind(loss_scale)}; want None (it adapts itself), a number above 0 (it stays) or a torch.amp.GradScaler")
    if not (math.isfinite(loss_scale) and 1e-38 <= loss_scale <= 3e38):
        raise ValueError(f"loss_scale={loss_scale!r}: want a number above 0 that f32 holds, such as 1024.0, or None for a scale that adapts itself")
    scaler = torch.amp.GradScaler(where, init_scale=float(loss_scale))
    scaler.set_growth_factor(1.0)
    scaler.set_backoff_factor(1.0)
    return scaler


_OPTIONS = ("executors", "disabled_passes", "fullgraph")


def check_backend_options(given):
    """What torch.compile(backend="thunder") hands on: {"options": {...}}, or nothing; the options as keyword arguments of Settings."""
    given = dict(given)
    options = given.pop("options", None)
    mode = given.pop("mode", None)
    if mode is not None:
        raise ValueError(f"mode={mode!r}: backend \"thunder\" has no modes; leave it out")
    options = {**given, **(options or {})}
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"options: backend \"thunder\" has no option {name!r}; it has {', '.join(_OPTIONS)}")
    check_settings(**options)
    return options


def check_profile(steps):
    """The arguments of thunder.profile that it does not look at itself."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int)):
        raise TypeError(f"steps={steps!r}: want the number of calls to record, or None for all")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps!r}: want at least 1, or None for all")


def trace_region(region, count):
    """`region` of last_traces, as an index of `count` graphs."""
    if isinstance(region, bool) or not isinstance(region, int):
        raise TypeError(f"region={region!r}: want the number of a graph; -1 is the last one")
    if not -count <= region < count:
        there = "there is 1 graph, number 0" if count == 1 else f"there are {count} graphs, numbers 0 to {count - 1}"
        raise IndexError(f"region={region}: {there}; -1 is the last one")
    return region
