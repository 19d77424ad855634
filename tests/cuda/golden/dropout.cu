// forward
//   scalars(1, 1, 1, 1, 1, 24, 6, 6, 0, 0, 0) t[1] -> t[3]
//   scalars(1, 1, 1, 1, 1, 24, 6, 6, 0, 0, 0) t[2] -> t[4]
//   th_kernel_0<<<(25, 1), 256, 0>>>() t[3, 4, 0] -> t[5]
// backward
//   scalars(1, 1, 1, 1, 1, 24, 6, 6, 0, 0, 0) t[1] -> t[3]
//   scalars(1, 1, 1, 1, 1, 24, 6, 6, 0, 0, 0) t[2] -> t[4]
//   th_kernel_0<<<(25, 1), 256, 0>>>() t[3, 4, 0] -> t[5]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const int64_t *__restrict__ p0, const int64_t *__restrict__ p1, const float *__restrict__ p2, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int i0 = (int)blockIdx.x * 256 + threadIdx.x;
  if (i0 < 6400) {
    const int q1 = i0 * 4;
    float x2[4];
    th_read(x2, p2 + q1);
    const int64_t s4 = p0[0];
    const int64_t s5 = p1[0];
    float y0[4];
    #pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const float v3 = x2[lane];
      const float v6 = th_uniform_f((uint64_t)s4, (uint64_t)s5, 0, (uint64_t)((q1 + lane)));
      const uint8_t v7 = (uint8_t)(v6 >= ((float)0.25000000000000000));
      const float v8 = v7 ? ((float)1.3333333333333333) : ((float)0.0000000000000000);
      const float v9 = (float)(v3 * v8);
      y0[lane] = v9;
    }
    th_write(o0 + q1, y0);
  }
}
