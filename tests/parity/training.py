"""The trainings that parity is asked of: models, data, optimizers; run in eager PyTorch on the joined batch, and by
thunder.train_step on one rank or on several.

As a program, in each rank of a job:  training.py OUT CONFIG...   saves OUT/<config>.pt on rank 0."""
import copy
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

STEPS, ROWS, LENGTH, WIDTH, WORDS = 100, 4, 8, 16, 13


class Gpt(nn.Module):
    """Learned positions, layer norm, packed heads, GELU; the head is the embedding."""

    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.ln1, self.ln2, self.ln = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.token.weight

    def forward(self, x):
        b, t = x.shape
        h = self.token(x) + self.position(torch.arange(t))
        q, k, v = (p.view(b, t, 2, WIDTH // 2).transpose(1, 2) for p in self.qkv(self.ln1(h)).split(WIDTH, 2))
        h = h + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, WIDTH))
        h = h + self.down(F.gelu(self.up(self.ln2(h))))
        return self.head(self.ln(h))


class Llama(nn.Module):
    """RMS norm, rotary positions, grouped queries, SwiGLU, no biases."""

    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.n1, self.n2, self.n3 = nn.RMSNorm(WIDTH, 1e-5), nn.RMSNorm(WIDTH, 1e-5), nn.RMSNorm(WIDTH, 1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, n, bias=False) for n in (WIDTH, WIDTH // 2, WIDTH // 2, WIDTH))
        self.gate, self.up, self.down = nn.Linear(WIDTH, 24, bias=False), nn.Linear(WIDTH, 24, bias=False), nn.Linear(24, WIDTH, bias=False)
        angle = torch.outer(torch.arange(LENGTH).double(), 10000.0 ** -(torch.arange(0, 4, 2).double() / 4))
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def rotate(self, x):
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat((-x[..., half:], x[..., :half]), -1) * self.sin

    def forward(self, x):
        b, t = x.shape
        h = self.token(x)
        n = self.n1(h)
        q, k, v = (f(n).view(b, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True, enable_gqa=True)
        h = h + self.o(y.transpose(1, 2).reshape(b, t, WIDTH))
        n = self.n2(h)
        return self.head(self.n3(h + self.down(F.silu(self.gate(n)) * self.up(n))))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.head(F.relu(self.bn2(self.conv2(h))).mean((2, 3)))


MODELS = {"gpt": Gpt, "llama": Llama, "cnn": Cnn}
DTYPES = {"f64": torch.float64, "f32": torch.float32}
CLIP = {"gpt": 0.1, "llama": 0.1, "cnn": 0.1}
CONFIGS = [f"{m}-{o}-{a}-{d}" for m in MODELS for o in ("sgd", "adamw") for a in (1, 4) for d in DTYPES]


def make_model(name, dtype):
    torch.manual_seed(0)
    return MODELS[name]().to(DTYPES[dtype])


def make_optimizer(name, model, weight_decay=0.1):
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": weight_decay},
              {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": weight_decay / 2, "lr": 5e-3}]
    return torch.optim.SGD(groups, lr=1e-2, momentum=0.9) if name == "sgd" else torch.optim.AdamW(groups, lr=1e-2)


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)


def batches(model, dtype, ranks):
    """For each step the batches of all ranks, each with data of its own."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        parts = []
        for _ in range(ranks):
            if model == "cnn":
                parts.append((torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64).to(DTYPES[dtype]), torch.randint(0, 5, (ROWS,), generator=generator)))
            else:
                parts.append(tuple(torch.randint(0, WORDS, (ROWS, LENGTH), generator=generator) for _ in range(2)))
        yield parts


def loss_fn(out, y):
    return F.cross_entropy(out.flatten(0, -2), y.flatten())


def joined_loss(model, parts):
    """The loss over all ranks' rows. Batch norm is not synchronised over ranks: each rank's rows have statistics of their own,
    and the running ones that are kept are rank 0's, as with DistributedDataParallel."""
    if not isinstance(model, Cnn):
        x, y = (torch.cat(p) for p in zip(*parts))
        return loss_fn(model(x), y)
    loss = loss_fn(model(parts[0][0]), parts[0][1])
    kept = [(m, name, b) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    for x, y in parts[1:]:
        for m, name, b in kept:
            setattr(m, name, b.clone())
        loss = loss + loss_fn(model(x), y)
    for m, name, b in kept:
        setattr(m, name, b)
    return loss / len(parts)


def eager(config, ranks, fault=None):
    """(losses, norms, state_dict) of eager PyTorch on the joined batch. `fault`: one of FAULTS, to see that it shows."""
    name, optimizer_name, accumulate, dtype = config.split("-")
    model, accumulate = make_model(name, dtype), int(accumulate)
    optimizer = make_optimizer(optimizer_name, model, 0.0 if fault == "weight decay off" else 0.1)
    scheduler, losses, norms = make_scheduler(optimizer), [], []
    if fault == "stale running statistic":
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.0
    for i, parts in enumerate(batches(name, dtype, ranks)):
        loss = joined_loss(model, parts)
        (loss if fault == "un-averaged gradient" else loss / accumulate).backward()
        losses.append(loss.item())
        if (i + 1) % accumulate == 0:
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), CLIP[name]).item())
            if fault == "bias correction off":
                for p in model.parameters():
                    if p not in optimizer.state:
                        optimizer.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                    optimizer.state[p]["step"] = torch.tensor(1e6)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return losses, norms, copy.deepcopy(model.state_dict())


FAULTS = {"weight decay off": "gpt-adamw-1-f64", "bias correction off": "llama-adamw-1-f64", "un-averaged gradient": "gpt-sgd-4-f64",
          "stale running statistic": "cnn-sgd-1-f64"}


def compiled(config, rank=0, ranks=1):
    """The same by thunder.train_step; the losses are this rank's."""
    import thunder
    name, optimizer_name, accumulate, dtype = config.split("-")
    model, accumulate = make_model(name, dtype), int(accumulate)
    if rank:
        with torch.no_grad():  # rank 0's parameters are what counts
            for p in model.parameters():
                p.zero_()
    optimizer = make_optimizer(optimizer_name, model)
    scheduler, losses, norms = make_scheduler(optimizer), [], []
    step = thunder.train_step(model, optimizer, loss_fn, clip_grad_norm=CLIP[name], accumulate=accumulate, parallel="ddp" if ranks > 1 else None)
    for i, parts in enumerate(batches(name, dtype, ranks)):
        losses.append(step(*parts[rank]).item())
        if (i + 1) % accumulate == 0:
            norms.append(step.grad_norm.item())
            scheduler.step()
    assert thunder.compile_stats(step).calls == STEPS and not thunder.compile_stats(step).eager_pieces
    return losses, norms, copy.deepcopy(model.state_dict())


def main():
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for config in sys.argv[2:]:
        torch._dynamo.reset()
        torch.save(compiled(config, rank, ranks), os.path.join(sys.argv[1], f"{config}-rank{rank}.pt"))


if __name__ == "__main__":
    main()
