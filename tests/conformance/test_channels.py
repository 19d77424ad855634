"""The pass `channels`: what it makes computes the same, and where it has nothing to say it leaves the first form alone."""
import re

import pytest
import torch

from refrun import random_inputs

CASES = {  # body; outputs
    "batch_norm": ("""  %0 : f32[2, 3, 6, 5] user
  %1 : f32[4, 3, 3, 3] user
  %2 : f32[4] user
  %3 = conv(%0, %1) {stride: [2, 1], padding: [1, 1], dilation: [1, 1], groups: 1} : f32[2, 4, 3, 5]
  %4 = reduce_sum(%3) {dims: [0, 2, 3]} : f32[4]
  %5 = mul(%4, %2) : f32[4]
  %6 = broadcast(%5) {shape: [2, 4, 3, 5], dims: [1]} : f32[2, 4, 3, 5]
  %7 = exp(%6) : f32[2, 4, 3, 5]
  %8 = mul(%3, %7) : f32[2, 4, 3, 5]
  %9 = reduce_max(%8) {dims: [2]} : f32[2, 4, 5]
  %10 = reduce_sum(%8) {dims: [2, 3]} : f32[2, 4]
""", "%8 %9 %10 %6", "transpose(%) {permutation: [0, 2, 3, 1]}", "reduce_sum(%) {dims: [0, 1, 2]}"),
    "windows": ("""  %0 : f32[2, 3, 6, 5] user
  %1 : f32[4, 3, 3, 3] user
  %2 = conv(%0, %1) {stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1} : f32[2, 4, 6, 5]
  %3, %4 = window_max(%2) {kernel: [2, 3], stride: [2, 1], padding: [0, 1], dilation: [1, 1], shape: [3, 5]} : f32[2, 4, 3, 5], i64[2, 4, 3, 5]
  %5 = window_sum(%3) {kernel: [2, 2], stride: [1, 1], padding: [0, 0], dilation: [1, 1], shape: [2, 4]} : f32[2, 4, 2, 4]
  %6 = window_sum_grad(%5) {kernel: [2, 2], stride: [1, 1], padding: [0, 0], dilation: [1, 1], shape: [3, 5]} : f32[2, 4, 3, 5]
  %7 = const() {value: 0.5, dtype: f32} : f32[]
  %8 = pad(%6, %7) {low: [0, 1, 2, 0], high: [0, 0, 0, 1], interior: [0, 0, 1, 0]} : f32[2, 5, 7, 6]
  %9 = slice(%8) {start: [0, 1, 0, 2], limit: [2, 5, 7, 6], stride: [1, 2, 1, 1]} : f32[2, 2, 7, 4]
""", "%4 %9", "shape: [3, 5, 4]", "low: [0, 2, 0, 1]"),
    "mixed": ("""  %0 : f32[2, 3, 4, 4] user
  %1 : f32[3, 3, 1, 1] user
  %2 : f32[2, 3] user
  %3 = conv(%0, %1) {stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1} : f32[2, 3, 4, 4]
  %4 = broadcast(%2) {shape: [2, 3, 4, 4], dims: [0, 1]} : f32[2, 3, 4, 4]
  %5 = neg(%4) : f32[2, 3, 4, 4]
  %6 = add(%5, %3) : f32[2, 3, 4, 4]
  %7 = barrier(%6) : f32[2, 3, 4, 4]
  %8 = add(%7, %0) : f32[2, 3, 4, 4]
  %9 = cumsum(%8) {dim: 1} : f32[2, 3, 4, 4]
  %10 = conv_grad_x(%8, %1) {shape: [2, 3, 4, 4], stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1} : f32[2, 3, 4, 4]
  %11 = conv_grad_w(%0, %10) {shape: [3, 3, 1, 1], stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1} : f32[3, 3, 1, 1]
  %12 = reshape(%10) {shape: [2, 48]} : f32[2, 48]
""", "%5 %9 %11 %12", "barrier(%) : f32[2, 4, 4, 3]", "broadcast(%) {shape: [2, 4, 4, 3], dims: [0, 3]}"),
}


@pytest.mark.parametrize("name", CASES)
def test_same_values(name, ref):
    body, outputs, *wanted = CASES[name]
    before = f'graph @0 "main" {{\n{body}' + "".join(f"  return {v} fresh\n" for v in outputs.split()) + "}\n"
    after = ref.apply("channels", before, ["target=cuda:simt"])
    for text in wanted:
        assert text in re.sub(r"%\d+", "%", after), after
    assert ref.apply("channels", before) == before  # of the cpu: not wanted
    inputs = random_inputs(before, torch.Generator().manual_seed(0))
    for x, y in zip(ref.run(before, inputs), ref.run(after, inputs)):
        torch.testing.assert_close(x, y)
