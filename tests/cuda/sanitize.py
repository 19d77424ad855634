"""compute-sanitizer over the generated kernels, on a GPU: a table of programs and tools. Exit status 0: all clean, 1: not, 77: nothing could be checked.

    python tests/cuda/sanitize.py                                      # all programs, all tools
    python tests/cuda/sanitize.py --tools racecheck --programs norms softmax --verbose
    python tests/cuda/sanitize.py --device cpu                         # the programs alone, their kernels on the host (simt): is the script whole?

The programs are those of gpu_programs.py, whose kernels test_kernels.py counts, and a few of here; each call goes launch by launch first, steps
are also captured and replayed as a graph. A process runs several programs under one tool; where it has something to report, each of
its programs runs again in a process of its own, so that the table names the right one.

What is checked, and why so:
- Reports about th_kernel_… count, others do not: the libraries' kernels are not ours. memcheck, racecheck and synccheck instrument ours alone
  (--kernel-name). initcheck has to see all kernels, as what a library's kernel wrote would count as never written. Whether it sees their
  writes (TMA) is asked by programs of their own: those with library calls are "unseen" for initcheck where it does not.
- Each tensor is an allocation of its own, with room behind it (PYTORCH_NO_CUDA_MEMORY_CACHING, --padding): in PyTorch's pool a read behind an
  end meets a neighbour, and memory used before counts as written. A plan's arena stays one allocation, so buffers within it are seen as one:
  the programs of single operators are there because all that their kernels read and write is an allocation of its own.
- The tool is asked for faults that are there: each process ends with two planted kernels (planted.py), launched and replayed, and generated kernels
  get a tensor that claims more than it has (memcheck) or that nobody wrote (initcheck). Not reported: the row is not "clean" but "blind".
- Errors of API calls are not reported: PyTorch asks the driver things that it may refuse. Reports of initcheck about copies count where
  libthunder made the copy (its file is in the host's stack)."""
import argparse
import concurrent.futures
import glob
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
OURS = "th_kernel_"
# Programs that run one after the other in a process.
GROUPS = (["pointwise", "indices", "moved"], ["sums_f32", "sums_bf16", "sums_f64", "sums_i64"], ["softmax", "norms"], ["step", "f16_step", "channels_last"],
          ["symbolic", "mlp", "pools", "convolutions"], ["gpt", "gpt_bf16"], ["llama", "llama_bf16"], ["gpt_f16"], ["chunked"])
LIBRARIES = {"symbolic", "mlp", "gpt", "gpt_bf16", "gpt_f16", "llama", "llama_bf16", "pools", "convolutions", "chunked"}  # programs with library calls
CONTROLS = ("faulty", "products", "attention")  # "faulty" has to be reported, the other two must not be
SUBSET = ["pointwise", "softmax", "step"]  # for test_gpu.py


# ---- a process under a tool ----

