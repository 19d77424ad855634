"""A profile of a GPT's training step, for people: the plain step's time, the table, the sum of its regions, and a trace for ui.perfetto.dev.

    python tests/cuda/profile_step.py                                             # GPT-2 124M, 32 x 1024, bf16-mixed, on a GPU
    python tests/cuda/profile_step.py --device cpu --layers 2 --width 128 --heads 4 --vocab 1000 --batch 2 --length 64
"""
import argparse
import os
import statistics
import time

import torch

import thunder

import gpu_programs as programs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("layers", 12), ("width", 768), ("heads", 12), ("vocab", 50257), ("batch", 32), ("length", 1024), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--trace", default=os.path.join(os.environ.get("OUT", "."), "trace.json"))
    o = parser.parse_args()
    torch.manual_seed(0)
    model = programs.Gpt(width=o.width, heads=o.heads, vocab=o.vocab, layers=o.layers, length=o.length).to(o.device)
    step = thunder.train_step(model, torch.optim.AdamW(model.parameters(), lr=3e-4), programs.token_loss, clip_grad_norm=1.0, precision=o.precision)
    tokens = torch.randint(0, o.vocab, (o.batch, o.length + 1), device=o.device)
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def timed(n):
        times = []
        for _ in range(n):
            started = time.perf_counter()
            step(x, y)
            if o.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    timed(3)  # compiled, timed, captured
    before = timed(o.steps)
    with thunder.profile(step, steps=o.steps) as p:
        timed(o.steps + 1)
    after = timed(o.steps)
    print(p.table(row_limit=40))
    total = sum(r.time for r in p.regions)
    print(f"\nstep without a profile {before * 1e3:.2f} ms before, {after * 1e3:.2f} ms after; regions together {total * 1e3:.2f} ms: {total / before:.2f} of it; "
          f"the host issues them in {sum(r.host_time for r in p.regions) * 1e3:.2f} ms")
    p.export_chrome_trace(o.trace)
    print(f"trace: {o.trace}, {os.path.getsize(o.trace) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
