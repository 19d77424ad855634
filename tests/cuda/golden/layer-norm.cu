// forward
//   th_kernel_0<<<(38, 1), 256, 0>>>() t[0, 1, 2] -> t[3, 4, 5]
//   th_kernel_1<<<(225, 1), 256, 0>>>() t[6] -> t[7]
// backward
//   th_kernel_2<<<(38, 1), 256, 0>>>() t[3, 0, 2, 1] -> t[4]
//   th_kernel_3<<<(6, 10), 256, 0>>>() t[3, 2] -> t[6]
//   th_kernel_4<<<(24, 1), 256, 0>>>() t[3, 2] -> t[6]
//   th_kernel_5<<<(6, 10), 256, 0>>>() t[3] -> t[9]
//   th_kernel_6<<<(24, 1), 256, 0>>>() t[3] -> t[9]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, float *__restrict__ o0, float *__restrict__ o1, float *__restrict__ o2, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x % 32;
   {
    const int64_t block = blockIdx.x;
    const int row = block * 8 + threadIdx.x / 32;
    const bool live = row < 300;
    const int r0 = live ? row : 300 - 1;
    float x2[6][4];
    float x15[6][4];
    float x18[6][4];
    float a1 = 0;
    #pragma unroll
    for (int turn = 0; turn < 6; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 4;
      th_read(x2[turn], p0 + r0 * 768 + j_1);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v3 = x2[turn][lane];
        a1 += v3;
      }
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 16); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 8); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 4); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 2); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 1); a1 += w; }
    const float v4 = (float)a1 / ((float)768.00000000000000);
    float a5 = 0;
    #pragma unroll
    for (int turn = 0; turn < 6; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 4;
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v6 = x2[turn][lane];
        const float v7 = (float)(v6 - v4);
        const float v8 = (float)(v7 * v7);
        a5 += v8;
      }
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 16); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 8); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 4); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 2); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 1); a5 += w; }
    const float v9 = (float)a5 / ((float)768.00000000000000);
    const float v10 = (float)(v9 + ((float)1.0000000000000001e-05));
    const float v11 = 1.0f / __builtin_sqrtf(v10);
    if (place == 0 && live) {
      o0[r0] = v11;
    }
    if (live) {
      #pragma unroll
      for (int turn = 0; turn < 6; turn++) {
        const int j = turn * 32 + place;
        const int j_1 = (j) * 4;
        th_read(x15[turn], p1 + j_1);
        th_read(x18[turn], p2 + j_1);
        float y1[4];
        float y2[4];
        #pragma unroll
        for (int lane = 0; lane < 4; lane++) {
          const float v12 = x2[turn][lane];
          const float v13 = (float)(v12 - v4);
          const float v14 = (float)(v13 * v11);
          const float v16 = x15[turn][lane];
          const float v17 = (float)(v14 * v16);
          const float v19 = x18[turn][lane];
          const float v20 = (float)(v17 + v19);
          y1[lane] = v14;
          y2[lane] = v20;
        }
        th_write(o1 + r0 * 768 + j_1, y1);
        th_write(o2 + r0 * 768 + j_1, y2);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *__restrict__ p0, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int i0 = (int)blockIdx.x * 256 + threadIdx.x;
  if (i0 < 57600) {
    const int q1 = i0 % 192;
    const int q2 = i0 / 192;
    const int q3 = q1 * 4;
    const float s4 = p0[q2];
    const float v5 = (float)s4;
    float y0[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      y0[lane] = v5;
    }
    th_write(o0 + q2 * 768 + q3, y0);
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_2(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, const float *__restrict__ p3, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x % 32;
   {
    const int64_t block = blockIdx.x;
    const int row = block * 8 + threadIdx.x / 32;
    const bool live = row < 300;
    const int r0 = live ? row : 300 - 1;
    float a1 = 0;
    float a2 = 0;
    #pragma unroll
    for (int turn = 0; turn < 6; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 4;
      float x3[4];
      th_read(x3, p0 + r0 * 768 + j_1);
      float x5[4];
      th_read(x5, p1 + j_1);
      float x8[4];
      th_read(x8, p2 + r0 * 768 + j_1);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v4 = x3[lane];
        const float v6 = x5[lane];
        const float v7 = (float)(v4 * v6);
        const float v9 = x8[lane];
        const float v10 = (float)(v7 * v9);
        a1 += v10;
        a2 += v7;
      }
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 16); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 8); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 4); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 2); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 1); a1 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a2, 16); a2 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a2, 8); a2 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a2, 4); a2 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a2, 2); a2 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a2, 1); a2 += w; }
    const float v11 = (float)a1 / ((float)768.00000000000000);
    const float v12 = (float)a2 / ((float)768.00000000000000);
    if (live) {
      #pragma unroll
      for (int turn = 0; turn < 6; turn++) {
        const int j = turn * 32 + place;
        const int j_1 = (j) * 4;
        float x13[4];
        th_read(x13, p0 + r0 * 768 + j_1);
        float x15[4];
        th_read(x15, p1 + j_1);
        float x18[4];
        th_read(x18, p2 + r0 * 768 + j_1);
        float x23[4];
        th_read(x23, p3 + r0 * 768 + j_1);
        float y0[4];
        #pragma unroll
        for (int lane = 0; lane < 4; lane++) {
          const float v14 = x13[lane];
          const float v16 = x15[lane];
          const float v17 = (float)(v14 * v16);
          const float v19 = x18[lane];
          const float v20 = (float)(v19 * v11);
          const float v21 = (float)(v17 - v20);
          const float v22 = (float)(v21 - v12);
          const float v24 = x23[lane];
          const float v25 = (float)(v22 * v24);
          y0[lane] = v25;
        }
        th_write(o0 + r0 * 768 + j_1, y0);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_3(const float *__restrict__ p0, const float *__restrict__ p1, float *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int j0 = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int deep = threadIdx.x / 32;
  const int i1 = blockIdx.y / 10, chunk = blockIdx.y % 10;
  const int q3 = j0 * 4;
  float a4[4];
  for (int lane = 0; lane < 4; lane++) a4[lane] = 0;
  const int64_t from = (int64_t)300 * chunk / 10, to = (int64_t)300 * (chunk + 1) / 10;
  if (j0 < 192) {
    #pragma unroll 4
    for (int r2 = from + deep; r2 < to; r2 += 8) {
      float x5[4];
      th_read(x5, p0 + r2 * 768 + q3);
      float x7[4];
      th_read(x7, p1 + r2 * 768 + q3);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v6 = x5[lane];
        const float v8 = x7[lane];
        const float v9 = (float)(v6 * v8);
        a4[lane] += v9;
      }
    }
  }
  __shared__ float h10[8][128];
  for (int lane = 0; lane < 4; lane++) h10[deep][threadIdx.x % 32 * 4 + lane] = a4[lane];
  __syncthreads();
  if (deep == 0 && j0 < 192) {
    for (int lane = 0; lane < 4; lane++) {
      float sum = a4[lane];
      for (int k = 1; k < 8; k++) { const float w = h10[k][threadIdx.x * 4 + lane]; sum += w; }
      ((float *)(scratch + (int64_t)0 * 8 * 10 * 768))[(int64_t)chunk * 768 + (int64_t)i1 * 768 + q3 + lane] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_4(const float *__restrict__ p0, const float *__restrict__ p1, float *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int c = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int part = threadIdx.x / 32;
  __shared__ float h1[256];
  float a0 = 0;
  if (c < 768)
    for (int k = part; k < 10; k += 8) { const float w = ((const float *)(scratch + (int64_t)0 * 8 * 10 * 768))[(int64_t)k * 768 + c]; a0 += w; }
  h1[threadIdx.x] = a0;
  __syncthreads();
  if (part == 0 && c < 768) {
    for (int k = 1; k < 8; k++) { const float w = h1[k * 32 + threadIdx.x]; a0 += w; }
    o0[c] = a0;
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_5(const float *__restrict__ p0, float *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int j0 = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int deep = threadIdx.x / 32;
  const int i1 = blockIdx.y / 10, chunk = blockIdx.y % 10;
  const int q3 = j0 * 4;
  float a4[4];
  for (int lane = 0; lane < 4; lane++) a4[lane] = 0;
  const int64_t from = (int64_t)300 * chunk / 10, to = (int64_t)300 * (chunk + 1) / 10;
  if (j0 < 192) {
    #pragma unroll 4
    for (int r2 = from + deep; r2 < to; r2 += 8) {
      float x5[4];
      th_read(x5, p0 + r2 * 768 + q3);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v6 = x5[lane];
        a4[lane] += v6;
      }
    }
  }
  __shared__ float h7[8][128];
  for (int lane = 0; lane < 4; lane++) h7[deep][threadIdx.x % 32 * 4 + lane] = a4[lane];
  __syncthreads();
  if (deep == 0 && j0 < 192) {
    for (int lane = 0; lane < 4; lane++) {
      float sum = a4[lane];
      for (int k = 1; k < 8; k++) { const float w = h7[k][threadIdx.x * 4 + lane]; sum += w; }
      ((float *)(scratch + (int64_t)0 * 8 * 10 * 768))[(int64_t)chunk * 768 + (int64_t)i1 * 768 + q3 + lane] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_6(const float *__restrict__ p0, float *__restrict__ o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int c = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int part = threadIdx.x / 32;
  __shared__ float h1[256];
  float a0 = 0;
  if (c < 768)
    for (int k = part; k < 10; k += 8) { const float w = ((const float *)(scratch + (int64_t)0 * 8 * 10 * 768))[(int64_t)k * 768 + c]; a0 += w; }
  h1[threadIdx.x] = a0;
  __syncthreads();
  if (part == 0 && c < 768) {
    for (int k = 1; k < 8; k++) { const float w = h1[k * 32 + threadIdx.x]; a0 += w; }
    o0[c] = a0;
  }
}
