// forward
//   th_kernel_0<<<(294, 1), 256, 0>>>() t[0] -> t[2]
//   th_kernel_1<<<(1, 1), 256, 0>>>() t[0] -> t[2]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *__restrict__ p0, float *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  float a0 = 0;
  for (int i1 = (int)blockIdx.x * 256 + threadIdx.x; i1 < 300300; i1 += (int)gridDim.x * 256) {
    const int q2 = i1 % 1001;
    const int q3 = i1 / 1001;
    const float s4 = p0[q3 * 1001 + q2];
    const float v5 = (float)(s4 * s4);
     {
      enum { lane = 0 };
      a0 += v5;
    }
  }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 16); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 8); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 4); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 2); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 1); a0 += w; }
  __shared__ float h6[8];
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    h6[threadIdx.x / 32] = a0;
  }
  __syncthreads();
  a0 = 0;
  #pragma unroll
  for (int k = 0; k < 8; k++) { const float w = h6[threadIdx.x / 256 * 8 + k]; a0 += w; }
  if (threadIdx.x == 0) ((float *)(scratch + 0 * 8 * 294))[blockIdx.x] = a0;
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *__restrict__ p0, float *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  float a0 = 0;
  for (int k = threadIdx.x; k < 294; k += 256) { const float w = ((const float *)(scratch + 0 * 8 * 294))[k]; a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 16); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 8); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 4); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 2); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 1); a0 += w; }
  __shared__ float h1[8];
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    h1[threadIdx.x / 32] = a0;
  }
  __syncthreads();
  a0 = 0;
  #pragma unroll
  for (int k = 0; k < 8; k++) { const float w = h1[threadIdx.x / 256 * 8 + k]; a0 += w; }
  if (threadIdx.x == 0) {
    o0[0] = a0;
  }
}
