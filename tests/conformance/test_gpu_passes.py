"""What passes do for GPUs alone: cheap enough to compute twice, near enough to be read once."""
import re

import pytest
import torch

from refrun import random_inputs

pytestmark = pytest.mark.quick
GPU, CPU = ["train_step", "target=cuda:simt"], ["train_step"]

# The middle of a SwiGLU: silu(gate) * up, its product with w, and its gradients from dy, which here is the product itself.
SWIGLU = """graph @0 "main" {
  %0 : f32[6, 8] user
  %1 : f32[6, 8] user
  %2 : f32[8, 8] user
  %3 = dot(%0, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[6, 8]
  %4 = dot(%1, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[6, 8]
  %5 = neg(%3) : f32[6, 8]
  %6 = exp(%5) : f32[6, 8]
  %7 = const() {value: 1.0, dtype: f32} : f32[]
  %8 = broadcast(%7) {shape: [6, 8], dims: []} : f32[6, 8]
  %9 = add(%6, %8) : f32[6, 8]
  %10 = reciprocal(%9) : f32[6, 8]
  %11 = mul(%3, %10) : f32[6, 8]
  %12 = mul(%11, %4) : f32[6, 8]
  %13 = dot(%12, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[6, 8]
  %14 = dot(%13, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : f32[6, 8]
  %15 = mul(%14, %11) : f32[6, 8]
  %16 = dot(%15, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : f32[6, 8]
  %17 = sub(%8, %10) : f32[6, 8]
  %18 = mul(%3, %17) : f32[6, 8]
  %19 = add(%18, %8) : f32[6, 8]
  %20 = mul(%10, %19) : f32[6, 8]
  %21 = mul(%14, %4) : f32[6, 8]
  %22 = mul(%21, %20) : f32[6, 8]
  %23 = dot(%22, %2) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : f32[6, 8]
  return %13 fresh
  return %16 fresh
  return %23 fresh
}
"""


def fusions(text):
    """(operands, results) of each fusion of the main graph, in order."""
    main = text[:text.index("\n}")]
    return [(operands.split(", "), results.split(", ")) for results, operands in re.findall(r"((?:%\d+(?:, )?)+) = fusion\(([^)]*)\)", main)]


@pytest.mark.parametrize("options", [GPU, CPU], ids=["gpu", "cpu"])
def test_swiglu(ref, options):
    """On a GPU the sigmoid is computed again in the backward pass rather than kept from the forward one, and one kernel makes the gradients
    of both factors: it reads dy w', gate and up once."""
    sunk = ref.apply("sink", SWIGLU, options)
    assert (sunk.count(" = exp(") > 1) == (sunk.count(" = barrier(") > 0) == (options is GPU)
    fused = ref.apply("fuse", ref.apply("library", sunk, options), options)
    forward, *backward = fusions(fused)
    if options is GPU:
        assert len(forward[1]) == 1 and len(backward) == 1
        assert len(backward[0][0]) == 3 and len(backward[0][1]) == 2
    else:
        assert len(forward[1]) == 3 and len(backward) == 2
    inputs = random_inputs(SWIGLU, torch.Generator().manual_seed(1))
    for text in (sunk, fused):
        for x, y in zip(ref.run(SWIGLU, inputs), ref.run(text, inputs), strict=True):
            torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("costly, again", [(["tanh", "exp", "sin"], True), (["tanh", "exp", "cos", "sin"], False)])
def test_no_more_than_a_few_exponentials(ref, costly, again):
    """And their like: sooner or later it takes longer to compute a value than to read it."""
    text = SWIGLU.replace("neg(%3)", "tanh(%3)").replace("reciprocal(%9)", "sin(%9)")
    if "cos" in costly:
        text = text.replace("add(%6, %8)", "cos(%6)")
    assert all(f" = {name}(" in text for name in costly)
    assert ref.apply("sink", text, GPU).count(" = tanh(") == (3 if again else 1)


