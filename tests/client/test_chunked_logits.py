"""A training step whose logits are never stored whole (pass chunk), on CUDA's kernels run by the host: it trains as one that stores them."""
import copy
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder
from thunder import jobs

pytestmark = pytest.mark.quick
VOCABULARY, BATCH = 48, (4, 8)
LOGITS = BATCH[0] * BATCH[1] * VOCABULARY


class Gpt(nn.Module):  # a tied embedding
    def __init__(self):
        super().__init__()
        self.token, self.norm = nn.Embedding(VOCABULARY, 8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        h = self.token(x)
        h = h + self.down(F.gelu(self.up(self.norm(h))))
        return F.linear(h, self.token.weight)


def loss_fn(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def train(model, steps, dtype):
    step = thunder.train_step(model, torch.optim.AdamW(model.parameters(), lr=1e-2), loss_fn, clip_grad_norm=1.0)
    generator, losses = torch.Generator().manual_seed(3), []
    for _ in range(steps):
        x, y = (torch.randint(0, VOCABULARY, BATCH, generator=generator) for _ in range(2))
        y[0, :2] = -100
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses.append(float(step(x, y)))
    return torch.tensor(losses), step


def main_of(step):
    plan = str(thunder.last_traces(step)[-1])
    main = plan[plan.index("graph @0"):]
    return main[:main.index("\n}")]


def rows_of_logits(step):
    """Rows of the products with as many columns as the vocabulary, as the library gets them."""
    found = re.findall(rf"invoke\(.*: \w+\[([\d, ]+), {VOCABULARY}\] ", main_of(step))
    return [int(torch.tensor([int(n) for n in dims.split(",")]).prod()) for dims in found]


def places_of_logits(step, dtype):
    """Where the logits of each chunk lie, and their gradient, which is to be in their place."""
    name = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    places = re.findall(rf" {name}\[8, {VOCABULARY}\] strides\([\d, ]+\) arena\((\d+)\)", main_of(step))
    return places[0::2], places[1::2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trains_as_whole(monkeypatch, dtype):
    monkeypatch.setenv("THUNDER_TARGET", "cuda:simt")
    monkeypatch.delenv("THUNDER_EXECUTORS", raising=False)
    whole = Gpt()
    chunked = copy.deepcopy(whole)
    want, step = train(whole, 4, dtype)
    assert rows_of_logits(step) == [32]
    options = jobs.options

    def with_chunks(*args, **kinds):
        o = options(*args, **kinds)
        o.chunk_bytes = LOGITS * torch.finfo(dtype).bits // 8 // 4
        return o

    monkeypatch.setattr(jobs, "options", with_chunks)
    got, step = train(chunked, 4, dtype)
    assert rows_of_logits(step) == [8] * 4
    logits, gradients = places_of_logits(step, dtype)
    assert len(logits) == 4 and logits == gradients
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, want, rtol=rounding, atol=0)
    assert want[0] == pytest.approx(float(got[0]), rel=1e-6)
    for (name, p), q in zip(chunked.named_parameters(), whole.parameters()):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4 if dtype == torch.float32 else 4e-2, msg=lambda m: f"{name}: {m}")
