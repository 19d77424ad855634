"""Programs over the operators, for every executor: name -> list of (function, tensors). Each torch-level row of ops.def has
one at least (test_ops.py asks). Gradients are compared for floating point inputs that require them."""
import torch
import torch.nn.functional as F

SAMPLES = {}


def rand(*shape, dtype=torch.float32, low=-2.0, high=2.0, grad=True):
    generator = torch.Generator().manual_seed(sum(shape) + len(SAMPLES))
    t = (torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(dtype)
    return t.requires_grad_(grad and dtype.is_floating_point)


def ints(*shape, low=0, high=5, dtype=torch.int64):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(sum(shape) + low), dtype=dtype)


def bools(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) < 0.5


def add(row, fn, *tensors):
    SAMPLES.setdefault(row, []).append((fn, tensors))


def unary(name, low=-2.0, high=2.0, fn=None, integers=False):
    fn = fn or getattr(torch, name)
    row = "torch." + name
    add(row, lambda x: fn(x), rand(3, 5, low=low, high=high))
    # PyTorch's gradient of hardsigmoid holds 1/6 in single precision, in f64 too: not compared there.
    add(row, lambda x: fn(x), rand(7, dtype=torch.float64, low=low, high=high, grad=name not in ("hardsigmoid", "hardswish")))
    add(row, lambda x: fn(x), rand(4, 2, dtype=torch.bfloat16, low=low, high=high))
    if integers:
        add(row, lambda x: fn(x), ints(6, low=-3, high=4))


for name in ("neg", "abs", "square", "sign"):
    unary(name, integers=True)
for name in ("exp", "exp2", "expm1", "sin", "cos", "atan", "sinh", "cosh", "asinh", "tanh", "sigmoid", "erf", "erfc", "relu"):
    unary(name)
add("torch.exp", lambda x: x.exp(), ints(5))  # integers become the default float
for name in ("log", "log2", "log10", "sqrt", "rsqrt"):
    unary(name, 0.2, 4)
unary("log1p", -0.7, 4)
unary("reciprocal", 0.3, 3)
unary("tan", -1.2, 1.2)
unary("asin", -0.9, 0.9)
unary("acos", -0.9, 0.9)
unary("acosh", 1.2, 4)
unary("atanh", -0.9, 0.9)
for name in ("floor", "ceil", "round", "trunc", "frac"):
    unary(name, -3.3, 3.3)
for name, fn in {"relu6": F.relu6, "leaky_relu": F.leaky_relu, "elu": F.elu, "hardtanh": F.hardtanh, "hardsigmoid": F.hardsigmoid,
                 "hardswish": F.hardswish, "softplus": F.softplus, "log_sigmoid": F.logsigmoid, "silu": F.silu, "mish": F.mish, "gelu": F.gelu}.items():
    unary(name, -4, 8, fn)
add("torch.gelu", lambda x: F.gelu(x, approximate="tanh"), rand(4, 3))
for form in ("none", "tanh"):
    add("torch.gelu_backward", lambda g, x, form=form: torch.ops.aten.gelu_backward(g, x, approximate=form), rand(4, 3, grad=False), rand(4, 3, grad=False))
add("torch.leaky_relu", lambda x: F.leaky_relu(x, 0.3), rand(5))
add("torch.elu", lambda x: F.elu(x, 0.5), rand(5))
add("torch.hardtanh", lambda x: F.hardtanh(x, -0.5, 0.75), rand(9))
add("torch.softplus", lambda x: F.softplus(x, beta=2, threshold=3), rand(9, low=-4, high=4))
SPECIAL = torch.tensor([0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1.5])

# Gradients where a branch that is not taken overflows, at kinks and at NaN: PyTorch's.
FAR = (-1000.0, -100.0, -20.0, -1.0, -0.0, 0.0, 0.5, 19.9, 20.0, 88.0, 89.0, 90.0, 100.0, 1000.0, float("inf"), float("-inf"), float("nan"))
KINKS = (float("-inf"), -4.0, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 4.0, 6.0, 7.0, float("inf"), float("nan"))


def given(values, dtype=torch.float32, grad=True):
    return torch.tensor(values, dtype=dtype).requires_grad_(grad)


for row, fn in {"elu": F.elu, "celu": F.celu, "selu": F.selu, "softplus": F.softplus, "mish": F.mish}.items():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        add("torch." + row, lambda x, fn=fn: fn(x), given(FAR, dtype))
add("torch.elu", lambda x: F.elu(x, 0.3), given(FAR))
add("torch.celu", lambda x: F.celu(x, 0.5), given(FAR))
add("torch.softplus", lambda x: F.softplus(x, beta=-1.5, threshold=3), given(FAR))
for row, fn in {"relu": F.relu, "relu6": F.relu6, "hardtanh": F.hardtanh, "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish, "leaky_relu": F.leaky_relu,
                "sign": torch.sign, "abs": torch.abs}.items():
    add("torch." + row, lambda x, fn=fn: fn(x), given(KINKS))
    add("torch." + row, lambda x, fn=fn: fn(x), given(KINKS, torch.bfloat16))
