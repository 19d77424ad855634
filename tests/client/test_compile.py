"""The same programs as test_capture, through the real parts: capture, thunderd, a worker, the plan, libthunder."""
import pytest

import compare
import programs
import thunder

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", programs.CASES)
def test_program(name):
    fn, arguments, options = programs.CASES[name]
    compiled = compare.check(fn, arguments, options, lambda f: thunder.compile(f, fullgraph=True, dynamic=False))
    assert thunder.compile_stats(compiled).jobs and not thunder.compile_stats(compiled).eager_pieces
