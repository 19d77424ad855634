"""On a GPU: Thunder beside torch.compile, in turns. Not a test.

    python tests/bench/gpu.py [--works gpt2,llama,resnet,module,toy] [--rounds 3] [--steps 20] [--json FILE]

For each work there is a process a side. Both stay alive with their memory while the rounds are timed, one side after the other, so that
neither has the card in another state; a step is timed with the device idle before and after it, by the host's clock. Printed: the median of all steps
of a side and the spread of the rounds' medians, their ratio (tokens or images a second; above 1: Thunder is faster), peak memory by PyTorch's
statistics after the first steps, the time from the start of the process to the first loss, and what shows that Thunder did the work: the
operators that PyTorch was asked for in one of its steps, the eager pieces that compile_stats counts, the kernels by whose they are.

The peer is the same model and the same data with torch.compile(model), its autocast, clip_grad_norm_ and a fused optimizer."""
import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import time

from bench import ALLOCATION_OR_VIEW, started

HERE = os.path.dirname(os.path.abspath(__file__))
OF_THE_BATCH = re.compile(r"aten::(contiguous|clone|copy_|item|_local_scalar_dense)$")  # and of the loss that is printed
# work: (what is counted, how many of them a step has, must of the ratio)
WORKS = {"gpt2": ("tokens", 32 * 1024, 1.2), "llama": ("tokens", 4 * 4096, 1.1), "resnet": ("images", 256, 1.0), "module": ("tokens", 32 * 1024, 1.0), "toy": ("calls", 1, 1.0)}


def language_step(torch, thunder, models, work, device):
    """advance(i) -> loss, the train step (of Thunder) or None."""
    name, batch, length, dtype = {"gpt2": ("gpt2-124m", 32, 1024, None), "module": ("gpt2-124m", 32, 1024, None), "llama": ("llama-1b", 4, 4096, torch.bfloat16)}[work]
    with torch.device(device):
        model = models.LM(name, length)
    if dtype:
        model = model.to(dtype)
    whole = thunder and work != "module"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=not whole)
    generator = torch.Generator().manual_seed(0)
    data = [torch.randint(0, 50257, (batch, length + 1), generator=generator).to(device) for _ in range(4)]
    if whole:
        step = thunder.train_step(model, optimizer, models.loss_fn, clip_grad_norm=1.0, precision=None if dtype else "bf16-mixed")
    else:
        def loss_of(x, y):
            return models.loss_fn(model(x), y)
        forward = thunder.compile(loss_of) if thunder else torch.compile(loss_of)
        step = models.plain_step(forward, model, optimizer, device, not dtype)

    def advance(i):
        d = data[i % 4]
        return step(d[:, :-1].contiguous(), d[:, 1:].contiguous())
    return advance, step if whole else forward


def image_step(torch, thunder, models, device):
    model = models.ResNet().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=not thunder)
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(256, 3, 224, 224, generator=generator).to(device).to(memory_format=torch.channels_last), torch.randint(0, 1000, (256,), generator=generator).to(device))
            for _ in range(2)]
    if thunder:
        step = thunder.train_step(model, optimizer, torch.nn.functional.cross_entropy, precision="bf16-mixed")
        return lambda i: step(*data[i % 2]), step
    forward = torch.compile(model)

    def advance(i):
        x, y = data[i % 2]
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()
    return advance, None


def toy_step(torch, thunder, device):
    def add(a, b):
        return a + b
    fn = (thunder or torch).compile(add)
    a, b = torch.ones(8, device=device), torch.ones(8, device=device)
    return lambda i: fn(a, b), fn