for low, high in ((-1.0, 3.0), (0.0, None), (None, 3.0), (float("nan"), 3.0), (-1.0, float("nan")), (3.0, -1.0)):
    add("torch.clamp", lambda x, low=low, high=high: x.clamp(low, high), given(KINKS))
add("torch.clamp_min", lambda x: x.clamp_min(0.0), given(KINKS))
add("torch.clamp_max", lambda x: x.clamp_max(3.0), given(KINKS))
NAN = float("nan")
CUT = (given((0.0, 1.0, NAN, 5.0, 5.0, 1.0, 2.0, 3.0, 5.0, -5.0)), given((1.0, NAN, 0.0, 0.0, NAN, NAN, 2.0, 2.0, 2.0, 9.0)), given((2.0, 2.0, 2.0, NAN, NAN, 2.0, 3.0, 3.0, 3.0, -1.0)))
add("torch.clamp", lambda x, low, high: torch.clamp(x, low, high), *CUT)
add("torch.clamp_min", lambda x, low: torch.clamp_min(x, low), *CUT[:2])
add("torch.clamp_max", lambda x, high: torch.clamp_max(x, high), CUT[0], CUT[2])
PAIRS = (given((0.0, -0.0, NAN, 1.0, NAN, 2.0, float("inf"), 1.0)), given((-0.0, 0.0, 1.0, NAN, NAN, 2.0, float("-inf"), 3.0)))
for name in ("maximum", "minimum"):
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), *PAIRS)
add("torch.sinc", lambda x: torch.sinc(x), given((-1.5, 0.0, -0.0, 0.5, 2.25)))
add("torch.sinc", lambda x: torch.sinc(x), ints(3))
add("torch.xlogy", lambda x, y: torch.xlogy(x, y), given((0.0, 0.0, 1.0, 0.0, NAN, 2.0)), given((0.0, 1.0, 0.0, NAN, 0.0, 3.0)))
add("torch.xlogy", lambda x: torch.xlogy(x, 2.5), given((0.0, 1.5)))
add("torch.xlogy", lambda y: torch.xlogy(2, y), given((0.0, 1.5), torch.bfloat16))
add("torch.logit", lambda x: torch.logit(x), given((0.0, 1.0, 0.3, -0.5, 1.5)))
add("torch.logit", lambda x: torch.logit(x, 0.125), given((0.0, 1.0, 0.3, 0.125, 0.875)))
for name in ("isnan", "isinf", "isfinite"):
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x), SPECIAL)
add("torch.logical_not", lambda x: torch.logical_not(x), bools(5))
add("torch.logical_not", lambda x: torch.logical_not(x), ints(5, high=2))
add("torch.bitwise_not", lambda x: ~x, ints(5))
add("torch.bitwise_not", lambda x: ~x, bools(5))

for name in ("add", "sub", "mul"):
    fn = getattr(torch, name)
    add("torch." + name, lambda x, y, fn=fn: fn(x, y), rand(3, 4), rand(4))
    add("torch." + name, lambda x, y, fn=fn: fn(x, y), rand(3, 4), rand(3, 1, dtype=torch.float64))
    add("torch." + name, lambda x, y, fn=fn: fn(x, y), ints(4), rand(4, dtype=torch.bfloat16))
    add("torch." + name, lambda x, fn=fn: fn(x, 2.5), rand(3))
    add("torch." + name, lambda x, fn=fn: fn(x, 3), ints(3))
    add("torch." + name, lambda x, fn=fn: fn(x, 2.5), ints(3))
