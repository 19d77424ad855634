"""What a training step needs in memory: known when it is compiled, before it runs."""
import torch

from . import wire

KINDS = ("parameters", "buffers", "optimizer state", "gradient accumulators", "batch", "results", "constants", "made by the step", "workspaces",
         "gaps")  # numbers of plan.proto, memory_kind
_STATE, _RESULTS, _MADE = (2, 3), (5, 6), 7


def text_of(count):
    """Bytes as people read them: "12.52 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


class MemoryRow:
    """A line of a MemoryPlan.

    Attributes:
        kind: "parameters", "buffers", "optimizer state", "gradient accumulators", "batch", "results", "constants"; of the step's own memory, at the
            moment when most of it is in use: "made by the step" (activations, gradients), "workspaces" (of kernels while they run), "gaps".
        bytes (int): how many.
        count (int): of how many values.
        source: the user's line that they come from, "file:line: text", or the module's path; None where there is none.
    """

    def __init__(self, kind, bytes, count, source):
        self.kind, self.bytes, self.count, self.source = kind, bytes, count, source

    def __repr__(self):
        return f"MemoryRow({self.kind}, {text_of(self.bytes)}, {self.count} values{f', {self.source}' if self.source else ''})"


class MemoryPlan:
    """What a training step needs in device memory, by TrainStep.memory: printed, a table.

    Attributes:
        peak (int): bytes, of parameters, optimizer state, batch and the step's own memory together: what
            ``torch.cuda.max_memory_allocated()`` says after the first steps of a program that holds nothing else. The CUDA context and the code of
            kernels come on top, outside of PyTorch's allocator.
        own (int): bytes of it that the step allocates for itself and holds from call to call.
        state (int): bytes of it that are the optimizer's state and accumulators, which the first call makes.
        results (int): bytes of it that a call returns.
        limit: bytes that it may need, or None: memory_budget, else what the device has.
        rows (list of MemoryRow): the largest first within a kind.
    """

    def __init__(self, peak, rows, encoded, limit=None):
        merged = {}
        for kind, op, count, size in rows:
            source = (encoded.source(op) or encoded.scope(op)) if 0 <= op < len(encoded.operators) else None
            row = merged.setdefault((kind, source), MemoryRow(KINDS[kind], 0, 0, source))
            row.bytes, row.count = row.bytes + size, row.count + count
        self.peak, self.limit = peak, limit
        self.own = sum(size for kind, _, _, size in rows if kind >= _MADE)
        self.state = sum(size for kind, _, _, size in rows if kind in _STATE)
        self.results = sum(size for kind, _, _, size in rows if kind in _RESULTS)
        self.rows = [row for _, row in sorted(merged.items(), key=lambda item: (item[0][0], -item[1].bytes))]

    def table(self, row_limit=20):
        """The rows as text; of "made by the step" and "workspaces" the ``row_limit`` largest lines."""
        lines, kinds = [], {}
        for row in self.rows:
            kinds.setdefault(row.kind, []).append(row)
        left = row_limit
        for kind, rows in kinds.items():
            total, count = sum(row.bytes for row in rows), sum(row.count for row in rows)
            counted = f"{count:6d} values" if kind != "gaps" else ""
            lines.append(f"{kind:24s}{text_of(total):>12s}  {counted}".rstrip())
            sourced = [row for row in rows if row.source]
            lines += [f"    {text_of(row.bytes):>12s}  {row.count:6d} at {row.source}" for row in sourced[:left]]
            if len(sourced) > left:
                rest = sourced[left:]
                lines.append(f"    {text_of(sum(row.bytes for row in rest)):>12s}  {sum(row.count for row in rest):6d} at {len(rest)} other lines")
            left = max(0, left - len(sourced))
        return "\n".join([*lines, f"{'peak':24s}{text_of(self.peak):>12s}"])

    def __str__(self):
        return self.table()

    def refusal(self, limit, what, accumulate, advice):
        """The text of an error: why the step was not run, what takes the memory, and what would help besides ``advice``."""
        made = sum(row.bytes for row in self.rows if row.kind == KINDS[_MADE])
        lines = [f"the step needs {text_of(self.peak)}, and {what} {text_of(limit)}: it was not run. What takes the memory:"]
        lines += [f"  {line}" for line in self.table(8).splitlines()]
        lines += ["What would help (values that wait long are computed again already, as far as that goes):"]
        lines += [f"  smaller batches: with half of the batch it needs about {text_of(self.peak - made // 2)}; accumulate={2 * accumulate} keeps updates as they are"]
        return "\n".join([*lines, *(f"  {line}" for line in advice)])


def plan_of(program, encoded, limit=None):
    """The MemoryPlan of a serialized Executable with the plan of a step."""
    plan = wire.Executable.FromString(program).plans[0]
    rows = [(kind, op if op != wire.NONE else -1, count, size)
            for kind, op, count, size in zip(plan.memory_kind, plan.memory_op, plan.memory_count, plan.memory_bytes)]
    return MemoryPlan(plan.predicted_peak, rows, encoded, limit)


def loaded(plan, encoded, limit=None):
    """The same of a loaded plan (runtime.Plan)."""
    return MemoryPlan(plan.native.predicted_peak, plan.native.memory, encoded, limit)


def available(where):
    """Bytes that PyTorch can still allocate on the device: free there, or in its cache."""
    free, _ = torch.cuda.mem_get_info(where)
    return free + torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
