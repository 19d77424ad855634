"""The programs that thunder.compile is tested with: name -> (function or module factory, arguments factory). Both the oracle
and the true path run them; results, gradients, strides, memory sharing and version counters must equal eager's."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CASES = {}


def case(arguments, **options):
    def add(fn):
        CASES[fn.__name__] = (fn, arguments, options)
        return fn
    return add


def r(*shape, grad=True, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype).requires_grad_(grad)


def pair():
    return r(3, 4), r(3, 4)


@case(pair)
def hello(a, b):
    return a + b


@case(lambda: (r(3, 4, grad=False), r(3, 4, grad=False)))
def hello_without_grad(a, b):
    return a + b


@case(lambda: (r(3, 1), r(4), torch.arange(3), torch.tensor(2.0, dtype=torch.float64)))
def promotion(a, b, i, d):
    return a + b, a * i[:, None], a * 2, a / 3 + d, i / 2, i * True, (a > 0) * b, i // 2, -i % 2, 2 ** i, a.pow(3) - 1.5


@case(lambda: ({"x": r(2, 3), "y": [r(3), r(2, 1)]},), kwargs=lambda: {"scale": 2.0, "flag": True})
def pytrees(tree, scale=1.0, flag=False):
    out = tree["x"] * scale + tree["y"][0]
    return {"a": out, "b": (out.sum(), [tree["y"][1] - 1, flag, None, "text"])}


@case(lambda: (r(3, 4), torch.rand(3, 4), torch.tensor([-100, -100, -100])))
def statistics_and_losses(x, p, ignored):
    flat = x[:, :1].expand(3, 4)
    std, mean = torch.std_mean(flat, 1)
    return (std, mean, x.std(), x.var(1), x.var(None, correction=13), F.cross_entropy(x, ignored) * 0, F.celu(x * 100).clamp(-1, 50),
            F.binary_cross_entropy(x.sigmoid(), p), F.binary_cross_entropy((x > 0).float() + 0 * x, p))


@case(lambda: (r(4, 4, grad=False), r(4, grad=False)))
def in_place_inputs(x, y):
    x.mul_(2)
    y += 1
    x[1] = y
    x[:, 0].add_(3)
    return x.sum()


@case(lambda: (r(4, 4),))
def in_place_intermediate(x):
    h = x * 2
    h.add_(1)
    h[0] = 5
    v = h[1]
    v.mul_(3)
    return h


@case(lambda: (r(4, 4),))
def in_place_on_a_user_value(x):
    y = x * 1

    def inner(z):
        z.mul_(2)
        return z.sum()
    return inner(y), y


@case(lambda: (r(4, 6), r(4, 6, grad=False)))
def views_of_inputs(x, y):
    return x.view(6, 4), x[1:3, ::2], y.t(), x.detach(), y, x.unsqueeze(0).expand(3, 4, 6)


@case(lambda: (r(4, 6), r(4, 6)))
def views_of_one_intermediate(x, y):
    z = x + y
    a, b = z.chunk(2, 1)
    return a, b, z.t()


@case(lambda: (r(4, 6),))
def views_of_a_returned_value(x):
    z = x * 2
    return z, z.view(-1), z[0], z


@case(lambda: (r(2, 3, 4, 5, grad=False).to(memory_format=torch.channels_last).requires_grad_(),))
def channels_last(x):
    return F.relu(x) + 1, x.permute(0, 2, 3, 1), x.mean((2, 3))


@case(lambda: (r(4, 6),))
def transposed_results(x):
    return (x.t() @ x).t(), x.t().contiguous(), torch.empty_like(x.t()).shape


@case(lambda: (r(5, 4),))
def detach_and_no_grad(x):
    a = x * 2
    b = a.detach() * 3
    with torch.no_grad():
        c = a * 4
    return a + b + c, b, c


@case(lambda: (r(5, 4), r(4, 4)))
def constants_inside(x, w):
    t = torch.tensor([1.0, 2.0, 3.0, 4.0])
    return (x @ w) * t + torch.arange(4) + torch.ones(4), torch.zeros(2, 3)


class Scaled(torch.autograd.Function):
    """Its backward is deliberately not the derivative."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w, x.sum(0)

    @staticmethod
    def backward(ctx, g, h):
        x, w = ctx.saved_tensors
        return 7 * g * w, (g * x).sum(0) + h


@case(lambda: (r(3, 4), r(4)))
def custom_function(x, w):
    y, s = Scaled.apply(x, w)
    return y.sin() + s


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, g):
        return g


@case(lambda: (r(3, 4),))
def straight_through(x):
    return Straight.apply(x * 3) * 2


