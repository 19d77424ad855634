// forward
//   th_kernel_0<<<(1, 1), 256, 0>>>() t[0] -> t[3]
//   th_kernel_1<<<(12, 1), 256, 0>>>() t[3, 4, 2] -> t[5]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *__restrict__ p0, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int i0 = (int)blockIdx.x * 256 + threadIdx.x;
  if (i0 < 32) {
    const int q1 = i0 * 4;
    float x2[4];
    th_read(x2, p0 + q1);
    float y0[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const float v3 = x2[lane];
      const float v4 = expf(v3);
      y0[lane] = v4;
    }
    th_write(o0 + q1, y0);
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *__restrict__ p0, const float *__restrict__ p1, const float *__restrict__ p2, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int i0 = (int)blockIdx.x * 256 + threadIdx.x;
  if (i0 < 3072) {
    const int q1 = i0 % 32;
    const int q2 = i0 / 32;
    const int q3 = q1 * 4;
    float x4[4];
    th_read(x4, p2 + q2 * 128 + q3);
    float x6[4];
    th_read(x6, p0 + q3);
    float y0[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const float v5 = x4[lane];
      const float v7 = x6[lane];
      const float v8 = p1[q2 + (q3 + lane) * 96];
      const float v9 = (float)(v7 * v8);
      const float v10 = (float)(v5 + v9);
      y0[lane] = v10;
    }
    th_write(o0 + q2 * 128 + q3, y0);
  }
}
