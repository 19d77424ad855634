"""Losses of 200 training steps on a GPU beside eager PyTorch's, from the same weights and batches: GPT-2 124M's and Llama-3.2-1B's shape. A table with a
verdict for each; exit status 0 when all are as wanted.

    python tests/cuda/losses.py                                                                            # on a GPU: about 3 minutes
    python tests/cuda/losses.py --device cpu --layers 2 --width 64 --vocab 200 --length 32 --steps 100 --rate 3e-3      # is the script whole?

The data are a few fixed sequences, learned by heart, in an order drawn from the seed; AdamW, clipping at 1, a learning rate that rises and falls.

- f32 (TF32 off): the largest difference of a step's loss, relative where it is above 1, in parts of a quarter of the steps. Training multiplies rounding:
  so does eager PyTorch's beside itself from weights that are one rounding off, each up or down ("itself"), which is what another order of all sums
  amounts to. Wanted: within LIMIT or, later, GROWTH times what eager differs from itself. The learning rate is a sixth of that for bf16: a loss that leaps
  shows nothing but that it does.
- bf16 (GPT: autocast, "bf16-mixed"; Llama: all in bf16 but the loss of its logits): the mean difference of losses over all steps, and that of
  the means of the last tenth of them, beside those of eager PyTorch and itself with another seed: of the order of the batches ("order"), and of
  weights and order ("both"). Wanted: ours within the smaller of the two over all steps, and at the end within the larger, since there
  two curves may meet by chance."""
import argparse
import gc
import json
import math
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT, GROWTH = 1e-5, 4.0
SHAPES = {
    "gpt2": {"width": 768, "heads": 12, "vocab": 50304, "layers": 12, "batch": 8, "length": 256},
    "llama": {"width": 2048, "heads": 32, "groups": 8, "vocab": 128256, "layers": 16, "batch": 2, "length": 512},
}
CASES = {"gpt2 f32": ("gpt2", "f32"), "gpt2 bf16-mixed": ("gpt2", "bf16-mixed"), "llama f32": ("llama", "f32"), "llama bf16": ("llama", "bf16")}
LAYERS = {"llama f32": 4}  # by default: the time of f32 without TF32