def more_programs(device):
    """name -> generator of gpu_programs.Call"""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    import gpu_programs as g

    def moved():
        """Reads that are not where the write is: rotary, shifts, transposes and repeats, alone in their kernels."""
        def rotary(x, cos, sin):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin
        yield g.compiled(rotary, g.rand(2, 4, 33, 64), g.rand(33, 64, grad=False), g.rand(33, 64, grad=False))
        yield g.compiled(rotary, g.rand(2, 4, 32, 64, dtype=torch.bfloat16), g.rand(32, 64, grad=False), g.rand(32, 64, grad=False))
        yield g.compiled(lambda x: x.transpose(1, 2).contiguous() + 1, g.rand(3, 65, 130))
        yield g.compiled(lambda x: (x.roll(3, 1), F.pad(x, (1, 2)), x.repeat(2, 3)), g.rand(17, 31))
        yield g.compiled(lambda x: x[:, 1::2] + x[:, ::2].flip(0), g.rand(8, 30))

    def step():
        """A whole step without a library's call: embedding and its gradient, norm, dropout, loss, clipping, AdamW and SGD over all parameters."""
        for optimizer in (torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)):
            model = nn.Sequential(nn.Embedding(96, 96), nn.LayerNorm(96), nn.GELU(), nn.Dropout(0.2), nn.RMSNorm(96))
            x = torch.randint(0, 96, (4, 33))
            yield g.step(model, optimizer, g.token_loss, x, x, clip_grad_norm=0.01)

    def f16_step():
        """The same in f16 with loss scaling: the first steps are skipped, as the scale is too large, then the optimizer moves."""
        model = nn.Sequential(nn.Embedding(96, 96), nn.LayerNorm(96), nn.GELU(), nn.RMSNorm(96))
        x = torch.randint(0, 96, (4, 33))
        scaler = torch.amp.GradScaler(device, init_scale=2.0 ** 40, backoff_factor=2.0 ** -20)

        def loss(y, t):
            return g.token_loss(y.half(), t)
        yield g.step(model, torch.optim.AdamW, loss, x, x, clip_grad_norm=1.0, precision="f16-mixed", loss_scale=scaler)

    def channels_last():
        for dtype in (torch.float32, torch.bfloat16):
            for last in (False, True):
                x = torch.randn(4, 16, 14, 14).to(dtype)
                x = x.contiguous(memory_format=torch.channels_last) if last else x
                yield g.compiled(lambda x, m, v, w, b: F.max_pool2d(F.relu(F.batch_norm(x, m, v, w, b, training=True)), 3, 2, 1), x.requires_grad_(),
                                 torch.zeros(16), torch.ones(16), g.rand(16), g.rand(16))

    def convolutions():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.norm, self.pool = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.MaxPool2d(3, 2, 1)
                self.inner, self.norm2, self.top = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Linear(16, 10)

            def forward(self, x):
                h = self.pool(F.relu(self.norm(self.stem(x))))
                return self.top(F.relu(self.norm2(self.inner(h)) + h).mean((2, 3)))
        for precision in (None, "bf16-mixed"):
            model, x = Net().to(memory_format=torch.channels_last), torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
            yield g.step(model, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), F.cross_entropy, x, torch.randint(0, 10, (8,)), precision=precision)

    def chunked():
        """Logits beyond 512 MiB, which are made a chunk of rows at a time: the size of the pass's own threshold, so it needs a GPU's memory."""
        rows, words = (64, 1000) if device == "cpu" else (8192, 50304)
        x = torch.randint(0, words, (rows // 64, 64))
        yield g.step(nn.Sequential(nn.Embedding(words, 32), nn.Linear(32, words, bias=False)), torch.optim.AdamW, g.token_loss, x, x, precision="bf16-mixed")

    def faulty():
        """A generated kernel and a tensor that is not what it says: 64 elements claim to be 4096, or were never written."""
        import thunder
        tool, fn = os.environ["SANITIZE_TOOL"], thunder.compile(lambda x: x * 2 + 1, fullgraph=True)
        if tool == "memcheck":
            class Claims:
                memory = torch.zeros(64)
                __cuda_array_interface__ = {"shape": (4096,), "typestr": "<f4", "data": (memory.data_ptr(), False), "version": 3}
            yield g.Call(fn, [torch.as_tensor(Claims(), device=device) if device != "cpu" else torch.zeros(4096)])
        else:
            yield g.Call(fn, [torch.empty(4096)])

    def products():
        """What a library wrote, read by a generated kernel: nothing is wrong here."""
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            a = torch.randn(512, 512).to(dtype)
            yield g.compiled(lambda x: x * 2 + 1, (a @ a).detach())
            yield g.compiled(lambda x, w: F.gelu(x @ w), g.rand(256, 768, dtype=dtype), g.rand(768, 768, dtype=dtype))

    def attention():
        q = [g.rand(2, 4, 128, 64, dtype=torch.bfloat16) for _ in range(3)]
        yield g.compiled(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True) + 1, *q)

    return {f.__name__: f for f in (moved, step, f16_step, channels_last, convolutions, chunked, faulty, products, attention)}


def child(options):
    """Runs the programs, says what was run of each, and plants the tool's faults at the end."""
    import torch
    import thunder
    import gpu_programs
    device = options.device
    known = {**gpu_programs.PROGRAMS, **more_programs(device)}

    def settle():
        if device == "cuda":
            torch.cuda.synchronize()

    for name in options.programs:
        torch._dynamo.reset()
        torch.manual_seed(0)
        calls = known[name]()
        launches, kernels = 0, set()
        while True:
            with torch.device(device):
                call = next(calls, None)
            if call is None:
                break
            is_step = isinstance(call.fn, thunder.TrainStep)
            for _ in range(2):  # both halves of an accumulation
                run(call)
            with thunder.profile(call.fn) as p:
                for _ in range(2):
                    run(call)
            for _ in range(6 if is_step else 0):  # seen, captured, replayed
                run(call)
            settle()
            regions = [r for r in p.regions if r.kind == "kernel"]
            launches += len(regions)
            kernels |= {(id(call), r.name) for r in regions}
            libraries = any(r.kind == "library" for r in p.regions)
            if libraries and name not in LIBRARIES and name not in CONTROLS:
                raise AssertionError(f"{name} calls a library; it belongs to LIBRARIES")
            if is_step:
                call.fn.release()
        print(f"RAN {name} {launches} {len(kernels)}", flush=True)
    settle()
    if options.tool:
        import planted
        from thunder import device as where
        planted.plant(options.tool, [f for f in (os.environ.get("THUNDER_CUDA_LIBS") or where.library_folders()).split(":") if f])


def run(call):
    """A call, and the gradients of what it returns where they are asked for."""
    import torch
    out = call()
    out = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if t.requires_grad]
    if out:
        torch.autograd.backward(out, [torch.ones_like(t) for t in out])


