// forward
//   th_kernel_0<<<(8, 1), 1024, 0>>>() t[0] -> t[1]

extern "C" __global__ void __launch_bounds__(1024) th_kernel_0(const float *__restrict__ p0, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x;
   {
    const int64_t block = blockIdx.x;
    const int r0 = block;
    float a1 = -INFINITY;
    float m2 = -INFINITY, a3 = 0;
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s4 = p0[r0 * 50257 + j_1];
       {
        enum { lane = 0 };
        a1 = TH_MAX(a1, s4);
      }
      a3 *= m2 == a1 ? 1 : expf(m2 - a1);
      m2 = a1;
      const float m5 = a1 == -INFINITY ? 0 : a1;
      const float s6 = p0[r0 * 50257 + j_1];
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
    __shared__ float h9[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      h9[threadIdx.x / 32] = a1;
    }
    __syncthreads();
    a1 = -INFINITY;
    #pragma unroll
    for (int k = 0; k < 32; k++) { const float w = h9[threadIdx.x / 1024 * 32 + k]; a1 = TH_MAX(a1, w); }
    a3 *= m2 == a1 ? 1 : expf(m2 - a1);
    if (a1 == -INFINITY) a3 = NAN;
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 16); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 8); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 4); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 2); a3 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a3, 1); a3 += w; }
    __shared__ float h10[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      h10[threadIdx.x / 32] = a3;
    }
    __syncthreads();
    a3 = 0;
    #pragma unroll
    for (int k = 0; k < 32; k++) { const float w = h10[threadIdx.x / 1024 * 32 + k]; a3 += w; }
    const float v11 = th_logf(a3);
    for (int j = place; j < 50257; j += 1024) {
      const int j_1 = (j);
      const float s12 = p0[r0 * 50257 + j_1];
      const float v13 = (float)(s12 - a1);
      const float v14 = (float)(v13 - v11);
       {
        enum { lane = 0 };
        o0[r0 * 50257 + j_1] = v14;
      }
    }
  }
}
