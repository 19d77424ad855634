"""How long until training begins: from the start of the process to the first loss in host memory, for one step of GPT-2 124M (32 x 1024 tokens,
bf16-mixed, clipping by norm, AdamW). Not a test.

    python tests/bench/first_step.py [--rounds 3] [--capture]       on a GPU
    python tests/bench/first_step.py --layers 12,48                 compile time by number of layers; needs no GPU
    python tests/bench/first_step.py --device cpu --layers 2 --width 64 --batch 2 --seq 64 --vocabulary 512       small, on the CPU

Sides, each a process of its own:
    eager           PyTorch, autocast, a fused optimizer
    empty           Thunder; nothing in its cache, no tuning record, no daemon
    warm            Thunder; the cache and the record that `empty` left, no daemon
    torch.compile   the model compiled, else as eager; nothing in Inductor's and Triton's caches
One more eager process goes first and is not counted: it brings PyTorch's files into memory. Printed: median and spread of the rounds (torch.compile:
one), and the split of the round that is the median, whose parts add up to its total:
    import    the interpreter, torch and thunder
    model     parameters on the device (with CUDA's start), the optimizer, the data
    capture   compile_stats' capture; of torch.compile: TorchDynamo and AOTAutograd (_compile.compile_inner less fw_compiler_base, of
              torch._dynamo.utils.compilation_time_metrics), so the backward graph's Inductor is not in it
    compile   compile_stats' compile: the daemon, from its start to its answer; of torch.compile: Inductor (fw_compiler_base, and bw_compiler in backward)
    load      compile_stats' load
    run       the plan's first call (kernels loaded, products timed), then the wait for the loss; of the others: the step, less what is above
    other     the rest

--capture prints our capture beside torch.compile's. --layers with several numbers compiles a step of each for a GPU, for this one's target if there
is one, each by a new daemon with an empty cache, in turns: what the daemon says that its worker took, and in which passes."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from bench import started

HERE = os.path.dirname(os.path.abspath(__file__))
SIDES = ("eager", "empty", "warm", "torch.compile")
PARTS = ("import", "model", "capture", "compile", "load", "run", "other")
MUST = {"empty": 4.0, "warm": 2.0}  # seconds more than eager
LAYERS_MUST = 1.3                   # compile time of the last number of layers, by that of the first


def sizes(models, options, layers):
    return dict(models.SIZES["gpt2-124m"], layers=layers, width=options.width, inner=4 * options.width, heads=max(1, options.width // 64),
                key_heads=max(1, options.width // 64), vocabulary=options.vocabulary)


def torch_split(torch):
    """(tracing, Inductor) in seconds, of one torch.compile."""
    from torch._dynamo.utils import compilation_time_metrics as metrics
    forward, backward = (sum(metrics.get(f"compile_fx.<locals>.{name}", [])) for name in ("fw_compiler_base", "bw_compiler"))
    whole = sum(metrics.get("_compile.compile_inner", []))
    if not whole or not forward or not backward:
        print(f"torch.compile: this torch names its compile times otherwise, all is run: {sorted(metrics)}", file=sys.stderr)
        return 0.0, 0.0
    return whole - forward, forward + backward


def child(options):
    began = started()
    import torch
    import models
    side, device = options.child, options.device
    ours = side in ("empty", "warm")
    if ours:
        import thunder
    imported = time.time()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    models.SIZES["gpt2"] = sizes(models, options, options.layers[0])
    with torch.device(device):
        model = models.LM("gpt2", options.seq)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=not ours)
    data = torch.randint(0, min(50257, options.vocabulary), (options.batch, options.seq + 1), generator=torch.Generator().manual_seed(0)).to(device)
    x, y = data[:, :-1].contiguous(), data[:, 1:].contiguous()
    if ours:
        step = thunder.train_step(model, optimizer, models.loss_fn, clip_grad_norm=1.0, precision="bf16-mixed")
    else:
        def loss_of(x, y):
            return models.loss_fn(model(x), y)
        step = models.plain_step(torch.compile(loss_of) if side == "torch.compile" else loss_of, model, optimizer, device, True)
    if device == "cuda":
        torch.cuda.synchronize()
    built = time.time()
    loss = step(x, y)
    returned = time.time()
    loss = loss.item()
    end = time.time()
    split = {"import": imported - began, "model": built - imported, "capture": 0.0, "compile": 0.0, "load": 0.0}
    found = {"total": end - began, "split": split, "loss": loss, "torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    if ours:
        stats = thunder.compile_stats(step)
        split.update(stats.seconds)
        split["run"] += end - returned
        found.update(origins=[job.origin for job in stats.jobs], worker=sum(job.seconds for job in stats.jobs))
        if stats.eager_pieces or found["origins"] != ["compiled" if side == "empty" else "disk"]:
            raise SystemExit(f"{side}: not what was to be measured: {stats}")
    else:
        if side == "torch.compile":
            split["capture"], split["compile"] = torch_split(torch)
        split["run"] = end - built - split["capture"] - split["compile"]
    split["other"] = found["total"] - sum(split.values())
    print("FOUND " + json.dumps(found))


def stop(env):
    """Ends the environment's daemon: the next process finds none."""
    from thunder import paths
    subprocess.run([paths.program("thunderctl"), "stop"], env=env, capture_output=True, timeout=60)


