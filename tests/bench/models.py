"""The models that are measured, with the sizes and the step of the project's PyTorch baseline: GPT-2 and Llama shapes by name."""
import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {
    "gpt2-124m": dict(kind="gpt2", vocabulary=50304, layers=12, heads=12, key_heads=12, width=768, inner=3072),
    "llama-1b": dict(kind="llama", vocabulary=128256, layers=16, heads=32, key_heads=8, width=2048, inner=8192),
    "small": dict(kind="gpt2", vocabulary=256, layers=4, heads=4, key_heads=4, width=256, inner=1024),
    "tiny": dict(kind="gpt2", vocabulary=512, layers=2, heads=2, key_heads=2, width=64, inner=256),
    "tiny-llama": dict(kind="llama", vocabulary=512, layers=2, heads=4, key_heads=2, width=64, inner=256),
}


class GPT2Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.heads = c["width"], c["heads"]
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, c["inner"]), nn.Linear(c["inner"], width)

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = (part.view(b, t, self.heads, width // self.heads).transpose(1, 2) for part in self.qkv(self.ln1(x)).split(width, 2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).reshape(b, t, width))
        return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return (x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin).to(x.dtype)


class LlamaBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.heads, self.key_heads = c["width"], c["heads"], c["key_heads"]
        self.size = width // self.heads
        self.n1, self.n2 = RMSNorm(width), RMSNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, self.key_heads * self.size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, c["inner"], bias=False) for _ in range(2))
        self.down = nn.Linear(c["inner"], width, bias=False)

    def forward(self, x, cos, sin):
        b, t, width = x.shape
        h = self.n1(x)
        q = rotate(self.q(h).view(b, t, self.heads, self.size).transpose(1, 2), cos, sin)
        k = rotate(self.k(h).view(b, t, self.key_heads, self.size).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, self.key_heads, self.size).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, width))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class LM(nn.Module):
    """Logits of tokens (batch, length); the head's weight is the embedding's."""

    def __init__(self, name, length):
        super().__init__()
        c = self.sizes = SIZES[name]
        width = c["width"]
        self.tokens = nn.Embedding(c["vocabulary"], width)
        if c["kind"] == "gpt2":
            self.positions = nn.Embedding(length, width)
            self.blocks, self.norm = nn.ModuleList(GPT2Block(c) for _ in range(c["layers"])), nn.LayerNorm(width)
        else:
            self.blocks, self.norm = nn.ModuleList(LlamaBlock(c) for _ in range(c["layers"])), RMSNorm(width)
            size = width // c["heads"]
            angles = torch.outer(torch.arange(length).float(), 500000.0 ** (-torch.arange(0, size, 2).float() / size))
            self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
            self.register_buffer("sin", torch.cat((angles.sin(), angles.sin()), -1), persistent=False)
        self.head = nn.Linear(width, c["vocabulary"], bias=False)
        self.head.weight = self.tokens.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, x):
        h = self.tokens(x)
        if self.sizes["kind"] == "gpt2":
            h = h + self.positions(torch.arange(x.shape[1], device=x.device))
            for block in self.blocks:
                h = block(h)
        else:
            for block in self.blocks:
                h = block(h, self.cos, self.sin)
        return self.head(self.norm(h))


def loss_fn(logits, y):
    return F.cross_entropy(logits.view(-1, logits.size(-1)).float(), y.view(-1))


def plain_step(loss_of, model, optimizer, device, mixed):
    """A training step in PyTorch as people write it: step(x, y) -> loss, with autocast in bfloat16 where `mixed`."""
    def step(x, y):
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = loss_of(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()
    return step


class Bottleneck(nn.Module):
    def __init__(self, inside, width, stride):
        super().__init__()
        outside = 4 * width
        self.conv1, self.norm1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside)
        self.short = nn.Identity() if stride == 1 and inside == outside else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x):
        h = torch.relu(self.norm1(self.conv1(x)))
        h = torch.relu(self.norm2(self.conv2(h)))
        return torch.relu(self.norm3(self.conv3(h)) + self.short(x))


class ResNet(nn.Module):
    """ResNet-50's shape (He et al., 2015) by default; 1000 classes."""

    def __init__(self, layers=(3, 4, 6, 3)):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
        blocks, inside = [], 64
        for i, n in enumerate(layers):
            for k in range(n):
                blocks.append(Bottleneck(inside, 64 << i, 2 if i and not k else 1))
                inside = 256 << i
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inside, 1000)

    def forward(self, x):
        return self.head(self.blocks(self.pool(torch.relu(self.norm(self.conv(x))))).mean((2, 3)))
