"""thunder._C with plans for CUDA, on a machine without a GPU: PyTorch and the driver are stand-ins on host memory (fake_torch.c,
fake_cuda.c). A process of its own, as the stand-in is called torch."""
import importlib.util
import os
import pathlib
import struct
import subprocess
import sys

import pytest

BUILD = pathlib.Path(os.environ.get("THUNDER_BUILD_DIR", "build")).resolve()
FAKE = BUILD / "tests" / "fake-cuda"
pytestmark = pytest.mark.quick


def test_module():
    if not (FAKE / "torch.abi3.so").exists():
        pytest.skip("the C tests are not built")
    env = dict(os.environ, THUNDER_CUDA_LIBS=str(FAKE), THUNDER_BUILD_DIR=str(BUILD), PYTHONPATH=str(FAKE))
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- in the process of its own ----

N = 5


def executable():
    """inputs x (user), w (parameter, written), step (host, written), lr (host): step += 1; out = x * lr * step + w; w += 1"""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    files = descriptor_pb2.FileDescriptorSet.FromString((BUILD / "proto" / "thunder.desc").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for f in files.file:
        pool.Add(f)
    x = message_factory.GetMessageClass(pool.FindMessageTypeByName("thunder.wire.Executable"))(version=1)
    x.modules.add(name="kernels", kind="cubin", code=(FAKE / "kernels.so").read_bytes())
    p = x.plans.add(name="step", device=2)

    def k(value):
        p.expr_kind.append(0), p.expr_a.append(value), p.expr_b.append(0)
        return len(p.expr_kind) - 1

    def tensor(kind, index, offset, rank):
        p.buffer_kind.append(kind), p.buffer_index.append(index), p.buffer_offset.append(k(offset)), p.buffer_size.append(k(4 * (N if rank else 1)))
        p.tensor_dtype.append(11), p.tensor_buffer.append(len(p.buffer_kind) - 1), p.tensor_offset.append(k(0))
        if rank:
            p.tensor_dims.append(k(N)), p.tensor_strides.append(k(1))
        p.tensor_dims_begin.append(len(p.tensor_dims))

    def end(kind, target, tensors, outputs, ints, floats=()):
        p.instr_kind.append(kind), p.instr_target.append(target), p.instr_outputs.append(outputs), p.instr_op.append(0xffffffff)
        p.instr_tensors.extend(tensors), p.instr_ints.extend(k(i) for i in ints), p.instr_floats.extend(floats)
        p.instr_tensors_begin.append(len(p.instr_tensors)), p.instr_ints_begin.append(len(p.instr_ints)), p.instr_floats_begin.append(len(p.instr_floats))

    for table in (p.tensor_dims_begin, p.instr_tensors_begin, p.instr_ints_begin, p.instr_floats_begin):
        table.append(0)
    for i, (rank, kind, flags) in enumerate([(1, 0, 0), (1, 1, 1), (0, 3, 5), (0, 4, 4)]):
        tensor(1, i, 0, rank)
        p.input_tensor.append(i), p.input_kind.append(kind), p.input_flags.append(flags)
    tensor(2, 0, 0, 1), tensor(5, 0, 0, 0)
    p.output_tensor.append(4), p.output_kind.append(0), p.output_base.append(0)
    p.kernel_module.append(0), p.kernel_symbol.append("scale_add")
    add, mul = 25, 27  # executors/scalar.h
    end(7, 0, [2, 3, 2, 5], 2, [1, 2, 2, 3, 3, 4, 0, 11, 11, 0, 0, 0, add, 11, 11, 0, 2, 0, mul, 11, 11, 1, 3, 0], [1.0])
    end(1, 0, [0, 5, 1, 4], 1, [1, 1, 32, 0, N])
    p.arena_size, p.staged_size = k(5000), k(4)
    return x.SerializeToString()


def main():
    import torch
    spec = importlib.util.spec_from_file_location("_C", BUILD / "python" / "thunder" / "_C.abi3.so")
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)

    def floats(values, device=2, number=0):
        values = list(values) if isinstance(values, (list, tuple)) else values
        many = isinstance(values, list)
        return torch.tensor(struct.pack(f"{len(values)}f", *values) if many else struct.pack("f", values), 2, 32, len(values) if many else -1, device, number)

    def read(t):
        data = t.bytes()
        return list(struct.unpack(f"{len(data) // 4}f", data))

    def refused(error, text, call):
        try:
            call()
        except error as e:
            assert text in str(e), (text, str(e))
        else:
            raise AssertionError(f"not refused: {text}")

    code = executable()
    plan, other = native.load(code).plans[0], native.load(code).plans[0]
    assert plan.device == "cuda" and plan.held_bytes == 0
    x, w, step = floats([0, 1, 2, 3, 4]), floats([100] * N), floats(0.0, 1)

    def want(k, lr, base):
        return [i * lr * k + base for i in range(N)]

    before = torch.live_bytes()
    assert read(plan.run([x, w, step, 0.5])[0]) == want(1, 0.5, 100)
    assert torch.live_bytes() == before and plan.held_bytes == 0  # a call's memory goes back with it
    results = []
    for k in range(2, 7):
        results.append(plan.run_step([floats([0, 1, 2, 3, 4]), w, step, 0.5])[0])
    assert [read(r) for r in results] == [want(k, 0.5, 98 + k + 1) for k in range(2, 7)]
    held = plan.held_bytes
    assert held > 5000 and torch.live_bytes() == before + held + len(results) * 4 * N

    torch.fail_allocations(1)  # another plan's memory does not fit: this one's goes
    results = other.run_step([x, w, step, 0.5])
    assert plan.held_bytes == 0 and other.held_bytes == held and read(results[0]) == want(7, 0.5, 106)
    other.release()
    assert other.held_bytes == 0
    torch.fail_allocations(1)  # nothing to let go: PyTorch's error
    refused(RuntimeError, "no device memory", lambda: plan.run_step([x, w, step, 0.5]))
    assert read(plan.run_step([x, w, step, 2])[0]) == want(8, 2, 107)  # and it goes on
    torch.fail_allocations(2)
    refused(RuntimeError, "no device memory", lambda: other.run_step([x, w, step, 0.5]))
    assert read(plan.run_step([x, w, step, 2])[0]) == want(9, 2, 108)
    plan.release(), plan.release()
    results.clear()

    refused(ValueError, "input 0 is not on cuda", lambda: plan.run([floats([0] * N, 1), w, step, 1.0]))
    refused(ValueError, "input 1 is on cuda:1, those before it are on cuda:0", lambda: plan.run([x, floats([0] * N, 2, 1), step, 1.0]))
    refused(ValueError, "input 2 is not in host memory", lambda: plan.run([x, w, floats(0.0), 1.0]))
    refused(ValueError, "input 1 is a number", lambda: plan.run([x, 1.0, step, 1.0]))
    odd = floats([0, 1, 2, 3, 4])
    odd.shift(4)
    assert read(plan.run([odd, w, step, 1.0])[0]) == want(10, 1, 109)
    refused(RuntimeError, "input 1 is at an address", lambda: plan.run([x, odd, step, 1.0]))
    plan.check_errors()
    a, b = floats([0, 1, 2, 3, 4], 2, 1), floats([7] * N, 2, 1)
    assert read(plan.run_step([a, b, step, 1.0])[0]) == want(11, 1, 7)  # on the other device
    assert read(plan.run_step([x, w, step, 1.0])[0]) == want(12, 1, 110)
    assert plan.regions == [("scalars", "scalars", -1), ("kernel", "scale_add", -1), ("copies in", "copies in", -1), ("copies out", "copies out", -1)]
    held = plan.held_bytes
    results, (begin, end, rows) = plan.run_profiled([x, w, step, 1.0], True)
    assert read(results[0]) == want(13, 1, 111) and plan.held_bytes == held and len(rows) == 4
    for (host_begin, host_end, device_begin, device_end, size, flops, unit), moved in zip(rows, [4 * 4, 3 * 4 * N + 4, 2 * (4 + 4 * N), 2 * 4 * N]):
        assert begin <= host_begin < host_end <= end and (size, flops, unit) == (moved, 0, "")
        assert device_begin == device_end == -1 if moved == 16 else 0 < device_begin <= device_end <= end
    assert read(plan.run_profiled([x, w, step, 1.0], False)[0][0]) == want(14, 1, 112)
    refused(ValueError, "input 0 is not on cuda", lambda: plan.run_profiled([floats([0] * N, 1), w, step, 1.0], True))
    refused(RuntimeError, "plan step has 4 regions, 1 labels were given", lambda: plan.set_labels(["one"]))
    refused(TypeError, "", lambda: plan.set_labels([1, 2, 3, 4]))
    plan.set_labels(["one", "two", "three", "four"])
    assert native.device_attributes(0) == {"major": 9, "minor": 0, "sms": 132, "memory_khz": 3201000, "bus_bits": 6144}
    refused(RuntimeError, "cuda:9", lambda: native.device_attributes(9))
    results.clear()
    del plan, other, a, b, odd
    assert torch.live_bytes() == 2 * 4 * N, torch.live_bytes()  # x and w


if __name__ == "__main__":
    main()
