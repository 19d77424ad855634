"""thunder.profile: where the time of a compiled function goes, by region; the times are libthunder's (executors/run/profile.h)."""
import functools
import json
import os
import statistics
import threading
import time

import torch

from . import arguments, device
from .api import compile_stats


class Roofline:
    """What a device can do at most.

    Attributes:
        name: what the rates are, and where they come from.
        bandwidth: bytes per second, read and written together; None when it is not known.
        flops: by what they are of ("bf16", "tf32", "f32", "f64"), floating-point operations per second.
    """

    def __init__(self, name, bandwidth, flops):
        self.name, self.bandwidth, self.flops = name, bandwidth, flops

    def share(self, seconds, size, flops, unit):
        """The least time that this takes, by its bytes or by its flops, as a part of `seconds`. None: it moves and computes nothing, or
        its rate is not known."""
        peak = self.flops.get(unit)
        if not seconds or (flops and not peak) or (size and not self.bandwidth) or not (size or flops):
            return None
        return max(size / self.bandwidth if size else 0.0, flops / peak if flops else 0.0) / seconds


# Of one device of each compute capability: multiprocessors, and TFLOP/s without sparsity at the boost clock, from NVIDIA's data sheets of the
# A100 SXM, A40, L40S, H100 SXM (an H200 has the same) and HGX B200. Other devices have more or fewer multiprocessors, and other clocks.
_DEVICES = {
    (8, 0): (108, {"bf16": 312, "f16": 312, "tf32": 156, "f32": 19.5, "f64": 19.5}),
    (8, 6): (84, {"bf16": 149.7, "f16": 149.7, "tf32": 74.8, "f32": 37.4, "f64": 0.58}),
    (8, 9): (142, {"bf16": 362, "f16": 362, "tf32": 183, "f32": 91.6, "f64": 1.4}),
    (9, 0): (132, {"bf16": 989.4, "f16": 989.4, "tf32": 494.7, "f32": 66.9, "f64": 66.9}),
    (10, 0): (148, {"bf16": 2250, "f16": 2250, "tf32": 1125, "f32": 75, "f64": 37}),
}


def cuda_roofline(name, major, minor, sms, memory_khz, bus_bits):
    """Of a CUDA device by its attributes: the memory's clock and width, and _DEVICES by multiprocessor."""
    bandwidth = 2e3 * memory_khz * bus_bits / 8 or None
    known, rates = _DEVICES.get((major, minor), (1, {}))
    flops = {unit: rate * 1e12 * sms / known for unit, rate in rates.items()}
    said = ", ".join([f"{_si(bandwidth)}B/s of its memory's clock and width" if bandwidth else "memory's rate unknown",
                      f"{_si(flops['bf16'])}FLOP/s bf16 and {_si(flops['f32'])}FLOP/s f32 of its data sheet" if flops else f"no data sheet of sm_{major}{minor} here"])
    return Roofline(f"{name}: {said}", bandwidth, flops)


@functools.cache
def host_roofline(threads):
    """Of the CPU, measured with PyTorch on that many threads: a large copy, a product in f32 and one in f64."""
    a = torch.ones(1 << 24)
    b = torch.empty_like(a)
    bandwidth = 2 * a.numel() * a.element_size() / _shortest(lambda: b.copy_(a))
    rates = {}
    for dtype, units in ((torch.float32, ("f32", "bf16", "f16")), (torch.float64, ("f64",))):
        m = torch.ones(768, 768, dtype=dtype)
        rate = 2 * 768 ** 3 / _shortest(lambda: torch.mm(m, m))
        rates.update(dict.fromkeys(units, rate))
    said = f"{_si(bandwidth)}B/s of a copy, {_si(rates['f32'])}FLOP/s of a product in f32, both measured with PyTorch"
    return Roofline(f"{threads} threads of the CPU: {said}", bandwidth, rates)


def _shortest(call):
    """Seconds of the fastest call in a quarter of a second: others may use the processors too."""
    times, until = [], time.perf_counter() + 0.25
    while len(times) < 5 or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


