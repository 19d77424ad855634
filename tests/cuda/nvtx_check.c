/* Holds executors/run/nvtx.h against NVIDIA's headers, where there are some (test_abi.py):
 *   cc -fsyntax-only -I. -isystem /usr/local/cuda/include tests/cuda/nvtx_check.c */
#include <nvtx3/nvToolsExt.h>

#include "executors/run/nvtx.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #theirs)
SAME(TH_NVTX_VERSION, NVTX_VERSION);
SAME(TH_NVTX_CALLBACKS, NVTX_ETID_CALLBACKS);
SAME(TH_NVTX_VERSION_INFO, NVTX_ETID_VERSIONINFO);
SAME(TH_NVTX_CORE, NVTX_CB_MODULE_CORE);
SAME(TH_NVTX_MODULES, NVTX_CB_MODULE_SIZE);
SAME(TH_NVTX_PUSH, NVTX_CBID_CORE_RangePushA);
SAME(TH_NVTX_POP, NVTX_CBID_CORE_RangePop);
SAME(16, NVTX_CBID_CORE_SIZE); /* sizes in nvtx.c */
SAME(9, NVTX_CBID_CUDA_SIZE);
SAME(15, NVTX_CBID_OPENCL_SIZE);
SAME(7, NVTX_CBID_CUDART_SIZE);
SAME(16, NVTX_CBID_CORE2_SIZE);
SAME(7, NVTX_CBID_SYNC_SIZE);
SAME(sizeof(th_nvtx_callbacks), sizeof(NvtxExportTableCallbacks));
SAME(offsetof(th_nvtx_callbacks, function_table), offsetof(NvtxExportTableCallbacks, GetModuleFunctionTable));
SAME(sizeof(th_nvtx_version_info), sizeof(NvtxExportTableVersionInfo));
SAME(offsetof(th_nvtx_version_info, version), offsetof(NvtxExportTableVersionInfo, version));
SAME(offsetof(th_nvtx_version_info, set_injection_version), offsetof(NvtxExportTableVersionInfo, SetInjectionNvtxVersion));
SAME(sizeof(th_nvtx_function), sizeof(NvtxFunctionPointer));
