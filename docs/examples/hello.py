"""Hello world: a compiled function, alone or in several ranks (thunderrun -n 2 hello.py)."""
import os

import torch

import thunder


@thunder.compile
def foo(a, b):
    return a + b


print("rank", os.environ.get("RANK", "0"), foo(torch.ones(3), torch.arange(3.0)).tolist())
