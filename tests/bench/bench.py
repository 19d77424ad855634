"""make bench: eager PyTorch, torch.compile and Thunder side by side: one whole training step (forward, backward, clipping by
global norm, AdamW) of the same model on the same tokens, each in processes of its own, in turn.

Prints step time (median and spread of all timed steps), first step (from the start of the process to the first loss, from an
empty cache, and the median of the later rounds' from a warm one, each split), peak memory, and the proof that Thunder did the work: the operators that PyTorch's
profiler sees in one of its steps, the eager pieces that compile_stats counts and, with several ranks, the MPI library that is
mapped and the bytes sent beside the gradients' size. `make bench ARGS="--world 2"`; --json FILE writes all figures."""
import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SIDES = ("eager", "torch.compile", "thunder")
# What a step may ask of PyTorch: memory and views of it.
ALLOCATION_OR_VIEW = re.compile(r"aten::(empty|empty_strided|empty_like|as_strided|view|detach|detach_|alias|select|slice|transpose|t|expand|resolve_conj|resolve_neg)$")


def started():
    """Seconds on the clock of time.time() at which this process began."""
    with open("/proc/uptime") as up, open("/proc/self/stat") as stat:
        age = float(up.read().split()[0]) - int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def child(options):
    began = started()
    import torch
    import models
    which, world = options.child, int(os.environ.get("WORLD_SIZE", 1))
    if which == "thunder":
        import thunder
    imported = time.time()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    rank = int(os.environ.get("RANK", 0))
    model = models.LM(options.model, options.seq)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    generator = torch.Generator().manual_seed(rank)
    data = [torch.randint(0, model.sizes["vocabulary"], (options.batch, options.seq + 1), generator=generator) for _ in range(4)]
    forward = model

    if which == "thunder":
        step = thunder.train_step(model, optimizer, models.loss_fn, clip_grad_norm=1.0, precision=options.precision,
                                  parallel="ddp" if world > 1 else None)
    else:
        step = models.plain_step(lambda x, y: models.loss_fn(forward(x), y), model, optimizer, "cpu", options.precision == "bf16-mixed")
        if world > 1:
            torch.distributed.init_process_group("gloo")
            forward = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        if which == "torch.compile":
            forward = torch.compile(forward)

    def advance(i):
        d = data[i % 4]
        return step(d[:, :-1].contiguous(), d[:, 1:].contiguous())
    first_loss = advance(0).item()
    first = time.time()
    split = {"import": imported - began}
    if which == "thunder":
        split.update(step.stats.seconds)
    split["rest"] = first - began - sum(split.values())
    for i in range(1, 6):
        advance(i)
    times = []
    for i in range(options.steps):
        t = time.perf_counter()
        loss = advance(i)
        times.append(time.perf_counter() - t)
    found = {"times": times, "first": first - began, "split": split, "first_loss": first_loss, "loss": loss.item(),
             "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "torch": torch.__version__, "threads": torch.get_num_threads()}
    if which == "thunder":
        found["proof"] = proof(torch, thunder, model, step, data, options, world)
    elif world > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        print("FOUND " + json.dumps(found))


def proof(torch, thunder, model, step, data, options, world):
    """What shows that the step was a plan's, checked here: a figure without it is worth nothing."""
    x, y = data[0][:, :-1].contiguous(), data[0][:, 1:].contiguous()
    sent = thunder._C.channel_stats()["bytes_sent"] if world > 1 else 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        step(x, y)
    operators = sorted({e.key for e in profiled.key_averages() if e.key.startswith("aten::")})
    other = [o for o in operators if not ALLOCATION_OR_VIEW.match(o)]
    stats = thunder.compile_stats(step)
    shown = {"operators": operators, "eager_pieces": len(stats.eager_pieces), "calls": stats.calls, "plans": stats.plans, "regions": stats.regions,
             "compiles": stats.compiles}
    if other or stats.eager_pieces or stats.calls != options.steps + 7:
        raise SystemExit(f"thunder did not do the whole work: operators {other}, {stats}")
    if world > 1:
        with open("/proc/self/maps") as f:
            shown["mpi"] = sorted({line.split()[-1] for line in f if "libmpi.so" in line})
        gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        shown["bytes_sent"], shown["gradients"] = thunder._C.channel_stats()["bytes_sent"] - sent, gradients
        if not shown["mpi"] or shown["bytes_sent"] != 2 * (world - 1) * gradients // world:
            raise SystemExit(f"the ranks did not exchange their gradients: {shown}")
    return shown


def run_side(which, options, env):
    command = [sys.executable, __file__, "--child", which, *(f"--{k}={getattr(options, k)}" for k in ("model", "batch", "seq", "steps"))]
    if options.precision:
        command.append(f"--precision={options.precision}")
    if options.world > 1:
        command = ["thunderrun", "-n", str(options.world), *command[1:]]
        env = {**env, "PYTHON_EXEC": sys.executable}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    line = next((part for part in done.stdout.splitlines() if "FOUND " in part), None)
    if done.returncode or line is None:
        sys.exit(f"{which} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return json.loads(line.split("FOUND ", 1)[1])


def processor():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":")[1].strip() for line in f if line.startswith("model name")), platform.machine())