def test_siblings_far_apart_stay_apart(ref):
    """One kernel of readers of %2 would wait for products, and what exp's result goes into with it."""
    text = """graph @0 "main" {
  %0 : f32[8, 8] user
  %1 : f32[8, 8] user
  %2 = dot(%0, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[8, 8]
  %3 = exp(%2) : f32[8, 8]
  %4 = dot(%3, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[8, 8]
  %5 = mul(%2, %4) : f32[8, 8]
  %6 = dot(%0, %0) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : f32[8, 8]
  %7 = sub(%2, %6) : f32[8, 8]
  return %5 fresh
  return %7 fresh
}
"""
    fused = ref.apply("fuse", ref.apply("library", text, GPU), GPU)
    assert [len(results) for _, results in fusions(fused)] == [1, 1, 1]
    inputs = random_inputs(text, torch.Generator().manual_seed(1))
    for x, y in zip(ref.run(text, inputs), ref.run(fused, inputs), strict=True):
        assert torch.equal(x, y)


# Batch norm of a product in bf16: columns' means, then their variances, then what is normalized. Large enough to be worth it.
NORM = """graph @0 "main" {
  %0 : bf16[64, 64] user
  %1 : bf16[64, 128] user
  %2 = dot(%0, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]} : bf16[64, 128]
  %3 = convert(%2) {dtype: f32} : f32[64, 128]
  %4 = reduce_sum(%3) {dims: [0]} : f32[128]
  %5 = const() {value: 0.015625, dtype: f32} : f32[]
  %6 = broadcast(%5) {shape: [128], dims: []} : f32[128]
  %7 = mul(%4, %6) : f32[128]
  %8 = broadcast(%7) {shape: [64, 128], dims: [1]} : f32[64, 128]
  %9 = sub(%3, %8) : f32[64, 128]
  %10 = mul(%9, %9) : f32[64, 128]
  %11 = reduce_sum(%10) {dims: [0]} : f32[128]
  %12 = mul(%11, %6) : f32[128]
  %13 = rsqrt(%12) : f32[128]
  %14 = broadcast(%13) {shape: [64, 128], dims: [1]} : f32[64, 128]
  %15 = mul(%9, %14) : f32[64, 128]
  %16 = convert(%15) {dtype: bf16} : bf16[64, 128]
  %17 = dot(%16, %1) {lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1]} : bf16[64, 64]
  return %17 fresh
}
"""


def wide_results(text):
    return re.findall(r"(\w+)\[64, 128\]", " ".join(re.findall(r" = fusion\([^)]*\) \{[^}]*\} : (.*)", text[:text.index("\n}")])))


@pytest.mark.parametrize("options, wide", [(GPU, ["bf16"]), (CPU, ["f32", "f32", "f32", "bf16"])], ids=["gpu", "cpu"])
def test_norm(ref, options, wide):
    """On a GPU every kernel begins with the product in bf16 and the columns' numbers; nothing is handed on in f32."""
    fused = ref.apply("fuse", ref.apply("library", NORM, options), options)
    assert wide_results(fused) == wide
    inputs = random_inputs(NORM, torch.Generator().manual_seed(3))
    for x, y in zip(ref.run(NORM, inputs), ref.run(fused, inputs), strict=True):
        assert torch.equal(x, y)


def test_norm_that_is_an_output(ref):
    """What is stored anyway is read by all."""
    text = NORM.replace("return %17 fresh", "return %17 fresh\n  return %9 fresh")
    fused = ref.apply("fuse", ref.apply("library", text, GPU), GPU)
    assert wide_results(fused) == ["f32", "bf16"]


@pytest.mark.parametrize("dtype, wide", [("bf16", []), ("f32", ["f32"])])
def test_what_is_made_of_two(ref, dtype, wide):
    """A sum in f32 of two products: read again where that is no more than the sum, as of bf16, else stored."""
    text = f"""graph @0 "main" {{
  %0 : {dtype}[64, 64] user
  %1 : {dtype}[64, 128] user
  %2 = dot(%0, %1) {{lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0]}} : {dtype}[64, 128]
  %3 = dot(%0, %1) {{lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0]}} : {dtype}[64, 128]
  %4 = {"convert" if dtype == "bf16" else "neg"}(%2){" {dtype: f32}" if dtype == "bf16" else ""} : f32[64, 128]
  %5 = {"convert" if dtype == "bf16" else "neg"}(%3){" {dtype: f32}" if dtype == "bf16" else ""} : f32[64, 128]
  %6 = add(%4, %5) : f32[64, 128]
  %7 = reduce_sum(%6) {{dims: [0]}} : f32[128]
  %8 = broadcast(%7) {{shape: [64, 128], dims: [1]}} : f32[64, 128]
  %9 = sub(%6, %8) : f32[64, 128]
  %10 = reduce_sum(%9) {{dims: [0]}} : f32[128]
  return %10 fresh
}}
"""
    fused = ref.apply("fuse", ref.apply("library", text, GPU), GPU)
    assert wide_results(fused) == wide
    inputs = random_inputs(text, torch.Generator().manual_seed(4))
    for x, y in zip(ref.run(text, inputs), ref.run(fused, inputs), strict=True):
        assert torch.equal(x, y)


