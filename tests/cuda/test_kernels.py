"""Every generated kernel of a fixed set of programs (gpu_programs.py) compiles for sm_80, sm_90 and sm_100 through NVRTC, without a GPU, and fits:
nothing in local memory to speak of, registers for the blocks that are launched. The table of all kernels is written to
$THUNDER_BUILD_DIR/tests/cuda-kernels/<arch>.txt."""
import ctypes
import functools
import os
import pathlib

import pytest
import torch

import thunder

import cubin
import gpu_programs as programs

QUICK = ("mlp", "pointwise", "sums_i64", "symbolic")
ARCHS = ("sm_80", "sm_90", "sm_100")
SHARED = 49152 + 1024 # bytes that a block may have without asking the driver for more, and the system's own (cubin.py)
FRAME = 40            # bytes of a thread in local memory: sine and cosine reduce large arguments there; a kernel that spills has more
REGISTERS = 65536     # of a multiprocessor, given out by eights to each thread
BLOCKS = 2            # that a multiprocessor has room for at least ...
CROWDED = {"gpt", "gpt_bf16", "gpt_f16"} # ... but for these programs: the random numbers of dropout, several times in a row's kernel, take more than 128 registers


@functools.cache
def nvrtc():
    for path in [os.path.join(f, "libnvrtc.so.13") for f in programs.folders()] + ["libnvrtc.so.13"]:
        try:
            library, major, minor = ctypes.CDLL(path), ctypes.c_int(), ctypes.c_int()
            library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
            builtins = f"libnvrtc-builtins.so.{major.value}.{minor.value}"  # NVRTC finds them where they are loaded already
            ctypes.CDLL(os.path.join(os.path.dirname(path), builtins))
            return library
        except OSError:
            continue
    return None


def need_nvrtc():
    if not nvrtc():
        assert os.environ.get("CI") != "true", "CI compiles for GPUs: deploy/setup.sh installs NVRTC"
        pytest.skip("libnvrtc.so.13 is not in this environment: pip install nvidia-cuda-nvrtc==13.0.88")


jobs = functools.cache(programs.jobs)
tables = {}  # arch -> program -> lines


def cases():
    for arch in ARCHS:
        for name in programs.PROGRAMS:
            yield pytest.param(arch, name, marks=[pytest.mark.quick] if arch == "sm_90" and name in QUICK else [])


def write_table(arch):
    folder = pathlib.Path(os.environ["THUNDER_BUILD_DIR"]) / "tests/cuda-kernels"
    folder.mkdir(parents=True, exist_ok=True)
    head = f"{'program':12} {'job':>3} {'kernel':14} {'threads':>7} {'registers':>9} {'shared':>6} {'frame':>5} {'blocks':>6}"
    lines = [head, *(line for rows in tables[arch].values() for line in rows)]
    (folder / f"{arch}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("arch, name", cases())
def test_compiles_and_fits(arch, name, tmp_path):
    need_nvrtc()
    rows, wrong = tables.setdefault(arch, {}).setdefault(name, []), []
    rows.clear()
    for i, job in enumerate(jobs(name)):
        made = programs.executable(job, arch, tmp_path / f"{i}")
        wanted = {(plan.kernel_module[k], symbol) for plan in made.plans for k, symbol in enumerate(plan.kernel_symbol)}
        found = {(m, symbol): kernel for m, module in enumerate(made.modules) if module.kind == "cubin" for symbol, kernel in cubin.kernels(module.code).items()}
        assert wanted and wanted == set(found)
        for (_, symbol), k in sorted(found.items()):
            blocks = REGISTERS // ((k.registers + 7) // 8 * 8 * k.threads)
            rows.append(f"{name:12} {i:3} {symbol:14} {k.threads:7} {k.registers:9} {k.shared:6} {k.frame:5} {blocks:6}")
            if k.frame > FRAME or k.shared > SHARED or blocks < (1 if name in CROWDED else BLOCKS):
                wrong.append(rows[-1])
    write_table(arch)
    assert not wrong, "kernels that do not fit (source: THUNDER_DUMP, thunderc):\n" + "\n".join(wrong)


def test_a_cubin_is_read_right(tmp_path):
    """cubin.py against kernels of known needs: one that cannot do without a frame, one with shared memory."""
    need_nvrtc()
    library = nvrtc()
    source = b"""
extern "C" __global__ void __launch_bounds__(128) small(float *x) { x[threadIdx.x] += 1; }
extern "C" __global__ void __launch_bounds__(64) frame(float *x, int n) {
  float y[100];
  for (int i = 0; i < 100; i++) y[i] = x[i] * n;
  for (int i = 0; i < n; i++) y[(int)x[i]] += 1;
  for (int i = 0; i < 100; i++) x[i] = y[i];
}
extern "C" __global__ void __launch_bounds__(1024) crowd(float *x) {
  __shared__ float s[1000];
  float y[120];
  for (int i = 0; i < 120; i++) y[i] = x[i * 1024 + threadIdx.x];
  s[threadIdx.x % 1000] = y[7];
  __syncthreads();
  for (int i = 0; i < 120; i++) x[i * 1024 + threadIdx.x] = y[(i + 1) % 120] * y[119 - i] + s[i];
}"""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_90")
    assert library.nvrtcCreateProgram(ctypes.byref(program), source, b"a.cu", 0, None, None) == 0
    assert library.nvrtcCompileProgram(program, 1, options) == 0
    assert library.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    code = ctypes.create_string_buffer(size.value)
    assert library.nvrtcGetCUBIN(program, code) == 0
    library.nvrtcDestroyProgram(ctypes.byref(program))
    found = cubin.kernels(code.raw)
    assert set(found) == {"small", "frame", "crowd"}
    assert found["small"].frame == 0 and found["small"].threads == 128 and 4 <= found["small"].registers <= 16
    assert found["frame"].frame >= 400
    assert found["crowd"].shared >= 4000 and found["crowd"].threads == 1024 and found["crowd"].registers <= 64 and found["crowd"].frame >= 200


@pytest.mark.quick
def test_an_architecture_that_nvrtc_does_not_know(tmp_path):
    need_nvrtc()
    job, = programs.captured([lambda: thunder.compile(lambda x: x + 1)(torch.ones(3))])
    for arch in ("sm_1", "sm_" + "9" * 300):
        with pytest.raises(AssertionError, match=f"nvrtcCompileProgram for {arch}"):
            programs.executable(job, arch, tmp_path / "job")


@pytest.mark.quick
def test_a_plan_says_whether_its_library_calls_are_deterministic(tmp_path):
    need_nvrtc()
    job, = programs.captured([lambda: thunder.compile(lambda x: x @ x)(torch.ones(3, 3))])
    for said in (False, True):
        job.options.deterministic = said
        assert [plan.deterministic for plan in programs.executable(job, "sm_90", tmp_path / "job").plans] == [said]
