/* The table of library functions. */
#include <string.h>

#include "executors/run/library.h"

th_library_fn th_library_find(const char *name) {
  static const struct { const char *name; th_library_fn fn; } all[] = {
      {"dot", th_lib_dot}, {"conv", th_lib_conv}, {"conv_grad_x", th_lib_conv_grad_x}, {"conv_grad_w", th_lib_conv_grad_w},
      {"attention", th_lib_attention}, {"attention_backward", th_lib_attention_backward}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!strcmp(all[i].name, name)) return all[i].fn;
  return NULL;
}