add("torch.add", lambda x, y: torch.add(x, y, alpha=-3), rand(2, 3), rand(2, 3))
add("torch.add", lambda x, y: x + y, bools(4), bools(4))
add("torch.sub", lambda x, y: torch.sub(x, y, alpha=2), rand(2, 3), rand(3))
add("torch.mul", lambda x, y: x * y, bools(4), ints(4))
add("torch.add", lambda x: 1 / (x + 0), torch.tensor((-0.0, 0.0)))  # of zeros: 1 / -0.0 is -inf
add("torch.add", lambda x: 1 / (0.0 + x), torch.tensor((-0.0, 0.0), dtype=torch.float64))
add("torch.add", lambda x: 1 / (x + -0.0), torch.tensor((-0.0, 0.0)))
add("torch.sub", lambda x: 1 / (x - 0), torch.tensor((-0.0, 0.0)))
add("torch.rsub", lambda x: 3 - x, rand(4))
add("torch.rsub", lambda x, y: torch.rsub(x, y, alpha=2), rand(4), rand(4))
add("torch.div", lambda x, y: x / y, rand(3, 4), rand(4, low=0.5))
add("torch.div", lambda x, y: x / y, ints(4), ints(4, low=1))
for mode in ("floor", "trunc"):
    add("torch.div", lambda x, y, m=mode: torch.div(x, y, rounding_mode=m), rand(8, low=-9, high=9), rand(8, low=0.7, high=3))
    add("torch.div", lambda x, y, m=mode: torch.div(x, y, rounding_mode=m), ints(8, low=-9, high=9), ints(8, low=1, high=4))
add("torch.floor_divide", lambda x, y: x // y, ints(8, low=-9, high=9), ints(8, low=1, high=4))
add("torch.floor_divide", lambda x: x // -3, ints(8, low=-9, high=9))
for name in ("remainder", "fmod"):
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), ints(8, low=-9, high=9), ints(8, low=-4, high=-1))
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), rand(8, low=-9, high=9), rand(8, low=0.7, high=3))
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x, 2.5), rand(8, low=-9, high=9))
add("torch.pow", lambda x, y: x ** y, rand(6, low=0.2), rand(6))
add("torch.pow", lambda x: x ** 3, rand(6))
add("torch.pow", lambda x: x ** 0.5, rand(6, low=0.2))
add("torch.pow", lambda x: x ** 2, ints(6, low=-3, high=4))
add("torch.pow", lambda x: 2 ** x, rand(6))
for name in ("maximum", "minimum"):
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), rand(3, 4), rand(4))
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), SPECIAL, SPECIAL.flip(0))
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), ints(5), ints(5, low=2))
add("torch.atan2", lambda x, y: torch.atan2(x, y), rand(9), rand(9))
for name in ("eq", "ne", "lt", "le", "gt", "ge"):
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), ints(3, 4), ints(4))
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), SPECIAL, SPECIAL.flip(0))
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x, 0.5), rand(5, grad=False))
for name in ("logical_and", "logical_or", "logical_xor"):
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), bools(4), ints(4, high=2))
for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), ints(4, high=16), ints(4, high=16))
    add("torch." + name, lambda x, y, fn=getattr(torch, name): fn(x, y), bools(4), bools(4))

add("torch.where", lambda c, x, y: torch.where(c, x, y), bools(3, 4), rand(4), rand(3, 1))
add("torch.where", lambda c, x: torch.where(c, x, 0.0), bools(4), rand(4))
add("torch.masked_fill", lambda x, m: x.masked_fill(m, -1e9), rand(3, 4), bools(4))
add("torch.clamp", lambda x: x.clamp(-0.5, 0.5), rand(9))
add("torch.clamp", lambda x, a, b: torch.clamp(x, a, b), rand(9), rand(9, low=-1, high=0), rand(9, low=0, high=1))
add("torch.clamp", lambda x: x.clamp(1, 3), ints(5))
add("torch.clamp_min", lambda x: torch.clamp_min(x, 0.25), rand(9))
add("torch.clamp_max", lambda x: torch.clamp_max(x, 0.25), rand(9))
add("torch.lerp", lambda x, y: torch.lerp(x, y, 0.3), rand(4), rand(4))
add("torch.lerp", lambda x, y, w: torch.lerp(x, y, w), rand(4), rand(4), rand(4))
add("torch.addcmul", lambda x, y, z: torch.addcmul(x, y, z, value=0.5), rand(3, 4), rand(4), rand(3, 1))
add("torch.addcdiv", lambda x, y, z: torch.addcdiv(x, y, z, value=0.5), rand(3, 4), rand(4), rand(3, 1, low=0.5))

for to in (torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.bool):
    add("torch.to", lambda x, to=to: x.to(to), rand(6))
    add("torch.to", lambda x, to=to: x.to(to), ints(6, low=-2, high=3))
add("torch.type_as", lambda x, y: x.type_as(y), rand(6), rand(2, dtype=torch.float64))
add("torch.clone", lambda x: x.clone() + 0, rand(2, 3))
add("torch.detach", lambda x: x.detach() * x, rand(4))
add("torch.copy", lambda x, y: x.clone().copy_(y), rand(3, 4), rand(4))

