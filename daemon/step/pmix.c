#include "daemon/step/pmix.h"

#include <stdbool.h>
#include <pmix.h>
#include <pmix_server.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pmix_nspace_t space;
static bool running;

static pmix_status_t connected(const pmix_proc_t *proc, void *object, pmix_op_cbfunc_t done, void *user) { return PMIX_OPERATION_SUCCEEDED; }
static pmix_status_t finalized(const pmix_proc_t *proc, void *object, pmix_op_cbfunc_t done, void *user) { return PMIX_OPERATION_SUCCEEDED; }
static pmix_status_t aborted(const pmix_proc_t *proc, void *object, int status, const char *message, pmix_proc_t procs[], size_t n, pmix_op_cbfunc_t done, void *user) {
  return PMIX_OPERATION_SUCCEEDED; /* the rank's exit is seen by the step, which ends the others */
}
static pmix_server_module_t module = {.client_connected = connected, .client_finalized = finalized, .abort = aborted};

#define CHECK(call)                                                                                               \
  do {                                                                                                            \
    pmix_status_t rc_ = (call);                                                                                   \
    if (rc_ != PMIX_SUCCESS && rc_ != PMIX_OPERATION_SUCCEEDED) return TH_ERROR(INTERNAL, "PMIx: %s: %s", #call, PMIx_Error_string(rc_)); \
  } while (0)

static void number(pmix_info_t *info, const char *key, uint32_t value) { PMIX_INFO_LOAD(info, key, &value, PMIX_UINT32); }
static void text(pmix_info_t *info, const char *key, const char *value) { PMIX_INFO_LOAD(info, key, value, PMIX_STRING); }

static th_status register_space(const char *job, unsigned n, const char *directory) {
  char host[256] = "localhost", *nodes, *ranks, *peers = calloc(n, 12);
  gethostname(host, sizeof host - 1);
  for (unsigned i = 0; i < n; i++) sprintf(peers + strlen(peers), "%s%u", i ? "," : "", i);
  CHECK(PMIx_generate_regex(host, &nodes));
  CHECK(PMIx_generate_ppn(peers, &ranks));
  enum { FIXED = 14 };
  pmix_info_t *info;
  size_t k = 0;
  PMIX_INFO_CREATE(info, FIXED + n);
  number(&info[k++], PMIX_UNIV_SIZE, n);
  number(&info[k++], PMIX_JOB_SIZE, n);
  number(&info[k++], PMIX_MAX_PROCS, n);
  number(&info[k++], PMIX_JOB_NUM_APPS, 1);
  number(&info[k++], PMIX_APP_SIZE, n);
  number(&info[k++], PMIX_NUM_NODES, 1);
  number(&info[k++], PMIX_NODE_SIZE, n);
  number(&info[k++], PMIX_LOCAL_SIZE, n);
  text(&info[k++], PMIX_LOCAL_PEERS, peers);
  text(&info[k++], PMIX_NODE_MAP, nodes);
  text(&info[k++], PMIX_PROC_MAP, ranks);
  text(&info[k++], PMIX_JOBID, job);
  text(&info[k++], PMIX_TMPDIR, directory);
  text(&info[k++], PMIX_NSDIR, directory);
  for (unsigned i = 0; i < n; i++) {
    pmix_info_t *of;
    pmix_rank_t rank = i;
    uint16_t local = (uint16_t)i;
    pmix_data_array_t *array;
    PMIX_DATA_ARRAY_CREATE(array, 7, PMIX_INFO);
    of = array->array;
    PMIX_INFO_LOAD(&of[0], PMIX_RANK, &rank, PMIX_PROC_RANK);
    PMIX_INFO_LOAD(&of[1], PMIX_GLOBAL_RANK, &rank, PMIX_PROC_RANK);
    PMIX_INFO_LOAD(&of[2], PMIX_LOCAL_RANK, &local, PMIX_UINT16);
    PMIX_INFO_LOAD(&of[3], PMIX_NODE_RANK, &local, PMIX_UINT16);
    number(&of[4], PMIX_NODEID, 0);
    number(&of[5], PMIX_APPNUM, 0);
    text(&of[6], PMIX_HOSTNAME, host);
    PMIX_LOAD_KEY(info[k].key, PMIX_PROC_DATA);
    info[k].value.type = PMIX_DATA_ARRAY;
    info[k++].value.data.darray = array;
  }
  CHECK(PMIx_server_register_nspace(space, (int)n, info, k, NULL, NULL));
  PMIX_INFO_FREE(info, k);
  free(peers);
  return TH_OK;
}

/* Where PMIx was bundled with us (make dist), its components are in ../lib/pmix of this program. Named for this process alone:
 * a rank may have another PMIx. */
static bool name_components(void) {
  char self[3072], path[4096];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0 || getenv("PMIX_PKGLIBDIR")) return false;
  self[n] = 0;
  char *slash = strrchr(self, '/');
  if (!slash) return false;
  *slash = 0;
  snprintf(path, sizeof path, "%s/../lib/pmix", self);
  return !access(path, R_OK) && !setenv("PMIX_PKGLIBDIR", path, 1);
}

th_status th_pmix_start(const char *job, unsigned n, const char *directory) {
  pmix_info_t *info;
  bool no = false;
  PMIX_INFO_CREATE(info, 3);
  text(&info[0], PMIX_SERVER_TMPDIR, directory);
  text(&info[1], PMIX_SYSTEM_TMPDIR, directory);
  PMIX_INFO_LOAD(&info[2], PMIX_SERVER_TOOL_SUPPORT, &no, PMIX_BOOL);
  bool named = name_components();
  pmix_status_t started = PMIx_server_init(&module, info, 3);
  if (named) unsetenv("PMIX_PKGLIBDIR");
  CHECK(started);
  running = true;
  PMIX_INFO_FREE(info, 3);
  PMIX_LOAD_NSPACE(space, job);
  TH_TRY(register_space(job, n, directory));
  CHECK(PMIx_server_setup_local_support(space, NULL, 0, NULL, NULL));
  return TH_OK;
}

th_status th_pmix_environment(unsigned rank, char ***env) {
  pmix_proc_t proc;
  PMIX_LOAD_PROCID(&proc, space, rank);
  CHECK(PMIx_server_register_client(&proc, geteuid(), getegid(), NULL, NULL, NULL));
  CHECK(PMIx_server_setup_fork(&proc, env));
  /* Open MPI 4.1 decides that it is alone before it asks PMIx, unless this component is left out. */
  size_t n = 0;
  while ((*env)[n]) n++;
  *env = realloc(*env, (n + 2) * sizeof **env);
  (*env)[n] = strdup("OMPI_MCA_schizo=^orte");
  (*env)[n + 1] = NULL;
  return TH_OK;
}

void th_pmix_stop(void) {
  if (running) PMIx_server_finalize();
  running = false;
}
