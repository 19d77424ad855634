"""Random programs with the whole breadth of operators, against eager PyTorch: beside what random_programs.py has, layers with parameters,
convolutions, pooling, norms, attention, losses, indexing, integers and booleans, NaN and infinity; inputs of many layouts, and now and
then a dimension of size 0.

    random_operators.py --seed 7 [--count 20]    as random_programs.py"""
import math
import re
import sys

import torch

from random_programs import Program, broadcast, main

# Not F.hardsigmoid: PyTorch's gradient of it holds 1/6 in single precision.
ODD = ("log", "sqrt", "asin", "acosh", "atanh", "reciprocal", "rsqrt", "log2", "tan", "expm1", "exp2", "sinh", "erfc", "trunc", "frac", "ceil", "round",
       "asinh", "acos", "cosh", "atan", "log10", "sign", "isnan", "isinf", "isfinite", "F.mish", "F.hardswish", "F.relu6", "F.relu6", "F.logsigmoid")
PAIRS = ("{a} / {b}", "torch.fmod({a}, {b})", "torch.remainder({a}, {b})", "torch.floor_divide({a}, {b})", "{a}.abs() ** {b}", "{a} ** 3", "{a} ** -1", "{a} ** 0.5",
         "{a} == {b}", "{a} <= {b}", "({a} > 0) & ({b} > 0)", "({a} > 0) ^ ({b} < 0)", "torch.logical_or({a}, {b})", "torch.clamp({a}, min={b})",
         "torch.clamp({a}, max={b})", "torch.clamp({a}, -0.5, 0.5)", "torch.addcmul({a}, {a}, {b}, value=0.5)", "torch.addcdiv({a}, {a}, 2 + {b}.abs())",
         "torch.where({a} > {b}, {b}, 1.0)", "2 - {a}", "3 / {a}", "{a}.masked_fill({b} < 0, float('nan'))", "{a}.masked_fill({b} < -1, float('-inf'))",
         "torch.rsub({a}, {b}, alpha=2)", "{a}.add({b}, alpha=-3)", "torch.maximum({a}, {b} / {b})")
INTEGERS = ("{a} // {b}", "{a} % {b}", "{a} & {b}", "{a} | {b}", "{a} ^ {b}", "~{a}", "{a} * {b}", "{a} / {b}", "{a} ** 2", "{a} == {b}", "-{a}", "{a}.abs()", "{a}.sign()",
            "torch.maximum({a}, {b})", "{a} + 0.5", "{a} * 3", "{a}.clamp(-2, 2)", "{a}.float()", "{a}.bool()", "{a}.int()", "{a}.to(torch.uint8)", "{a} - True")


