"""What the client's tests share: the package from the source tree, the build tree's files, an operator table.

THUNDER_BUILD_DIR names the build tree (default: build/)."""
import os
import re
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "client"))  # the built package (PYTHONPATH) comes first
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def rows_of_ops_def():
    """ops.def as ops.json has it, read with a regular expression: for trees where nothing is built yet."""
    entries = []
    text = open(os.path.join(ROOT, "ir", "ops.def"), encoding="utf-8").read()
    pattern = re.compile(r'^TH_OP\(\w+, "([^"]*)", (\w+), "([^"]*)", "([^"]*)", "([^"]*)", (-?\d+),', re.M)
    for name, level, overloads, operands, attrs, results in pattern.findall(text):
        entries.append({
            "name": name, "level": level, "overloads": overloads.split(), "results": int(results),
            "operands": [{"name": o.rstrip("?*"), "optional": o.endswith("?"), "variadic": o.endswith("*")} for o in operands.split()],
            "attrs": [_attr(a) for a in attrs.split()],
        })
    return entries


def _attr(text):
    name, kind = text.split(":")
    kind, _, default = kind.partition("=")
    return {"name": name, "kind": kind.rstrip("?"), "optional": kind.endswith("?"), "default": default or None}


def use_ops_def():
    """Loads the operator table from ops.def when no ops.json was built."""
    from thunder import optable, paths
    try:
        paths.data_file("ops.json", "ir")
    except FileNotFoundError:
        entries = rows_of_ops_def()
        by_name = {e["name"]: optable.Row(e) for e in entries}
        optable._rows = by_name, {o: r for r in by_name.values() for o in r.overloads}


use_ops_def()


@pytest.fixture(autouse=True)
def fresh_dynamo():
    """Each test starts with an empty TorchDynamo and the same seed."""
    import torch
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
