/* The table of library functions. */
#include <string.h>

#include "executors/run/library.h"

static const struct { const char *name; th_library_fn fn; } all[] = {
    {"dot", th_lib_dot}, {"conv", th_lib_conv}, {"conv_grad_x", th_lib_conv_grad_x}, {"conv_grad_w", th_lib_conv_grad_w},
    {"attention", th_lib_attention}, {"attention_backward", th_lib_attention_backward},
    {"cublaslt.matmul", th_lib_cublaslt_matmul},
    {"cudnn.attention", th_lib_cudnn_attention}, {"cudnn.attention_backward", th_lib_cudnn_attention_backward},
    {"cudnn.conv", th_lib_cudnn_conv}, {"cudnn.conv_grad_x", th_lib_cudnn_conv_grad_x}, {"cudnn.conv_grad_w", th_lib_cudnn_conv_grad_w},
};
static struct { const char *name; th_library_fn fn; } added[16];
static _Atomic unsigned n_added;

th_library_fn th_library_find(const char *name) {
  for (unsigned i = 0, n = n_added; i < n; i++)
    if (!strcmp(added[i].name, name)) return added[i].fn;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!strcmp(all[i].name, name)) return all[i].fn;
  return NULL;
}

th_status th_library_add(const char *name, th_library_fn fn) {
  if (n_added == sizeof added / sizeof *added) return TH_ERROR(RESOURCE_EXHAUSTED, "library function %s: there are %u already", name, (unsigned)n_added);
  added[n_added].name = name;
  added[n_added].fn = fn;
  n_added++;
  return TH_OK;
}
