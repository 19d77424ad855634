"""The IR reference: one row an op, from ir/ops.def."""
import re

LEVELS = (("TORCH", "Level 1: torch", "ATen composites, as captured."), ("PRIM", "Level 2: prims", "What every composite lowers to."),
          ("REGION", "Level 3: regions", "What an executor has claimed."), ("PLAN", "Level 4: plan", "Instructions on buffers."))
ROW = re.compile(r'^TH_OP\((\w+), "([^"]*)", (\w+), "([^"]*)", "([^"]*)", "([^"]*)", (-?\d+), ([^,]*), (\w+), (\w+), "(.*)"\)')


def rows(path):
    """The table's rows as tuples (id, name, level, overloads, operands, attrs, results, traits, lower, vjp, doc)."""
    found = []
    with open(path) as f:
        for line in f:
            if line.startswith("TH_OP("):
                match = ROW.match(line)
                if not match:
                    raise ValueError(f"{path}: cannot read the row: {line.strip()}")
                found.append(match.groups())
    return found


def write(table, out):
    lines = ["IR reference", "============", "", "Generated from ``ir/ops.def``. ``?``: may be absent; ``*``: any number.", ""]
    for level, title, text in LEVELS:
        lines += [title, "-" * len(title), "", text, ""]
        for _, name, row_level, overloads, operands, attrs, _, _, _, _, doc in rows(table):
            if row_level == level:
                lines += [f"``{name}({', '.join(operands.split())})``" + (f"  ``{attrs}``" if attrs else ""), "   " + doc.replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|").replace("_", "\\_").replace("`", "\\`")]
                if overloads:
                    lines.append("   ATen: " + ", ".join(f"``{o}``" for o in overloads.split()))
                lines.append("")
    with open(out, "w") as f:
        f.write("\n".join(lines))
