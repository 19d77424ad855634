// step
//   call cublaslt.matmul(0, 1, 1, 1, 0, 0) t[2, 0] -> t[16]
//   th_kernel_0<<<(1, 1), 256, 0>>>() t[16, 1, 3] -> t[18, 19]
//   th_kernel_1<<<(1, 1), 256, 0>>>() t[16, 1, 3] -> t[18, 19]
//   th_kernel_2<<<(1, 1), 256, 0>>>() t[19] -> t[21]
//   call cublaslt.matmul(0, 1, 0, 0, 0, 0) t[19, 2] -> t[23]
//   scalars(1, 2, 1, 4, 5, 27, 12, 12, 0, 1, 0, 0, 12, 12, 0, 0, 0, 26, 12, 12, 3, 2, 0, 24, 12, 11, 4, 0, 0) t[10, 14] -> t[24]
//   scalars(1, 1, 1, 3, 3, 0, 12, 12, 0, 0, 0, 26, 12, 12, 1, 0, 0, 24, 12, 11, 2, 0, 0) t[11] -> t[25]
//   scalars(1, 1, 1, 3, 3, 0, 12, 12, 0, 0, 0, 26, 12, 12, 1, 0, 0, 24, 12, 11, 2, 0, 0) t[12] -> t[26]
//   scalars(1, 1, 1, 1, 1, 24, 12, 11, 0, 0, 0) t[12] -> t[27]
//   scalars(1, 1, 1, 1, 1, 24, 12, 11, 0, 0, 0) t[13] -> t[28]
//   scalars(1, 4, 3, 12, 5, 13, 15, 0, 11, 11, 0, 0, 0, 25, 11, 11, 0, 4, 0, 24, 11, 12, 5, 0, 0, 30, 12, 12, 1, 6, 0, 0, 12, 12, 1, 0, 0, 26, 12, 12, 8, 7, 0, 30, 12, 12, 2, 6, 0, 26, 12, 12, 8, 10, 0, 11, 12, 12, 11, 0, 0, 24, 12, 11, 12, 0, 0, 28, 12, 12, 3, 9, 0, 24, 12, 11, 14, 0, 0) t[4, 11, 12, 10] -> t[29, 30, 31]
//   th_kernel_3<<<(1, 1), 256, 0>>>() t[0, 24, 23, 5, 25, 26, 6, 27, 30, 28, 31] -> t[32, 33, 34]
//   scalars(1, 4, 3, 12, 5, 13, 15, 0, 11, 11, 0, 0, 0, 25, 11, 11, 0, 4, 0, 24, 11, 12, 5, 0, 0, 30, 12, 12, 1, 6, 0, 0, 12, 12, 1, 0, 0, 26, 12, 12, 8, 7, 0, 30, 12, 12, 2, 6, 0, 26, 12, 12, 8, 10, 0, 11, 12, 12, 11, 0, 0, 24, 12, 11, 12, 0, 0, 28, 12, 12, 3, 9, 0, 24, 12, 11, 14, 0, 0) t[7, 11, 12, 10] -> t[35, 36, 37]
//   th_kernel_4<<<(1, 1), 256, 0>>>() t[1, 24, 21, 8, 25, 26, 9, 27, 36, 28, 37] -> t[38, 39, 40]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, float *__restrict__ o0, float *__restrict__ o1, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  float a0 = 0;
  for (int i1 = (int)blockIdx.x * 256 + threadIdx.x; i1 < 8; i1 += (int)gridDim.x * 256) {
    const int q2 = i1 % 2;
    const int q3 = i1 / 2;
    const int q4 = q2 * 4;
    float x5[4];
    th_read(x5, p0 + q3 * 8 + q4);
    float x7[4];
    th_read(x7, p1 + q4);
    float x10[4];
    th_read(x10, p2 + q3 * 8 + q4);
    float y1[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const float v6 = x5[lane];
      const float v8 = x7[lane];
      const float v9 = (float)(v6 + v8);
      const float v11 = x10[lane];
      const float v12 = (float)(v9 - v11);
      const float v13 = (float)(v12 * v12);
      a0 += v13;
      const float v14 = (float)(((float)0.031250000000000000) * v12);
      const float v15 = (float)(v14 + v14);
      y1[lane] = v15;
    }
    th_write(o1 + q3 * 8 + q4, y1);
  }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 16); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 8); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 4); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 2); a0 += w; }
  { const float w = __shfl_xor_sync(0xffffffffu, a0, 1); a0 += w; }
  __shared__ float h16[8];
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    h16[threadIdx.x / 32] = a0;
  }
  __syncthreads();
  a0 = 0;
  #pragma unroll
  for (int k = 0; k < 8; k++) { const float w = h16[threadIdx.x / 256 * 8 + k]; a0 += w; }
  if (threadIdx.x == 0) ((float *)(scratch + 0 * 8 * 1))[blockIdx.x] = a0;
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, float *__restrict__ o0, float *__restrict__ o1, unsigned char *scratch, unsigned *th_flags) {
  unsigned th_bad = 0;
  float a0 = 0;
  for (int k = threadIdx.x; k < 1; k += 256) { const float w = ((const float *)(scratch + 0 * 8 * 1))[k]; a0 += w; }
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
    const float v2 = (float)(a0 * ((float)0.031250000000000000));
    o0[0] = v2;
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_2(const float *__restrict__ p0, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int j0 = (int)blockIdx.x * 2 + threadIdx.x % 2;
  const int deep = threadIdx.x / 2;
  const int i1 = blockIdx.y / 1, chunk = blockIdx.y % 1;
  const int q3 = j0 * 4;
  float a4[4];
  for (int lane = 0; lane < 4; lane++) a4[lane] = 0;
  const int64_t from = (int64_t)4 * chunk / 1, to = (int64_t)4 * (chunk + 1) / 1;
  if (j0 < 2) {
    #pragma unroll 4
    for (int r2 = from + deep; r2 < to; r2 += 128) {
      float x5[4];
      th_read(x5, p0 + r2 * 8 + q3);
      #pragma unroll
      for (int lane = 0; lane < 4; lane++) {
        const float v6 = x5[lane];
        a4[lane] += v6;
      }
    }
  }
  __shared__ float h7[128][8];
  for (int lane = 0; lane < 4; lane++) h7[deep][threadIdx.x % 2 * 4 + lane] = a4[lane];
  __syncthreads();
  if (deep == 0 && j0 < 2) {
    for (int lane = 0; lane < 4; lane++) {
      float sum = a4[lane];
      for (int k = 1; k < 128; k++) { const float w = h7[k][threadIdx.x * 4 + lane]; sum += w; }
      o0[(q3 + lane)] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_3(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, const float *__restrict__ p3, const float *__restrict__ p4, const float *__restrict__ p5, const float *__restrict__ p6, const float *__restrict__ p7, const float *__restrict__ p8, const float *__restrict__ p9, const float *__restrict__ p10, float *__restrict__ o0, float *__restrict__ o1, float *__restrict__ o2, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int i0 = (int)blockIdx.x * 256 + threadIdx.x;
  if (i0 < 32) {
    const int q1 = i0 * 4;
    float x2[4];
    th_read(x2, p3 + q1);
    float x4[4];
    th_read(x4, p2 + q1);
    const float s7 = p4[0];
    float x10[4];
    th_read(x10, p6 + q1);
    const float s12 = p7[0];
    const float s15 = p5[0];
    float x18[4];
    th_read(x18, p0 + q1);
    const float s20 = p1[0];
    const float s22 = p10[0];
    const float s24 = p8[0];
    const float s26 = p9[0];
    float y0[4];
    float y1[4];
    float y2[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const float v3 = x2[lane];
      const float v5 = x4[lane];
      const float v6 = (float)(v5 - v3);
      const float v8 = (float)(v6 * s7);
      const float v9 = (float)(v3 + v8);
      const float v11 = x10[lane];
      const float v13 = (float)(v11 * s12);
      const float v14 = (float)(v5 * v5);
      const float v16 = (float)(v14 * s15);
      const float v17 = (float)(v13 + v16);
      const float v19 = x18[lane];
      const float v21 = (float)(v19 * s20);
      const float v23 = __builtin_sqrtf(v17);
      const float v25 = (float)v23 / s24;
      const float v27 = (float)(v25 + s26);
      const float v28 = (float)v9 / v27;
      const float v29 = (float)(s22 * v28);
      const float v30 = (float)(v21 - v29);
      y0[lane] = v9;
      y1[lane] = v17;
      y2[lane] = v30;
    }
    th_write(o0 + q1, y0);
    th_write(o1 + q1, y1);
    th_write(o2 + q1, y2);
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_4(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, const float *__restrict__ p3, const float *__restrict__ p4, const float *__restrict__ p5, const float *__restrict__ p6, const float *__restrict__ p7, const float *__restrict__ p8, const float *__restrict__ p9, const float *__restrict__ p10, float *__restrict__ o0, float *__restrict__ o1, float *__restrict__ o2, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int i0 = (int)blockIdx.x * 256 + threadIdx.x;
  if (i0 < 2) {
    const int q1 = i0 * 4;
    float x2[4];
    th_read(x2, p3 + q1);
    float x4[4];
    th_read(x4, p2 + q1);
    const float s7 = p4[0];
    float x10[4];
    th_read(x10, p6 + q1);
    const float s12 = p7[0];
    const float s15 = p5[0];
    float x18[4];
    th_read(x18, p0 + q1);
    const float s20 = p1[0];
    const float s22 = p10[0];
    const float s24 = p8[0];
    const float s26 = p9[0];
    float y0[4];
    float y1[4];
    float y2[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const float v3 = x2[lane];
      const float v5 = x4[lane];
      const float v6 = (float)(v5 - v3);
      const float v8 = (float)(v6 * s7);
      const float v9 = (float)(v3 + v8);
      const float v11 = x10[lane];
      const float v13 = (float)(v11 * s12);
      const float v14 = (float)(v5 * v5);
      const float v16 = (float)(v14 * s15);
      const float v17 = (float)(v13 + v16);
      const float v19 = x18[lane];
      const float v21 = (float)(v19 * s20);
      const float v23 = __builtin_sqrtf(v17);
      const float v25 = (float)v23 / s24;
      const float v27 = (float)(v25 + s26);
      const float v28 = (float)v9 / v27;
      const float v29 = (float)(s22 * v28);
      const float v30 = (float)(v21 - v29);
      y0[lane] = v9;
      y1[lane] = v17;
      y2[lane] = v30;
    }
    th_write(o0 + q1, y0);
    th_write(o1 + q1, y1);
    th_write(o2 + q1, y2);
  }
}