class Region:
    """A row of a profile: an instruction of a plan (a kernel's launch, a library call, a collective, a copy), or several that are the same.

    Attributes:
        plan: the plan's name, such as "step" or "backward".
        index: number of the region in the plan, in the order of execution; of several the first.
        kind: "kernel", "library", "collective", "wait", "copy", "fill", "scalars"; on a GPU also "copies in" and "copies out", what goes to
            the plan's memory before its instructions and out of it after them.
        name: a kernel's symbol, a library function, a collective.
        operator: the operator of the captured program that it is named after, of a fused kernel one of several; None: none, as in
            the optimizer.
        source: the user's line, "file:line: text"; the module's path where no line is known; else None. Of several the first one's.
        calls: how many regions these are, in one call of the plan.
        time: seconds in one call of the plan: the median over the profiled calls; of several their sum.
        host_time: seconds that the host needs to issue it. On the CPU the same as time.
        times: the seconds of each profiled call.
        bytes, flops: moved, and computed by contractions, in one call of the plan; the formulas are in executors/run/profile.h.
        unit: what the flops are of, "bf16" or "tf32" and so on; "" where there are none.
        bandwidth, flop_rate: bytes and flops by time; None where there are none, and of a collective, whose time is that of starting it (what
            is left of it is its wait's).
        roofline: the least time the device could take for these bytes and flops, by time; None where that is not known, and of what does not
            go at the memory's rate: collectives, and copies from the host.
    """

    def __init__(self, plan, index, described, rows, roofline):
        self.plan, self.index, self.calls = plan, index, 1
        self.kind, self.name, self.operator, self.source = described
        self.times = [(end - begin if device_begin < 0 else device_end - device_begin) * 1e-9 for begin, end, device_begin, device_end, *_ in rows]
        self.host_time = statistics.median(row[1] - row[0] for row in rows) * 1e-9
        self.time = statistics.median(self.times)
        self.bytes, self.flops = (int(statistics.median(row[i] for row in rows)) for i in (4, 5))
        self.unit = rows[0][6]
        self._roofline, self._sources = roofline, {self.source}

    def key(self):
        return self.plan, self.kind, self.name, self.bytes, self.flops, self.unit

    def add(self, other):
        self.calls += 1
        self.time += other.time
        self.host_time += other.host_time
        self.times = [a + b for a, b in zip(self.times, other.times)]
        self.bytes += other.bytes
        self.flops += other.flops
        self._sources.add(other.source)

    @property
    def bandwidth(self):
        return self.bytes / self.time if self.bytes and self.time and self.kind != "collective" else None

    @property
    def flop_rate(self):
        return self.flops / self.time if self.flops and self.time else None

    @property
    def roofline(self):
        if self.kind in ("collective", "copies in"):
            return None
        return self._roofline().share(self.time, self.bytes, self.flops, self.unit)

    def __repr__(self):
        return f"<{self.name} of {self.plan}: {_si(self.time)}s in {self.calls} calls, at {self.source or 'no line'}>"


class _Plan:
    """What was recorded of one plan."""

    def __init__(self, plan, encoded, title, where):
        self.plan, self.title, self.where, self.described, self.calls = plan, title, where, plan.describe(encoded), []


_SORTS = {"time": lambda r: -r.time, "order": lambda r: (), "calls": lambda r: -r.calls, "bytes": lambda r: -r.bytes, "flops": lambda r: -r.flops}