def spread(values):
    return f"{statistics.median(values):8.1f} ({min(values):.1f}-{max(values):.1f})"


def warm(rounds):
    """The round whose first step is the median of those that found full caches."""
    later = sorted(rounds[1:] or rounds, key=lambda r: r["first"])
    return later[len(later) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--precision", help="bf16-mixed; default: f32")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each process, after 6")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side; the first finds empty caches")
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    sides, found = options.sides.split(","), {}
    with tempfile.TemporaryDirectory() as place:
        env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=f"{place}/inductor", THUNDER_CACHE_DIR=f"{place}/thunder", THUNDER_RUNTIME_DIR=f"{place}/run")
        try:
            for turn in range(options.rounds):
                for which in sides:
                    found.setdefault(which, []).append(run_side(which, options, env))
                    times = [t * 1e3 for t in found[which][-1]["times"]]
                    print(f"round {turn} {which}: {spread(times)} ms, first step {found[which][-1]['first']:.2f} s", file=sys.stderr)
        finally:
            subprocess.run(["thunderctl", "stop"], env=env, capture_output=True)
    one = next(iter(found.values()))[0]
    print(f"{options.model}, batch {options.batch} x {options.seq}, {options.precision or 'f32'}, {options.world} rank(s), {options.rounds} x {options.steps} steps; "
          f"{processor()}, {os.cpu_count()} cores, {one['threads']} threads a rank; torch {one['torch']}, Python {platform.python_version()}")
    print(f"{'':14} {'step ms (spread)':>24} {'first step s: empty':>20} {'warm':>6} {'peak MB':>8} {'first loss':>10} {'last loss':>10}")
    medians = {}
    for which, rounds in found.items():
        times = [t * 1e3 for r in rounds for t in r["times"]]
        medians[which] = statistics.median(times)
        print(f"{which:14} {spread(times):>24} {rounds[0]['first']:20.2f} {warm(rounds)['first']:6.2f} {max(r['peak'] for r in rounds) / 1e6:8.0f} "
              f"{rounds[0]['first_loss']:10.4f} {rounds[0]['loss']:10.4f}")
    for which, rounds in found.items():
        for name, r in (("empty", rounds[0]), ("warm", warm(rounds))):
            print(f"first step of {which}, {name} cache: " + ", ".join(f"{k} {v:.2f}" for k, v in r["split"].items()))
    peers = [medians[w] for w in medians if w != "thunder"]
    if "thunder" in medians and peers:
        ratios = [statistics.median(r["times"]) / min(statistics.median(found[w][i]["times"]) for w in found if w != "thunder") for i, r in enumerate(found["thunder"])]
        print(f"thunder's step is {medians['thunder'] / min(peers):.3f}x that of the faster peer (rounds: {', '.join(f'{r:.3f}' for r in ratios)})")
        print("proof: " + json.dumps(found["thunder"][0]["proof"]))
    if options.json:
        with open(options.json, "w") as f:
            json.dump({"options": vars(options), "processor": processor(), "found": found}, f, indent=1)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    main()
