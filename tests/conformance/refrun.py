"""th-refrun from Python: traces run on the reference executor, passes run on traces."""
import os
import re
import subprocess

import torch

DTYPES = {"bool": torch.bool, "u8": torch.uint8, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
          "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}
NAMES = {v: k for k, v in DTYPES.items()}


class RefError(RuntimeError):
    pass


class RefRun:
    def __init__(self):
        program = os.path.join(os.environ["THUNDER_BUILD_DIR"], "tests", "th-refrun")
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(10) == 0

    def run(self, text, inputs, seed=0, offset=0):
        """Outputs of graph 0 for `inputs`: a list of tensors, or a list of them for each rank."""
        ranks = inputs if inputs and isinstance(inputs[0], (list, tuple)) else [inputs]
        data = text.encode()
        out = self.process.stdin
        out.write(f"run {len(ranks)} {seed} {offset} {len(ranks[0])} {len(data)}\n".encode() + data)
        for tensors in ranks:
            for t in tensors:
                out.write(" ".join([NAMES[t.dtype], str(t.dim()), *map(str, t.shape)]).encode() + b"\n" + as_bytes(t))
        count = int(self._answer())
        results = [[self._tensor() for _ in range(count)] for _ in ranks]
        return results if ranks is inputs else results[0]

    def apply(self, name, text, options=()):
        """The text of the trace after the pass `name`."""
        data = text.encode()
        self.process.stdin.write(f"pass {name} {','.join(options) or '-'} {len(data)}\n".encode() + data)
        return self.process.stdout.read(int(self._answer())).decode()

    def wire(self, text):
        """The text of the trace after it was encoded and decoded."""
        data = text.encode()
        self.process.stdin.write(f"wire {len(data)}\n".encode() + data)
        return self.process.stdout.read(int(self._answer())).decode()

    def _answer(self):
        self.process.stdin.flush()
        word, number = self.process.stdout.readline().split()
        if word == b"ok":
            return number
        raise RefError(self.process.stdout.read(int(number)).decode())

    def _tensor(self):
        name, _, *dims = self.process.stdout.readline().decode().split()
        dtype, shape = DTYPES[name], [int(d) for d in dims]
        size = torch.empty(0, dtype=dtype).element_size() * int(torch.tensor(shape).prod())
        data = self.process.stdout.read(size)
        return torch.frombuffer(bytearray(data), dtype=dtype).view(shape) if size else torch.empty(shape, dtype=dtype)


def as_bytes(t):
    t = t.detach().contiguous()
    return bytes(t.view(-1).view(torch.uint8).numpy()) if t.numel() else b""


INPUT = re.compile(r"^  %\d+ : (\w+)\[([^\]]*)\]([^/]*)(?://\s*(\S+))?")
KIND = re.compile(r"\b(user|parameter|buffer|state|hyper|seed|offset|integer|tangent|accumulator|saved)\b")


def inputs_of(text):
    """(name, dtype, sizes, kind) of each input of graph 0; sizes are texts where they are symbols."""
    main = text[text.index("graph @0"):]
    main = main[:main.index("\n}")]
    found = []
    for line in main.splitlines()[1:]:
        if "=" in line.split("//")[0] or line.startswith("  return"):
            break
        m = INPUT.match(line)
        sizes = [int(s) if s.isdigit() else s for s in m[2].replace(" ", "").split(",") if s]
        found.append((m[4], DTYPES[m[1]], sizes, KIND.search(m[3])[1]))
    return found


def random_inputs(text, generator, integers=4, sizes=None):
    """Values for the inputs of graph 0 that are not seed or offset."""
    tensors = []
    for _, dtype, shape, kind in inputs_of(text):
        if kind in ("seed", "offset"):
            continue
        shape = [s if isinstance(s, int) else eval(re.sub(r"s\d+", lambda m: str((sizes or {}).get(m[0], 3)), s)) for s in shape]
        if kind == "integer":
            tensors.append(torch.tensor(3, dtype=dtype))
        elif dtype.is_floating_point:
            tensors.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        elif dtype == torch.bool:
            tensors.append(torch.rand(shape, generator=generator) < 0.5)
        else:
            tensors.append(torch.randint(0, integers, shape, generator=generator).to(dtype))
    return tensors
