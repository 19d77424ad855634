/* What this folder uses of cuDNN's backend API: types, numbers and the table of its functions. Written down here so that no
 * cuDNN headers are needed to build. Values are those of cudnn_graph_v9.h of nvidia-cudnn-cu13 9.19.0.56 (cuDNN 9.19.0) and are part
 * of the ABI of libcudnn.so.9: NVIDIA appends and never renumbers within 9. tests/cuda/test_abi.py holds them against
 * the header where the wheel is unpacked. */
#ifndef THUNDER_EXECUTORS_CUDNN_CUDNN_ABI_H
#define THUNDER_EXECUTORS_CUDNN_CUDNN_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "ir/base/status.h"

typedef int cudnnStatus_t; /* all enums are int */
typedef void *cudnnBackendDescriptor_t;
typedef struct cudnnContext *cudnnHandle_t;

enum { /* cudnnStatus_t */
  CUDNN_STATUS_SUCCESS = 0,
  CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH = 1002,
  CUDNN_STATUS_SERIALIZATION_VERSION_MISMATCH = 1003,
  CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED = 1008,
  CUDNN_STATUS_BAD_PARAM = 2000,
  CUDNN_STATUS_NOT_SUPPORTED = 3000,
  CUDNN_STATUS_INTERNAL_ERROR = 4000,
  CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED = 4003,
  CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED = 4004,
  CUDNN_STATUS_EXECUTION_FAILED = 5000,
};

enum { /* cudnnDataType_t */
  CUDNN_DATA_FLOAT = 0,
  CUDNN_DATA_HALF = 2,
  CUDNN_DATA_INT32 = 4,
  CUDNN_DATA_BFLOAT16 = 9,
  CUDNN_DATA_BOOLEAN = 11,
};

enum { /* cudnnPointwiseMode_t */
  CUDNN_POINTWISE_ADD = 0,
  CUDNN_POINTWISE_MUL = 1,
  CUDNN_POINTWISE_DIV = 6,
  CUDNN_POINTWISE_SUB = 9,
  CUDNN_POINTWISE_EXP = 13,
  CUDNN_POINTWISE_LOG = 15,
  CUDNN_POINTWISE_IDENTITY = 21,
  CUDNN_POINTWISE_CMP_GE = 303,
  CUDNN_POINTWISE_GEN_INDEX = 501,
  CUDNN_POINTWISE_BINARY_SELECT = 601,
};

enum { /* cudnnReduceTensorOp_t */
  CUDNN_REDUCE_TENSOR_ADD = 0,
  CUDNN_REDUCE_TENSOR_MAX = 3,
};

enum { /* cudnnConvolutionMode_t */
  CUDNN_CROSS_CORRELATION = 1,
};

enum { /* cudnnBackendNumericalNote_t */
  CUDNN_NUMERICAL_NOTE_TENSOR_CORE = 0,
  CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS = 1,
  CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION = 2,
  CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC = 4,
};

enum { /* cudnnBackendHeurMode_t */
  CUDNN_HEUR_MODE_FALLBACK = 2,
  CUDNN_HEUR_MODE_A = 3,
};

enum { /* cudnnBackendDescriptorType_t */
  CUDNN_BACKEND_POINTWISE_DESCRIPTOR = 0,
  CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR = 1,
  CUDNN_BACKEND_ENGINE_DESCRIPTOR = 2,
  CUDNN_BACKEND_ENGINECFG_DESCRIPTOR = 3,
  CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR = 4,
  CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR = 5,
  CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR = 10,
  CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR = 11,
  CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR = 12,
  CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR = 13,
  CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR = 15,
  CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR = 16,
  CUDNN_BACKEND_TENSOR_DESCRIPTOR = 17,
  CUDNN_BACKEND_MATMUL_DESCRIPTOR = 18,
  CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR = 19,
  CUDNN_BACKEND_REDUCTION_DESCRIPTOR = 21,
  CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR = 22,
  CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR = 31,
  CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR = 38,
};