add("torch.full", lambda x: x + torch.full((2, 3), 1.5, device=x.device), rand(2, 3))
add("torch.zeros", lambda x: x + torch.zeros(3, device=x.device), rand(2, 3))
add("torch.ones", lambda x: x * torch.ones(2, 1, dtype=torch.float64, device=x.device), rand(2, 3))
add("torch.full_like", lambda x: x + torch.full_like(x, 2), rand(2, 3))
add("torch.zeros_like", lambda x: x + torch.zeros_like(x), rand(2, 3))
add("torch.ones_like", lambda x: torch.ones_like(x) * x, ints(2, 3))
add("torch.new_zeros", lambda x: x + x.new_zeros(3), rand(2, 3))
add("torch.new_ones", lambda x: x + x.new_ones((2, 3)), rand(2, 3))
add("torch.new_full", lambda x: x + x.new_full((3,), 7), rand(2, 3))
add("torch.scalar_tensor", lambda x: x + torch.scalar_tensor(2.0), rand(2, 3))
add("torch.arange", lambda x: x + torch.arange(5, device=x.device), rand(2, 5))
add("torch.arange", lambda x: x + torch.arange(1, 11, 2, device=x.device), ints(5))
add("torch.arange", lambda x: x + torch.arange(0, 1, 0.25, device=x.device), rand(4))
add("torch.tril", lambda x: torch.tril(x), rand(4, 5))
add("torch.tril", lambda x: torch.tril(x, -1), rand(2, 4, 4))
add("torch.triu", lambda x: torch.triu(x, 1), rand(4, 5))

add("torch.view", lambda x: x.view(6, -1) * 2, rand(2, 3, 4))
add("torch.reshape", lambda x: x.reshape(4, 6) * 2, rand(2, 3, 4))
add("torch.reshape", lambda x: x.transpose(0, 1).reshape(-1) * 2, rand(3, 4))
add("torch.view_as", lambda x, y: x.view_as(y) + y, rand(2, 6), rand(3, 4))
add("torch.flatten", lambda x: x.flatten(1) * 2, rand(2, 3, 4))
add("torch.unflatten", lambda x: x.unflatten(1, (2, 3)) * 2, rand(2, 6))
add("torch.squeeze", lambda x: x.squeeze() * 2, rand(1, 3, 1))
add("torch.squeeze", lambda x: x.squeeze(0) * 2, rand(1, 3, 1))
add("torch.unsqueeze", lambda x: x.unsqueeze(-2) * 2, rand(2, 3))
add("torch.expand", lambda x: x.expand(4, -1, 3) * 2, rand(2, 1))
add("torch.expand_as", lambda x, y: x.expand_as(y) * y, rand(3), rand(2, 3))
add("torch.broadcast_to", lambda x: torch.broadcast_to(x, (2, 3)) * 2, rand(3))
add("torch.permute", lambda x: x.permute(2, 0, 1) * 2, rand(2, 3, 4))
add("torch.transpose", lambda x: x.transpose(-1, 0) * 2, rand(2, 3, 4))
add("torch.t", lambda x: x.t() * 2, rand(2, 3))
add("torch.movedim", lambda x: x.movedim(0, -1) * 2, rand(2, 3, 4))
add("torch.slice", lambda x: x[1:5:2, -2:] * 2, rand(6, 4))
add("torch.narrow", lambda x: x.narrow(1, 1, 2) * 2, rand(3, 4))
add("torch.select", lambda x: x[:, -1] * 2, rand(3, 4))
add("torch.split", lambda x: [p * 2 for p in x.split(2, 1)], rand(3, 5))
add("torch.split_with_sizes", lambda x: [p * 2 for p in x.split([1, 4], 1)], rand(3, 5))
add("torch.chunk", lambda x: [p * 2 for p in x.chunk(3)], rand(7, 2))
add("torch.unbind", lambda x: [p * 2 for p in x.unbind(1)], rand(3, 2))
add("torch.cat", lambda x, y: torch.cat([x, y, x], 1), rand(2, 3), rand(2, 2))
add("torch.cat", lambda x, y: torch.cat([x, y]), rand(3), ints(2))
add("torch.stack", lambda x, y: torch.stack([x, y], -1), rand(2, 3), rand(2, 3))
add("torch.repeat", lambda x: x.repeat(2, 1, 3), rand(2, 3))
add("torch.repeat_interleave", lambda x: x.repeat_interleave(3, 0), rand(2, 3))
add("torch.repeat_interleave", lambda x: x.repeat_interleave(2), rand(2, 3))
add("torch.flip", lambda x: x.flip(0, 2), rand(2, 3, 4))
add("torch.roll", lambda x: x.roll((1, -2), (0, 1)), rand(3, 4))
add("torch.constant_pad_nd", lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), rand(2, 3, 4))
add("torch.constant_pad_nd", lambda x: F.pad(x, (-1, 2)), rand(2, 4))


