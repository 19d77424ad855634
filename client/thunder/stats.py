"""What happened to a compiled function: counted, timed, readable."""
import time


class EagerPiece:
    """A piece that runs in eager PyTorch: the operator that Thunder does not compile, and why.

    Attributes:
        operator: its name.
        reason: why it is not compiled.
        source: the user's line, "file:line: text"; None when unknown.
        calls: how often it ran; None for what TorchDynamo left to Python (a graph break), which nobody counts.
    """

    def __init__(self, operator, reason, source):
        self.operator, self.reason, self.source, self.calls = operator, reason, source, 0

    def __repr__(self):
        return f"{self.operator} at {self.source or 'unknown line'}: {self.reason} ({'not counted' if self.calls is None else f'{self.calls} calls'})"


class CompileStats:
    """Statistics of one compiled function; printed, a summary. Counted without locks.

    Attributes:
        regions (int): graphs that were captured and compiled.
        plans (list of str): plans that were loaded: "forward", "backward", "step".
        calls (int): calls of compiled regions.
        eager_pieces (list): what runs in eager PyTorch, as objects with ``operator``, ``reason``, ``source`` (the user's line or
            None) and ``calls``. Graph breaks of TorchDynamo are among them.
        overlaps (int): calls that ran in eager PyTorch because a written input shared memory with another one.
        compiles (dict): number of results by origin: "compiled" for this request, "joined" (another one's compile was waited for),
            "memory" and "disk" (the daemon's caches), "process" (this process had the plan).
        seconds (dict): seconds spent in "capture" (TorchDynamo, with its guards, and writing the job), "compile" (waiting for the daemon, its start
            included), "load" and "run": the first call of each plan, which on a GPU loads kernels and times products, and may return
            before the device is done.
        progress: None, or a function of (stage, done, total) that is called while the daemon compiles.
    """

    def __init__(self):
        self.regions, self.plans, self.calls = 0, [], 0
        self.eager_pieces, self.jobs, self.compiles = [], [], {}  # jobs: what last_traces asks
        self.seconds = {"capture": 0.0, "compile": 0.0, "load": 0.0, "run": 0.0}
        self.overlaps = 0        # calls that ran in eager because a written input overlapped another one
        self.called_at = None    # when the call began, then when the last part of its capture ended; None: its region runs
        self.profile = None      # the thunder.profile that looks at this function
        self.progress = None     # called with (stage, done, total) while the daemon compiles

    def run(self, plan, inputs, encoded, title, is_step=False):
        """A call of a plan; recorded while somebody profiles the function."""
        if self.profile is not None:
            return self.profile.run(plan, inputs, encoded, is_step, title)
        call = plan.run_step if is_step else plan.run
        if plan.ran:
            return call(inputs)
        started = time.perf_counter()
        try:
            return call(inputs)
        finally:
            self.seconds["run"] += time.perf_counter() - started

    def captured(self, started, on=False):
        """What went by since the call began, or since `started` where that is over, was capture. `on`: what comes is too."""
        now = time.perf_counter()
        self.seconds["capture"] += now - (self.called_at or started)
        self.called_at = now if on else None

    @property
    def cache_hits(self):
        """Results that were not compiled for this function (int)."""
        return sum(n for origin, n in self.compiles.items() if origin not in ("compiled", "unknown"))

    def add_compile(self, job, compile_seconds, load_seconds):
        self.jobs.append(job)
        self.compiles[job.origin] = self.compiles.get(job.origin, 0) + 1
        self.seconds["compile"] += compile_seconds
        self.seconds["load"] += load_seconds

    def __repr__(self):
        times = ", ".join(f"{name} {value:.3f} s" for name, value in self.seconds.items())
        origins = ", ".join(f"{n} {origin}" for origin, n in sorted(self.compiles.items())) or "none"
        lines = [f"{self.regions} regions, {len(self.plans)} plans ({', '.join(self.plans)}), {self.calls} calls",
                 f"compiles: {origins}; {self.cache_hits} cache hits; {times}"]
        if self.overlaps:
            lines.append(f"{self.overlaps} calls in eager PyTorch: a written input overlapped another input")
        lines += [f"in eager PyTorch: {piece}" for piece in self.eager_pieces]
        return "\n".join(lines)