class profile:
    """Measures what a compiled function spends its time on, as torch.profiler.profile does, by region: an instruction of its plan::

        with thunder.profile(step, steps=5) as p:
            for x, y in batches:
                step(x, y)
        print(p.table())
        p.export_chrome_trace("trace.json")

    Args:
        fn: what thunder.compile or thunder.train_step returned. Of torch.compile(..., backend="thunder"): all such functions.
        steps: calls of each plan that are recorded at most; later ones run as usual. None: all.

    What the function returns is the same, to the bit. A plan's first call of all is not recorded, as products are timed and kernels loaded in
    it. On a GPU a recorded call goes launch by launch, not as a CUDA graph, and waits for its end. Within the context ranges of NVTX
    are pushed around regions and calls, named after them and the user's line, where a tool listens (THUNDER_NVTX does so without a profile).

    Attributes:
        regions: a Region for each region of each plan that was recorded, in the order of execution.
        steps (int): calls of the plan that was called most.

    Raises TypeError or ValueError for an argument that is none of these, RuntimeError when the function is being profiled already, and from
    what reads the results when nothing was recorded.
    """

    def __init__(self, fn, steps=None):
        arguments.check_profile(steps)
        self._stats, self._limit = compile_stats(fn), steps
        self._plans, self._lock = {}, threading.Lock()  # backward halves run in autograd's thread

    def __enter__(self):
        if self._stats.profile is not None:
            raise RuntimeError("this function is being profiled already; leave that `with thunder.profile(...)` first")
        self._stats.profile = self
        return self

    def __exit__(self, *_):
        self._stats.profile = None

    def run(self, plan, inputs, encoded, is_step, title):
        """A call of a plan, recorded: what the client calls in place of plan.run."""
        with self._lock:
            recorded = self._plans.get(id(plan))
            if recorded is None:
                alike = sum(p.title.split("#")[0] == title for p in self._plans.values())
                recorded = self._plans[id(plan)] = _Plan(plan, encoded, f"{title}#{alike + 1}" if alike else title, device.of(inputs))
                plan.label(encoded)
        if self._limit is not None and len(recorded.calls) >= self._limit:
            return plan.run_step(inputs) if is_step else plan.run(inputs)
        first = not plan.ran
        made, times = plan.run_profiled(inputs, is_step)
        if not first:
            recorded.calls.append(times)
        return made

    # ---- results ----

    def _recorded(self):
        found = [p for p in self._plans.values() if p.calls]
        if not found:
            why = "its only call was the first one, which is not recorded; call it again" if self._plans else "call the function within the `with`"
            raise RuntimeError(f"nothing was recorded: {why}")
        return found

    @property
    def steps(self):
        return max(len(p.calls) for p in self._recorded())

    @property
    def regions(self):
        made = []
        for recorded in self._recorded():
            roofline = functools.partial(_roofline, recorded.where)
            for i, described in enumerate(recorded.described):
                made.append(Region(recorded.title, i, described, [rows[i] for _, _, rows in recorded.calls], roofline))
        return made

    def key_averages(self):
        """A list of Region: those that are the same kernel, or the same library call with the same bytes and flops, as one."""
        groups = {}
        for region in self.regions:
            if region.key() in groups:
                groups[region.key()].add(region)
            else:
                groups[region.key()] = region
        return list(groups.values())

    def table(self, sort_by="time", row_limit=None, grouped=True):
        """The profile as text, a row for each Region.

        Args:
            sort_by: "time", "bytes", "flops" or "calls", largest first; "order": of execution.
            row_limit: rows at most; None: all.
            grouped: what key_averages gives; False: `regions`.
        """
        if sort_by not in _SORTS:
            raise ValueError(f"sort_by={sort_by!r}: want one of {', '.join(_SORTS)}")
        rows, recorded = self.key_averages() if grouped else self.regions, self._recorded()
        total, several = sum(r.time for r in rows), len(recorded) > 1
        head = [*(["plan"] if several else []), "region", "operator", "calls", "time", "%", "bytes", "B/s", "flops", "FLOP/s", "roofline", "source"]
        lines = [head]
        for r in sorted(rows, key=_SORTS[sort_by])[:row_limit]:
            more = f" (+{len(r._sources) - 1})" if len(r._sources) > 1 else ""
            lines.append([*([r.plan] if several else []), r.name, (r.operator or "-").removeprefix("aten.").removesuffix(".default"), str(r.calls), _si(r.time) + "s",
                          f"{100 * r.time / total:.1f}" if total else "-", _si(r.bytes) + "B" if r.bytes else "-", _si(r.bandwidth) if r.bandwidth else "-",
                          _si(r.flops) if r.flops else "-", f"{_si(r.flop_rate)} {r.unit}" if r.flop_rate else "-",
                          "-" if r.roofline is None else f"{100 * r.roofline:.0f} %", _short(r.source) + more])
        texts = {0, 1, 2} if several else {0, 1}
        texts.add(len(head) - 1)
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(cell.ljust(width) if i in texts else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in lines]
        text.insert(1, "-" * max(map(len, text)))
        if len(lines) <= len(rows):
            text.append(f"... {len(rows) - len(lines) + 1} more")
        for p in recorded:
            wall = statistics.median(end - begin for begin, end, _ in p.calls) * 1e-9
            mine = sum(r.time for r in rows if r.plan == p.title)
            text.append(f"{p.title}: {len(p.calls)} calls of {_si(wall)}s (median, as profiled), {len(p.described)} regions of {_si(mine)}s")
        text += [f"roofline: {_roofline(where).name}" for where in dict.fromkeys(p.where for p in recorded)]
        return "\n".join(text)

    def export_chrome_trace(self, path):
        """Writes the recorded calls as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: what the host did on one track, what
        the device did on another. Each event has the user's line, bytes and flops among its arguments."""
        recorded, pid = self._recorded(), os.getpid()
        zero = min(begin for p in recorded for begin, _, _ in p.calls)
        rank = os.environ.get("RANK") or "0"
        events = [{"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": f"thunder, rank {rank}"}}]
        events += [{"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}} for tid, name in ((0, "host"), (1, "device"))]

        def event(name, category, tid, begin, end, **more):
            events.append({"ph": "X", "name": name, "cat": category, "pid": pid, "tid": tid, "ts": (begin - zero) / 1e3, "dur": (end - begin) / 1e3, "args": more})
        for p in recorded:
            for number, (begin, end, rows) in enumerate(p.calls):
                event(p.title, "call", 0, begin, end, call=number)
                for (kind, name, operator, source), (host_begin, host_end, device_begin, device_end, size, flops, _) in zip(p.described, rows):
                    more = {"plan": p.title, "call": number, "operator": operator, "source": source, "bytes": size, "flops": flops}
                    event(name, kind, 0, host_begin, host_end, **more)
                    if device_begin >= 0:
                        event(name, kind, 1, device_begin, device_end, **more)
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, f)


def _roofline(where):
    if where.type == "cuda":
        return _cuda(torch.cuda.current_device() if where.index is None else where.index)
    return host_roofline(torch.get_num_threads())


@functools.cache
def _cuda(number):
    from . import _C
    return cuda_roofline(torch.cuda.get_device_name(number), **_C.device_attributes(number))


def _short(source):
    """The line for a column of a table: the file without its folders."""
    if source is None:
        return "-"
    file, colon, rest = source.partition(":")
    text = os.path.basename(file) + colon + rest
    return text if len(text) <= 60 else text[:57] + "..."


def _si(value):
    """Three digits and the prefix of the unit: 1.23 M"""
    if not value:
        return "0 "
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n")):
        if abs(value) >= factor * 0.9995:
            break
    scaled = value / factor
    return f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f} {prefix}"
