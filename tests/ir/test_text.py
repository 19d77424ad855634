"""Text form: what the compiler prints after every pass, at all four levels, parses back and prints the same."""
import os
import re
import subprocess

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

pytestmark = pytest.mark.quick
THUNDERC = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderc")


def bare(text):
    """Without comments and empty lines."""
    lines = [re.sub(r"\s*//.*$", "", line).rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line)


def reprinted(text, tmp_path):
    path = tmp_path / "t.tir"
    path.write_text(text)
    done = subprocess.run([THUNDERC, str(path), "--dump-after=all"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("// captured\n"), done.stderr
    return bare(done.stdout.split("// after ")[0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(11, 6), nn.LayerNorm(6)

    def forward(self, i):
        h = F.dropout(self.norm(self.embedding(i)), 0.25)
        return F.linear(h, self.embedding.weight).softmax(-1)


PROGRAMS = {
    "add": (lambda: lambda a, b: a + b, lambda: (torch.ones(3), torch.ones(3)), False),
    "tied": (Tied, lambda: (torch.randint(0, 11, (2, 5)),), False),
    "symbolic": (lambda: lambda a: (a.t() @ a).relu().sum(0), lambda: (torch.randn(5, 4, requires_grad=True),), True),
    "equal": (lambda: lambda a, b: (a.reshape(-1, 2) + b.reshape(-1, 2)).sum(0), lambda: (torch.randn(4, 6, requires_grad=True), torch.randn(8, 3)), True),
    "views": (lambda: lambda a: (a[1:3, ::2], a.view(-1), a.mul_(2)), lambda: (torch.randn(4, 6),), False),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_stage_parses_back(name, tmp_path):
    make, arguments, dynamic = PROGRAMS[name]
    compiled = thunder.compile(make(), fullgraph=True, dynamic=dynamic)
    compiled(*arguments())
    traces = thunder.last_traces(compiled)
    assert len(traces) > 10 and traces[0].title.startswith("capture")
    for trace in traces:
        assert reprinted(trace, tmp_path) == bare(trace), trace.title
    if dynamic:
        assert "symbol s0" in traces[0]


@pytest.mark.parametrize("text, message", [
    ("graph @0 \"main\" {\n  %0 : f32[3] user\n  %1 = nosuch(%0) : f32[3]\n  return %1 fresh\n}", "no op called"),
    ("graph @0 \"main\" {\n  %0 : f33[3] user\n}", "no dtype"),
    ("graph @0 \"main\" {\n  %0 : f32[3] user\n  %1 = add(%0) : f32[3]\n}", "operands"),
    ("graph @0 \"main\" {\n  %0 : f32[3] user\n  return %7 fresh\n}", "value"),
    ("", "no graph"),
])
def test_errors_name_the_place(text, message, tmp_path):
    path = tmp_path / "t.tir"
    path.write_text(text)
    done = subprocess.run([THUNDERC, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and message in done.stderr and "line" in done.stderr


def test_reads_only_what_exists():
    done = subprocess.run([THUNDERC, "/nosuch.tir"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "/nosuch.tir" in done.stderr