def write_slice(x, y):
    z = x.clone()
    z[1:5:2] = y
    return z


def write_select(x, y):
    z = x.clone()
    z[:, 1] = y
    return z


add("torch.slice_scatter", write_slice, rand(6, 3), rand(2, 3))
add("torch.select_scatter", write_select, rand(3, 4), rand(3))

add("torch.linear", lambda x, w, b: F.linear(x, w, b), rand(2, 5, 3), rand(4, 3), rand(4))
add("torch.linear", lambda x, w: F.linear(x, w), rand(3, dtype=torch.float64), rand(4, 3, dtype=torch.float64))
add("torch.linear", lambda x, w, b: F.linear(x, w, b), rand(5, 3, dtype=torch.bfloat16), rand(4, 3, dtype=torch.bfloat16), rand(4, dtype=torch.bfloat16))
for a, b in (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 1, 2, 3), (2, 3, 4)), ((2, 0), (0, 3))):
    add("torch.matmul", lambda x, y: x @ y, rand(*a), rand(*b))
add("torch.matmul", lambda x, y: x @ y.transpose(1, 2), rand(4, 2, 3), rand(4, 5, 3))
add("torch.mm", lambda x, y: torch.mm(x, y.t()), rand(2, 3), rand(4, 3))
add("torch.bmm", lambda x, y: torch.bmm(x, y), rand(4, 2, 3), rand(4, 3, 5))
add("torch.mv", lambda x, y: torch.mv(x, y), rand(2, 3), rand(3))
add("torch.dot", lambda x, y: torch.dot(x, y), rand(5), rand(5))
add("torch.addmm", lambda x, y, z: torch.addmm(x, y, z, beta=0.5, alpha=2), rand(4), rand(2, 3), rand(3, 4))
add("torch.baddbmm", lambda x, y, z: torch.baddbmm(x, y, z, beta=0.5, alpha=2), rand(5, 2, 4), rand(5, 2, 3), rand(5, 3, 4))
add("torch.outer", lambda x, y: torch.outer(x, y), rand(3), rand(4))
add("torch.matmul", lambda x, y: x @ y, ints(2, 3), ints(3, 4))