enum { /* cudnnBackendAttributeType_t, and the C type of an element */
  CUDNN_TYPE_HANDLE = 0,                  /* cudnnHandle_t */
  CUDNN_TYPE_DATA_TYPE = 1,               /* int */
  CUDNN_TYPE_BOOLEAN = 2,                 /* bool */
  CUDNN_TYPE_INT64 = 3,                   /* int64_t */
  CUDNN_TYPE_FLOAT = 4,                   /* float */
  CUDNN_TYPE_VOID_PTR = 6,                /* void * */
  CUDNN_TYPE_CONVOLUTION_MODE = 7,        /* int */
  CUDNN_TYPE_HEUR_MODE = 8,               /* int */
  CUDNN_TYPE_NUMERICAL_NOTE = 11,         /* int */
  CUDNN_TYPE_POINTWISE_MODE = 14,         /* int */
  CUDNN_TYPE_BACKEND_DESCRIPTOR = 15,     /* cudnnBackendDescriptor_t */
  CUDNN_TYPE_REDUCTION_OPERATOR_TYPE = 18, /* int */
  CUDNN_TYPE_CHAR = 24,                   /* char */
};

enum { /* cudnnBackendAttributeName_t */
  CUDNN_ATTR_POINTWISE_MODE = 0,
  CUDNN_ATTR_POINTWISE_MATH_PREC = 1,
  CUDNN_ATTR_POINTWISE_AXIS = 9,
  CUDNN_ATTR_CONVOLUTION_COMP_TYPE = 100,
  CUDNN_ATTR_CONVOLUTION_CONV_MODE = 101,
  CUDNN_ATTR_CONVOLUTION_DILATIONS = 102,
  CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES = 103,
  CUDNN_ATTR_CONVOLUTION_POST_PADDINGS = 104,
  CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS = 105,
  CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS = 106,
  CUDNN_ATTR_ENGINEHEUR_MODE = 200,
  CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH = 201,
  CUDNN_ATTR_ENGINEHEUR_RESULTS = 202,
  CUDNN_ATTR_ENGINEHEUR_DEVICEPROP = 204,
  CUDNN_ATTR_ENGINECFG_ENGINE = 300,
  CUDNN_ATTR_EXECUTION_PLAN_HANDLE = 400,
  CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG = 401,
  CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE = 402,
  CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION = 405,
  CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP = 407,
  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA = 700,
  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA = 701,
  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC = 702,
  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W = 703,
  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X = 704,
  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y = 705,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA = 706,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA = 707,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC = 708,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W = 709,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX = 710,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY = 711,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA = 712,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA = 713,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC = 714,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW = 715,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X = 716,
  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY = 717,
  CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR = 750,
  CUDNN_ATTR_OPERATION_POINTWISE_XDESC = 751,
  CUDNN_ATTR_OPERATION_POINTWISE_BDESC = 752,
  CUDNN_ATTR_OPERATION_POINTWISE_YDESC = 753,
  CUDNN_ATTR_OPERATION_POINTWISE_TDESC = 758,
  CUDNN_ATTR_OPERATIONGRAPH_HANDLE = 800,
  CUDNN_ATTR_OPERATIONGRAPH_OPS = 801,
  CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT = 900,
  CUDNN_ATTR_TENSOR_DATA_TYPE = 901,
  CUDNN_ATTR_TENSOR_DIMENSIONS = 902,
  CUDNN_ATTR_TENSOR_STRIDES = 903,
  CUDNN_ATTR_TENSOR_UNIQUE_ID = 906,
  CUDNN_ATTR_TENSOR_IS_VIRTUAL = 907,
  CUDNN_ATTR_TENSOR_IS_BY_VALUE = 908,
  CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS = 1000,
  CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS = 1001,
  CUDNN_ATTR_VARIANT_PACK_WORKSPACE = 1003,
  CUDNN_ATTR_ENGINE_NUMERICAL_NOTE = 1303,
  CUDNN_ATTR_MATMUL_COMP_TYPE = 1500,
  CUDNN_ATTR_OPERATION_MATMUL_ADESC = 1520,
  CUDNN_ATTR_OPERATION_MATMUL_BDESC = 1521,
  CUDNN_ATTR_OPERATION_MATMUL_CDESC = 1522,
  CUDNN_ATTR_OPERATION_MATMUL_DESC = 1523,
  CUDNN_ATTR_REDUCTION_OPERATOR = 1600,
  CUDNN_ATTR_REDUCTION_COMP_TYPE = 1601,
  CUDNN_ATTR_REDUCTION_IS_DETERMINISTIC = 1602,
  CUDNN_ATTR_OPERATION_REDUCTION_XDESC = 1610,
  CUDNN_ATTR_OPERATION_REDUCTION_YDESC = 1611,
  CUDNN_ATTR_OPERATION_REDUCTION_DESC = 1612,
  CUDNN_ATTR_OPERATION_RESHAPE_XDESC = 2200,
  CUDNN_ATTR_OPERATION_RESHAPE_YDESC = 2201,
  CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION = 2702,
};