class Operators(Program):
    def __init__(self, seed):
        self.integers, self.extra = [], {}
        super().__init__(seed)

    def text(self):
        # Where a value is NaN, eager's gradient of what is overwritten is 0 * NaN; in a trace what is overwritten has no use and no gradient.
        # Eager's gradient of elu is NaN there in long loops and 1 in short ones and at their ends.
        return re.sub(r"F\.elu\((\w+)", r"F.elu(torch.nan_to_num(\1)", super().text().replace(".zero_()", ".mul_(0.0)"))

    def kinds(self):
        new = (self.odd, self.pair, self.pair, self.integer, self.integer, self.linear, self.convolution, self.pool, self.norm, self.attention, self.loss,
               self.classes, self.embedding, self.gather, self.scatter, self.rearrange, self.rearrange, self.statistic, self.made, self.checkpoint)
        return new * 2 + super().kinds()

    def tensor(self, name, shape, generator):
        if name in self.extra:
            return self.extra[name](shape, generator)
        t = torch.randn(shape, generator=generator, dtype=torch.float64)
        layout = int(torch.randint(0, 6, (), generator=generator))
        if layout == 1 and t.dim() > 1:
            return t.transpose(0, -1).contiguous().transpose(0, -1)
        if layout == 2 and t.dim():
            return torch.stack([t, t + 1], -1)[..., 0]
        if layout == 3 and t.dim():
            return torch.cat([t, t])[t.shape[0]:].detach()
        if layout == 4 and t.dim() == 4:
            return t.contiguous(memory_format=torch.channels_last)
        return t

    def parameter(self, shape, make=None, grad=True):
        name = f"w{len(self.inputs)}"
        self.inputs.append((name, tuple(shape), grad))
        self.extra[name] = make or (lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64))
        return name

    def indices(self, shape, below):
        return self.parameter(shape, lambda shape, g: torch.randint(0, below, shape, generator=g), False)

    def some(self, least, most=9):
        return self.pick(lambda s: least <= len(s) <= most and all(s))

    # ---- kinds of lines ----

    def odd(self):
        a, op = self.pick(), self.random.choice(ODD)
        text = f"{op}({a})" if op.startswith("F.") else f"{a}.{op}()"
        self.add(f"{text}.double()" if op.startswith("is") else text, self.shapes[a])

    def pair(self):
        a = self.pick()
        b = self.pick(lambda s: broadcast(s, self.shapes[a]) is not None)
        text = self.random.choice(PAIRS)
        shape = broadcast(self.shapes[a], self.shapes[b]) if "{b}" in text else self.shapes[a]
        boolean = any(sign in text for sign in ("==", "<=", "&", "^ ", "logical"))
        self.add(f"({text.format(a=a, b=b)}).double()" if boolean else text.format(a=a, b=b), shape)

    def integer(self):
        """Computes with integers, keeps what comes out for later ones, and returns it now and then as it is."""
        if not self.integers or self.random.random() < 0.4:
            a = self.pick()
            name = f"i{len(self.integers)}"
            self.say(f"{name} = torch.where({a} > 0, 5, -3) + torch.where({a} > 1, 4, 0)")
            self.integers.append((name, self.shapes[a]))
            return
        a, s = self.random.choice(self.integers)
        others = [(b, t) for b, t in self.integers if broadcast(s, t) is not None]
        b, t = self.random.choice(others)
        self.add(f"({self.random.choice(INTEGERS).format(a=a, b=b)}).double()", broadcast(s, t))

    def linear(self):
        a = self.some(1)
        if a is None:
            return
        s, n = self.shapes[a], self.random.choice((1, 2, 5, 16))
        bias = f", {self.parameter([n])}" if self.random.random() < 0.5 else ""
        self.add(f"F.linear({a}, {self.parameter([n, s[-1]])}{bias}) * 0.3", [*s[:-1], n])

    def convolution(self):
        a = self.some(3, 4)
        if a is None:
            return
        s = self.shapes[a]
        spatial = len(s) - 2
        groups = self.random.choice([g for g in (1, 1, s[1]) if s[1] % g == 0])
        out, k = groups * self.random.choice((1, 2, 3)), self.random.choice((1, 2, 3))
        stride, padding, dilation = self.random.choice((1, 1, 2)), self.random.choice((0, 1, 1, 2)), self.random.choice((1, 1, 2))
        sizes = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n in s[2:]]
        if any(n + 2 * padding < dilation * (k - 1) + 1 for n in s[2:]):
            return
        bias = self.parameter([out]) if self.random.random() < 0.5 else None
        w = self.parameter([out, s[1] // groups, *[k] * spatial])
        self.add(f"F.conv{spatial}d({a}, {w}, {bias}, {stride}, {padding}, {dilation}, {groups}) * 0.3", [s[0], out, *sizes])

    def pool(self):
        a = self.some(4, 4)
        if a is None:
            return
        s = self.shapes[a]
        k = self.random.choice((1, 2, 3))
        stride, padding = self.random.choice((1, 2, k)), self.random.choice((0, k // 2))
        sizes = [(n + 2 * padding - k) // stride + 1 for n in s[2:]]
        if min(sizes) < 1 or any(n + 2 * padding < k for n in s[2:]):
            return
        kind = self.random.choice(("max", "avg", "adaptive"))
        if kind == "adaptive":
            self.add(f"F.adaptive_avg_pool2d({a}, 1)", [*s[:2], 1, 1])
        elif kind == "max":
            self.add(f"F.max_pool2d({a}, {k}, {stride}, {padding})", [*s[:2], *sizes])
        else:
            self.add(f"F.avg_pool2d({a}, {k}, {stride}, {padding}, count_include_pad={self.random.random() < 0.5})", [*s[:2], *sizes])

    def norm(self):
        a = self.some(2)
        if a is None:
            return
        s, kind = self.shapes[a], self.random.choice(("batch", "batch_eval", "group", "layer", "rms"))
        if kind.startswith("batch"):
            mean = self.parameter([s[1]], None, False)
            var = self.parameter([s[1]], lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) + 0.5, False)
            training = kind == "batch" and s[0] * math.prod(s[2:]) > 1
            self.add(f"F.batch_norm({a}, {mean}, {var}, {self.parameter([s[1]])}, {self.parameter([s[1]])}, {training}, 0.1, 0.01)", s)
        elif kind == "group":
            g = self.random.choice([g for g in range(1, s[1] + 1) if s[1] % g == 0])
            # Eager PyTorch 2.13's own backward pass crashes for a channels-last input without gradient.
            self.add(f"F.group_norm({a}.contiguous(), {g}, {self.parameter([s[1]])}, {self.parameter([s[1]])}, 0.01)", s)
        else:
            k = self.random.randint(1, len(s))
            more = f", {self.parameter(s[-k:])}" if kind == "layer" else ""
            self.add(f"F.{kind}_norm({a}, {list(s[-k:])}, {self.parameter(s[-k:])}{more}, 0.01)", s)

    def attention(self):
        a = self.some(3, 4)
        if a is None:
            return
        s = self.shapes[a]
        n = self.random.choice((1, 3, s[-2]))
        k, v = self.parameter([*s[:-2], n, s[-1]]), self.parameter([*s[:-2], n, s[-1]])
        kind = self.random.choice(("", "", "causal", "float", "bool"))
        more = ""
        if kind == "causal":
            more = ", is_causal=True"
        elif kind == "float":
            more = f", attn_mask={self.parameter([s[-2], n], None, self.random.random() < 0.3)}"
        elif kind == "bool":
            more = f", attn_mask={self.parameter([s[-2], n], lambda shape, g: torch.rand(shape, generator=g) < 0.8, False)}"
        scale = ", scale=0.3" if self.random.random() < 0.3 else ""
        self.add(f"F.scaled_dot_product_attention({a}, {k}, {v}{more}{scale})", s)

    def loss(self):
        a = self.some(1)
        if a is None:
            return
        s, how = self.shapes[a], self.random.choice(("mean", "sum", "none"))
        kind = self.random.choice(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"))
        self.add(f"F.{kind}({a}, {self.parameter(s, None, kind[0] != 'b' and self.random.random() < 0.5)}, reduction='{how}')", s if how == "none" else ())

    def classes(self):
        a = self.some(2)
        if a is None:
            return
        s, how = self.shapes[a], self.random.choice(("mean", "sum", "none"))
        target = self.indices([s[0], *s[2:]], s[1])
        more = self.random.choice(("", "", ", label_smoothing=0.1", ", ignore_index=0", f", weight={self.parameter([s[1]], lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) + 0.1, False)}"))
        text = f"F.cross_entropy({a}, {target}{more}, reduction='{how}')"
        if self.random.random() < 0.3:
            text = f"F.nll_loss(F.log_softmax({a}, 1), {target}, reduction='{how}')"
        self.add(text, [s[0], *s[2:]] if how == "none" else ())

    def embedding(self):
        rows, width, shape = self.random.choice((1, 3, 9)), self.random.choice((1, 4, 16)), self.random.choice(((), (3,), (2, 5)))
        self.add(f"F.embedding({self.indices(shape, rows)}, {self.parameter([rows, width])}{self.random.choice(('', '', ', padding_idx=0'))})", [*shape, width])

    def gather(self):
        a = self.some(1)
        if a is None:
            return
        s = list(self.shapes[a])
        d, n = self.random.randrange(len(s)), self.random.randint(1, 4)
        kind = self.random.choice(("gather", "index", "max", "argmax"))
        if kind == "gather":
            ids = self.indices([*s[:d], n, *s[d + 1:]], s[d])
            self.add(f"torch.gather({a}, {d}, {ids})", [*s[:d], n, *s[d + 1:]])
        elif kind == "index":
            self.add(f"{a}.index_select({d}, {self.indices([n], s[d])})", [*s[:d], n, *s[d + 1:]])
        elif kind == "max":
            self.add(f"{a}.{self.random.choice(('max', 'min'))}({d})[0]", s[:d] + s[d + 1:])
        else:
            self.add(f"{a}.{self.random.choice(('argmax', 'argmin'))}({d}).double()", s[:d] + s[d + 1:])

    def scatter(self):
        a = self.some(1)
        if a is None:
            return
        s = list(self.shapes[a])
        d, n = self.random.randrange(len(s)), self.random.randint(1, 4)
        shape = [*s[:d], n, *s[d + 1:]]
        kind = self.random.choice(("scatter_add", "index_add", "value", "one_hot"))
        if kind == "one_hot":
            self.add(f"F.one_hot({self.indices(s[:2], 4)}, 4).double()", [*s[:2], 4])
        elif kind == "scatter_add":
            self.add(f"{a}.scatter_add({d}, {self.indices(shape, s[d])}, {self.parameter(shape)})", s)
        elif kind == "index_add":
            self.add(f"{a}.index_add({d}, {self.indices([n], s[d])}, {self.parameter(shape)}, alpha=0.5)", s)
        else:
            self.add(f"{a}.scatter({d}, {self.indices(shape, s[d])}, 0.5)", s)

    def rearrange(self):
        a = self.some(1, 4)
        if a is None:
            return
        s = list(self.shapes[a])
        d, n = self.random.randrange(len(s)), self.random.randint(1, 3)
        kind = self.random.choice(("pad", "roll", "tril", "repeat", "interleave", "split", "unbind", "movedim", "crop", "squeeze", "unfold_view", "cat", "narrow"))
        if kind == "pad":
            self.add(f"F.pad({a}, ({n}, 1), value=0.5)", [*s[:-1], s[-1] + n + 1])
        elif kind == "crop" and s[-1] > 1:
            self.add(f"F.pad({a}, (-1, {n}))", [*s[:-1], s[-1] - 1 + n])
        elif kind == "roll":
            self.add(f"torch.roll({a}, {n}, {d})", s)
        elif kind == "tril" and len(s) > 1:
            self.add(f"{a}.{self.random.choice(('tril', 'triu'))}({self.random.randint(-2, 2)})", s)
        elif kind == "repeat":
            self.add(f"{a}.repeat({', '.join(['1'] * d + [str(n)] + ['1'] * (len(s) - d - 1))})", [*s[:d], s[d] * n, *s[d + 1:]])
        elif kind == "interleave":
            self.add(f"{a}.repeat_interleave({n}, {d})", [*s[:d], s[d] * n, *s[d + 1:]])
        elif kind == "split":
            self.add(f"{a}.split({n}, {d})[-1]", [*s[:d], (s[d] - 1) % n + 1, *s[d + 1:]], False)
        elif kind == "unbind":
            self.add(f"{a}.unbind({d})[{self.random.randrange(s[d])}]", s[:d] + s[d + 1:], False)
        elif kind == "movedim":
            self.add(f"{a}.movedim({d}, 0)", [s[d], *s[:d], *s[d + 1:]], False)
        elif kind == "squeeze":
            self.add(f"{a}.squeeze({d})", s[:d] + s[d + 1:] if s[d] == 1 else s, False)
        elif kind == "cat":
            w = self.parameter([*s[:d], n, *s[d + 1:]])
            self.add(f"torch.cat([{w}, {a}, {w}], {d})", [*s[:d], s[d] + 2 * n, *s[d + 1:]])
        elif kind == "narrow":
            self.add(f"{a}.narrow({d}, {s[d] // 2}, {s[d] - s[d] // 2})", [*s[:d], s[d] - s[d] // 2, *s[d + 1:]], False)
        elif kind == "unfold_view":
            self.add(f"{a}.unflatten({d}, (1, {s[d]}))", [*s[:d], 1, *s[d:]], False)

    def statistic(self):
        a = self.some(1)
        if a is None:
            return
        s = list(self.shapes[a])
        d = self.random.randrange(len(s))
        one = s[:d] + s[d + 1:]
        kind = self.random.choice(("prod", "std", "var_mean", "norm", "any", "all", "cumsum", "sum", "mean", "count", "norm1", "norminf"))
        if kind in ("std", "var_mean") and s[d] < 2:
            return
        self.add({"prod": f"{a}.prod({d})", "std": f"{a}.std({d})", "var_mean": f"torch.var_mean({a}, {d})[0]", "norm": f"torch.linalg.vector_norm({a}, dim={d})",
                  "norm1": f"torch.linalg.vector_norm({a}, 1, dim={d})", "norminf": f"torch.linalg.vector_norm({a}, float('inf'), dim={d})",
                  "any": f"({a} > 1).any({d}).double()", "all": f"({a} < 1).all({d}).double()", "cumsum": f"{a}.cumsum({d})", "sum": f"{a}.sum()",
                  "mean": f"{a}.mean()", "count": f"({a} > 0).sum({d}).double()"}[kind], s if kind == "cumsum" else [] if kind in ("sum", "mean") else one)

    def made(self):
        a = self.pick()
        s = list(self.shapes[a])
        kind = self.random.choice(("arange", "zeros_like", "full_like", "new_ones", "arange_mask", "eval_dropout", "iota_add"))
        if kind == "arange":
            self.add("torch.arange(5, dtype=torch.float64) * 0.5", [5])
        elif kind in ("arange_mask", "iota_add") and s:
            form = "{a}.masked_fill(torch.arange({n}) < {k}, 0)" if kind == "arange_mask" else "{a} + torch.arange({n})"
            self.add(form.format(a=a, n=s[-1], k=s[-1] // 2), s)
        elif kind == "eval_dropout":
            self.add(f"F.dropout({a}, 0.5, False) * 1", s)
        else:
            self.add({"zeros_like": f"torch.zeros_like({a}) + 1", "full_like": f"torch.full_like({a}, 0.3)"}.get(kind, f"{a}.new_ones({s}) * 2"), s)

    def checkpoint(self):
        a = self.pick()
        self.add(f"torch.utils.checkpoint.checkpoint(lambda t: t.sin() * t.cos(), {a}, use_reentrant=False)", self.shapes[a])


if __name__ == "__main__":
    import torch.utils.checkpoint
    sys.exit(main(Operators))