add("torch.conv1d", lambda x, w, b: F.conv1d(x, w, b, padding=1), rand(2, 3, 8), rand(4, 3, 3), rand(4))
add("torch.conv2d", lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), rand(2, 3, 7, 6), rand(4, 3, 3, 2), rand(4))
add("torch.conv2d", lambda x, w: F.conv2d(x, w, groups=2, dilation=2), rand(2, 4, 7, 6, dtype=torch.float64), rand(6, 2, 3, 2, dtype=torch.float64))
add("torch.conv2d", lambda x, w: F.conv2d(x, w, groups=4, padding=1), rand(1, 4, 5, 5), rand(4, 1, 3, 3))
add("torch.conv3d", lambda x, w: F.conv3d(x, w, padding=(1, 0, 1)), rand(1, 2, 3, 4, 5), rand(3, 2, 2, 2, 3))
add("torch.convolution", lambda x, w: torch.convolution(x, w, None, [2], [1], [1], False, [0], 1), rand(2, 3, 8), rand(4, 3, 3))
add("torch.max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), rand(2, 3, 7, 6))
add("torch.max_pool2d", lambda x: F.max_pool2d(x, 2, ceil_mode=True), rand(1, 2, 5, 7))
add("torch.max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2, return_indices=True), rand(2, 3, 6, 6))
add("torch.avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), rand(2, 3, 7, 6))
add("torch.avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), rand(2, 3, 7, 6))
add("torch.avg_pool2d", lambda x: F.avg_pool2d(x, 2, divisor_override=3), rand(2, 3, 4, 4))
add("torch.adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1), rand(2, 3, 5, 4))
add("torch.adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (2, 2)), rand(2, 3, 4, 6))

add("torch.layer_norm", lambda x, w, b: F.layer_norm(x, (6,), w, b), rand(3, 4, 6), rand(6), rand(6))
add("torch.layer_norm", lambda x: F.layer_norm(x, (4, 6)), rand(3, 4, 6, dtype=torch.float64))
add("torch.layer_norm", lambda x, w, b: F.layer_norm(x, (8,), w, b), *(rand(*s, dtype=torch.bfloat16) for s in ((3, 8), (8,), (8,))))
add("torch.rms_norm", lambda x, w: F.rms_norm(x, (6,), w, 1e-5), rand(3, 4, 6), rand(6))
add("torch.rms_norm", lambda x: F.rms_norm(x, (6,)), rand(3, 6))
for dtype in (torch.bfloat16, torch.float16, torch.float64):  # small numbers: eps is of the dtype it is computed in
    add("torch.rms_norm", lambda x, w: F.rms_norm(x, (6,), w), rand(3, 6, dtype=dtype, low=-0.02, high=0.02), rand(6, dtype=dtype))
add("torch.group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), rand(2, 4, 5), rand(4), rand(4))
add("torch.batch_norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), rand(6, 3, 4), rand(3), rand(3))
add("torch.batch_norm", lambda x, m, v: F.batch_norm(x, m, v), rand(6, 3), rand(3, grad=False), rand(3, low=0.5, grad=False))


def batch_norm(x, w, b, m, v):
    m, v = m.clone(), v.clone()
    return F.batch_norm(x, m, v, w, b, True, 0.2), m, v


add("torch._native_batch_norm_legit.no_stats", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), rand(6, 3, 4), rand(3), rand(3))
add("torch._native_batch_norm_legit_no_training", lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), rand(6, 3, 4), rand(3), rand(3), rand(3, grad=False), rand(3, low=0.5, grad=False))
add("torch._native_batch_norm_legit_functional", batch_norm, rand(6, 3, 4), rand(3), rand(3), rand(3, grad=False), rand(3, low=0.5, grad=False))
HALF = torch.bfloat16
add("torch._native_batch_norm_legit_functional", batch_norm, rand(6, 3, 4, dtype=HALF), rand(3), rand(3), rand(3, grad=False), rand(3, low=0.5, grad=False))
add("torch._native_batch_norm_legit_functional", batch_norm, rand(6, 3, 4, dtype=HALF), *(rand(3, dtype=HALF) for _ in range(2)), rand(3, dtype=HALF, grad=False), rand(3, dtype=HALF, low=0.5, grad=False))
add("torch._native_batch_norm_legit.no_stats", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), rand(6, 3, 4, dtype=HALF), rand(3), rand(3))

for row, fn in {"torch.softmax": F.softmax, "torch.log_softmax": F.log_softmax}.items():
    add(row, lambda x, fn=fn: fn(x, -1), rand(3, 5))
    add(row, lambda x, fn=fn: fn(x, 0), rand(3, 5, dtype=torch.float64))
    add(row, lambda x, fn=fn: fn(x, 1, dtype=torch.float32), rand(3, 5, dtype=torch.bfloat16))
add("torch._softmax", lambda x: torch._softmax(x, 1, False), rand(3, 5))
add("torch._log_softmax", lambda x: torch._log_softmax(x, 1, False), rand(3, 5))
add("torch.logsumexp", lambda x: x.logsumexp((0, 2), True), rand(2, 3, 4))
for reduction in ("mean", "sum", "none"):
    add("torch.cross_entropy_loss", lambda x, y, r=reduction: F.cross_entropy(x, y, reduction=r), rand(6, 5), ints(6))
    add("torch.nll_loss_nd", lambda x, y, r=reduction: F.nll_loss(x, y, reduction=r), rand(6, 5), ints(6))
    for row, fn in {"torch.mse_loss": F.mse_loss, "torch.l1_loss": F.l1_loss, "torch.smooth_l1_loss": F.smooth_l1_loss, "torch.huber_loss": F.huber_loss}.items():
        add(row, lambda x, y, r=reduction, fn=fn: fn(x, y, reduction=r), rand(4, 3), rand(4, 3, low=-1))
    add("torch.binary_cross_entropy_with_logits", lambda x, y, r=reduction: F.binary_cross_entropy_with_logits(x, y, reduction=r), rand(4, 3), rand(4, 3, low=0, high=1, grad=False))
    IGNORED = torch.full((3,), -100)
    for row, fn in {"torch.cross_entropy_loss": F.cross_entropy, "torch.nll_loss_nd": F.nll_loss}.items():
        add(row, lambda x, y, r=reduction, fn=fn: fn(x, y, reduction=r), rand(3, 5), IGNORED)
        add(row, lambda x, y, w, r=reduction, fn=fn: fn(x, y, w, reduction=r), rand(3, 5), IGNORED, rand(5, low=0.5, grad=False))
    CHANCES = (given((0.0, 1.0, 0.0, 1.0, 0.5, 0.3, 1e-30)), given((0.0, 1.0, 1.0, 0.0, 0.5, 0.0, 0.5), grad=False))
    add("torch.binary_cross_entropy", lambda x, y, r=reduction: F.binary_cross_entropy(x, y, reduction=r), *CHANCES)
    add("torch.binary_cross_entropy", lambda x, y, w, r=reduction: F.binary_cross_entropy(x, y, w, reduction=r), *CHANCES, rand(7, low=0.5, grad=False))
    add("torch.binary_cross_entropy", lambda x, y, w, r=reduction: F.binary_cross_entropy(x, y, w, reduction=r),
        *(rand(4, 3, low=0.1, high=0.9, dtype=torch.float64) for _ in range(2)), rand(3, low=0.5, grad=False, dtype=torch.float64))
    add("torch.binary_cross_entropy", lambda x, y, r=reduction: F.binary_cross_entropy(x, y, reduction=r), *(rand(5, low=0.1, high=0.9, dtype=torch.bfloat16) for _ in range(2)))
add("torch.cross_entropy_loss", lambda x, y, w: F.cross_entropy(x, y, w), rand(2, 3), torch.tensor([1, -100]), given((0.0, 0.0, 0.0), grad=False))
add("torch.cross_entropy_loss", lambda x, y, w: F.cross_entropy(x, y, w, ignore_index=2), rand(8, 5), ints(8), rand(5, low=0.5, grad=False))
add("torch.cross_entropy_loss", lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), rand(8, 5), ints(8))
add("torch.cross_entropy_loss", lambda x, y: F.cross_entropy(x, y), rand(4, 5, 3), ints(4, 3))
add("torch.nll_loss_nd", lambda x, y, w: F.nll_loss(x, y, w, ignore_index=1), rand(8, 5), ints(8), rand(5, low=0.5, grad=False))
add("torch.smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y, beta=0.5), rand(4, 3), rand(4, 3, low=-1))
add("torch.binary_cross_entropy_with_logits", lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w), rand(4, 3), rand(4, 3, low=0, high=1, grad=False), rand(3, low=0.5, grad=False))

add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v), *(rand(2, 3, 5, 4) for _ in range(3)))
add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *(rand(2, 3, 5, 4, dtype=torch.float64) for _ in range(3)))
add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), rand(2, 4, 5, 8), rand(2, 2, 5, 8), rand(2, 2, 5, 8))
add("torch.scaled_dot_product_attention", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, scale=0.3), rand(2, 3, 5, 4), rand(2, 3, 6, 4), rand(2, 3, 6, 7), rand(5, 6))
add("torch.scaled_dot_product_attention", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), rand(2, 3, 5, 4), rand(2, 3, 6, 4), rand(2, 3, 6, 4), bools(5, 6) | torch.eye(5, 6, dtype=torch.bool))
# more rows than one block of the cpu executor's function; unequal lengths and sizes; heads packed as GPT packs them
add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *(rand(1, 2, 150, 4, dtype=torch.float64) for _ in range(3)))
add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), rand(1, 2, 70, 4), rand(1, 2, 9, 4), rand(1, 2, 9, 3))
add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), rand(1, 2, 9, 4), rand(1, 2, 70, 4), rand(1, 2, 70, 3))
add("torch.scaled_dot_product_attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), rand(2, 4, 67, 8), rand(2, 2, 65, 8), rand(2, 2, 65, 8))


def packed_heads(x):
    q, k, v = (part.view(2, 66, 2, 4).transpose(1, 2) for part in x.split(8, 2))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 66, 8)


