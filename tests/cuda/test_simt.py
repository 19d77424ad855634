"""executors/cuda/simt.h, CUDA's threads on the host: kernels of every kind that is generated, in fixed and in random order, and
what it must refuse. The modules are made as generated ones are: the header's text, kernels, one call of th_simt_launch each."""
import ctypes
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.quick
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HEADER = os.path.join(ROOT, "executors", "cuda", "simt.h")
FLAGS = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique", "-fwrapv", "-ffp-contract=off", "-fstack-clash-protection", "-Wall", "-Wextra", "-Werror"]

KERNELS = r"""
// name and body of a kernel; BUFFERS: its pointers without th_bad
#define KERNEL(name, buffers, flags, ...) \
  static __global__ void __launch_bounds__(1024) name##_body(__VA_ARGS__, unsigned *th_bad); \
  extern "C" int name(void *const *b, const int64_t *i, const double *s) { return th_simt_launch(#name, name##_body, b, buffers, i, s, flags); } \
  static __global__ void name##_body(__VA_ARGS__, [[maybe_unused]] unsigned *th_bad)

template <typename T> static __device__ __forceinline__ T warp_sum(T v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffff, v, o);
  return v;
}

static __device__ float block_sum(float v) {
  __shared__ float part[32];
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
  if (threadIdx.x < 32) v = warp_sum(v);
  if (threadIdx.x == 0) part[0] = v;
  __syncthreads();
  return part[0];
}

KERNEL(pointwise, 3, TH_SIMT_PLAIN, const float *__restrict__ x, const int64_t *__restrict__ at, float *__restrict__ y, int64_t n, int64_t most, double scale) {
  int64_t i = ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int64_t k = __ldg(at + i);
  if (k < 0 || k >= most) { atomicOr(th_bad, 1u); return; }
  y[i] = fmaf(x[k], (float)scale, 1.0f);
}

KERNEL(rows, 2, 0, const float *__restrict__ x, float *__restrict__ y, int64_t n) {
  float v = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) v += x[blockIdx.x * n + i];
  v = block_sum(v);
  if (threadIdx.x == 0) y[blockIdx.x] = v;
}

KERNEL(whole, 4, 0, const float *__restrict__ x, float *__restrict__ y, float *__restrict__ part, unsigned *__restrict__ done, int64_t n) {
  __shared__ bool last;
  float v = 0;
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  v = block_sum(v);
  if (threadIdx.x == 0) {
    part[blockIdx.x] = v;
    __threadfence();
    last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  v = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) v += part[i];
  v = block_sum(v);
  if (threadIdx.x == 0) *y = v;
}

KERNEL(softmax, 2, 0, const float *__restrict__ x, float *__restrict__ y, int64_t n) {
  extern __shared__ __align__(16) unsigned char th_shared[];
  float *row = (float *)th_shared, *part = row + n;
  int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t i = threadIdx.x; i < n / 4; i += blockDim.x) ((float4 *)row)[i] = ((const float4 *)(x + blockIdx.x * n))[i];
  __syncthreads();
  float m = -INFINITY, s = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) m = max(m, row[i]);
  for (int o = 16; o; o >>= 1) m = max(m, __shfl_xor_sync(0xffffffff, m, o));
  if (threadIdx.x % 32 == 0) part[warp] = m;
  __syncthreads();
  for (int w = 0; w < warps; w++) m = max(m, part[w]);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) s += row[i] = __expf(row[i] - m);
  s = warp_sum(s);
  if (threadIdx.x % 32 == 0) part[warp] = s;
  __syncthreads();
  s = 0;
  for (int w = 0; w < warps; w++) s += part[w];
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = __fdividef(row[i], s);
}

// each thread hands its value to the next one; with barrier = 0 that is a race
KERNEL(neighbour, 2, 0, const float *__restrict__ x, float *__restrict__ y, int64_t barrier) {
  __shared__ float s[1024];
  unsigned t = threadIdx.x;
  s[t] = x[t];
  if (barrier) __syncthreads();
  y[t] = t ? s[t - 1] : 0;
}

// threads from n on return before the barrier, and do not count at it
KERNEL(some_return, 2, 0, const float *__restrict__ x, float *__restrict__ y, int64_t n) {
  __shared__ float s[1024];
  unsigned t = threadIdx.x;
  if (t >= n) return;
  s[t] = x[t];
  __syncthreads();
  y[t] = s[n - 1 - t];
}

KERNEL(not_written, 1, 0, float *__restrict__ y, int64_t write) {
  extern __shared__ __align__(16) unsigned char th_shared[];
  __shared__ float s[2];
  y[0] = s[0], y[1] = ((float *)th_shared)[0];
  if (write) s[0] = ((float *)th_shared)[0] = 1; // the next block does not see it
}

KERNEL(scan, 2, 0, const double *__restrict__ x, double *__restrict__ y, int64_t rounds) {
  __shared__ double part[32];
  unsigned t = threadIdx.x, lane = t % 32, warp = t / 32;
  double v = x[t];
  for (int64_t r = 0; r < rounds; r++) {
    for (unsigned o = 1; o < 32; o *= 2) {
      double below = __shfl_up_sync(0xffffffff, v, o);
      if (lane >= o) v += below;
    }
    if (lane == 31) part[warp] = v;
    __syncthreads();
    for (unsigned w = 0; w < warp; w++) v += part[w];
    __syncthreads();
  }
  y[t] = v;
}

template <typename T> static __device__ void shuffles(T *y, int width) {
  unsigned t = threadIdx.x, n = blockDim.x;
  T v = (T)(t * 3 + 1);
  y[t] = __shfl_sync(0xffffffff, v, (int)(t * 7 + 3), width);
  y[n + t] = __shfl_xor_sync(0xffffffff, v, 5, width);
  y[2 * n + t] = __shfl_up_sync(0xffffffff, v, 3, width);
  y[3 * n + t] = __shfl_down_sync(0xffffffff, v, 3, width);
}
KERNEL(shuffle, 6, 0, int *a, unsigned *b, long long *c, unsigned long long *d, float *e, double *f, int64_t width) {
  shuffles(a, (int)width), shuffles(b, (int)width), shuffles(c, (int)width), shuffles(d, (int)width), shuffles(e, (int)width), shuffles(f, (int)width);
}

// two halves of a warp apart, each with its own mask, as often as they like
KERNEL(halves, 1, 0, int *y, int64_t n) {
  int t = (int)threadIdx.x, v = t;
  unsigned odd = t & 1, mask = odd ? 0xaaaaaaaa : 0x55555555;
  if (odd) for (int64_t i = 0; i < n; i++) v += __shfl_xor_sync(mask, v, 2);
  else for (int64_t i = 0; i < 3 * n; i++) v = __shfl_sync(mask, v, 0) + 1;
  __syncwarp();
  y[t] = v;
}

KERNEL(votes, 1, 0, unsigned *y, int64_t n) {
  unsigned t = threadIdx.x;
  y[t] = __ballot_sync(0xffffffff, t % 3 == 0);
  y[n + t] = (unsigned)__any_sync(0xffffffff, t == 40);
  y[2 * n + t] = (unsigned)__all_sync(0xffffffff, t < 40);
  y[3 * n + t] = (unsigned)__syncthreads_count(t % 3 == 0);
  y[4 * n + t] = (unsigned)__syncthreads_or(t == 40);
  y[5 * n + t] = (unsigned)__syncthreads_and(t == 40);
  y[6 * n + t] = __shfl_xor_sync(0xffffffff, t, 16); // of half a warp: lanes that are not there
}

KERNEL(atomics, 3, 0, unsigned *u, float *f, unsigned long long *l, int64_t n) {
  unsigned t = threadIdx.x;
  atomicAdd(u, t), atomicAdd((int *)u + 1, -1), atomicOr(u + 2, 1u << t % 32), atomicMax(u + 3, t), atomicInc(u + 4, 9), atomicCAS(u + 5, 0u, t + 1);
  if (t == 5) u[7] = atomicExch(u + 6, 7u);
  atomicAdd(f, 0.5f), atomicAdd((double *)(f + 2), 0.25), atomicAdd(l, 1ull << 40), atomicMin((int *)u + 8, -(int)t);
  if (n) __syncthreads();
  if (t == 0) u[9] = u[0];
}

KERNEL(order, 2, 0, unsigned *next, unsigned *y, int64_t n) {
  y[blockIdx.x * n + threadIdx.x] = atomicAdd(next, 1u);
  __syncthreads();
}
KERNEL(order_plain, 2, TH_SIMT_PLAIN, unsigned *next, unsigned *y, int64_t n) { y[blockIdx.x * n + threadIdx.x] = atomicAdd(next, 1u); }

KERNEL(functions, 3, TH_SIMT_PLAIN, const float *x, double *y, unsigned *z, int64_t n) {
  float v = x[0], w = x[1];
  double d = v;
  double values[] = {fmaf(v, w, 1.0f), sqrtf(v), rsqrtf(v), rsqrt(d), expf(v), exp2f(v), __expf(v), logf(v), __logf(v), tanhf(v), erff(v), powf(v, w), fmodf(w, v), __fdividef(v, w),
    __frcp_rn(v), fabsf(-v), copysignf(v, -1.0f), floorf(v), ceilf(v), rintf(2.5f), truncf(-v), min(v, w), max(v, w), (double)min((int64_t)3, n), (double)max(3u, 4u),
    fma(d, d, 1.0), exp(d), log(d), tanh(d), erf(d), pow(d, 3.0), fmod(7.5, d), (double)INFINITY, (double)NAN, max(NAN, 2.0f)};
  for (unsigned i = 0; i < sizeof values / sizeof *values; i++) y[i] = values[i];
  z[0] = __float_as_uint(v), z[1] = __float_as_uint(__uint_as_float(0x3fc00001u)), z[2] = __float2uint_rn(2.5f), z[3] = __float2uint_rn(-1.0f), z[4] = __float2uint_rn(1e20f);
  z[5] = __umulhi(0xdeadbeefu, 0xcafebabeu), z[6] = (unsigned)__popc(0xf0f0u), z[7] = (unsigned)__clz(1), z[8] = (unsigned)__float2int_rn(-1e20f), z[9] = (unsigned)__float2int_rz(-2.7f);
  uint4 q = make_uint4(1, 2, 3, 4);
  ulonglong2 p = make_ulonglong2(5, 6);
  z[10] = q.x + q.y + q.z + q.w + (unsigned)(p.x + p.y), z[11] = (unsigned)(sizeof(float2) + alignof(float4) + alignof(int2)), z[12] = warpSize, z[13] = __float_as_uint(__int_as_float(77));
}

// ---- what is refused ----
KERNEL(lane_returns, 1, 0, float *y, int64_t n) {
  if (threadIdx.x == 17) return;
  y[threadIdx.x] = __shfl_down_sync(0xffffffff, (float)n, 1);
}
KERNEL(lane_waits_elsewhere, 1, 0, float *y, int64_t n) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffffff, (float)n, 1);
  __syncthreads();
}
KERNEL(two_shuffles, 1, 0, float *y, int64_t n) {
  y[threadIdx.x] = threadIdx.x < 16 ? __shfl_xor_sync(0xffffffff, (float)n, 1) : __shfl_down_sync(0xffffffff, (float)n, 1);
}
KERNEL(two_barriers, 1, 0, float *y, int64_t n) {
  if (threadIdx.x < n) __syncthreads();
  y[threadIdx.x] = 1;
  __syncthreads();
}
KERNEL(trip_counts, 1, 0, float *y, int64_t n) {
  for (int64_t i = 0; i < n + (threadIdx.x == 3); i++) __syncthreads();
  y[threadIdx.x] = 1;
  __syncthreads();
}
KERNEL(not_in_mask, 1, 0, float *y, int64_t n) { y[threadIdx.x] = __shfl_sync(0xffff, (float)n, 0); }
KERNEL(said_plain, 1, TH_SIMT_PLAIN, float *y, int64_t n) { y[threadIdx.x] = (float)n; __syncthreads(); }
KERNEL(behind_shared, 1, 0, float *y, int64_t n) {
  extern __shared__ __align__(16) unsigned char th_shared[];
  th_shared[n] = 1;
  y[threadIdx.x] = 1;
}
KERNEL(too_few, 3, 0, float *y, const float *x, int64_t n) { y[0] = x[n]; }
KERNEL(too_many, 1, 0, float *y, const float *x, int64_t n) { y[0] = x[n]; }
static __device__ __attribute__((noinline)) char use_stack() {
  volatile char here[100000];
  for (int i = 0; i < 100000; i++) here[i] = 1;
  return here[5];
}
KERNEL(deep_stack, 1, 0, char *y, int64_t n) {
  if (threadIdx.x == n) y[0] = use_stack();
}
"""