def conv(channels, kernel, stride, dtype):
    """A convolution of x with w, and both gradients of it from itself."""
    p, size = kernel // 2, 6 if stride == 1 else 3
    attrs = f"stride: [{stride}, {stride}], padding: [{p}, {p}], dilation: [1, 1], groups: 1"
    return f"""graph @0 "main" {{
  %0 : {dtype}[2, {channels}, 6, 6] user
  %1 : {dtype}[16, {channels}, {kernel}, {kernel}] user
  %2 = conv(%0, %1) {{{attrs}}} : {dtype}[2, 16, {size}, {size}]
  %3 = neg(%2) : {dtype}[2, 16, {size}, {size}]
  %4 = conv_grad_x(%3, %1) {{shape: [2, {channels}, 6, 6], {attrs}}} : {dtype}[2, {channels}, 6, 6]
  %5 = conv_grad_w(%0, %3) {{shape: [16, {channels}, {kernel}, {kernel}], {attrs}}} : {dtype}[16, {channels}, {kernel}, {kernel}]
  return %2 fresh
  return %4 fresh
  return %5 fresh
}}
"""


@pytest.mark.parametrize("channels, kernel, stride, dtype, left, dots, channels_left", [
    (8, 1, 1, "bf16", 0, 3, set()),     # windows of one element: products
    (5, 1, 1, "f32", 0, 3, set()),
    (8, 1, 2, "bf16", 3, 0, {8}),       # but for strides
    (8, 3, 1, "bf16", 3, 0, {8}),
    (3, 3, 1, "bf16", 3, 0, {3, 8}),    # an image's channels: filled up for the convolution and the gradient of w
    (3, 3, 1, "f32", 3, 0, {3})])
def test_convolutions(ref, channels, kernel, stride, dtype, left, dots, channels_left):
    text = conv(channels, kernel, stride, dtype)
    after = ref.apply("channels", text, GPU)
    calls = re.findall(r"(%\d+) = (conv\w*)\(([^)]*)\) .* : \w+\[([\d, ]+)\]", after)
    assert len(calls) == left and after.count(" = dot(") == dots
    shapes = dict(re.findall(r"(%\d+) (?:= .* )?: \w+\[([\d, ]+)\]", after))
    seen = {int((shapes[operands.split(", ")[1]] if name == "conv" else dims).split(", ")[1]) for _, name, operands, dims in calls}
    assert seen == channels_left
    inputs = random_inputs(text, torch.Generator().manual_seed(6))
    for x, y in zip(ref.run(text, inputs), ref.run(after, inputs), strict=True):
        torch.testing.assert_close(y, x, rtol=1e-5 if dtype == "f32" else 1e-2, atol=1e-5 if dtype == "f32" else 1e-2)


