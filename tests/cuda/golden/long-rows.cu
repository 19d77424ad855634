// forward
//   th_kernel_0<<<(8, 1), 1024, 0>>>() t[0] -> t[1]

extern "C" __global__ void __launch_bounds__(1024) th_kernel_0(const float *__restrict__ p0, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x;
   {
    const int64_t block = blockIdx.x;
    const int r0 = block;
    float a1 = -INFINITY;
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s2 = p0[r0 * 50257 + j_1];
      enum { lane = 0 };
        a1 = TH_MAX(a1, s2);
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 16); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 8); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 4); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 2); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 1); a1 = TH_MAX(a1, w); }
    __shared__ float h3[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      h3[threadIdx.x / 32] = a1;
    }
    __syncthreads();
    a1 = -INFINITY;
    #pragma unroll
    for (int k = 0; k < 32; k++) { const float w = h3[threadIdx.x / 1024 * 32 + k]; a1 = TH_MAX(a1, w); }
    float a4 = 0;
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s5 = p0[r0 * 50257 + j_1];
      const float v6 = (float)(s5 - a1);
      const float v7 = th_expf(v6);
      enum { lane = 0 };
        a4 += v7;
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a4, 16); a4 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a4, 8); a4 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a4, 4); a4 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a4, 2); a4 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a4, 1); a4 += w; }
    __shared__ float h8[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      h8[threadIdx.x / 32] = a4;
    }
    __syncthreads();
    a4 = 0;
    #pragma unroll
    for (int k = 0; k < 32; k++) { const float w = h8[threadIdx.x / 1024 * 32 + k]; a4 += w; }
    const float v9 = th_logf(a4);
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s10 = p0[r0 * 50257 + j_1];
      const float v11 = (float)(s10 - a1);
      const float v12 = (float)(v11 - v9);
      enum { lane = 0 };
        o0[r0 * 50257 + j_1] = v12;
    }
  }
}