def curves(options):
    """The curves of one case, in one process: name -> losses."""
    import torch
    import thunder
    import gpu_programs as programs
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    name, precision = CASES[options.case]
    shape = {**SHAPES[name], **({"layers": LAYERS[options.case]} if options.case in LAYERS else {}), **{k: getattr(options, k) for k in ("layers", "width", "vocab", "length", "batch") if getattr(options, k)}}
    batch, length = shape.pop("batch"), shape["length"]
    if options.width:
        shape["heads"], shape["groups"] = 4, 2
    if name == "gpt2":
        shape.pop("groups", None)
    device = options.device

    def loss_of(y, t):  # a loss in bf16 has two digits
        return programs.token_loss(y.float() if precision == "bf16" else y, t)

    def model_of(seed):
        torch.manual_seed(seed)
        with torch.device(device):
            model = (programs.Gpt if name == "gpt2" else programs.Llama)(**shape)
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.normal_(0, 0.02)
        return model.to(torch.bfloat16) if precision == "bf16" else model

    def off_by_a_rounding(model):
        generator = torch.Generator(device).manual_seed(7)
        with torch.no_grad():
            for p in model.parameters():
                up = torch.randint(0, 2, p.shape, generator=generator, device=device).bool()
                p.copy_(torch.nextafter(p, torch.where(up, math.inf, -math.inf)))

    def batches(seed):
        """Of four batches, whose words are few of the vocabulary's, in an order of the seed's."""
        fixed = torch.Generator().manual_seed(99)
        rows = [(torch.randint(0, min(512, shape["vocab"] // 8), (batch, length + 1), generator=fixed) * 7).to(device) for _ in range(4)]
        order = torch.Generator().manual_seed(seed)
        for _ in range(options.steps):
            r = rows[torch.randint(0, len(rows), (), generator=order).item()]
            yield r[:, :-1].contiguous(), r[:, 1:].contiguous()

    def rate(i):
        return options.rate * (1 / 6 if precision == "f32" else 1) * min(1.0, (i + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * i / options.steps))

    def run(side, weights=0, order=0, rounded=False):
        model, losses, started = model_of(weights), [], time.monotonic()
        if rounded:
            off_by_a_rounding(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=side == "eager")
        step = None
        if side == "thunder":
            step = thunder.train_step(model, optimizer, loss_of, clip_grad_norm=1.0, precision=None if precision == "f32" else precision)
        for i, (x, y) in enumerate(batches(order)):
            for group in optimizer.param_groups:
                group["lr"] = rate(i)
            if step:
                losses.append(step(x, y).detach())
                continue
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = loss_of(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        values = [float(v) for v in losses]
        if step:
            assert not thunder.compile_stats(step).eager_pieces
            step.release()
        print(f"# {options.case}: {side} weights {weights} order {order}{' rounded' if rounded else ''}: {time.monotonic() - started:.1f} s, "
              f"{values[0]:.3f} -> {values[-1]:.3f}", flush=True)
        del model, optimizer, step
        torch._dynamo.reset()
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        return values

    made = {"eager": run("eager"), "ours": run("thunder")}
    if precision == "f32":
        made["itself"] = run("eager", rounded=True)
    else:
        made["order"], made["both"] = run("eager", order=1), run("eager", weights=1, order=1)
    print("CURVES " + json.dumps(made))


def relative(a, b):
    return max(abs(x - y) / max(1, abs(y)) for x, y in zip(a, b))


def mean(values):
    return sum(values) / len(values)


def verdict(precision, made):
    """(row of the table, is it as wanted)"""
    eager, ours = made["eager"], made["ours"]
    if not all(map(math.isfinite, eager + ours)):
        return "a loss is not finite", False
    learned = eager[-1] < 0.8 * eager[0]
    if precision == "f32":
        size = max(1, len(eager) // 4)
        parts = [slice(i, i + size) for i in range(0, size * 4, size)]
        got, noise = ([relative(made[k][p], eager[p]) for p in parts] for k in ("ours", "itself"))
        good = all(g <= max(LIMIT, GROWTH * n) for g, n in zip(got, noise))
        row = "largest difference by quarter: ours " + " ".join(f"{g:.1e}" for g in got) + "; eager and itself " + " ".join(f"{n:.1e}" for n in noise)
    else:
        last = max(1, len(eager) // 10)
        distance = {k: (mean([abs(a - b) for a, b in zip(made[k], eager)]), abs(mean(made[k][-last:]) - mean(eager[-last:]))) for k in ("ours", "order", "both")}
        good = all(distance["ours"][i] <= of(distance["order"][i], distance["both"][i]) for i, of in enumerate((min, max)))
        row = "mean difference, and at the end: " + ", ".join(f"{k} {a:.5f} {b:.5f}" for k, (a, b) in distance.items())
    return f"{eager[0]:.3f} -> {eager[-1]:.3f}; {row}" + ("" if learned else "; it did not learn, which shows little"), good and learned


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=200)
    for name in ("layers", "width", "vocab", "length", "batch"):
        parser.add_argument(f"--{name}", type=int, help="in place of the shape's")
    parser.add_argument("--timeout", type=float, default=280, help="seconds for a case")
    parser.add_argument("--rate", type=float, default=6e-4, help="the highest learning rate")
    parser.add_argument("--save", help="a file for all curves, as JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return curves(options)
    rows, kept = {}, {}
    for case in options.cases:
        command = [sys.executable, os.path.abspath(__file__), "--case", case, "--device", options.device, "--steps", str(options.steps), "--rate", str(options.rate)]
        command += [f"--{k}={getattr(options, k)}" for k in ("layers", "width", "vocab", "length", "batch") if getattr(options, k)]
        try:
            done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=options.timeout)
        except subprocess.TimeoutExpired:
            rows[case] = f"not done in {options.timeout:.0f} s", False
            continue
        print("".join(line + "\n" for line in done.stdout.splitlines() if line.startswith("#")), end="", flush=True)
        found = [line for line in done.stdout.splitlines() if line.startswith("CURVES ")]
        if done.returncode or not found:
            rows[case] = f"failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}", False
            continue
        kept[case] = json.loads(found[0].removeprefix("CURVES "))
        rows[case] = verdict(CASES[case][1], kept[case])
    print(f"\nlosses of {options.steps} steps beside eager PyTorch's")
    for case, (row, good) in rows.items():
        print(f"{case:16} {'ok ' if good else 'NOT'}  {row}")
    if options.save:
        with open(options.save, "w", encoding="utf-8") as f:
            json.dump(kept, f)
    return 0 if all(good for _, good in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