def proof(torch, thunder, advance, compiled, whole):
    """Of one step, where the whole step is Thunder's: what PyTorch was asked for; of all: whose kernels ran."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        advance(0)
        torch.cuda.synchronize()
    events = profiled.key_averages()
    kernels = collections.Counter()
    for e in events:
        if e.self_device_time_total > 0 and not e.key.startswith("aten::"):
            kind = "thunder" if e.key.startswith("th_kernel") else "triton" if e.key.startswith("triton") else "pytorch" if "at::" in e.key else "libraries and copies"
            kernels[kind] += e.count
    found = {"kernels": dict(kernels)}
    if thunder:
        stats = thunder.compile_stats(compiled)
        found.update(eager_pieces=len(stats.eager_pieces), regions=stats.regions, other=sorted({e.key for e in events if e.key.startswith("aten::") and not ALLOCATION_OR_VIEW.match(e.key) and not OF_THE_BATCH.match(e.key)}))
        if stats.eager_pieces or (whole and found["other"]):
            raise SystemExit(f"thunder did not do the whole work: {found}")
    return found


def child(options):
    began = started()
    import torch
    sys.path.insert(0, HERE)
    import models
    side, work = options.child.split(":")
    thunder = None
    if side == "thunder":
        import thunder
    imported = time.time() - began
    device = options.device
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    if work == "toy":
        advance, compiled = toy_step(torch, thunder, device)
    elif work == "resnet":
        advance, compiled = image_step(torch, thunder, models, device)
    else:
        advance, compiled = language_step(torch, thunder, models, work, device)
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    first_loss = advance(0).float().mean().item()
    first = time.time() - began
    for i in range(1, 6):
        loss = advance(i)
        sync()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    print("READY " + json.dumps({"import": imported, "first": first, "first_loss": first_loss}), flush=True)
    for line in sys.stdin:  # "round", or "end"
        if line.strip() != "round":
            break
        times = []
        for i in range(options.steps):
            sync()
            t = time.perf_counter()
            if work == "toy":  # its own time is all host time: many in a row
                for _ in range(200):
                    loss = advance(i)
                times.append((time.perf_counter() - t) / 200)
            else:
                loss = advance(i)
                sync()
                times.append(time.perf_counter() - t)
        print("ROUND " + json.dumps(times), flush=True)
    end = {"peak": torch.cuda.max_memory_allocated() if device == "cuda" else 0, "loss": loss.float().mean().item()}
    if device == "cuda":
        end["proof"] = proof(torch, thunder, advance, compiled, work not in ("module", "toy"))
    print("END " + json.dumps(end), flush=True)


class Side:
    def __init__(self, side, work, options):
        self.name, self.times = f"{side}:{work}", []
        command = [sys.executable, os.path.abspath(__file__), "--child", self.name, "--steps", str(options.steps), "--device", options.device]
        self.errors = open(os.path.join(options.logs, self.name.replace(":", "-") + ".log"), "w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.found = self.read("READY")

    def read(self, word):
        for line in self.process.stdout:
            if line.startswith(word + " "):
                return json.loads(line[len(word) + 1:])
        self.errors.seek(0)
        sys.exit(f"{self.name} ended before {word}:\n{self.errors.read()[-3000:]}")

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def round(self):
        self.tell("round")
        self.times.append(self.read("ROUND"))

    def end(self):
        self.tell("end")
        self.found.update(self.read("END"))
        self.process.wait()
        rounds = [statistics.median(r) for r in self.times]
        self.found.update(median=statistics.median([t for r in self.times for t in r]), rounds=rounds)
        return self.found


def compare(work, options):
    sides = [Side(side, work, options) for side in ("thunder", "torch.compile")]
    for _ in range(options.rounds):
        for side in sides:
            side.round()
    return [side.end() for side in sides]


def show(work, ours, peer):
    what, n, must = WORKS[work]
    unit, scale = ("us", 1e6) if work == "toy" else ("ms", 1e3)

    def times(side):
        return f"{side['median'] * scale:7.2f} ({min(side['rounds']) * scale:.2f}-{max(side['rounds']) * scale:.2f}) {unit}"
    ratios = [b / a for a, b in zip(ours["rounds"], peer["rounds"])]
    memory = f"{ours['peak'] / 2**30:6.2f} {peer['peak'] / 2**30:6.2f} GiB {ours['peak'] / max(1, peer['peak']):5.2f}x" if work != "toy" else ""
    print(f"{work:7} {times(ours):34} {times(peer):34} {peer['median'] / ours['median']:5.2f}x ({min(ratios):.2f}-{max(ratios):.2f}; must {must})  {memory}  "
          f"first {ours['first']:.1f} {peer['first']:.1f} s  {n / ours['median']:,.0f} {what}/s")
    if "proof" in ours:
        print(f"        {ours['proof']}; peer: {peer['proof']['kernels']}; losses {ours['first_loss']:.4f} {peer['first_loss']:.4f}, then {ours['loss']:.3f} {peer['loss']:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: of the toy alone")
    parser.add_argument("--logs", default=os.environ.get("OUT", "/tmp"), help="folder for what the processes say (default: $OUT, else /tmp)")
    parser.add_argument("--json", help="write all figures there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    works = options.works.split(",")
    if unknown := [w for w in works if w not in WORKS]:
        parser.error(f"no work called {unknown[0]}; there are {', '.join(WORKS)}")
    if options.device == "cpu" and works != ["toy"]:
        parser.error("on the cpu: --works toy (make bench compares steps there)")
    print(f"{'work':7} {'thunder (rounds)':34} {'torch.compile (rounds)':34} ratio")
    found = {}
    for work in works:
        found[work] = compare(work, options)
        show(work, *found[work])
        sys.stdout.flush()
    if options.json:
        with open(options.json, "w") as f:
            json.dump(found, f)


if __name__ == "__main__":
    main()
