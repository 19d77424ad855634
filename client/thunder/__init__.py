"""Thunder: a distributed training runtime for PyTorch programs.

    cfoo = thunder.compile(foo)                           # function or nn.Module; thunder.jit is the same
    step = thunder.train_step(model, optimizer, loss_fn)  # forward, backward, gradient sync, clip, optimizer: one plan
"""
from . import _platform

_platform.check()

with _platform.imports():
    from .api import TraceText, compile, compile_stats, dynamo_backend, jit, last_traces
    from .errors import CompileError, DaemonError, ThunderError
    from .memory import MemoryPlan
    from .profiler import profile
    from .stats import CompileStats
    from .train_step import TrainStep, train_step

__version__ = "0.1.0"
__all__ = ["CompileError", "CompileStats", "DaemonError", "MemoryPlan", "ThunderError", "TraceText", "TrainStep", "compile", "compile_stats", "dynamo_backend",
           "jit", "last_traces", "profile", "train_step"]
