// forward
//   th_kernel_0<<<(8, 1), 1024, 0>>>() t[0] -> t[1]

extern "C" __global__ void __launch_bounds__(1024) th_kernel_0(const float *p0, float *o0, unsigned *th_flags) {
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
    { const float w3 = __shfl_xor_sync(0xffffffffu, a1, 16); a1 = TH_MAX(a1, w3); }
    { const float w3 = __shfl_xor_sync(0xffffffffu, a1, 8); a1 = TH_MAX(a1, w3); }
    { const float w3 = __shfl_xor_sync(0xffffffffu, a1, 4); a1 = TH_MAX(a1, w3); }
    { const float w3 = __shfl_xor_sync(0xffffffffu, a1, 2); a1 = TH_MAX(a1, w3); }
    { const float w3 = __shfl_xor_sync(0xffffffffu, a1, 1); a1 = TH_MAX(a1, w3); }
    __shared__ float h4[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) h4[threadIdx.x / 32] = a1;
    __syncthreads();
    a1 = -INFINITY;
    #pragma unroll
    for (int k = 0; k < 32; k++) { const float w3 = h4[threadIdx.x / 1024 * 32 + k]; a1 = TH_MAX(a1, w3); }
    float a5 = 0;
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s6 = p0[r0 * 50257 + j_1];
      const float v7 = (float)(s6 - a1);
      const float v8 = th_expf(v7);
      enum { lane = 0 };
        a5 += v8;
    }
    { const float w9 = __shfl_xor_sync(0xffffffffu, a5, 16); a5 += w9; }
    { const float w9 = __shfl_xor_sync(0xffffffffu, a5, 8); a5 += w9; }
    { const float w9 = __shfl_xor_sync(0xffffffffu, a5, 4); a5 += w9; }
    { const float w9 = __shfl_xor_sync(0xffffffffu, a5, 2); a5 += w9; }
    { const float w9 = __shfl_xor_sync(0xffffffffu, a5, 1); a5 += w9; }
    __shared__ float h10[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) h10[threadIdx.x / 32] = a5;
    __syncthreads();
    a5 = 0;
    #pragma unroll
    for (int k = 0; k < 32; k++) { const float w9 = h10[threadIdx.x / 1024 * 32 + k]; a5 += w9; }
    const float v11 = th_logf(a5);
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s12 = p0[r0 * 50257 + j_1];
      const float v13 = (float)(s12 - a1);
      const float v14 = (float)(v13 - v11);
      enum { lane = 0 };
        o0[r0 * 50257 + j_1] = v14;
    }
  }
}
