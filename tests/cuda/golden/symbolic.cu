// forward
//   th_kernel_0<<<(s0, 1), 256, 0>>>(s0, s1) t[2] -> t[3]
//   th_kernel_1<<<(((s1 + 31) / 32), 528), 256, 0>>>(s0, s1) t[2] -> t[5]
//   th_kernel_2<<<(((s1 + 31) / 32), 1), 256, 0>>>(s1) t[2] -> t[5]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *__restrict__ p0, float *__restrict__ o0, int64_t n0, int64_t n1, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x;
   {
    const int64_t block = blockIdx.x;
    const int64_t r0 = block;
    float a1 = -INFINITY;
    float m2 = -INFINITY, a3 = 0;
    for (int64_t j = place; j < n1; j += 256) {
      const int64_t j_1 = (j);
      const float s4 = p0[r0 * n1 + j_1];
       {
        enum { lane = 0 };
        a1 = TH_MAX(a1, s4);
      }
      a3 *= m2 == a1 ? 1 : expf(m2 - a1);
      m2 = a1;
      const float m5 = a1 == -INFINITY ? 0 : a1;
      const float s6 = p0[r0 * n1 + j_1];
      const float v7 = (float)(s6 - m5);
      const float v8 = expf(v7);
       {
        enum { lane = 0 };
        a3 += v8;
      }
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 16); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 8); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 4); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 2); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 1); a1 = TH_MAX(a1, w); }
    __shared__ float h9[8];
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      h9[threadIdx.x / 32] = a1;
    }
    __syncthreads();
    a1 = -INFINITY;
    #pragma unroll
    for (int k = 0; k < 8; k++) { const float w = h9[threadIdx.x / 256 * 8 + k]; a1 = TH_MAX(a1, w); }
    a3 *= m2 == a1 ? 1 : expf(m2 - a1);
    if (a1 == -INFINITY) a3 = NAN;
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 16); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 8); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 4); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 2); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 1); a3 += w; }
    __shared__ float h10[8];
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      h10[threadIdx.x / 32] = a3;
    }
    __syncthreads();
    a3 = 0;
    #pragma unroll
    for (int k = 0; k < 8; k++) { const float w = h10[threadIdx.x / 256 * 8 + k]; a3 += w; }
    for (int64_t j = place; j < n1; j += 256) {
      const int64_t j_1 = (j);
      const float s11 = p0[r0 * n1 + j_1];
      const float v12 = (float)(s11 - a1);
      const float v13 = expf(v12);
      const float v14 = (float)v13 / a3;
       {
        enum { lane = 0 };
        o0[r0 * n1 + j_1] = v14;
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *__restrict__ p0, float *__restrict__ o0, unsigned char *scratch, int64_t n0, int64_t n1, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int64_t j0 = (int64_t)blockIdx.x * 32 + threadIdx.x % 32;
  const int deep = threadIdx.x / 32;
  const int64_t i1 = blockIdx.y / 528, chunk = blockIdx.y % 528;
  float a3[1];
  for (int lane = 0; lane < 1; lane++) a3[lane] = 0;
  const int64_t from = (int64_t)n0 * chunk / 528, to = (int64_t)n0 * (chunk + 1) / 528;
  if (j0 < n1) {
    #pragma unroll 4
    for (int64_t r2 = from + deep; r2 < to; r2 += 8) {
      const float s4 = p0[r2 * n1 + j0];
       {
        enum { lane = 0 };
        a3[lane] += s4;
      }
    }
  }
  __shared__ float h5[8][32];
  for (int lane = 0; lane < 1; lane++) h5[deep][threadIdx.x % 32 * 1 + lane] = a3[lane];
  __syncthreads();
  if (deep == 0 && j0 < n1) {
    for (int lane = 0; lane < 1; lane++) {
      float sum = a3[lane];
      for (int k = 1; k < 8; k++) { const float w = h5[k][threadIdx.x * 1 + lane]; sum += w; }
      ((float *)(scratch + (int64_t)0 * 8 * 528 * n1))[(int64_t)chunk * n1 + (int64_t)i1 * n1 + j0 + lane] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_2(const float *__restrict__ p0, float *__restrict__ o0, unsigned char *scratch, int64_t n0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x % 32;
  const int part = threadIdx.x / 32;
  __shared__ float h1[256];
  float a0 = 0;
  if (c < n0)
    for (int k = part; k < 528; k += 8) { const float w = ((const float *)(scratch + (int64_t)0 * 8 * 528 * n0))[(int64_t)k * n0 + c]; a0 += w; }
  h1[threadIdx.x] = a0;
  __syncthreads();
  if (part == 0 && c < n0) {
    for (int k = 1; k < 8; k++) { const float w = h1[k * 32 + threadIdx.x]; a0 += w; }
    o0[c] = a0;
  }
}
