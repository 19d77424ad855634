"""Random programs against eager PyTorch: a seed makes a function of a dozen or two operators on a few tensors (broadcasting, views,
writes into views and inputs, reductions, contractions, changes of dtype, regions without gradients) and says what it is as
Python text, so that a failure can be read.

    random_programs.py --seed 7 [--count 20]     prints the program of a seed that fails, and ends with 1"""
import argparse
import random
import sys
import traceback

import torch

UNARY = ("sin", "cos", "tanh", "sigmoid", "relu", "abs", "neg", "exp", "square", "erf", "floor", "sign", "F.gelu", "F.silu", "F.softplus", "F.hardtanh",
         "F.elu", "log1p_abs", "rsqrt_abs", "F.leaky_relu")
BINARY = ("{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / (1.5 + {b}.abs())", "torch.maximum({a}, {b})", "torch.minimum({a}, {b})", "torch.where({a} > {b}, {a}, 0.5 * {b})",
          "torch.atan2({a}, 2 + {b}.abs())", "torch.lerp({a}, {b}, 0.3)", "{a}.masked_fill({b} > 0.2, 0.25)")


class Program:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.seed, self.lines, self.shapes, self.n, self.depth = seed, [], {}, 0, 1
        rank = self.random.randint(1, 4)
        self.sizes = [self.random.choice((1, 2, 3, 4, 5, 7, 16)) for _ in range(rank)]
        self.inputs = []
        for i in range(self.random.randint(1, 3)):
            shape = list(self.sizes)
            if i and self.random.random() < 0.5:
                shape = [1 if self.random.random() < 0.4 else n for n in shape][self.random.randint(0, rank - 1):]
            self.inputs.append((f"x{i}", tuple(shape), self.random.random() < 0.8))
            self.shapes[f"x{i}"] = tuple(shape)
        self.fresh = set()  # may be written in place
        for _ in range(self.random.randint(5, 20)):
            self.random.choice(self.kinds())()
        names = [f"v{i}" for i in range(self.n)] or ["x0 * 1"]
        self.outputs = sorted(set(self.random.choices(names, k=min(3, len(names)))) | {names[-1]})

    def kinds(self):
        return (self.unary, self.unary, self.binary, self.binary, self.binary, self.view, self.view, self.reduce, self.normalize, self.contract,
                self.write, self.write, self.join, self.convert, self.without_grad, self.index, self.write_input)

    # ---- the text ----

    def add(self, text, shape, fresh=True):
        name = f"v{self.n}"
        self.n += 1
        self.lines.append("    " * self.depth + f"{name} = {text}")
        self.shapes[name] = tuple(shape)
        if fresh:
            self.fresh.add(name)
        return name

    def say(self, text):
        self.lines.append("    " * self.depth + text)

    def pick(self, condition=lambda s: True):
        names = [n for n, s in self.shapes.items() if condition(s)]
        if not names:
            return None
        return self.random.choice(names[-8:] if self.random.random() < 0.7 else names)

    def text(self):
        arguments = ", ".join(name for name, _, _ in self.inputs)
        return "\n".join([f"def program({arguments}):", *self.lines, f"    return {', '.join(self.outputs)}"])

    def tensor(self, name, shape, generator):
        """The input of that name."""
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # ---- kinds of lines ----

    def unary(self):
        a, op = self.pick(), self.random.choice(UNARY)
        forms = {"exp": f"({a} * 0.3).clamp(-3, 3).exp()", "log1p_abs": f"{a}.abs().log1p()", "rsqrt_abs": f"(1 + {a}.abs()).rsqrt()", "square": f"{a}.clamp(-4, 4).square()"}
        self.add(forms.get(op) or (f"{op}({a})" if op.startswith("F.") else f"{a}.{op}()"), self.shapes[a])

    def binary(self):
        a = self.pick()
        b = self.pick(lambda s: broadcast(s, self.shapes[a]) is not None)
        if b is None:
            return
        self.add(self.random.choice(BINARY).format(a=a, b=b), broadcast(self.shapes[a], self.shapes[b]))

    def view(self):
        a = self.pick(lambda s: len(s) >= 1)
        if a is None:
            return
        s = list(self.shapes[a])
        d = self.random.randrange(len(s))
        kind = self.random.choice(("transpose", "slice", "select", "unsqueeze", "expand", "flatten", "reshape", "permute", "chunk", "flip"))
        if kind == "transpose":
            e = self.random.randrange(len(s))
            s[d], s[e] = s[e], s[d]
            self.add(f"{a}.transpose({d}, {e})", s, False)
        elif kind == "slice":
            start, step = self.random.randrange(s[d]), self.random.choice((1, 1, 2))
            stop = self.random.randint(start + 1, s[d])
            index = [":"] * d + [f"{start}:{stop}:{step}"]
            s[d] = len(range(start, stop, step))
            self.add(f"{a}[{', '.join(index)}]", s, False)
        elif kind == "select":
            self.add(f"{a}.select({d}, {self.random.randrange(s[d])})", s[:d] + s[d + 1:], False)
        elif kind == "unsqueeze" and len(s) < 5:
            self.add(f"{a}.unsqueeze({d})", s[:d] + [1] + s[d:], False)
        elif kind == "expand" and 1 in s:
            s = [self.random.choice((1, 2, 3)) if n == 1 else n for n in s]
            self.add(f"{a}.expand({', '.join(map(str, s))})", s, False)
        elif kind == "flatten":
            e = self.random.randrange(d, len(s))
            n = 1
            for k in s[d:e + 1]:
                n *= k
            self.add(f"{a}.flatten({d}, {e})", s[:d] + [n] + s[e + 1:], False)
        elif kind == "reshape":
            n = 1
            for k in s:
                n *= k
            k = self.random.choice([k for k in range(1, n + 1) if n % k == 0])
            self.add(f"{a}.reshape({k}, {n // k})", [k, n // k], False)
        elif kind == "permute":
            order = self.random.sample(range(len(s)), len(s))
            self.add(f"{a}.permute({', '.join(map(str, order))})", [s[k] for k in order], False)
        elif kind == "chunk" and s[d] > 1:
            size = -(-s[d] // 2)
            s[d] = size
            self.add(f"{a}.chunk(2, {d})[0]", s, False)
        elif kind == "flip":
            self.add(f"{a}.flip({d})", s)

    def reduce(self):
        a = self.pick(lambda s: len(s) >= 1)
        if a is None:
            return
        s = self.shapes[a]
        dims = sorted(self.random.sample(range(len(s)), self.random.randint(1, len(s))))
        keep = self.random.random() < 0.5
        shape = [1 if i in dims else n for i, n in enumerate(s)] if keep else [n for i, n in enumerate(s) if i not in dims]
        op = self.random.choice(("sum", "mean", "amax", "amin", "var", "logsumexp"))
        more = ", correction=0" if op == "var" else ""
        self.add(f"{a}.{op}({dims}{more}, keepdim={keep})", shape)

    def normalize(self):
        a = self.pick(lambda s: len(s) >= 1)
        if a is None:
            return
        s = self.shapes[a]
        d = self.random.randrange(len(s))
        self.add(self.random.choice((f"F.softmax({a}, {d})", f"F.log_softmax({a}, {d})", f"F.layer_norm({a}, [{s[-1]}])", f"{a}.cumsum({d})",
                                     f"F.rms_norm({a}, [{s[-1]}], eps=1e-3)", f"F.normalize({a}, dim={d}, eps=1e-2)")), s)

    def contract(self):
        a = self.pick(lambda s: len(s) >= 2)
        if a is None:
            return
        s = self.shapes[a]
        b = self.pick(lambda t: len(t) >= 2 and t[-2] == s[-1] and broadcast(t[:-2], s[:-2]) is not None)
        if b is None:
            self.add(f"{a} @ {a}.transpose(-1, -2)", s[:-1] + s[-2:-1])
        else:
            self.add(f"({a} @ {b}) * 0.5", (*broadcast(self.shapes[b][:-2], s[:-2]), s[-2], self.shapes[b][-1]))

    def write(self):
        """Into a fresh tensor or a view of one: `a` is made anew, so that nothing saved for the backward pass is overwritten."""
        a = self.pick(lambda s: len(s) >= 1)
        if a is None:
            return
        s = self.shapes[a]
        c = self.add(f"{a} * 1.25", s)
        d = self.random.randrange(len(s))
        at = "[" + ", ".join([":"] * d + [str(self.random.randrange(s[d]))]) + "]"
        b = self.pick(lambda t: broadcast(t, s) == tuple(s))
        self.say(self.random.choice((f"{c}.mul_(0.5)", f"{c}.add_({b})" if b else f"{c}.add_(1)", f"{c}{at} = 0.75", f"{c}{at} *= 2", f"{c}.select({d}, 0).add_(0.5)",
                                     f"{c}.clamp_(-1, 1)", f"{c}.transpose(0, -1).mul_(3)", f"{c}.zero_()")))

    def write_input(self):
        for name, shape, grad in self.inputs:
            if not grad and self.random.random() < 0.4:
                self.say(f"{name}.mul_(0.5)" if self.random.random() < 0.5 else f"{name}.add_(0.25)")
                return

    def join(self):
        a = self.pick(lambda s: 1 <= len(s) < 5)
        if a is None:
            return
        s = self.shapes[a]
        b = self.pick(lambda t: t == s)
        d = self.random.randrange(len(s))
        if self.random.random() < 0.5:
            self.add(f"torch.cat([{a}, {b}], {d})", [n * 2 if i == d else n for i, n in enumerate(s)])
        else:
            self.add(f"torch.stack([{a}, {b}], {d})", [*s[:d], 2, *s[d:]])

    def convert(self):
        a = self.pick()
        small = f"torch.where({a} == {a}, {a}, 0).clamp(-9, 9)"  # what else becomes of NaN and of large numbers is undefined, in PyTorch too
        self.add(self.random.choice((f"{a}.float().double()", f"({a} > 0).double()", f"{small}.round().long().double()", f"({small} * 2).int().remainder(3).double()")), self.shapes[a])

    def without_grad(self):
        a = self.pick()
        kind = self.random.random()
        if kind < 0.5:
            self.add(f"{a}.detach() * 2", self.shapes[a])
        else:
            self.say("with torch.no_grad():")
            self.depth += 1
            if kind < 0.75:
                self.add(f"{a} + 0.5", self.shapes[a])
            elif kind < 0.9 and a in self.fresh:
                self.say(self.random.choice((f"{a}.mul_(0.5)", f"{a}.add_(1)", f"{a}.select(0, 0).mul_(2)" if self.shapes[a] else f"{a}.neg_()")))
            else:
                self.add(f"{a}.unsqueeze(0)", [1, *self.shapes[a]], False)
            self.depth -= 1

    def index(self):
        a = self.pick(lambda s: len(s) >= 1)
        if a is None:
            return
        s = self.shapes[a]
        d = self.random.randrange(len(s))
        rows = [self.random.randrange(s[d]) for _ in range(self.random.randint(1, 4))]
        self.add(f"{a}.index_select({d}, torch.tensor({rows}))", [*s[:d], len(rows), *s[d + 1:]])


def broadcast(s, t):
    try:
        return tuple(torch.broadcast_shapes(s, t))
    except RuntimeError:
        return None


def arguments(program, seed):
    g = torch.Generator().manual_seed(seed)
    return [program.tensor(name, shape, g).requires_grad_(grad) for name, shape, grad in program.inputs]


def observe(fn, args):
    """Outputs, what they look like from outside, the inputs after the call, gradients by all inputs."""
    outputs = fn(*args)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    seen = [("output", t.detach().clone()) for t in outputs] + [("input", t.detach().clone()) for t in args]
    # Strides of dimensions of size 1 are left out (PyTorch's fake tensors and its eager kernels differ there now and then), and so is
    # the place in its storage of an output that shares it with nothing.
    first, looks = {}, [t._version for t in args]
    for i, t in enumerate([*args, *outputs]):
        base = first.setdefault(t.untyped_storage().data_ptr() if t.numel() else -i - 1, (i, t.data_ptr()))
        looks.append((t.shape, tuple(k for k, n in zip(t.stride(), t.shape) if n != 1), t.dtype, t.requires_grad, base[0], t.data_ptr() - base[1] if t.numel() else 0))
    wanted = [t for t in outputs if t.requires_grad]
    leaves = [t for t in args if t.requires_grad]
    if wanted and leaves:
        weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) for t in wanted]
        for g, leaf in zip(torch.autograd.grad(wanted, leaves, weights, allow_unused=True), leaves):
            seen.append(("gradient", torch.zeros_like(leaf) if g is None else g))
    return seen, looks


def check(seed, kind=Program):
    """Raises where Thunder and eager PyTorch differ. Returns False for a program that eager refuses."""
    import torch.nn.functional as F
    import thunder
    program = kind(seed)
    names = {"torch": torch, "F": F}
    exec(compile(program.text(), f"<seed {seed}>", "exec"), names)
    fn = names["program"]
    try:
        wanted, look = observe(fn, arguments(program, seed))
    except (RuntimeError, ValueError):
        return False
    torch._dynamo.reset()
    got, mine = observe(thunder.compile(fn, fullgraph=True), arguments(program, seed))
    for (what, a), (_, b) in zip(wanted, got):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m, what=what: f"{what}: {m}")
    if mine != look:  # strides of eager kernels and of fake tensors differ now and then: what torch.compile or those give is as good
        torch._dynamo.reset()
        others = [observe(torch.compile(fn, fullgraph=True, backend="aot_eager"), arguments(program, seed))[1]]
        real = arguments(program, seed)
        with torch._subclasses.FakeTensorMode() as mode:
            given = [mode.from_tensor(t) for t in real]
            made = fn(*given)
        strides = [tuple(k for k, n in zip(t.stride(), t.shape) if n != 1) for t in (*given, *(made if isinstance(made, tuple) else (made,)))]
        others.append([a if not isinstance(a, tuple) else (a[0], s, *a[2:]) for a, s in zip(look, [None] * len(given) + strides)])
        for other in others:
            look = [m if isinstance(m, tuple) and m == o and a[:1] + a[2:] == o[:1] + o[2:] else a for a, o, m in zip(look, other, mine)]
    different = [(a, b) for a, b in zip(look, mine) if a != b]
    assert not different, f"seen from outside (shape, strides, dtype, requires_grad, shares memory with, at), eager and compiled: {different}"
    return True


def main(kind=Program):
    parser = argparse.ArgumentParser(description=sys.modules[kind.__module__].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--count", type=int, default=1)
    options = parser.parse_args()
    ran = failed = 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            ran += check(seed, kind)
        except Exception:
            failed += 1
            print(f"FAILED seed {seed}\n{kind(seed).text()}\n{traceback.format_exc(limit=-3)}", flush=True)
    print(f"seeds {options.seed} to {options.seed + options.count - 1}: {ran} compared, {options.count - ran - failed} that eager refuses, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
