"""Trains a small byte-level GPT on the sources of Python's standard library:

    thunderrun -n 2 train_gpt.py [--steps N] [--seconds S] [--check]

Prints held-out loss beside those of order-2 and order-3 byte models counted on the same text, writes a loss curve, and a
sample of generated text. --check trains the same seeds in eager PyTorch, on one rank, and compares the final losses."""
import argparse
import collections
import copy
import glob
import math
import os
import random
import sys
import sysconfig
import time

import torch
import torch.distributed
import torch.nn as nn
import torch.nn.functional as F

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in self.qkv(self.ln1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class GPT(nn.Module):
    def __init__(self, layers=4, width=256, heads=4, length=128):
        super().__init__()
        self.token, self.position = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        self.head.weight = self.token.weight
        for name, p in self.named_parameters():
            if p.dim() > 1:  # what adds to the residual stream starts smaller, by the number of additions
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if name.endswith(("proj.weight", "down.weight")) else 0.02)

    def forward(self, x):
        h = self.token(x) + self.position(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.ln(h))


def loss_fn(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def corpus(limit):
    """Standard-library sources, split by file: every tenth is held out."""
    train, held = [], []
    files = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")) +
                   glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "[a-z]*", "*.py")))
    files = [f for f in files if "site-packages" not in f and "/test/" not in f and "/encodings/" not in f]
    random.Random(0).shuffle(files)
    for i, path in enumerate(files):
        with open(path, "rb") as f:
            (held if i % 10 == 9 else train).append(f.read())
    return [torch.frombuffer(bytearray(b"\n".join(part)[:limit]), dtype=torch.uint8).long() for part in (train, held)]


def byte_model(train, held, order):
    """Nats a byte on `held` of a byte model of `order` preceding bytes counted on `train`, backed off with Witten and Bell's
    weights to lower orders and at last to 1/256."""
    data, test = bytes(train.to(torch.uint8).tolist()), bytes(held.to(torch.uint8).tolist())
    counts = [collections.defaultdict(collections.Counter) for _ in range(order + 1)]
    for n in range(order + 1):
        table = counts[n]
        for i in range(n, len(data)):
            table[data[i - n:i]][data[i]] += 1
    totals = [{k: (sum(v.values()), len(v)) for k, v in table.items()} for table in counts]
    nats = 0.0
    for i in range(order, len(test)):
        p = 1 / 256
        for n in range(order + 1):
            context = test[i - n:i]
            if context in totals[n]:
                total, kinds = totals[n][context]
                p = (counts[n][context][test[i]] + kinds * p) / (total + kinds)
        nats -= math.log(p)
    return nats / (len(test) - order)


def make_optimizer(model, lr):
    """AdamW; biases and norms are not decayed."""
    matrices, others = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    return torch.optim.AdamW([dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)], lr=lr, betas=(0.9, 0.95))


def batch(data, step, rank, rows, length):
    generator = torch.Generator().manual_seed(1000003 * step + rank)
    at = torch.randint(0, len(data) - length - 1, (rows,), generator=generator)
    return (torch.stack([data[i:i + length] for i in at]), torch.stack([data[i + 1:i + 1 + length] for i in at]))