@case(lambda: (r(3, 4), r(4, 4)))
def checkpointed(x, w):
    def body(h):
        return torch.tanh(h @ w) * 2
    return checkpoint(body, checkpoint(body, x, use_reentrant=False), use_reentrant=False).sum()


@case(lambda: (r(3, 4), r(4, 4)), tolerance=2e-2)
def autocast_region(x, w):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = x @ w
        with torch.autocast("cpu", enabled=False):
            g = h.float() @ w
        k = F.linear(h, w)
    return h, g, k + x


@case(lambda: (r(3, 4), torch.randint(0, 4, (3,))))
def losses(x, target):
    return F.cross_entropy(x, target), F.mse_loss(x, x.detach() + 1), F.nll_loss(F.log_softmax(x, -1), target), x.softmax(-1).log().mean()


@case(lambda: (torch.randint(0, 9, (3, 5)), r(9, 4)))
def integers(i, w):
    h = F.embedding(i, w)
    return h, i + 1, i.float(), h.argmax(-1), h > 0, h.max(1), i.sum()


@case(lambda: (r(2, 4, 5, 8), r(2, 4, 5, 8), r(2, 4, 5, 8)))
def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True), (q @ k.transpose(-1, -2)).masked_fill(
        torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.bn = nn.BatchNorm1d(6)
        self.ln = nn.LayerNorm(6)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.count += 1
        return self.ln(torch.relu(self.bn(self.linear(x)))) * self.count


@case(lambda: (r(5, 6),), module=True)
def norms():
    return Norms()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, i, target=None):
        logits = self.head(self.embedding(i))
        return logits if target is None else F.cross_entropy(logits.view(-1, 11), target.view(-1))


@case(lambda: (torch.randint(0, 11, (2, 5)), torch.randint(0, 11, (2, 5))), module=True)
def tied():
    return Tied()


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


@case(lambda: (r(2, 3, 8, 8),), module=True)
def conv():
    return Conv()


@case(lambda: (r(3, 3), r(3, grad=False)))
def written_without_grad(x, buffer):
    """What is written where gradients are off keeps the history it had before."""
    y = x * 2
    row, turned = y[0], y.t()
    with torch.no_grad():
        y.mul_(3)
        row.add_(1)
        y[1] = 5.0
        y.select(0, 2)[:2].mul_(2)
        buffer.copy_(y[2])
    return (y * y).sum(), row * y, turned.sin()


@case(lambda: (r(3, 3),))
def views_made_without_grad(x):
    """A view made where gradients are off has none; one made before keeps its own, though it is first read there."""
    y = x * 2
    before = y.t()
    y.mul_(3)
    with torch.no_grad():
        w = before + 1
        inside = before.t()
        of_input = x.unsqueeze(0)
    return before.sin() * w, (inside * inside).sum() + y.sum(), of_input.permute(1, 0, 2)


class WithoutGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(0.5)
        return x @ self.weight


@case(lambda: (r(2, 3),), module=True)
def parameter_written_without_grad():
    return WithoutGrad()


@case(lambda: (r(16, 1, 5),))
def rows_with_a_dimension_of_one(x):
    """A row's number is found again whatever the index of the dimension of size 1 is called, and read before its row is written over."""
    a = F.log_softmax(x.cos(), 0)
    b = F.rms_norm(a, [5], eps=1e-3)
    return (F.normalize(b, dim=0, eps=1e-2) + b).sum([1, 2]), b, a.exp()


@case(lambda: (r(5, 3), torch.tensor([0, 4, -1, 0]), torch.tensor([[1, 2], [-2, -3]])))
def indexed(w, i, j):
    return w[i], w.sin()[j] * 2, w[:, j], w[None, i].sum(), w[i][:, None]


@case(lambda: (r(3, 4),))
def views_beside_a_checkpoint(x):
    y = x * 1.25
    return checkpoint(lambda t: t.sin() * t.cos(), x, use_reentrant=False), y[:1], y[:1].squeeze(0)


REDUCED = [
    lambda x, w: x.sum() + w.sum(),
    lambda x, w: x.mean() * w.mean(),
    lambda x, w: (x.reshape(-1)[1:] * 2).sum(),
    lambda x, w: torch.cat([x, x]).sin().sum(),
    lambda x, w: (x.t() @ x.sin()).sum(),
    lambda x, w: F.linear(x, w) * 0.3,
    lambda x, w: x @ w.t(),
    lambda x, w: F.softmax(F.linear(x, w), -1).var(0).sum(),
    lambda x, w: F.pad(x, (1, 2)).mean() + x[1:].std(),
    lambda x, w: F.layer_norm(x, (x.shape[1],)).mean() + F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]),
]