def compile_module(folder, name, *options):
    source, out = os.path.join(folder, name + ".cc"), os.path.join(folder, name + ".so")
    with open(HEADER, encoding="utf-8") as header, open(source, "w", encoding="utf-8") as f:
        f.write("#define TH_SIMT_SHARED 65536\n" + header.read() + KERNELS)
    subprocess.run(["c++", *FLAGS, *options, "-shared", "-o", out, source], check=True, timeout=120)
    return out


@pytest.fixture(scope="module", params=["-O1", "-O2 -DTH_SIMT_UCONTEXT"])
def module(request, tmp_path_factory):
    return ctypes.CDLL(compile_module(str(tmp_path_factory.mktemp("simt")), "module", *request.param.split()))


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return ctypes.CDLL(compile_module(str(tmp_path_factory.mktemp("simt")), "fast", "-O1"))


def call(module, name, grid, threads, buffers, ints, scalars=(), shared=0):
    grid = grid if isinstance(grid, tuple) else (grid, 1)
    pointers = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
    numbers = (ctypes.c_int64 * (4 + len(ints)))(*grid, threads, shared, *ints)
    return getattr(module, name)(pointers, numbers, (ctypes.c_double * max(1, len(scalars)))(*scalars))


SEEDS = ["", "0", "1", "2", "3"]


