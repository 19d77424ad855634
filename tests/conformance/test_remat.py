"""The pass remat: what is computed again, where, from what, and that the program computes the same."""
import os
import re

import pytest
import torch

import test_passes
from refrun import random_inputs

pytestmark = pytest.mark.quick
GPU, CPU = ["train_step", "target=cuda:simt"], ["train_step"]

# h = tanh(gate) * up between products, something large in the middle, and the gradients: h waits for that of the weight, gate and up for their own.
LAYERS = """graph @0 "main" {
  %0 : f32[64, 32] user
  %1 : f32[32, 32] user
  %2 : f32[32, 256] user
  %3 = dot(%0, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[64, 32]
  %4 = dot(%0, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : f32[64, 32]
  %5 = tanh(%3) : f32[64, 32]
  %6 = mul(%5, %4) : f32[64, 32]
  %7 = dot(%6, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[64, 32]
  %8 = tanh(%7) : f32[64, 32]
  %9 = dot(%8, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[64, 256]
  %10 = dot(%9, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : f32[64, 32]
  %11 = dot(%6, %10) {lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0]} : f32[32, 32]
  %12 = mul(%10, %4) : f32[64, 32]
  %13 = mul(%10, %3) : f32[64, 32]
  %14 = dot(%0, %12) {lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0]} : f32[32, 32]
  %15 = dot(%0, %13) {lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0]} : f32[32, 32]
  return %11 fresh
  return %14 fresh
  return %15 fresh
}
"""
BYTES = 64 * 32 * 4  # of a layer's value


def body_of(text):
    """[(results, op, operands)] of the main graph."""
    main = text[:text.index("\n}")]
    return [(a.split(", "), op, b.split(", ")) for a, op, b in re.findall(r"((?:%\d+(?:, )?)+) = (\w+)\(([^)]*)\)", main)]


def same(ref, before, after, seed=3):
    inputs = random_inputs(before, torch.Generator().manual_seed(seed))
    for x, y in zip(ref.run(before, inputs), ref.run(after, inputs), strict=True):
        assert torch.equal(x, y)


def test_without_a_limit_small_things_stay(ref):
    """A kernel more takes longer than it takes to move what a small step has in all."""
    for options in (GPU, CPU):
        assert ref.apply("remat", LAYERS, options) == ref.apply("dce", LAYERS)


def test_the_product_of_two_stored_values_first(ref):
    """h = tanh(gate) * up is made again where dW reads it, from gate and up, which are stored for their own readers anyway. No product is made again."""
    after = ref.apply("remat", LAYERS, [*GPU, f"live={11 * BYTES}"])
    same(ref, LAYERS, after)
    ops = body_of(after)
    assert [op for _, op, _ in ops].count("dot") == [op for _, op, _ in body_of(LAYERS)].count("dot")
    assert [op for _, op, _ in ops].count("tanh") == 3
    copied = [i for i, (_, op, _) in enumerate(ops) if op == "mul"]
    makers = {results[0]: op for results, op, _ in ops}
    again = ops[copied[1]]
    assert {makers[v] for v in again[2]} == {"tanh", "barrier"} and copied[1] > [i for i, (_, op, _) in enumerate(ops) if op == "dot"][3]
    fused = ref.apply("fuse", ref.apply("library", after, GPU), GPU)
    same(ref, LAYERS, fused)
    # One kernel of the backward part reads gate and up and makes h again and both gradients.
    kernels = re.findall(r"((?:%\d+(?:, )?)+) = fusion\(([^)]*)\)", fused[:fused.index("\n}")])
    assert any(len(results.split(", ")) == 3 for results, _ in kernels), kernels


def test_products_for_a_tight_limit(ref):
    after = ref.apply("remat", LAYERS, [*GPU, "live=1"])
    same(ref, LAYERS, after)
    assert [op for _, op, _ in body_of(after)].count("dot") > [op for _, op, _ in body_of(LAYERS)].count("dot")