# ---- what a tool says ----

class Report:
    """The output of a process: `ran` program -> (launches, kernels); `faults` of ours, `planted` names, `trouble` of the tool or of a program."""

    def __init__(self, text, returncode, programs):
        self.text, self.faults, self.planted, self.other = text, [], set(), 0
        self.ran = {m[1]: (int(m[2]), int(m[3])) for m in re.finditer(r"^RAN (\S+) (\d+) (\d+)$", text, re.M)}
        self.unsupported = re.search(r"^=+ .*(Device not supported.*)$", text, re.M)
        self.trouble = None
        for record in records(text):
            body = "\n".join(record)
            names = set(re.findall(rf"\b({OURS}\w+)", body))
            if any("planted" in n for n in names):
                self.planted |= names
            elif names or (re.search(r"[Hh]ost API", record[0]) and re.search(r"_C\.abi3|libthunder", body)):
                self.faults.append(record)
            elif re.search(r"[Ii]nternal|Error: (?!Race)", record[0]) and not re.search(r"\bat \S", body):
                self.trouble = self.trouble or record[0]
            else:
                self.other += 1
        if "print limit" in text:
            self.trouble = "the tool's limit of printed reports is reached; raise --print-limit in sanitize.py"
        missing = [p for p in programs if p not in self.ran]
        if missing and not self.trouble:
            lines = [line for line in text.splitlines() if line.strip() and not line.startswith("=====")]
            self.trouble = f"{missing[0]} did not end (exit status {returncode}): {lines[-1].strip()[:200] if lines else 'no output'}"


def records(text):
    """The records of a tool's output: a line "========= What", then lines that are further in."""
    found = []
    for line in re.findall(r"^=+ ?(.*)$", text, re.M):
        if not line.strip():
            continue
        if line.startswith(" "):
            if found:
                found[-1].append(line.strip())
        elif not re.match(r"COMPUTE-SANITIZER|ERROR SUMMARY|RACECHECK SUMMARY|LEAK SUMMARY|Target application returned an error|(Warning|Error): .*print limit", line):
            found.append([line.strip()])
    return found


def sanitizer(given):
    """compute-sanitizer: as given, in PATH, of the toolkit, or of NVIDIA's wheel."""
    wheels = [os.path.join(p, "nvidia", "*", "bin", "compute-sanitizer") for p in sys.path if p.endswith("-packages")]
    for path in (given, shutil.which("compute-sanitizer"), "/usr/local/cuda/bin/compute-sanitizer", *(f for w in wheels for f in glob.glob(w))):
        if path and os.path.exists(path):
            return path
    return None