@pytest.fixture(params=SEEDS)
def seed(request, monkeypatch):
    monkeypatch.setenv("TH_SIMT_SEED", request.param)


rng = np.random.default_rng(5)


def numbers(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def test_pointwise(module, seed):
    x, at, y = numbers(500), rng.integers(0, 500, 3001), np.zeros(3001, np.float32)
    assert call(module, "pointwise", (4, 6), 128, [x, at, y], [3001, 500], [2.5]) == 0
    np.testing.assert_allclose(y, x[at] * np.float32(2.5) + 1, rtol=1e-6, atol=1e-6)
    at[77] = 500
    assert call(module, "pointwise", (4, 6), 128, [x, at, y], [3001, 500], [2.5]) == 1
    assert call(module, "pointwise", (4, 6), 128, [x, at, y], [0, 500], [2.5]) == 0


@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_sums_of_rows(module, seed, threads):
    x, y = numbers(7, 1500), np.zeros(7, np.float32)
    assert call(module, "rows", 7, threads, [x, y], [1500]) == 0
    np.testing.assert_allclose(y, x.sum(1, dtype=np.float64), atol=1e-3)


def test_sum_in_two_stages(module, seed):
    x, y, part, done = numbers(100000), np.zeros(1, np.float32), np.zeros(40, np.float32), np.zeros(1, np.uint32)
    for _ in range(2):  # the counter is back at 0
        assert call(module, "whole", 40, 128, [x, y, part, done], [100000]) == 0
        np.testing.assert_allclose(y[0], x.sum(dtype=np.float64), atol=1e-2)
        assert done[0] == 0


def test_softmax(module, seed):
    x, y = numbers(5, 1000), np.zeros((5, 1000), np.float32)
    assert call(module, "softmax", 5, 256, [x, y], [1000], shared=4 * (1000 + 8)) == 0
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("threads", [64, 1024])
def test_a_scan_in_many_rounds(module, seed, threads):
    x, y = rng.integers(0, 9, threads).astype(np.float64), np.zeros(threads)
    assert call(module, "scan", 1, threads, [x, y], [5]) == 0
    for _ in range(5):
        x = np.cumsum(x)
    assert np.array_equal(x, y)


def test_a_missing_barrier_shows_in_some_order(module, monkeypatch):
    x = numbers(256)
    want = np.concatenate([[np.float32(0)], x[:-1]])
    wrong = {0: [], 1: []}
    for barrier, found in wrong.items():
        for given in ["", *map(str, range(6))]:
            monkeypatch.setenv("TH_SIMT_SEED", given)
            y = np.zeros(256, np.float32)
            assert call(module, "neighbour", 1, 256, [x, y], [barrier]) == 0
            if not np.array_equal(y, want):
                found.append(given)
    assert wrong[1] == [] and wrong[0] == [*map(str, range(6))]  # in fixed order a thread's lower neighbour comes first


def test_who_has_returned_does_not_count_at_a_barrier(module, seed):
    x, y = numbers(100), np.zeros(100, np.float32)
    assert call(module, "some_return", 1, 128, [x, y], [100]) == 0
    assert np.array_equal(y, x[::-1])


def test_shared_memory_begins_as_nan(module):
    y = np.zeros(2, np.float32)
    assert call(module, "not_written", 3, 32, [y], [1], shared=4) == 0
    assert not np.isnan(y).any()  # the second thread of a block sees what the first one wrote
    assert call(module, "not_written", 3, 1, [y], [1], shared=4) == 0
    assert np.isnan(y).all()


@pytest.mark.parametrize("width", [1, 8, 32])
def test_shuffles(module, seed, width):
    dtypes = [np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]
    out = [np.zeros((4, 64), dtype) for dtype in dtypes]
    assert call(module, "shuffle", 1, 64, out, [width]) == 0
    t = np.arange(64)
    first = t - t % width
    xor = np.where((t ^ 5) > first + width - 1, t, t ^ 5)
    up, down = np.where(t - 3 < first, t, t - 3), np.where(t + 3 > first + width - 1, t, t + 3)
    for y in out:
        for row, source in zip(y, [first + (t * 7 + 3) % width, xor, up, down]):
            assert np.array_equal(row, (source * 3 + 1).astype(y.dtype))


def test_masks(module, seed):
    y = np.zeros(64, np.int32)
    assert call(module, "halves", 1, 64, [y], [4]) == 0
    want = np.arange(64)
    for _ in range(4):
        want = want + want[np.arange(64) ^ 2]
    t = np.arange(64)
    assert np.array_equal(y[1::2], want[1::2])
    assert np.array_equal(y[::2], (t // 32 * 32 + 12)[::2])


def test_votes_and_a_warp_that_is_not_full(module, seed):
    y = np.zeros((7, 48), np.uint32)
    assert call(module, "votes", 1, 48, [y], [48]) == 0
    t = np.arange(48)
    ballot = [sum(1 << k for k in range(32) if k + w * 32 < 48 and (k + w * 32) % 3 == 0) for w in range(2)]
    assert [y[0][0], y[0][47]] == ballot
    assert np.array_equal(y[1], t >= 32) and np.array_equal(y[2], t < 32)
    assert (y[3] == 16).all() and (y[4] == 1).all() and (y[5] == 0).all()
    assert np.array_equal(y[6], np.where(t < 32, t ^ 16, 0xffffffff))


def test_atomics(module, seed):
    u, f, count = np.zeros(10, np.uint32), np.zeros(4, np.float32), np.zeros(1, np.uint64)
    assert call(module, "atomics", 1, 96, [u, f, count], [1]) == 0
    assert u[0] == u[9] == 96 * 95 // 2 and u[1] == 2**32 - 96 and u[2] == 2**32 - 1 and u[3] == 95 and u[4] == 96 % 10
    assert 1 <= u[5] <= 96 and u[6] == 7 and u[7] == 0 and u[8] == 2**32 - 95
    assert f[0] == 48 and f[2:].view(np.float64)[0] == 24 and count[0] == 96 << 40


@pytest.mark.parametrize("name", ["order", "order_plain"])
def test_a_seed_gives_one_order(module, monkeypatch, name):
    def run(given):
        monkeypatch.setenv("TH_SIMT_SEED", given)
        y = np.zeros((12, 64), np.uint32)
        assert call(module, name, 12, 64, [np.zeros(1, np.uint32), y], [64]) == 0
        assert np.array_equal(np.sort(y, None), np.arange(y.size))
        return y
    first, second = run("1"), run("2")
    assert np.array_equal(first, run("1")) and not np.array_equal(first, second)
    assert np.array_equal(run(""), np.arange(12 * 64).reshape(12, 64))
    assert any((np.diff(run(str(s))[:, 0].astype(int)) < 0).any() for s in range(3)), "blocks"


def test_functions(module):
    x, y, z = np.array([1.7, 2.9], np.float32), np.zeros(35), np.zeros(14, np.uint32)
    assert call(module, "functions", 1, 1, [x, y, z], [9]) == 0
    from math import e, erf, exp, log, tanh
    v, w = map(float, x)
    one = [v * w + 1, v**0.5, v**-0.5, v**-0.5, e**v, 2**v, e**v, log(v), log(v), tanh(v), erf(v), v**w, w % v, v / w, 1 / v, v, -v, 1, 2, 2, -1, v, w, 3, 4,
           v * v + 1, exp(v), log(v), tanh(v), erf(v), v**3, 7.5 % v, np.inf, np.nan, 2]
    np.testing.assert_allclose(y, one, rtol=3e-7)
    assert z.tolist() == [x.view(np.uint32)[0], 0x3fc00001, 2, 0, 2**32 - 1, 0xdeadbeef * 0xcafebabe >> 32, 8, 31, 2**31, 2**32 - 2, 21, 8 + 16 + 8, 32, 77]


REFUSED = [
    ("lane_returns", 64, [1], 0, "simt: lane_returns: block (0, 0), thread 0 waits in __shfl_down_sync(0xffffffff) for thread 17, which has returned"),
    ("lane_waits_elsewhere", 32, [1], 0, "waits in __shfl_xor_sync(0xffffffff) for thread 31, which waits at the __syncthreads() of line"),
    ("two_shuffles", 32, [1], 0, "waits in __shfl_xor_sync(0xffffffff) for thread 31, which waits in __shfl_down_sync(0xffffffff)"),
    ("two_barriers", 64, [16], 0, "simt: two_barriers: block (0, 0), thread 16 comes to the __syncthreads() of line"),
    ("trip_counts", 64, [2], 0, "while thread"),
    ("not_in_mask", 32, [1], 0, "thread 16 calls __shfl_sync with the mask 0x0000ffff, in which it is not itself"),
    ("said_plain", 32, [1], 0, "but the launch says TH_SIMT_PLAIN"),
    ("behind_shared", 32, [20], 20, "block (0, 0) wrote to byte 20 of its 20 bytes of dynamic shared memory"),
    ("too_few", 32, [0], 0, "has 2 pointers as parameters, th_bad not among them, and was given 3 buffers"),
    ("too_many", 32, [0], 0, "has more than 1 pointers as parameters"),
    ("two_barriers", 1025, [1], 0, "simt: two_barriers: 1025 threads in a block"),
    ("two_barriers", 32, [1], 65537, "65537 bytes of dynamic shared memory; its module is compiled for 65536 (TH_SIMT_SHARED)"),
]

CALLER = """
import ctypes, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
path, name, threads, shared, n = sys.argv[1:]
room = [(ctypes.c_double * 1100)() for _ in range(3)]
ints = (ctypes.c_int64 * 5)(1, 1, int(threads), int(shared), int(n))
getattr(ctypes.CDLL(path), name)((ctypes.c_void_p * 3)(*map(ctypes.addressof, room)), ints, None)
"""


def call_apart(module, name, threads, shared, n):
    return subprocess.run([sys.executable, "-S", "-c", CALLER, module._name, name, str(threads), str(shared), str(n)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name, threads, ints, shared, message", REFUSED)
def test_refused(fast, name, threads, ints, shared, message):
    done = call_apart(fast, name, threads, shared, ints[0])
    assert done.returncode == -6 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_divergence_is_seen_in_every_order(fast, monkeypatch):
    for given in "123":
        monkeypatch.setenv("TH_SIMT_SEED", given)
        for name in ("lane_returns", "trip_counts"):
            done = call_apart(fast, name, 64, 0, 2)
            assert done.returncode == -6 and done.stderr.startswith(f"simt: {name}: block (0, 0), thread "), done.stderr


def test_a_stack_has_an_end(fast):
    assert [call_apart(fast, "deep_stack", 32, 0, n).returncode for n in (32, 5)] == [0, -11]


SANITIZED = """
#include <vector>
int main() {
  std::vector<float> x(5 * 1000), y(5 * 1000), part(8);
  std::vector<unsigned> done(1), votes(7 * 48);
  for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i % 7);
  void *two[] = {x.data(), y.data()}, *four[] = {x.data(), y.data(), part.data(), done.data()}, *one[] = {votes.data()};
  const int64_t soft[] = {5, 1, 256, 4 * 1008, 1000}, whole_ints[] = {8, 1, 128, 0, 5000}, votes_ints[] = {1, 1, 48, 0, 48};
  for (const char *seed : {"", "1", "2"}) {
    setenv("TH_SIMT_SEED", seed, 1);
    if (softmax(two, soft, nullptr) || votes_ints[4] != 48 || ::votes(one, votes_ints, nullptr) || whole(four, whole_ints, nullptr)) return 1;
    double sum = 0, want = 0;
    for (float v : x) want += v;
    for (size_t i = 1000; i < 2000; i++) sum += y[i];
    if (fabs(sum - 1) > 1e-4 || fabs(y[0] - want) > 0.1) return 2;
  }
}
"""


def test_under_sanitizers(tmp_path):
    source = tmp_path / "main.cc"
    with open(HEADER, encoding="utf-8") as header:
        source.write_text(header.read() + KERNELS + SANITIZED)
    subprocess.run(["c++", *FLAGS, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", tmp_path / "main", source], check=True, timeout=120)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, timeout=120, env={**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=1"})
    assert done.returncode == 0 and done.stderr == ""


def test_speed(fast):
    """1000 blocks of 256 threads with 10 shuffles and 4 barriers each; measured: 0.1 s (2 cores of a virtual machine, 2026)."""
    x, y = rng.integers(0, 9, 256).astype(np.float64), np.zeros(256)
    start = time.perf_counter()
    assert call(fast, "scan", 1000, 256, [x, y], [2]) == 0
    took = time.perf_counter() - start
    print(f"{took:.3f} s")
    assert took < 2
    assert np.array_equal(y, x.cumsum().cumsum())


def test_the_text_in_the_compiler_is_the_header(tmp_path):
    out = tmp_path / "text.c"
    subprocess.run(["cmake", f"-DIN={HEADER}", f"-DOUT={out}", "-DNAME=th_simt_text", "-P", os.path.join(ROOT, "cmake", "text.cmake")], check=True, timeout=60)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "text.so", out], check=True, timeout=60)
    symbol = ctypes.c_char.in_dll(ctypes.CDLL(str(tmp_path / "text.so")), "th_simt_text")
    with open(HEADER, "rb") as f:
        assert ctypes.string_at(ctypes.addressof(symbol)) == f.read()
