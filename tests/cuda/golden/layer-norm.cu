// forward
//   th_kernel_0<<<(38, 1), 256, 0>>>() t[0, 1, 2] -> t[3, 4, 5]
//   th_kernel_1<<<(225, 1), 256, 0>>>() t[6] -> t[7]
// backward
//   th_kernel_2<<<(38, 1), 256, 0>>>() t[3, 0, 2, 1] -> t[4]
//   th_kernel_3<<<(6, 10), 256, 0>>>() t[3, 2] -> t[6]
//   th_kernel_4<<<(24, 1), 256, 0>>>() t[3, 2] -> t[6]
//   th_kernel_5<<<(6, 10), 256, 0>>>() t[3] -> t[9]
//   th_kernel_6<<<(24, 1), 256, 0>>>() t[3] -> t[9]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *p0, const float *p1, const float *p2, float *o0, float *o1, float *o2, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x % 32;
   {
    const int64_t block = blockIdx.x;
    const int row = block * 8 + threadIdx.x / 32;
    const bool live = row < 300;
    const int r0 = live ? row : 300 - 1;
  float x2[6][4];
  float x17[6][4];
  float x20[6][4];
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
    { const float w4 = __shfl_xor_sync(0xffffffffu, a1, 16); a1 += w4; }
    { const float w4 = __shfl_xor_sync(0xffffffffu, a1, 8); a1 += w4; }
    { const float w4 = __shfl_xor_sync(0xffffffffu, a1, 4); a1 += w4; }
    { const float w4 = __shfl_xor_sync(0xffffffffu, a1, 2); a1 += w4; }
    { const float w4 = __shfl_xor_sync(0xffffffffu, a1, 1); a1 += w4; }
    const float v5 = (float)a1 / ((float)768.00000000000000);
    float a6 = 0;
    #pragma unroll
    for (int turn = 0; turn < 6; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 4;
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v7 = x2[turn][lane];
        const float v8 = (float)(v7 - v5);
        const float v9 = (float)(v8 * v8);
        a6 += v9;
      }
    }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a6, 16); a6 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a6, 8); a6 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a6, 4); a6 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a6, 2); a6 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a6, 1); a6 += w10; }
    const float v11 = (float)a6 / ((float)768.00000000000000);
    const float v12 = (float)(v11 + ((float)1.0000000000000001e-05));
    const float v13 = 1.0f / __builtin_sqrtf(v12);
    if (place == 0 && live) {
      o0[r0] = v13;
    }
    if (live) {
      #pragma unroll
      for (int turn = 0; turn < 6; turn++) {
        const int j = turn * 32 + place;
        const int j_1 = (j) * 4;
        th_read(x17[turn], p1 + j_1);
        th_read(x20[turn], p2 + j_1);
        float y1[4];
        float y2[4];
        #pragma unroll
        for (int lane = 0; lane < 4; lane++) {
          const float v14 = x2[turn][lane];
          const float v15 = (float)(v14 - v5);
          const float v16 = (float)(v15 * v13);
          const float v18 = x17[turn][lane];
          const float v19 = (float)(v16 * v18);
          const float v21 = x20[turn][lane];
          const float v22 = (float)(v19 + v21);
          y1[lane] = v16;
          y2[lane] = v22;
        }
        th_write(o1 + r0 * 768 + j_1, y1);
        th_write(o2 + r0 * 768 + j_1, y2);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *p0, float *o0, unsigned *th_flags) {
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

extern "C" __global__ void __launch_bounds__(256) th_kernel_2(const float *p0, const float *p1, const float *p2, const float *p3, float *o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x % 32;
   {
    const int64_t block = blockIdx.x;
    const int row = block * 8 + threadIdx.x / 32;
    const bool live = row < 300;
    const int r0 = live ? row : 300 - 1;
    float a1 = 0;
    #pragma unroll
    for (int turn = 0; turn < 6; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 4;
      float x2[4];
      th_read(x2, p0 + r0 * 768 + j_1);
      float x4[4];
      th_read(x4, p1 + j_1);
      float x7[4];
      th_read(x7, p2 + r0 * 768 + j_1);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v3 = x2[lane];
        const float v5 = x4[lane];
        const float v6 = (float)(v3 * v5);
        const float v8 = x7[lane];
        const float v9 = (float)(v6 * v8);
        a1 += v9;
      }
    }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a1, 16); a1 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a1, 8); a1 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a1, 4); a1 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a1, 2); a1 += w10; }
    { const float w10 = __shfl_xor_sync(0xffffffffu, a1, 1); a1 += w10; }
    const float v11 = (float)a1 / ((float)768.00000000000000);
    float a12 = 0;
    #pragma unroll
    for (int turn = 0; turn < 6; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 4;
      float x13[4];
      th_read(x13, p0 + r0 * 768 + j_1);
      float x15[4];
      th_read(x15, p1 + j_1);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v14 = x13[lane];
        const float v16 = x15[lane];
        const float v17 = (float)(v14 * v16);
        a12 += v17;
      }
    }
    { const float w18 = __shfl_xor_sync(0xffffffffu, a12, 16); a12 += w18; }
    { const float w18 = __shfl_xor_sync(0xffffffffu, a12, 8); a12 += w18; }
    { const float w18 = __shfl_xor_sync(0xffffffffu, a12, 4); a12 += w18; }
    { const float w18 = __shfl_xor_sync(0xffffffffu, a12, 2); a12 += w18; }
    { const float w18 = __shfl_xor_sync(0xffffffffu, a12, 1); a12 += w18; }
    const float v19 = (float)a12 / ((float)768.00000000000000);
    if (live) {
      #pragma unroll
      for (int turn = 0; turn < 6; turn++) {
        const int j = turn * 32 + place;
        const int j_1 = (j) * 4;
        float x20[4];
        th_read(x20, p0 + r0 * 768 + j_1);
        float x22[4];
        th_read(x22, p1 + j_1);
        float x25[4];
        th_read(x25, p2 + r0 * 768 + j_1);
        float x30[4];
        th_read(x30, p3 + r0 * 768 + j_1);
        float y0[4];
        #pragma unroll
        for (int lane = 0; lane < 4; lane++) {
          const float v21 = x20[lane];
          const float v23 = x22[lane];
          const float v24 = (float)(v21 * v23);
          const float v26 = x25[lane];
          const float v27 = (float)(v26 * v11);
          const float v28 = (float)(v24 - v27);
          const float v29 = (float)(v28 - v19);
          const float v31 = x30[lane];
          const float v32 = (float)(v29 * v31);
          y0[lane] = v32;
        }
        th_write(o0 + r0 * 768 + j_1, y0);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_3(const float *p0, const float *p1, float *o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int j0 = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int deep = threadIdx.x / 32;
  const int i1 = blockIdx.y / 10, chunk = blockIdx.y % 10;
  const int q3 = j0 * 4;
  float a4[4];
  for (int lane = 0; lane < 4; lane++) a4[lane] = 0;
  const int64_t from = (int64_t)300 * chunk / 10, to = (int64_t)300 * (chunk + 1) / 10;
  if (j0 < 192) {
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

extern "C" __global__ void __launch_bounds__(256) th_kernel_4(const float *p0, const float *p1, float *o0, unsigned char *scratch, unsigned *th_flags) {
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

extern "C" __global__ void __launch_bounds__(256) th_kernel_5(const float *p0, float *o0, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int j0 = (int)blockIdx.x * 32 + threadIdx.x % 32;
  const int deep = threadIdx.x / 32;
  const int i1 = blockIdx.y / 10, chunk = blockIdx.y % 10;
  const int q3 = j0 * 4;
  float a4[4];
  for (int lane = 0; lane < 4; lane++) a4[lane] = 0;
  const int64_t from = (int64_t)300 * chunk / 10, to = (int64_t)300 * (chunk + 1) / 10;
  if (j0 < 192) {
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

extern "C" __global__ void __launch_bounds__(256) th_kernel_6(const float *p0, float *o0, unsigned char *scratch, unsigned *th_flags) {
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