PORTS = itertools.count(49200, 40)


def launch(options, tool, programs):
    """The programs in a process under the tool (None: under none)."""
    command, env = [], {**os.environ, "PYTHONUNBUFFERED": "1", "SANITIZE_TOOL": tool or "none"}
    if options.device == "cpu":
        env["THUNDER_TARGET"] = "cuda:simt"
    if tool:
        env["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        # Only this process: daemons and compilers that it may start are no matter of the tool's.
        command = [options.found, "--tool", tool, "--target-processes", "application-only", "--launch-timeout", "0", "--print-limit", "2000", "--port", str(next(PORTS)),
                   "--num-callers-host", "12"]
        command += {"memcheck": ["--padding", "256", "--report-api-errors", "no", "--destroy-on-device-error", "kernel"]}.get(tool, [])
        command += [] if tool == "initcheck" else ["--kernel-name", f"kernel_substring={OURS}"]
    command += [sys.executable, os.path.abspath(__file__), "--child", "--device", options.device, "--programs", *programs] + (["--tool", tool] if tool else [])
    seconds = min(options.timeout, options.until - time.monotonic())
    if seconds < 10:
        return Report("", f"not started: {options.limit:.0f} s are over, see --limit", programs)
    process = subprocess.Popen(command, env=env, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        text, status = process.communicate(timeout=seconds)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool and its program
        text, status = process.communicate()[0], f"none within {seconds:.0f} s"
    if options.verbose:
        print(f"--- {tool or 'no tool'}: {' '.join(programs)} (exit status {status})\n{text}", flush=True)
    return Report(text, status, programs)


def in_parallel(options, jobs):
    """The reports of (tool, programs) jobs, in their order."""
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        return list(pool.map(lambda job: launch(options, *job), jobs))


def verdict(report, program):
    """What the table says of a program that ran in a process of its own, or among others of which none has a fault."""
    if report.faults:
        return "FAULTS", report.faults
    if report.trouble or program not in report.ran:
        return "FAILED", [[report.trouble or f"{program} did not end"]]
    if not report.ran[program][0]:
        return "NOTHING RAN", [["no generated kernel was launched"]]
    if "th_kernel_planted_launched" not in report.planted:
        return "BLIND", [["the tool did not report the planted fault of a launched kernel: nothing was checked"]]
    return "clean", []


def controls(tool):
    """What a tool is asked beside the programs: to find planted faults ([]) and those of CONTROLS that say something of it."""
    return [[]] + [[c] for c in CONTROLS if tool == "initcheck" or (tool == "memcheck" and c == "faulty")]


def blindness(tool, reports):
    """(why its reports mean nothing or None, does it miss what libraries write) of a tool, by the reports of its controls."""
    first, faulty = reports[tool, ()], reports.get((tool, ("faulty",)))
    if "th_kernel_planted_launched" not in first.planted:
        return f"the planted fault is not reported{': ' + first.trouble if first.trouble else ''}\n{first.text[-3000:]}", False
    if faulty and not faulty.faults:
        return f"a generated kernel's fault is not reported{': ' + faulty.trouble if faulty.trouble else ''}\n{faulty.text[-3000:]}", False
    return None, any(reports[tool, (c,)].faults or reports[tool, (c,)].trouble for c in CONTROLS[1:] if (tool, (c,)) in reports)


def check(options, groups):
    """(table, notes): of each tool, program -> (verdict, records), or why it is blind; what is to be known of it."""
    jobs = [(tool, g) for tool in options.tools for g in controls(tool) + groups]
    reports = {(tool, tuple(g)): report for (tool, g), report in zip(jobs, in_parallel(options, jobs))}
    table, notes, alone = {}, [], []
    for tool in options.tools:
        blind, misses = blindness(tool, reports)
        if blind:
            table[tool] = blind
            notes.append(f"{tool}: BLIND: {blind}")
            continue
        seen = [r.planted for (t, g), r in reports.items() if t == tool and g != ("faulty",)]
        notes.append(f"{tool}: planted faults found{', those of a generated kernel with faulty data too' if (tool, ('faulty',)) in reports else ''}; kernels in graphs: "
                     f"{'seen' if all('th_kernel_planted_graph' in names for names in seen if names) else 'NOT seen, launched ones are'}"
                     + ("; what libraries write is not seen, or not whole: programs that call them are left out" if misses else ""))
        found = table[tool] = {}
        for group in groups:
            report = reports[tool, tuple(group)]
            for p in group:
                if misses and p in LIBRARIES:
                    found[p] = "unseen", []
                elif len(group) == 1 or not (report.faults or report.trouble):
                    found[p] = verdict(report, p)
                else:
                    alone.append((tool, [p]))
    for (tool, (p,)), report in zip(alone, in_parallel(options, alone)):
        table[tool][p] = verdict(report, p)
    return table, notes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--programs", nargs="*", metavar="NAME", help="all: " + " ".join(p for g in GROUPS for p in g))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sanitizer", help="path of compute-sanitizer")
    parser.add_argument("--jobs", type=int, default=max(1, min(8, (os.cpu_count() or 2) // 2)), help="processes at a time")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for a process at most")
    parser.add_argument("--limit", type=float, default=560, help="seconds for everything; what is not done then is not clean")
    parser.add_argument("--verbose", action="store_true", help="print all that the tools say")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    options.until = time.monotonic() + options.limit
    groups = [[p for p in g if not options.programs or p in options.programs] for g in GROUPS]
    groups = [g for g in groups if g]
    names = [p for g in groups for p in g]
    if options.programs and set(options.programs) - set(names):
        sys.exit(f"no program {', '.join(sorted(set(options.programs) - set(names)))}; there are {' '.join(p for g in GROUPS for p in g)}")

    started = time.monotonic()
    plain = {p: report for g, report in zip(groups, in_parallel(options, [(None, g) for g in groups])) for p in g}  # the daemon has all plans after it
    ran = {p: n for report in plain.values() for p, n in report.ran.items()}
    broken = [p for p in names if not ran.get(p, (0, 0))[0]]
    print(f"programs without a tool: {len(names) - len(broken)} of {len(names)} ran, {sum(n for n, _ in ran.values())} launches of {sum(n for _, n in ran.values())} kernels "
          f"in a call of each ({time.monotonic() - started:.0f} s)", flush=True)
    for p in broken:
        print(f"  {p}: {plain[p].trouble or 'no generated kernel'}\n{plain[p].text[-2000:]}")
    if options.device == "cpu":
        return 1 if broken else 0
    options.found = sanitizer(options.sanitizer)
    if not options.found:
        print("no compute-sanitizer: not in PATH, not in /usr/local/cuda/bin, no wheel nvidia-cuda-sanitizer-api; say --sanitizer PATH")
        return 77
    first = launch(options, options.tools[0], [])
    if first.unsupported:
        print(f"{options.found}: {first.unsupported[1]}")
        return 77
    started = time.monotonic()
    table, notes = check(options, groups)
    blind = [t for t in table if isinstance(table[t], str)]
    print("\n".join(notes) + f"\nunder the tools: {time.monotonic() - started:.0f} s", flush=True)
    table = {t: found for t, found in table.items() if t not in blind}
    print(f"\n{'program':16} {'launches':>8} {'kernels':>7}  " + "  ".join(f"{t:11}" for t in table))
    for p in names:
        print(f"{p:16} {ran.get(p, (0, 0))[0]:8} {ran.get(p, (0, 0))[1]:7}  " + "  ".join(f"{table[t][p][0]:11}" for t in table))
    dirty = [(t, p, rows) for t in table for p, (word, rows) in table[t].items() if word not in ("clean", "unseen")]
    for t, p, rows in dirty:
        print(f"\n{t}, {p}: {len(rows)} reports; the first:")
        for record in rows[:2]:
            print("    " + "\n      ".join(record[:10]))
    print("\n" + ("all clean" if not (dirty or blind or broken) else f"not clean: {len(dirty)} faults, tools that see nothing: {', '.join(blind) or 'none'}, programs that fail: {len(broken)}"))
    return 1 if dirty or blind or broken else 0


if __name__ == "__main__":
    sys.exit(main())
