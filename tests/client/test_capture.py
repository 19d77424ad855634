"""Capture, encoding, signature and autograd interop against eager PyTorch, with the oracle in the compiler's place."""
import pytest
import torch

import compare
import oracle
import programs
import thunder


@pytest.mark.parametrize("name", programs.CASES)
def test_program(name):
    fn, arguments, options = programs.CASES[name]
    with oracle.installed() as recorder:
        compiled = compare.check(fn, arguments, options, lambda f: thunder.compile(f, fullgraph=True, dynamic=False))
    assert recorder.jobs and not thunder.compile_stats(compiled).eager_pieces
