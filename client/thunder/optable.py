"""The operator table: rows of ops.def as the build wrote them to ops.json, by name and by ATen overload."""
import json

from . import paths


class Row:
    """One operator: operands, attributes and results by name."""

    def __init__(self, entry):
        self.name = entry["name"]
        self.level = entry["level"]
        self.overloads = entry["overloads"]
        self.operands = entry["operands"]
        self.attrs = entry["attrs"]
        self.results = entry["results"]  # how many; -1: depends on attributes
        self.argument_names = {o["name"] for o in self.operands} | {a["name"] for a in self.attrs}


_rows = None


def _table():
    global _rows
    if _rows is None:
        with open(paths.data_file("ops.json", "ir")) as f:
            entries = json.load(f)
        if isinstance(entries, dict):
            entries = entries["ops"]
        by_name = {entry["name"]: Row(entry) for entry in entries}
        by_overload = {overload: row for row in by_name.values() for overload in row.overloads}
        _rows = by_name, by_overload
    return _rows


def by_name(name):
    """The row called `name` ("torch.linear")."""
    return _table()[0][name]


def by_overload(overload):
    """The row that the ATen overload ("linear.default") is captured as, or None."""
    return _table()[1].get(overload)
