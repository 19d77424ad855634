// forward
//   th_kernel_0<<<(1, 1), 256, 0>>>() t[0] -> t[1]
//   th_kernel_1<<<(1, 1), 256, 0>>>() t[0] -> t[2]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const float *__restrict__ p0, int64_t *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i < 40) {
    int64_t best = 0; float top = 0;
    for (int k0 = 0; k0 < 70; k0++) {
      const float v1 = p0[i * 70 + k0];
      if (k0 == 0 || (top == top && (v1 > top || v1 != v1))) { top = v1; best = k0; }
    }
    o0[i] = best;
  }
}

extern "C" __global__ void __launch_bounds__(256) th_kernel_1(const float *__restrict__ p0, float *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i < 70) {
    double acc = 0;
    for (int k0 = 0; k0 < 40; k0++) {
      const float v1 = p0[k0 * 70 + i];
      acc += v1;
      o0[k0 * 70 + i] = acc;
    }
  }
}
