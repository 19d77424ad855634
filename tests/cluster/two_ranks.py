"""Run by test_launch.py in several ranks: a training step on this rank's half of a batch."""
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.manual_seed(rank)  # rank 0's parameters are what counts
model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 11)).double()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
step = thunder.train_step(model, optimizer, lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()), clip_grad_norm=0.5, parallel="ddp")
generator = torch.Generator().manual_seed(7)
for _ in range(20):
    x, y = torch.randint(0, 11, (4, 6), generator=generator), torch.randint(0, 11, (4, 6), generator=generator)
    part = slice(4 // world * rank, 4 // world * (rank + 1))
    step(x[part], y[part])
torch.save(model.state_dict(), f"{sys.argv[1]}/rank{rank}.pt")
