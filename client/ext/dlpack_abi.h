/* The part of DLPack 1.3's C ABI that is used here (dmlc/dlpack, include/dlpack/dlpack.h), declared for ourselves so that a
 * build needs no PyTorch headers. */
#ifndef THUNDER_CLIENT_EXT_DLPACK_ABI_H
#define THUNDER_CLIENT_EXT_DLPACK_ABI_H

#include <stdint.h>

typedef struct th_dlversion { uint32_t major, minor; } th_dlversion;
typedef struct th_dldevice { int32_t device_type, device_id; } th_dldevice; /* 1: host memory, 2: CUDA */
typedef struct th_dldtype { uint8_t code, bits; uint16_t lanes; } th_dldtype;
typedef struct th_dltensor {
  void *data;
  th_dldevice device;
  int32_t ndim;
  th_dldtype dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} th_dltensor;
typedef struct th_dlmanaged {
  th_dlversion version;
  void *manager_ctx;
  void (*deleter)(struct th_dlmanaged *self);
  uint64_t flags;
  th_dltensor dl_tensor;
} th_dlmanaged;
typedef struct th_dlheader { th_dlversion version; struct th_dlheader *prev_api; } th_dlheader;
typedef struct th_dlpack_api {
  th_dlheader header;
  int (*managed_tensor_allocator)(th_dltensor *prototype, th_dlmanaged **out, void *context, void (*set_error)(void *context, const char *kind, const char *message));
  int (*managed_tensor_from_py_object_no_sync)(void *object, th_dlmanaged **out);
  int (*managed_tensor_to_py_object_no_sync)(th_dlmanaged *tensor, void **out_object);
  int (*dltensor_from_py_object_no_sync)(void *object, th_dltensor *out);
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void **out_stream);
} th_dlpack_api;

#endif