def arena(text):
    return max(int(m) for m in re.findall(r"arena\((\d+)\)", text))


@pytest.mark.parametrize("program", ["gpt", "llama", "cnn"])
@pytest.mark.parametrize("target", [["target=cuda:simt"], []], ids=["gpu", "cpu"])
def test_programs(ref, program, target):
    """Whole steps at limits from all to nothing: bit for bit the same on the reference executor, and the tighter the smaller."""
    options = [o for o in test_passes.PROGRAMS[program] if not o.startswith(("world", "bucket"))] + target
    text = test_passes.read(test_passes.path_of(program, "capture", "forward"))
    for name in ("number", "autocast", "grad", "optimizer", "claim", "decompose", "canonicalize", "fold", "cse", "dce", "unbarrier", "sink"):
        text = ref.apply(name, text, options)
    inputs = random_inputs(text, torch.Generator().manual_seed(7))
    want, tops = ref.run(text, inputs), []
    for limit in (1 << 40, 8000, 4000, 1):
        now = ref.apply("remat", text, [*options, f"live={limit}"])
        for x, y in zip(want, ref.run(now, inputs), strict=True):
            assert torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())
        for name in ("host", "library", "fuse", "batch", "layout", "memory_plan")[0 if target else 1:]:
            now = ref.apply(name, now, options)
        tops.append(arena(now))
    assert tops[-1] < tops[0], tops


SPELLED = """graph @0 "main" {
  %0 : bf16[32, 32] user
  %1 : bf16[32, 32] parameter
  %2 : bf16[32] parameter
  %3 : bf16[32, 256] parameter
  %4, %5 = library(%0, %1, %2) {function: "cublaslt.matmul", body: @1, ints: [0, 1, 2, 1, 3, 0], alpha: 1.0, beta: 0.0} : bf16[32, 32], bf16[32, 32] #executor(cublaslt)
  %6 = dot(%4, %3) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : bf16[32, 256]
  %7 = dot(%6, %3) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : bf16[32, 32]
  %8 = dot(%7, %4) {lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0]} : bf16[32, 32]
  %9 = mul(%7, %5) : bf16[32, 32]
  return %8 fresh
  return %9 fresh
}
graph @1 "cublaslt.matmul" {
  %10 : bf16[32, 32]
  %11 : bf16[32, 32]
  %12 : bf16[32]
  %13 = dot(%10, %11) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : bf16[32, 32]
  %14 = broadcast(%12) {shape: [32, 32], dims: [1]} : bf16[32, 32]
  %15 = add(%13, %14) : bf16[32, 32]
  %16 = tanh(%15) : bf16[32, 32]
  return %16
  return %15
}
"""


@pytest.mark.parametrize("limit, again", [(1 << 40, False), (32 * 32 * 2 * 10, True)])
def test_what_a_library_call_makes_of_its_other_result(ref, limit, again):
    """The activation that an epilogue applies is had again from the value before it, which is kept as well; where there is room the call's own stays."""
    text = SPELLED
    after = ref.apply("remat", text, ["train_step", "target=cuda:sm_90", f"live={limit}"])
    same(ref, text, after)
    assert ("tanh" in [op for _, op, _ in body_of(after)]) == again
    assert [op for _, op, _ in body_of(after)].count("library") == 1


def test_no_gap_no_copy(ref):
    """What is read on both sides of the peak without a pause, inputs, outputs: all stay as they are."""
    text = """graph @0 "main" {
  %0 : f32[64, 32] user
  %1 : f32[32, 32] user
  %2 = dot(%0, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[64, 32]
  %3 = tanh(%2) : f32[64, 32]
  %4 = dot(%3, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[64, 32]
  return %3 fresh
  return %4 fresh
}
"""
    assert ref.apply("remat", text, [*GPU, "live=1"]) == ref.apply("dce", text)
