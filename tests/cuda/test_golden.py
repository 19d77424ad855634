"""The CUDA text of a fixed set of traces: golden/<program>.tir, a captured trace, becomes golden/<program>.cu, the launches of its plans and
their kernels, without the helpers that stand before all kernels (executors/cuda/prelude.c).

    python tests/cuda/test_golden.py --update     writes the files anew (look at the difference before you commit)"""
import glob
import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from thunder import wire

import gpu_programs as programs
import test_kernels
from gpu_programs import compiled, rand, step

GOLDEN = pathlib.Path(__file__).parent / "golden"
FORWARD, BOTH, STEP = "--mode=forward", "--mode=forward_backward", "--mode=train_step --optimizer=adamw"
# program: mode of thunderc, what it is there for
GOLDEN_PROGRAMS = {
    "flat": (FORWARD, lambda: compiled(lambda x, y: (F.gelu(x) * y).to(torch.bfloat16), rand(100, 256), rand(100, 256))),
    "broadcast": (FORWARD, lambda: compiled(lambda x, b, y: x + b.exp() * y.t(), rand(96, 128), rand(128), rand(128, 96))),
    "softmax": (FORWARD, lambda: compiled(lambda x: x.softmax(-1), rand(8, 768, dtype=torch.bfloat16))),
    "long-rows": (FORWARD, lambda: compiled(lambda x: x.log_softmax(-1), rand(8, 50257))),
    "layer-norm": (BOTH, lambda: compiled(lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b), rand(300, 768), rand(768), rand(768))),
    "columns": (FORWARD, lambda: compiled(lambda x: x.sum(0), rand(1000, 96, dtype=torch.bfloat16))),
    "whole": (FORWARD, lambda: compiled(lambda x: x.square().sum(), rand(300, 1001))),
    "embedding": (BOTH, lambda: compiled(lambda w, i: F.embedding(i, w), rand(1000, 96), torch.randint(0, 1000, (4, 33)))),
    "argmax": (FORWARD, lambda: compiled(lambda x: (x.argmax(-1), x.cumsum(0)), rand(40, 70))),
    "dropout": (BOTH, lambda: compiled(lambda x: F.dropout(x, 0.25), rand(100, 256))),
    "symbolic": (FORWARD, lambda: compiled(lambda x: (x.softmax(-1), x.sum(0)), rand(7, 9), dynamic=True)),
    "adamw": (STEP, lambda: step(torch.nn.Linear(16, 8), torch.optim.AdamW, F.mse_loss, rand(4, 16, grad=False), rand(4, 8, grad=False))),
}


# ---- a plan as text ----

def expression(plan, number):
    kind, a, b = plan.expr_kind[number], plan.expr_a[number], plan.expr_b[number]
    if kind == wire.DIM_CONST:
        return str(a)
    if kind in (wire.DIM_SYMBOL, 10, 11, 12):
        return {wire.DIM_SYMBOL: f"s{a}", 10: f"int{a}", 11: "rank", 12: "world"}[kind]
    if kind == 9:
        return f"size{a}.{b}"
    x, y = expression(plan, a), expression(plan, b)
    if kind in (wire.DIM_MIN, wire.DIM_MAX):
        return f"{'min' if kind == wire.DIM_MIN else 'max'}({x}, {y})"
    return f"({x} {'+-*/%'[kind - wire.DIM_ADD]} {y})"


def instructions(plan):
    """A line for each."""
    kinds = ("kernel", "call", "collective", "wait", "copy", "fill", "scalars")
    for i, kind in enumerate(plan.instr_kind):
        def part(begin, pool):
            ends = [*begin, len(pool)]
            return pool[ends[i]:ends[i + 1]]
        ints = [expression(plan, e) for e in part(plan.instr_ints_begin, plan.instr_ints)]
        tensors, n = list(part(plan.instr_tensors_begin, plan.instr_tensors)), plan.instr_outputs[i]
        named = f"t{tensors[:len(tensors) - n]} -> t{tensors[len(tensors) - n:]}"
        target = plan.instr_target[i]
        if kind == 1:
            x, y, threads, shared, *sizes = ints
            yield f"{plan.kernel_symbol[target]}<<<({x}, {y}), {threads}, {shared}>>>({', '.join(sizes)}) {named}"
        elif kind in (2, 3, 4):
            yield f"{kinds[kind - 1]} {plan.strings[target]}({', '.join(ints)}) {named}"
        else:
            yield f"{kinds[kind - 1]}({', '.join(ints)}) {named}"


KERNEL = re.compile(r'^extern "C" __global__ .*?(th_kernel_\d+)\(.*?^}\n', re.M | re.S)


def text_of(made):
    lines, kernels = [], {}
    for plan in made.plans:
        lines += [f"// {plan.name}", *(f"//   {line}" for line in instructions(plan))]
    for module in made.modules:
        if module.kind == "cubin":
            kernels |= {m[1]: m[0] for m in KERNEL.finditer(module.source.decode())}
    assert set(kernels) == {symbol for plan in made.plans for symbol in plan.kernel_symbol}
    return "\n".join([*lines, "", *(kernels[k] for k in sorted(kernels, key=lambda k: int(k.split("_")[-1])))])


def compile_golden(program, folder):
    mode, out = GOLDEN_PROGRAMS[program][0], folder / "out"
    command = [os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderc"), *mode.split(), "--target=sm_90", "--dump-after=none", "-o", out, GOLDEN / f"{program}.tir"]
    done = subprocess.run(command, env=programs.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    made = wire.Executable()
    made.ParseFromString(out.read_bytes())
    return text_of(made)


@pytest.mark.quick
@pytest.mark.parametrize("program", GOLDEN_PROGRAMS)
def test_text_is_the_golden_one(program, tmp_path):
    test_kernels.need_nvrtc()
    want = (GOLDEN / f"{program}.cu").read_text(encoding="utf-8")
    assert compile_golden(program, tmp_path) == want, f"another text than {GOLDEN}/{program}.cu; on purpose: {__file__} --update"


@pytest.mark.quick
def test_no_golden_file_is_left_over():
    assert {pathlib.Path(p).stem for p in glob.glob(f"{GOLDEN}/*")} == set(GOLDEN_PROGRAMS)


def update():
    import tempfile
    from thunder import daemon
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.iterdir():
        path.unlink()
    with tempfile.TemporaryDirectory() as folder:
        for program, (_, make) in GOLDEN_PROGRAMS.items():
            job = programs.captured([make()])[0]
            text = daemon.dump(job.SerializeToString(deterministic=True), b"")
            captured = re.match(r"// after capture.*?\n(.*?)\n+// after ", text, re.S)[1]
            (GOLDEN / f"{program}.tir").write_text(captured + "\n", encoding="utf-8")
            (GOLDEN / f"{program}.cu").write_text(compile_golden(program, pathlib.Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    update()
