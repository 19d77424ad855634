"""make bench: eager PyTorch, torch.compile and Thunder side by side on a small GPT on the CPU, each in processes of its own,
in turn: step time (median and spread over rounds), first step from an empty and a warm cache, peak memory."""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "docs", "examples"))


def child(which, steps):
    started = time.perf_counter()
    import torch
    import train_gpt
    torch.manual_seed(0)
    model = train_gpt.GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    data = torch.randint(0, 256, (100_000,))

    def plain(x, y):
        loss = train_gpt.loss_fn(forward(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    proof = ""
    forward = model
    if which == "thunder":
        import thunder
        step = thunder.train_step(model, optimizer, train_gpt.loss_fn, clip_grad_norm=1.0)
    else:
        step = plain
        if which == "torch.compile":
            forward = torch.compile(model)
    imported = time.perf_counter()
    loss = step(*train_gpt.batch(data, 0, 0, 16, 128))
    first = time.perf_counter()
    times = []
    for i in range(steps):
        x, y = train_gpt.batch(data, i, 0, 16, 128)
        t = time.perf_counter()
        loss = step(x, y)
        times.append(time.perf_counter() - t)
    if which == "thunder":
        proof = repr(step.stats)
        assert step.stats.calls == steps + 1 and not step.stats.eager_pieces
    print(json.dumps({"step": statistics.median(times), "import": imported - started, "first": first - imported, "loss": loss.item(),
                      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "proof": proof}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.steps)
    found = {}
    with tempfile.TemporaryDirectory() as caches:
        for turn in range(options.rounds):
            for which in ("eager", "torch.compile", "thunder"):
                env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=f"{caches}/inductor", THUNDER_CACHE_DIR=f"{caches}/thunder")
                done = subprocess.run([sys.executable, __file__, "--child", which, "--steps", str(options.steps)], env=env, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{which} failed:\n{done.stderr[-3000:]}")
                found.setdefault(which, []).append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {turn} {which}: {found[which][-1]['step'] * 1e3:.1f} ms", file=sys.stderr)
        subprocess.run(["thunderctl", "stop"], env=env, capture_output=True)
    print(f"{'':14} {'step ms (spread)':>20} {'first empty s':>14} {'first warm s':>13} {'peak MB':>8} {'last loss':>10}")
    for which, rounds in found.items():
        steps = [r["step"] * 1e3 for r in rounds]
        print(f"{which:14} {statistics.median(steps):9.1f} ({min(steps):.1f}-{max(steps):.1f}) {rounds[0]['first']:14.2f} {rounds[-1]['first']:13.2f} "
              f"{max(r['peak'] for r in rounds) / 1e6:8.0f} {rounds[-1]['loss']:10.4f}")
    fastest = min(statistics.median(r["step"] for r in found[w]) for w in ("eager", "torch.compile"))
    print(f"thunder's step is {statistics.median(r['step'] for r in found['thunder']) / fastest:.2f}x that of the faster peer")
    print(found["thunder"][0]["proof"])


if __name__ == "__main__":
    main()