def rate(step, progress, top):
    """Learning rate: 50 steps of warm-up, then a cosine down to a twentieth."""
    return top * min(1.0, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def held_out(evaluate, data, length, rows=16):
    """Mean nats a byte over `data`: the text that the byte models are asked too."""
    losses = []
    for i in range((len(data) - 1) // (rows * length)):
        at = torch.arange(rows) * length + i * rows * length
        x = torch.stack([data[j:j + length] for j in at])
        y = torch.stack([data[j + 1:j + 1 + length] for j in at])
        losses.append(float(evaluate(x, y)))
    return sum(losses) / len(losses)


def sample(model, length, text, count):
    model.eval()
    out = list(text)
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([out[-length:]]))[0, -1]
            out.append(int(torch.multinomial(torch.softmax(logits / 0.8, -1), 1)))
    return bytes(out).decode("utf-8", "replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seconds", type=float, default=240, help="stop training after this time")
    parser.add_argument("--rows", type=int, default=16, help="rows of a step, over all ranks")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--check", action="store_true", help="train the same seeds in eager PyTorch and compare")
    parser.add_argument("--out", default="train_gpt.png")
    options = parser.parse_args()
    import thunder
    from tqdm import tqdm

    train, held = corpus(4_000_000)
    held = held[:200_000]
    torch.manual_seed(0)
    model = GPT(options.layers, options.width, 4, options.length)
    eager = copy.deepcopy(model) if options.check else None
    optimizer = make_optimizer(model, options.lr)
    step = thunder.train_step(model, optimizer, loss_fn, clip_grad_norm=1.0, parallel="ddp" if WORLD > 1 else None)
    if WORLD > 1:  # PyTorch's own collectives go beside Thunder's
        torch.distributed.init_process_group("gloo")
    rows, losses, started, warm = options.rows // WORLD, [], time.time(), None
    bar = tqdm(range(options.steps), disable=RANK != 0, mininterval=2, file=sys.stdout)
    done = 0
    spent = torch.zeros(1)  # part of the time that is over, by rank 0's clock
    for i in bar:
        for group in optimizer.param_groups:
            group["lr"] = rate(i, max(i / options.steps, float(spent)), options.lr)
        losses.append(step(*batch(train, i, RANK, rows, options.length)).item())
        done = i + 1
        warm = warm or time.time()
        if RANK == 0 and i % 10 == 9:
            speed = i * options.rows * options.length / (time.time() - warm)
            bar.set_postfix_str(f"loss {sum(losses[-10:]) / 10:.3f}, {speed:.0f} tokens/s")
        if i % 10 == 9 and not options.check:  # rank 0's clock decides for all
            spent[0] = (time.time() - started) / options.seconds
            if WORLD > 1:
                torch.distributed.broadcast(spent, 0)
            over = spent >= 1
            bar.total = done if over else min(options.steps, max(done + 10, round(done / float(spent))))  # as far as the time will reach
            if over:
                break
    bar.close()
    if WORLD > 1:
        torch.distributed.destroy_process_group()
    if RANK:
        return
    loss = held_out(step.eval, held, options.length)
    print(f"{done} steps, {done * options.rows * options.length} tokens in {time.time() - started:.0f} s on {WORLD} ranks; first step {warm - started:.1f} s")
    print(thunder.compile_stats(step))
    print(f"held-out loss {loss:.3f} nats a byte")
    if options.check:
        other = make_optimizer(eager, options.lr)
        for i in tqdm(range(done), mininterval=2, file=sys.stdout):
            for group in other.param_groups:
                group["lr"] = rate(i, i / options.steps, options.lr)
            other.zero_grad()
            parts = [batch(train, i, r, rows, options.length) for r in range(WORLD)]
            x, y = (torch.cat(p) for p in zip(*parts))
            loss_fn(eager(x), y).backward()
            nn.utils.clip_grad_norm_(eager.parameters(), 1.0)
            other.step()
        with torch.no_grad():
            wanted = held_out(lambda x, y: loss_fn(eager(x), y), held, options.length)
        print(f"eager PyTorch: {wanted:.4f}, thunder: {loss:.4f}, difference {abs(wanted - loss):.5f}")
        if abs(wanted - loss) >= 0.01:
            sys.exit("the losses differ by more than 0.01")
    small, test = train[:2_500_000], held
    for order in (2, 3):
        print(f"order-{order} byte model: {byte_model(small, test, order):.3f} nats a byte")
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.figure(figsize=(7, 4))
    plt.plot(losses, linewidth=0.7)
    plt.xlabel("step")
    plt.ylabel("nats a byte")
    plt.title(f"held out: {loss:.3f}")
    plt.savefig(options.out, dpi=120, bbox_inches="tight")
    print(f"loss curve: {os.path.abspath(options.out)}")
    print("sample:\n" + sample(model, options.length, b"def ", 300))


if __name__ == "__main__":
    main()
