"""The pass chunk: what it makes of the head of a language model, that both compute the same, and what it must leave alone.

    python tests/conformance/test_chunk.py --update     writes golden/chunk/chunk.tir anew (look at the difference before you commit)"""
import os
import re
import sys

import pytest
import torch

import test_passes
from refrun import RefRun, random_inputs

pytestmark = pytest.mark.quick
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "chunk")
BYTES = 16 * 40 * 2  # of head.tir's logits
CHUNKED = ("gpt",)


def read(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as f:
        return f.read()


def chunked(ref, text, chunk):
    return ref.apply("chunk", text, ["train_step", "target=cuda:simt", f"chunk={chunk}"])


def normal(ref, text):
    """As printed, with nothing that nobody reads."""
    return ref.apply("dce", text)


def rows_of(text):
    """Rows of each product with w, the logits."""
    return [int(n) for n in re.findall(r" = dot\(%\d+, %1\) .*rhs_contract: \[1\]\} : \w+\[(\d+), 40\]", text)]


SM_90 = ["train_step", "target=cuda:sm_90"]  # with cublaslt


def test_sums_are_added_up_by_the_products(ref):
    """The pass absorb: a part of dW is a product in f32 that adds itself to the parts before it, where they lie."""
    text = chunked(ref, read("head.tir"), BYTES // 8)
    after = ref.apply("absorb", text, SM_90)
    calls = re.findall(r"(%\d+) = library\(([^)]*)\) \{function: \"cublaslt.matmul\".* ints: \[0, 1, 0, 0, (\d), 0\].* : f32\[40, 4\]", after)
    assert [epilogue for *_, epilogue in calls] == ["0"] + ["6"] * 7
    assert [operands.split(", ")[2] for _, operands, _ in calls[1:]] == [result for result, *_ in calls[:-1]]
    inputs = random_inputs(text, torch.Generator().manual_seed(5))
    for x, y in zip(ref.run(text, inputs), ref.run(after, inputs), strict=True):
        assert torch.equal(x, y)
    for name in ("library", "fuse", "layout", "memory_plan"):
        after = ref.apply(name, after, SM_90)
    places = re.findall(r"ints: \[0, 1, 0, 0, [06], 0\].* : f32\[40, 4\] strides\(4, 1\) (arena\(\d+\))", after)
    assert len(places) == 8 and len(set(places)) == 1


def test_golden(ref):
    assert chunked(ref, read("head.tir"), BYTES // 2) == read("chunk.tir"), f"the pass makes something else of head.tir than chunk.tir says: {__file__} --update"


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("chunk, n", [(BYTES, 2), (BYTES // 2, 2), (BYTES // 3, 4), (BYTES // 8, 8), (1, 16)])
def test_executed_before_and_after(ref, wide, chunk, n):
    text = read("head.tir").replace("bf16", "f32") if wide else read("head.tir")
    after = chunked(ref, text, chunk * 2 if wide else chunk)
    assert rows_of(after) == [16 // n] * n
    inputs = random_inputs(text, torch.Generator().manual_seed(n))
    for i, (x, y) in enumerate(zip(ref.run(text, inputs), ref.run(after, inputs), strict=True)):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        tolerance = 1e-6 if wide or i < 2 else 2e-2  # dW is rounded once for each part
        torch.testing.assert_close(y, x, rtol=tolerance, atol=tolerance / 4, msg=lambda m: f"output {i}: {m}")
        if i < 2 and not wide:
            assert torch.equal(x, y)


# How many chunks there are when these texts become those.
VARIANTS = {
    "rows that are read transposed": (2, ("%44 = dot(%43, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [2], rhs_contract: [0]} : bf16[2, 8, 4]",
                                          "%44 = dot(%1, %43) {lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [2]} : bf16[4, 2, 8]")),
    "the other side of dW": (2, ("%45 = dot(%43, %0) {lhs_batch: [], rhs_batch: [], lhs_contract: [0, 1], rhs_contract: [0, 1]} : bf16[40, 4]",
                                 "%45 = dot(%0, %43) {lhs_batch: [], rhs_batch: [], lhs_contract: [0, 1], rhs_contract: [0, 1]} : bf16[4, 40]")),
    "a loss of each row leaves": (2, ("return %28 fresh", "return %25 fresh")),
    "wide values from outside": (2, ("%3 : f32[40] user", "%3 : f32[16, 40] user"), ("%12 = broadcast(%3) {shape: [16, 40], dims: [1]}", "%12 = neg(%3)")),
    "no row is reduced": (0, ("%14 = reduce_max(%13) {dims: [1]}", "%14 = neg(%8)"), ("%18 = reduce_sum(%17) {dims: [1]}", "%18 = exp(%8)"),
                          ("%22 = take_along(%13, %21) {dim: 1}", "%22 = convert(%21) {dtype: f32}"), ("%28 = div(%26, %27)", "%28 = div(%27, %27)")),
    "the logits leave": (0, ("return %28 fresh", "return %9 fresh")),
    "the gradient leaves": (0, ("return %28 fresh", "return %43 fresh")),
    "columns are summed": (0, ("%26 = reduce_sum(%25) {dims: [0]} : f32[]", "%26 = reduce_sum(%13) {dims: [0, 1]} : f32[]")),
    "one row reads the others": (0, ("%29 = broadcast(%27)", "%29 = broadcast(%26)")),
    "dW takes rows in another order": (0, ("lhs_contract: [0, 1], rhs_contract: [0, 1]} : bf16[40, 4]", "lhs_contract: [1, 0], rhs_contract: [1, 0]} : bf16[40, 4]")),
    "a column's number is computed of rows": (0, ("%35 = iota() {shape: [16, 40], dim: 1,", "%35 = iota() {shape: [16, 40], dim: 0,")),
    "too few rows": (0, ("[2, 8", "[1, 1"), ("[16", "[1")),
    "an odd number of rows": (0, ("[2, 8", "[3, 5"), ("[16", "[15")),
    "a number of rows that is not known": (0, ("graph @0", "symbol s0 = size(0, 1) in [2, *]\ngraph @0"), ("[2, 8", "[2, s0"), ("[16", "[2*s0")),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(ref, name):
    n, *changes = VARIANTS[name]
    text = read("head.tir")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    before = normal(ref, text)
    after = chunked(ref, before, BYTES // 2)
    if not n:
        assert after == before
        return
    assert len(rows_of(after)) == n
    inputs = random_inputs(text, torch.Generator().manual_seed(1))
    for x, y in zip(ref.run(text, inputs), ref.run(after, inputs), strict=True):
        torch.testing.assert_close(y, x, rtol=2e-2, atol=5e-3)


def test_only_large_products(ref):
    before = normal(ref, read("head.tir"))
    assert chunked(ref, before, 0) == before  # the default
    assert chunked(ref, before, 2 * BYTES + 2) == before
    assert ref.apply("chunk", before, ["target=cuda:simt", "chunk=1"]) == before  # mode forward
    assert ref.apply("chunk", before, ["train_step", "chunk=1"]) == before  # for the cpu


@pytest.mark.parametrize("program", [p for p in test_passes.PROGRAMS if "train_step" in test_passes.PROGRAMS[p]])
def test_whole_steps(ref, program):
    """Whatever product can be made in parts is, in steps of one rank and of several."""
    options, before = [*test_passes.PROGRAMS[program], "target=cuda:simt", "chunk=1"], test_passes.read(test_passes.path_of(program, "capture", "forward"))
    for name in ("number", "autocast", "grad", "optimizer", "ddp", "decompose", "canonicalize", "fold", "cse", "dce", "unbarrier", "sink", "pick"):
        before = ref.apply(name, before, options)
    after = ref.apply("chunk", before, options)
    assert (after != before) == (program in CHUNKED)
    ranks = test_passes.ranks_of(before, test_passes.world_of(program))
    test_passes.same(ref.run(before, ranks, seed=11), ref.run(after, ranks, seed=11), program)


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    runner = RefRun()
    with open(os.path.join(FOLDER, "chunk.tir"), "w", encoding="utf-8") as out:
        out.write(chunked(runner, read("head.tir"), BYTES // 2))
    runner.close()