add("torch.scaled_dot_product_attention", packed_heads, rand(2, 66, 24))
add("torch.embedding", lambda w, i: F.embedding(i, w), rand(6, 3), ints(2, 4, high=6))
add("torch.embedding", lambda w, i: F.embedding(i, w, padding_idx=2), rand(6, 3), ints(2, 4, high=6))
add("torch.dropout", lambda x: F.dropout(x, 0.5, False), rand(6))
add("torch.dropout", lambda x: F.dropout(x, 1.0), rand(6))

for name in ("sum", "mean", "amax", "amin"):
    fn = getattr(torch, name)
    add("torch." + name, lambda x, fn=fn: fn(x), rand(3, 4))
    add("torch." + name, lambda x, fn=fn: fn(x, (0, -1), True), rand(2, 3, 4, dtype=torch.float64))
    add("torch." + name, lambda x, fn=fn: fn(x, 1), rand(5, 40, dtype=torch.bfloat16))
add("torch.sum", lambda x: x.sum(0), ints(3, 4))
add("torch.sum", lambda x: x.sum(), bools(3, 4))
add("torch.sum", lambda x: x.sum(1, dtype=torch.float64), rand(3, 4))
add("torch.sum", lambda x: x.sum(0), rand(0, 4))
add("torch.mean", lambda x: x.mean(1, dtype=torch.float64), ints(3, 4))
add("torch.amax", lambda x: x.max(), ints(3, 4))
add("torch.amin", lambda x: x.min(), rand(3, 4))
add("torch.prod", lambda x: x.prod(), rand(6))
add("torch.prod", lambda x: x.prod(1, True), rand(3, 4))
add("torch.prod", lambda x: x.prod(0), ints(3, 4))
for row, fn in {"torch.max.dim": torch.max, "torch.min.dim": torch.min}.items():
    add(row, lambda x, fn=fn: tuple(fn(x, 1)), rand(3, 5))
    add(row, lambda x, fn=fn: tuple(fn(x, 0, True)), ints(3, 5, high=50))
