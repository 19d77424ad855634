/* The part of cublasLt's and the driver's C interfaces that this room uses, so that no CUDA header is needed to build. Values and
 * sizes are those of nvidia-cublas 13.1.0.3 (cublasLt.h, cublas_api.h) and CUDA 13.0 (library_types.h, cuda.h);
 * tests/cuda/abi_check.c holds them against the headers where there are some. Private to executors/run/cublaslt and its tests. */
#ifndef THUNDER_EXECUTORS_RUN_CUBLASLT_ABI_H
#define THUNDER_EXECUTORS_RUN_CUBLASLT_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { /* cublasStatus_t */
  LT_SUCCESS = 0, LT_NOT_INITIALIZED = 1, LT_ALLOC_FAILED = 3, LT_INVALID_VALUE = 7, LT_ARCH_MISMATCH = 8,
  LT_EXECUTION_FAILED = 13, LT_INTERNAL_ERROR = 14, LT_NOT_SUPPORTED = 15
};
enum { LT_R_32F = 0, LT_R_64F = 1, LT_R_16F = 2, LT_R_16BF = 14 };                        /* cudaDataType */
enum { LT_COMPUTE_32F = 68, LT_COMPUTE_64F = 70, LT_COMPUTE_32F_FAST_TF32 = 77 };         /* cublasComputeType_t */
enum { LT_OP_N = 0, LT_OP_T = 1 };                                                        /* cublasOperation_t */
enum { /* cublasLtMatrixLayoutAttribute_t; the order is left at its default, column-major */
  LT_LAYOUT_BATCH_COUNT = 5,          /* int32_t */
  LT_LAYOUT_STRIDED_BATCH_OFFSET = 6  /* int64_t, elements */
};
enum { /* cublasLtMatmulDescAttributes_t */
  LT_DESC_TRANSA = 3, LT_DESC_TRANSB = 4, LT_DESC_EPILOGUE = 7,                            /* int32_t, int32_t, uint32_t */
  LT_DESC_BIAS_POINTER = 8, LT_DESC_BIAS_BATCH_STRIDE = 10,                                /* void *, int64_t */
  LT_DESC_AUX_POINTER = 11, LT_DESC_AUX_LD = 12, LT_DESC_AUX_BATCH_STRIDE = 13             /* void *, int64_t, int64_t */
};
enum { /* cublasLtEpilogue_t */
  LT_EPILOGUE_DEFAULT = 1, LT_EPILOGUE_BIAS = 4, LT_EPILOGUE_GELU_AUX = 32 | 128, LT_EPILOGUE_GELU_AUX_BIAS = 32 | 128 | 4,
  LT_EPILOGUE_DGELU = 64 | 128, LT_EPILOGUE_DGELU_BGRAD = 64 | 128 | 16, LT_EPILOGUE_BGRADA = 256, LT_EPILOGUE_BGRADB = 512
};
enum { /* cublasLtMatmulPreferenceAttributes_t */
  LT_PREF_MAX_WORKSPACE_BYTES = 1,                                                         /* uint64_t */
  LT_PREF_MIN_ALIGNMENT_A_BYTES = 5, LT_PREF_MIN_ALIGNMENT_B_BYTES = 6,                    /* uint32_t */
  LT_PREF_MIN_ALIGNMENT_C_BYTES = 7, LT_PREF_MIN_ALIGNMENT_D_BYTES = 8
};

typedef struct lt_context *lt_handle;
typedef struct lt_desc *lt_desc;     /* cublasLtMatmulDesc_t; made and ended by the library */
typedef struct lt_layout *lt_layout; /* cublasLtMatrixLayout_t */
typedef struct lt_pref *lt_pref;     /* cublasLtMatmulPreference_t */
typedef struct lt_algo { uint64_t data[8]; } lt_algo;
typedef struct lt_heuristic {
  lt_algo algo;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} lt_heuristic;

/* X(field, symbol, arguments): functions that return a cublasStatus_t. */
#define LT_FUNCTIONS(X)                                                                                                           \
  X(create, cublasLtCreate, (lt_handle * out))                                                                                    \
  X(desc_create, cublasLtMatmulDescCreate, (lt_desc * out, int compute, int scale))                                               \
  X(desc_destroy, cublasLtMatmulDescDestroy, (lt_desc desc))                                                                      \
  X(desc_set, cublasLtMatmulDescSetAttribute, (lt_desc desc, int attribute, const void *value, size_t size))                      \
  X(layout_create, cublasLtMatrixLayoutCreate, (lt_layout * out, int type, uint64_t rows, uint64_t columns, int64_t ld))          \
  X(layout_destroy, cublasLtMatrixLayoutDestroy, (lt_layout layout))                                                              \
  X(layout_set, cublasLtMatrixLayoutSetAttribute, (lt_layout layout, int attribute, const void *value, size_t size))              \
  X(pref_create, cublasLtMatmulPreferenceCreate, (lt_pref * out))                                                                 \
  X(pref_destroy, cublasLtMatmulPreferenceDestroy, (lt_pref pref))                                                                \
  X(pref_set, cublasLtMatmulPreferenceSetAttribute, (lt_pref pref, int attribute, const void *value, size_t size))                \
  X(heuristic, cublasLtMatmulAlgoGetHeuristic,                                                                                    \
    (lt_handle handle, lt_desc desc, lt_layout a, lt_layout b, lt_layout c, lt_layout d, lt_pref pref, int wanted,                \
     lt_heuristic *results, int *out_n))                                                                                          \
  X(algo_check, cublasLtMatmulAlgoCheck,                                                                                          \
    (lt_handle handle, lt_desc desc, lt_layout a, lt_layout b, lt_layout c, lt_layout d, const lt_algo *algo, lt_heuristic *result)) \
  X(matmul, cublasLtMatmul,                                                                                                       \
    (lt_handle handle, lt_desc desc, const void *alpha, const void *a, lt_layout a_layout, const void *b, lt_layout b_layout,     \
     const void *beta, const void *c, lt_layout c_layout, void *d, lt_layout d_layout, const lt_algo *algo, void *workspace,      \
     size_t workspace_bytes, void *stream))
/* Besides: size_t cublasLtGetVersion(void); const char *cublasLtGetStatusName(int status). */

/* The driver: functions that return a CUresult (0: success). Devices are ints, streams and events pointers, device pointers integers. */
#define CU_FUNCTIONS(X)                                                                                                           \
  X(event_create, cuEventCreate, (void **out, unsigned flags))                                                                    \
  X(event_destroy, cuEventDestroy_v2, (void *event))                                                                              \
  X(event_record, cuEventRecord, (void *event, void *stream))                                                                     \
  X(event_synchronize, cuEventSynchronize, (void *event))                                                                         \
  X(event_elapsed, cuEventElapsedTime, (float *out_ms, void *start, void *end))                                                   \
  X(memset_2d, cuMemsetD2D8Async, (uint64_t to, size_t pitch, unsigned char value, size_t width, size_t height, void *stream))    \
  X(device_get, cuDeviceGet, (int *out, int ordinal))                                                                             \
  X(device_name, cuDeviceGetName, (char *out, int size, int device))                                                              \
  X(driver_version, cuDriverGetVersion, (int *out))                                                                               \
  X(error_name, cuGetErrorName, (int result, const char **out))

#endif
