// forward
//   th_kernel_0<<<(1, 16), 256, 0>>>() t[0] -> t[2]
//   th_kernel_1<<<(3, 1), 256, 0>>>() t[0] -> t[2]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const uint16_t *__restrict__ p0, uint16_t *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int j0 = (int)blockIdx.x * 16 + threadIdx.x % 16;
  const int deep = threadIdx.x / 16;
  const int i1 = blockIdx.y / 16, chunk = blockIdx.y % 16;
  const int q3 = j0 * 8;
  float a4[8];
  for (int lane = 0; lane < 8; lane++) a4[lane] = 0;
  const int64_t from = (int64_t)1000 * chunk / 16, to = (int64_t)1000 * (chunk + 1) / 16;
  if (j0 < 12) {
    #pragma unroll 4
    for (int r2 = from + deep; r2 < to; r2 += 16) {
      uint16_t x5[8];
      th_read(x5, p0 + r2 * 96 + q3);
      #pragma unroll
      for (int lane = 0; lane < 8; lane++) {
        const float v6 = th_load_bf16(x5[lane]);
        a4[lane] += v6;
      }
    }
  }
  __shared__ float h7[16][128];
  for (int lane = 0; lane < 8; lane++) h7[deep][threadIdx.x % 16 * 8 + lane] = a4[lane];
  __syncthreads();
  if (deep == 0 && j0 < 12) {
    for (int lane = 0; lane < 8; lane++) {
      float sum = a4[lane];
      for (int k = 1; k < 16; k++) { const float w = h7[k][threadIdx.x * 8 + lane]; sum += w; }
      ((float *)(scratch + (int64_t)0 * 8 * 16 * 96))[(int64_t)chunk * 96 + (int64_t)i1 * 96 + q3 + lane] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const uint16_t *__restrict__ p0, uint16_t *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int c = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int part = threadIdx.x / 32;
  __shared__ float h1[256];
  float a0 = 0;
  if (c < 96)
    for (int k = part; k < 16; k += 8) { const float w = ((const float *)(scratch + (int64_t)0 * 8 * 16 * 96))[(int64_t)k * 96 + c]; a0 += w; }
  h1[threadIdx.x] = a0;
  __syncthreads();
  if (part == 0 && c < 96) {
    for (int k = 1; k < 8; k++) { const float w = h1[k * 32 + threadIdx.x]; a0 += w; }
    o0[c] = th_store_bf16(a0);
  }
}