/* TH_CUDNN_FUNCTION(result, name, parameters): th__cudnn.name is cudnn<name>. */
#define TH_CUDNN_FUNCTIONS(TH_CUDNN_FUNCTION)                                                                                       \
  TH_CUDNN_FUNCTION(size_t, GetVersion, (void))                                                                                     \
  TH_CUDNN_FUNCTION(const char *, GetErrorString, (cudnnStatus_t status))                                                           \
  TH_CUDNN_FUNCTION(void, GetLastErrorString, (char *message, size_t size))                                                         \
  TH_CUDNN_FUNCTION(cudnnStatus_t, Create, (cudnnHandle_t *handle))                                                                 \
  TH_CUDNN_FUNCTION(cudnnStatus_t, SetStream, (cudnnHandle_t handle, void *stream))                                                 \
  TH_CUDNN_FUNCTION(cudnnStatus_t, BackendCreateDescriptor, (int type, cudnnBackendDescriptor_t *descriptor))                       \
  TH_CUDNN_FUNCTION(cudnnStatus_t, BackendDestroyDescriptor, (cudnnBackendDescriptor_t descriptor))                                 \
  TH_CUDNN_FUNCTION(cudnnStatus_t, BackendFinalize, (cudnnBackendDescriptor_t descriptor))                                          \
  TH_CUDNN_FUNCTION(cudnnStatus_t, BackendSetAttribute,                                                                             \
                    (cudnnBackendDescriptor_t descriptor, int name, int type, int64_t count, const void *elements))                 \
  TH_CUDNN_FUNCTION(cudnnStatus_t, BackendGetAttribute,                                                                             \
                    (cudnnBackendDescriptor_t descriptor, int name, int type, int64_t wanted, int64_t *count, void *elements))      \
  TH_CUDNN_FUNCTION(cudnnStatus_t, BackendExecute, (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack))

/* The functions, filled by th_cudnn_open and constant from then on. */
typedef struct th__cudnn_functions {
#define TH_CUDNN_MEMBER(result, name, parameters) result(*name) parameters;
  TH_CUDNN_FUNCTIONS(TH_CUDNN_MEMBER)
#undef TH_CUDNN_MEMBER
} th__cudnn_functions;
extern th__cudnn_functions th__cudnn;

/* What a cudnnStatus_t means: NULL, or a status with the call and cuDNN's own words. */
th_status th__cudnn_check(cudnnStatus_t status, const char *call);

/* Descriptors with one owner. A failed call leaves its status here and turns the later ones into nothing, so that a graph is
 * written down without a check a line. The program that uses it reads `status` once and ends with th__cudnn_pool_drop. */
typedef struct th__cudnn_pool {
  cudnnBackendDescriptor_t *items;
  size_t count, capacity;
  th_status status;
} th__cudnn_pool;

cudnnBackendDescriptor_t th__cudnn_make(th__cudnn_pool *pool, int type);
void th__cudnn_set(th__cudnn_pool *pool, cudnnBackendDescriptor_t d, int name, int type, int64_t count, const void *elements);
void th__cudnn_set_descriptor(th__cudnn_pool *pool, cudnnBackendDescriptor_t d, int name, cudnnBackendDescriptor_t value);
void th__cudnn_set_int(th__cudnn_pool *pool, cudnnBackendDescriptor_t d, int name, int type, int value); /* enums */
void th__cudnn_finish(th__cudnn_pool *pool, cudnnBackendDescriptor_t d);
void th__cudnn_pool_drop(th__cudnn_pool *pool); /* destroys the descriptors, the last made first; frees `status` if still there */

#endif
