// forward
//   th_kernel_0<<<(1, 1), 256, 0>>>() t[0] -> t[1]

extern "C" __global__ void __launch_bounds__(256) th_kernel_0(const uint16_t *__restrict__ p0, uint16_t *__restrict__ o0, unsigned *th_flags) {
  unsigned th_bad = 0;
  const int place = threadIdx.x % 32;
   {
    const int64_t block = blockIdx.x;
    const int row = block * 8 + threadIdx.x / 32;
    const bool live = row < 8;
    const int r0 = live ? row : 8 - 1;
    uint16_t x2[3][8];
    float a1 = -INFINITY;
    #pragma unroll
    for (int turn = 0; turn < 3; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 8;
      th_read(x2[turn], p0 + r0 * 768 + j_1);
      #pragma unroll
      for (int lane = 0; lane < 8; lane++) {
        const float v3 = th_load_bf16(x2[turn][lane]);
        const float v4 = (float)v3;
        a1 = TH_MAX(a1, v4);
      }
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 16); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 8); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 4); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 2); a1 = TH_MAX(a1, w); }
    { const float w = __shfl_xor_sync(0xffffffffu, a1, 1); a1 = TH_MAX(a1, w); }
    float a5 = 0;
    #pragma unroll
    for (int turn = 0; turn < 3; turn++) {
      const int j = turn * 32 + place;
      const int j_1 = (j) * 8;
      #pragma unroll
      for (int lane = 0; lane < 8; lane++) {
        const float v6 = th_load_bf16(x2[turn][lane]);
        const float v7 = (float)v6;
        const float v8 = (float)(v7 - a1);
        const float v9 = th_expf(v8);
        a5 += v9;
      }
    }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 16); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 8); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 4); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 2); a5 += w; }
    { const float w = __shfl_xor_sync(0xffffffffu, a5, 1); a5 += w; }
    if (live) {
      #pragma unroll
      for (int turn = 0; turn < 3; turn++) {
        const int j = turn * 32 + place;
        const int j_1 = (j) * 8;
        uint16_t y0[8];
        #pragma unroll
        for (int lane = 0; lane < 8; lane++) {
          const float v10 = th_load_bf16(x2[turn][lane]);
          const float v11 = (float)v10;
          const float v12 = (float)(v11 - a1);
          const float v13 = th_expf(v12);
          const float v14 = (float)v13 / a5;
          const uint16_t b15 = th_store_bf16((float)v14);
          const float v16 = th_load_bf16(b15);
          y0[lane] = b15;
        }
        th_write(o0 + r0 * 768 + j_1, y0);
      }
    }
  }
}