for name in ("argmax", "argmin"):
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x), rand(3, 5, grad=False))
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x, 1, True), rand(3, 5, grad=False))
for name in ("any", "all"):
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x), bools(3, 5))
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x, 1), ints(3, 5, high=2))
    for dims in (None, 1, (0, 1)):
        add("torch." + name, lambda x, fn=getattr(torch, name), d=dims: fn(x) if d is None else fn(x, d), ints(3, 5, high=3, dtype=torch.uint8))
for name in ("var", "std"):
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x), rand(3, 5))
    add("torch." + name, lambda x, fn=getattr(torch, name): fn(x, 1, correction=0, keepdim=True), rand(3, 5))
add("torch.var_mean", lambda x: torch.var_mean(x, 1), rand(3, 5))
add("torch.var_mean", lambda x: torch.var_mean(x, 1)[1], rand(3, 5))
add("torch.var_mean", lambda x: torch.var_mean(x, (0, 2), correction=0, keepdim=True), rand(3, 5, 2, dtype=torch.float64))
add("torch.std_mean", lambda x: torch.std_mean(x, 1), rand(3, 5))
add("torch.std_mean", lambda x: torch.std_mean(x), rand(3, 5, dtype=torch.bfloat16))
FLAT = ((2.0, 2.0, 2.0), (1.0, 2.0, 4.0), (-3.0, -3.0, -3.0))  # PyTorch's gradient of a deviation of 0 is 0
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    add("torch.std", lambda x: x.std(1), given(FLAT, dtype))
    add("torch.std", lambda x: x.std(0, keepdim=True), given(FLAT, dtype))
    add("torch.std_mean", lambda x: torch.std_mean(x, 1), given(FLAT, dtype))
for big in (1e20, 1e-30):  # squares are out of range
    add("torch.std", lambda x: x.std(), given((big, big, -big)))
    add("torch.std_mean", lambda x: torch.std_mean(x, 0), given((big, big, -big)))
for correction in (3, 5):  # no degrees of freedom: inf and NaN, as PyTorch has them
    for row, fn in {"torch.var": torch.var, "torch.std": torch.std, "torch.var_mean": torch.var_mean, "torch.std_mean": torch.std_mean}.items():
        add(row, lambda x, fn=fn, c=correction: fn(x, 1, correction=c), given(FLAT))
        add(row, lambda x, fn=fn, c=correction: fn(x, None, correction=c), given((1.0, 2.0, 4.0)))
add("torch.std", lambda x: x.std(), given(2.0))
add("torch.var", lambda x: x.var(), given(2.0))
for order in (2, 1, 0, float("inf"), 3):
    add("torch.linalg_vector_norm", lambda x, o=order: torch.linalg.vector_norm(x, o, 1), rand(3, 5, grad=order != 0))
add("torch.linalg_vector_norm", lambda x: torch.linalg.vector_norm(x), rand(3, 5))
for order in (2, 3, 1.5, 0.5):  # a row of zeros, and zeros among others: PyTorch's gradient there is 0
    add("torch.linalg_vector_norm", lambda x, o=order: torch.linalg.vector_norm(x, o, 1), torch.tensor([[0.0, 0.0], [0.0, 2.0]], requires_grad=True))
add("torch.cumsum", lambda x: x.cumsum(1), rand(3, 5))
add("torch.cumsum", lambda x: x.cumsum(0), ints(3, 5))

add("torch.gather", lambda x, i: x.gather(1, i), rand(3, 5), ints(3, 4))
add("torch.index_select", lambda x, i: x.index_select(1, i), rand(3, 5), ints(4))
add("torch.scatter", lambda x, i, y: x.scatter(1, i, y), rand(3, 5), torch.tensor([[0, 2], [1, 3], [4, 0]]), rand(3, 2))
add("torch.scatter.value", lambda x, i: x.scatter(1, i, 2.5), rand(3, 5), ints(3, 2))
add("torch.scatter_add", lambda x, i, y: x.scatter_add(1, i, y), rand(3, 5), ints(3, 4), rand(3, 4))
add("torch.index_add", lambda x, i, y: x.index_add(0, i, y, alpha=2), rand(5, 3), ints(4), rand(4, 3))
add("torch.one_hot", lambda i: F.one_hot(i, 6), ints(2, 4))