def run_side(side, options, place):
    os.makedirs(place, exist_ok=True)
    env = dict(os.environ, THUNDER_CACHE_DIR=f"{place}/cache", THUNDER_RUNTIME_DIR=f"{place}/run", TORCHINDUCTOR_CACHE_DIR=f"{place}/inductor", TRITON_CACHE_DIR=f"{place}/triton")
    names = ("device", "batch", "seq", "width", "vocabulary")
    command = [sys.executable, os.path.abspath(__file__), "--child", side, f"--layers={options.layers[0]}", *(f"--{name}={getattr(options, name)}" for name in names)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    finally:
        stop(env)
    line = next((part for part in done.stdout.splitlines() if part.startswith("FOUND ")), None)
    if done.returncode or line is None:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    found = json.loads(line.removeprefix("FOUND "))
    if side == "empty" and found["device"] != "cpu" and not os.path.exists(f"{place}/cache/tuning/v2"):
        sys.exit("empty: no tuning record was written, so the warm process has to time products too")
    print("".join(f"  {line}\n" for line in done.stderr.splitlines() if line.startswith("torch.compile: ")) + f"  {side}: {found['total']:.2f} s", file=sys.stderr)
    return found


def median(rounds):
    """The round whose total is the median."""
    return sorted(rounds, key=lambda r: r["total"])[len(rounds) // 2]


def measure(options):
    found = {side: [] for side in options.sides}
    with tempfile.TemporaryDirectory() as top:
        run_side("eager", options, f"{top}/files")
        for turn in range(options.rounds):
            for side in options.sides:
                if side != "torch.compile" or turn == 0:
                    found[side].append(run_side(side, options, f"{top}/{turn}-{'thunder' if side in MUST else side}"))
    return found


def show(found, options):
    one = next(iter(found.values()))[0]
    print(f"GPT-2, {options.layers[0]} layers, width {options.width}, {options.batch} x {options.seq} tokens, bf16-mixed, clip 1.0, AdamW; {one['device']}, {os.cpu_count()} cores; "
          f"torch {one['torch']}, Python {platform.python_version()}")
    print("seconds from the start of the process to the first loss: median (spread), rounds; the split of the median round")
    print(f"{'':15} {'total':>20} {'n':>2} " + " ".join(f"{part:>8}" for part in PARTS) + f" {'loss':>9}")
    for side, rounds in found.items():
        totals, middle = [r["total"] for r in rounds], median(rounds)
        print(f"{side:15} {statistics.median(totals):7.2f} ({min(totals):.2f}-{max(totals):.2f})".ljust(36) + f" {len(rounds):2} "
              + " ".join(f"{middle['split'][part]:8.2f}" for part in PARTS) + f" {middle['loss']:9.4f}")
    for side, rounds in found.items():
        if side in MUST and "eager" in found:
            more = statistics.median(r["total"] for r in rounds) - statistics.median(r["total"] for r in found["eager"])
            print(f"{side}: eager {more:+.2f} s, must be at most {MUST[side]:+.0f} s: {'met' if more <= MUST[side] else 'NOT met'}")
    if "empty" in found:
        middle = median(found["empty"])
        print(f"of the {middle['split']['compile']:.2f} s of compile with an empty cache, the daemon's worker took {middle['worker']:.2f}")
    if options.capture:
        ours, peer = median(found["empty"])["split"]["capture"], median(found["torch.compile"])["split"]["capture"]
        print(f"capture: {ours:.2f} s (TorchDynamo, export, job); torch.compile's {peer:.2f} s (TorchDynamo and AOTAutograd): {ours / max(peer, 1e-9):.2f}x")


# ---- compile time by number of layers ----

def job_of(options, layers):
    """The compile job of a step with that many layers, as bytes; captured on the CPU, with memory that is never written."""
    import gpu_programs
    import models
    import thunder
    import torch
    torch._dynamo.reset()
    models.SIZES["gpt2"] = sizes(models, options, layers)
    with torch.device("meta"):
        model = models.LM("gpt2", options.seq)
    model = model.to_empty(device="cpu")
    model.head.weight = model.tokens.weight
    step = thunder.train_step(model, torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1), models.loss_fn, clip_grad_norm=1.0, precision="bf16-mixed")
    batch = torch.zeros(2, options.batch, options.seq, dtype=torch.int64)
    job, = gpu_programs.captured([lambda: step(*batch)], options.target)
    return job.SerializeToString(deterministic=True)


def target(torch):
    """As THUNDER_TARGET has it: this machine's GPU, else an H200."""
    if not torch.cuda.is_available():
        return "cuda:sm_90:cudnn=9.19.0"
    from thunder import device
    t = device.target(torch.device("cuda"))
    return ":".join([t.name, t.arch, *t.library])


def compiled(job, place):
    """Seconds: that the daemon says its worker took, until the answer was here, of each pass, of the compilers. A daemon of its own, an empty cache."""
    from thunder import daemon, wire
    os.makedirs(place)
    os.environ.update(THUNDER_CACHE_DIR=f"{place}/cache", THUNDER_RUNTIME_DIR=f"{place}/run")
    began = time.perf_counter()
    try:
        result = daemon.compile_job(job)
        answer = time.perf_counter() - began
    finally:
        stop(os.environ)
    if result.origin != "compiled":
        sys.exit(f"the result is from {result.origin}, not compiled")
    report, passes = wire.Executable.FromString(result.data).report, {}
    for name, ns in zip(getattr(report, "pass"), report.pass_ns):
        passes[name] = passes.get(name, 0) + ns * 1e-9
    return {"worker": result.seconds, "answer": answer, "passes": passes, "codegen": report.codegen_ns * 1e-9}


def by_layers(options):
    sys.path.insert(0, os.path.join(HERE, "..", "cuda"))
    import torch
    options.target = options.target or target(torch)
    jobs = {n: job_of(options, n) for n in options.layers}
    found = {n: [] for n in jobs}
    with tempfile.TemporaryDirectory() as top:
        for turn in range(options.rounds):
            for n, job in jobs.items():
                found[n].append(compiled(job, f"{top}/{turn}-{n}"))
    return {str(n): rounds for n, rounds in found.items()}


def show_layers(found, options):
    print(f"GPT-2, width {options.width}, {options.batch} x {options.seq} tokens, bf16-mixed, clip 1.0, AdamW, for {options.target}; {os.cpu_count()} cores, {options.rounds} rounds")
    print(f"{'layers':>6} {'worker s (spread)':>22} {'answer s':>9} {'passes s':>9} {'codegen s':>10}  the longest passes, ms")
    worker = {}
    for n, rounds in found.items():
        times = [r["worker"] for r in rounds]
        worker[n], middle = statistics.median(times), sorted(rounds, key=lambda r: r["worker"])[len(rounds) // 2]
        longest = sorted(middle["passes"].items(), key=lambda item: -item[1])[:6]
        print(f"{n:>6} {worker[n]:8.2f} ({min(times):.2f}-{max(times):.2f})".ljust(30) + f"{statistics.median(r['answer'] for r in rounds):9.2f} {sum(middle['passes'].values()):9.2f} "
              f"{middle['codegen']:10.2f}  " + ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in longest))
    first, *_, last = worker
    ratio = worker[last] / worker[first]
    print(f"{last} layers take {ratio:.2f}x the time of {first}, must be at most {LAYERS_MUST}x: {'met' if ratio <= LAYERS_MUST else 'NOT met'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--layers", default="12", help="one number, or several with commas: then compile times")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument("--rounds", type=int, default=3, help="processes of a side; of torch.compile one")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--target", help="of --layers with several numbers; as THUNDER_TARGET")
    parser.add_argument("--json", help="write all figures there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.layers = [int(n) for n in options.layers.split(",")]
    options.sides = options.sides.split(",")
    if options.child:
        return child(options)
    if unknown := [s for s in options.sides if s not in SIDES]:
        parser.error(f"no side called {unknown[0]}; there are {', '.join(SIDES)}")
    if "warm" in options.sides and "empty" not in options.sides[:options.sides.index("warm")]:
        parser.error("warm finds what empty left: --sides empty,warm")
    if options.capture and not {"empty", "torch.compile"} <= set(options.sides):
        parser.error("--capture compares the sides empty and torch.compile")
    if len(options.layers) > 1:
        found = by_layers(options)
        show_layers(found, options)
    else:
        found = measure(options)
        show(found, options)
    if options.json:
        with open(options.json, "w") as f:
            json.dump({"options": vars(options), "found": found}, f, indent=1)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    main()
