/* A libcudnn.so.9 that computes nothing and counts: the run half's way through it is tested without a GPU. */
#include "tests/cuda/fake_cudnn.h"

#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/cudnn_abi.h"

#pragma GCC visibility push(default)

typedef struct fake { int type, from_json; int64_t n, ids[32]; void *data[32], *workspace; } fake;

fake_cudnn_counts fake_cudnn = {.workspace_wanted = 256};

#define DECLARE(result, name, parameters) result cudnn##name parameters;
TH_CUDNN_FUNCTIONS(DECLARE)

size_t cudnnGetVersion(void) { return 91900; }
const char *cudnnGetErrorString(cudnnStatus_t status) { return "FAKE"; }
void cudnnGetLastErrorString(char *message, size_t size) { strncpy(message, "as asked", size); }

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
  fake_cudnn.handles++;
  *handle = (cudnnHandle_t)&fake_cudnn;
  return 0;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, void *stream) {
  fake_cudnn.streams++;
  fake_cudnn.stream = stream;
  return 0;
}

cudnnStatus_t cudnnBackendCreateDescriptor(int type, cudnnBackendDescriptor_t *descriptor) {
  fake *f = calloc(1, sizeof *f);
  f->type = type;
  *descriptor = f;
  fake_cudnn.alive++;
  return 0;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  fake_cudnn.alive--;
  free(descriptor);
  return 0;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, int name, int type, int64_t count, const void *elements) {
  fake *f = descriptor;
  if (!f || (!elements && count)) return CUDNN_STATUS_BAD_PARAM;
  if (name == CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION) f->from_json = 1;
  if (name == CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS) memcpy(f->ids, elements, (size_t)(f->n = count) * sizeof *f->ids);
  if (name == CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS) memcpy(f->data, elements, (size_t)count * sizeof *f->data);
  if (name == CUDNN_ATTR_VARIANT_PACK_WORKSPACE) memcpy(&f->workspace, elements, sizeof f->workspace);
  return 0;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  fake *f = descriptor;
  if (f->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && f->from_json) fake_cudnn.plans_read++;
  if (f->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && !f->from_json) fake_cudnn.plans_made++;
  if (f->type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR) fake_cudnn.packs++;
  return 0;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, int name, int type, int64_t wanted, int64_t *count, void *elements) {
  *count = 1;
  if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) memcpy(elements, &fake_cudnn.workspace_wanted, sizeof fake_cudnn.workspace_wanted);
  if (name == CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION) {
    *count = 3; /* with its NUL */
    if (elements) memcpy(elements, "{}", (size_t)(wanted < 3 ? wanted : 3));
  }
  return 0;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  fake *f = pack;
  fake_cudnn.runs++;
  fake_cudnn.n = f->n;
  fake_cudnn.workspace = f->workspace;
  memcpy(fake_cudnn.ids, f->ids, sizeof f->ids);
  memcpy(fake_cudnn.data, f->data, sizeof f->data);
  return fake_cudnn.fail_runs ? CUDNN_STATUS_EXECUTION_FAILED : 0;
}
