"""Thunder: a distributed training runtime for PyTorch programs.

    cfoo = thunder.compile(foo)                          # function or nn.Module; thunder.jit is the same
    step = thunder.train_step(model, optimizer, loss_fn) # forward, backward, gradient sync, clip, optimizer: one plan
"""
import sys as _sys

__version__ = "0.1.0"