# Rotary embedding of x, and its gradient from y.
ROPE = """graph @0 "main" {
  %0 : bf16[2, 4, 128, 16] user
  %1 : bf16[128, 16] user
  %2 : bf16[128, 16] user
  %3 : bf16[2, 4, 128, 16] user
  %4 = slice(%0) {start: [0, 0, 0, 8], limit: [2, 4, 128, 16], stride: [1, 1, 1, 1]} : bf16[2, 4, 128, 8]
  %5 = neg(%4) : bf16[2, 4, 128, 8]
  %6 = slice(%0) {start: [0, 0, 0, 0], limit: [2, 4, 128, 8], stride: [1, 1, 1, 1]} : bf16[2, 4, 128, 8]
  %7 = concat(%5, %6) {dim: 3} : bf16[2, 4, 128, 16]
  %8 = broadcast(%1) {shape: [2, 4, 128, 16], dims: [2, 3]} : bf16[2, 4, 128, 16]
  %9 = broadcast(%2) {shape: [2, 4, 128, 16], dims: [2, 3]} : bf16[2, 4, 128, 16]
  %10 = mul(%0, %8) : bf16[2, 4, 128, 16]
  %11 = mul(%7, %9) : bf16[2, 4, 128, 16]
  %12 = add(%10, %11) : bf16[2, 4, 128, 16]
  %13 = mul(%3, %9) : bf16[2, 4, 128, 16]
  %14 = const() {value: 0.0, dtype: bf16} : bf16[]
  %15 = slice(%13) {start: [0, 0, 0, 0], limit: [2, 4, 128, 8], stride: [1, 1, 1, 1]} : bf16[2, 4, 128, 8]
  %16 = neg(%15) : bf16[2, 4, 128, 8]
  %17 = pad(%16, %14) {low: [0, 0, 0, 8], high: [0, 0, 0, 0], interior: [0, 0, 0, 0]} : bf16[2, 4, 128, 16]
  %18 = slice(%13) {start: [0, 0, 0, 8], limit: [2, 4, 128, 16], stride: [1, 1, 1, 1]} : bf16[2, 4, 128, 8]
  %19 = pad(%18, %14) {low: [0, 0, 0, 0], high: [0, 0, 0, 8], interior: [0, 0, 0, 0]} : bf16[2, 4, 128, 16]
  %20 = add(%17, %19) : bf16[2, 4, 128, 16]
  %21 = mul(%3, %8) : bf16[2, 4, 128, 16]
  %22 = add(%20, %21) : bf16[2, 4, 128, 16]
  return %12 fresh
  return %22 fresh
}
"""


def same(ref, before, after, seed):
    inputs = random_inputs(before, torch.Generator().manual_seed(seed))
    for x, y in zip(ref.run(before, inputs), ref.run(after, inputs), strict=True):
        assert torch.equal(x, y)


def test_rotary_embedding(ref):
    """A kernel each, which reads what it turns twice: here, and half a row away. On a CPU the halves are put together by a kernel of their own."""
    fused = ref.apply("fuse", ROPE, GPU)
    assert [(operands, len(results)) for operands, results in fusions(fused)] == [(["%0", "%1", "%2"], 1), (["%3", "%2", "%1"], 1)]
    same(ref, ROPE, fused, 7)
    assert len(fusions(ref.apply("fuse", ROPE, CPU))) > 2


@pytest.mark.parametrize("old, new, results", [
    ("return %22 fresh", "return %22 fresh\n  return %5 fresh", 3),        # a part that is an output
    ("return %22 fresh", "return %22 fresh\n  return %16 fresh", 4),
    ("return %22 fresh", "return %22 fresh\n  return %13 fresh", 3),       # the whole is stored: what turns it is a kernel after it
    ("%13 = mul(%3, %9)", "%13 = add(%12, %9)", 2)])                        # it waits for the first one's result
def test_rotary_embedding_otherwise(ref, old, new, results):
    text = ROPE.replace(old, new.replace("\\\\n", "\\n"))
    assert text != ROPE
    fused = ref.apply("fuse", text, GPU)
    assert sum(len(made) for _, made in fusions(fused)) == results
    same(ref, text, fused, 8)


def test_a_value_and_its_parts_are_two_kernels(ref):
    """exp(x) is too little to store and too much to read where its neighbour writes: small values are stored, then read at another index."""
    text = """graph @0 "main" {
  %0 : f32[4, 8] user
  %1 = const() {value: 0.0, dtype: f32} : f32[]
  %2 = exp(%0) : f32[4, 8]
  %3 = slice(%2) {start: [0, 1], limit: [4, 8], stride: [1, 1]} : f32[4, 7]
  %4 = pad(%3, %1) {low: [0, 0], high: [0, 1], interior: [0, 0]} : f32[4, 8]
  %5 = add(%2, %4) : f32[4, 8]
  return %5 fresh
}
"""
    fused = ref.apply("fuse", text, GPU)
    assert [len(operands) for operands, _ in fusions(fused)] == [1, 1]
    same(ref, text, fused, 9)
