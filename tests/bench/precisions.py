"""On a GPU: time and peak memory of a whole training step (GPT-2's shape, clipping, AdamW) in each precision, and of eager PyTorch with autocast and
GradScaler beside it, in turns in one process a side. Not a test.

    python tests/bench/precisions.py [--layers 12] [--batch 16] [--seq 1024] [--rounds 3] [--steps 20]"""
import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SIDES = ("thunder bf16-mixed", "thunder f16-mixed", "eager bf16-mixed", "eager f16-mixed")


def child(options):
    sys.path.insert(0, os.path.join(HERE, "..", "cuda"))
    import torch
    import gpu_programs as programs
    import thunder
    side, precision = options.child.split()
    torch.manual_seed(0)
    model = programs.Gpt(width=768, heads=12, vocab=50304, layers=options.layers, length=options.seq).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=side == "eager")
    rows = torch.randint(0, 50257, (options.batch, options.seq + 1), device="cuda")
    x, y = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "f16-mixed")

    def eager(x, y):
        with torch.autocast("cuda", torch.float16 if precision == "f16-mixed" else torch.bfloat16):
            loss = programs.token_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    step = eager if side == "eager" else thunder.train_step(model, optimizer, programs.token_loss, clip_grad_norm=1.0, precision=precision)
    skipped, times = 0, []
    for _ in range(10):
        loss = step(x, y)
        skipped += side == "thunder" and step.skipped is not None and int(step.skipped)
    for _ in range(options.steps):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        loss = step(x, y)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    print("FOUND " + json.dumps({"times": times, "peak": torch.cuda.max_memory_allocated(), "loss": loss.item(), "skipped": skipped}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("batch", 16), ("seq", 1024), ("rounds", 3), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    found = {}
    for _ in range(options.rounds):
        for side in SIDES:
            command = [sys.executable, __file__, "--child", side, *(f"--{k}={getattr(options, k)}" for k in ("layers", "batch", "seq", "steps"))]
            done = subprocess.run(command, capture_output=True, text=True)
            line = next((part for part in done.stdout.splitlines() if part.startswith("FOUND ")), None)
            if done.returncode or line is None:
                sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
            found.setdefault(side, []).append(json.loads(line.removeprefix("FOUND ")))
    print(f"{options.layers} layers, batch {options.batch} x {options.seq}, {options.rounds} rounds of {options.steps} steps")
    for side, rounds in found.items():
        times = [t for r in rounds for t in r["times"]]
        print(f"{side:20} {statistics.median(times):8.2f} ms ({min(times):.2f}-{max(times):.2f})  peak {max(r['peak'] for r in rounds) / 2**30:6.2f} GiB  "
              f"loss {rounds[0]['loss']:.4f}  skipped in the first ten {rounds[0]['skipped']}")


if __name__ == "__main__":
    main()
