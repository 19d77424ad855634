"""A small residual CNN's training step, for test_cnn.py: `cnn_step.py [bf16] [last]` prints a loss a step, or what came instead."""
import sys

import torch
from torch import nn

import thunder


class Block(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.norm2 = nn.Conv2d(outside, outside, 3, 1, 1, groups=2), nn.BatchNorm2d(outside)
        self.short = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)) if inside != outside else nn.Identity()

    def forward(self, x):
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + self.short(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.MaxPool2d(3, 2, 1)
        self.blocks, self.top = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2)), nn.Linear(32, 10)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in sys.argv):
            return self.top(self.blocks(self.pool(torch.relu(self.norm(self.stem(x))))).mean((2, 3)))


torch.manual_seed(0)
model, x, y = Net(), torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
if "last" in sys.argv:
    model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), lambda out, y: nn.functional.cross_entropy(out.float(), y))
try:
    for _ in range(3):
        print("loss", float(step(x, y)))
    for name, buffer in model.named_buffers():
        print("buffer", float(buffer.double().sum()))
except Exception as error:
    print(type(error).__name__, error)
