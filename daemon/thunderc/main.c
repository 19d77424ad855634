/* thunderc: the compiler alone. `thunderc --worker` is a compile worker of thunderd; otherwise an offline tool that reads a
 * trace (.tir text) or a saved job and shows what the passes make of it. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/build_id.h"
#include "daemon/thunderc/compile.h"
#include "daemon/thunderc/worker.h"
#include "executors/cudnn/cudnn.h"
#include "executors/emit/emit.h"
#include "executors/registry.h"
#include "ir/base/log.h"
#include "ir/names.h"

static const char usage[] =
    "usage: thunderc [options] FILE\n"
    "       thunderc --worker\n"
    "Reads a trace in text form (FILE.tir) or a saved job (any other name; - is standard input) and runs the passes.\n"
    "  --dump-after=PASS   print the trace after PASS; `all`: after each (default); `none`\n"
    "  --mode=MODE         forward (default), forward_backward or train_step, for a .tir\n"
    "  --optimizer=NAME    none (default), sgd, adam or adamw: of a train_step\n"
    "  --world=N           data-parallel ranks (default 1)\n"
    "  --target=ARCH       x86-64-v3 (default), x86-64-v4, aarch64; sm_80, sm_90, sm_100; simt (CUDA on the host)\n"
    "  --chunk-bytes=N     of a large product, at most N bytes at a time (pass chunk)\n"
    "  --memory-limit=N    a step's plan may need N bytes in all; what waits long is computed again for it (pass remat)\n"
    "  --disable=PASS      leave a pass out; may be repeated\n"
    "  -o FILE             write the executable there\n"
    "  --list-passes       the passes in order, and why they are there\n"
    "  --worker            serve compile requests on standard input and output\n"
    "  --version           print the version\n"
    "  -h, --help          print this\n"
    "Exit code: 0; 1 the trace, a pass or the C compiler failed (the message says which); 2 wrong use.\n";

typedef struct arguments {
  const char *file, *dump, *output, *disabled[64];
  th_options options;
  uint64_t chunk_bytes, memory_limit; /* 0: as the job says */
  th_group group;
  th_arena *arena;
} arguments;

static int fail(th_status status) {
  fprintf(stderr, "thunderc: %s: %s\n", th_code_name(th_status_code(status)), th_status_message(status));
  TH_LOG(DEBUG, "said at %s:%d", th_status_file(status), th_status_line(status));
  th_status_free(status);
  return 1;
}

static th_status read_file(th_arena *arena, const char *path, uint8_t **out, size_t *out_size) {
  FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
  if (!f) return TH_ERROR(NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
  th_strbuf text = th_strbuf_make(arena);
  char buffer[65536];
  size_t n;
  while ((n = fread(buffer, 1, sizeof buffer, f)) > 0) th_strbuf_add_bytes(&text, buffer, n);
  bool failed = ferror(f);
  if (f != stdin) fclose(f);
  if (failed) return TH_ERROR(DATA_LOSS, "cannot read %s: %s", path, strerror(errno));
  *out = (uint8_t *)th_strbuf_text(&text);
  *out_size = text.length;
  return TH_OK;
}

static void print_pass(void *user, const char *plan, const char *pass, const th_trace *trace, uint64_t ns) {
  const arguments *a = user;
  if (!strcmp(a->dump, "all") || !strcmp(a->dump, pass))
    printf("// after %s (%s), %.2f ms\n%s\n", pass, plan, (double)ns * 1e-6, th_trace_print(trace));
}

static th_status run(void *user) {
  arguments *a = user;
  th_context *context = th_context_create(a->arena);
  th_trace *trace;
  th_plans plans;
  uint8_t *bytes;
  size_t size, length = strlen(a->file);
  uint32_t n_disabled = a->options.n_disabled;
  TH_TRY(read_file(a->arena, a->file, &bytes, &size));
  if (length > 4 && !strcmp(a->file + length - 4, ".tir")) {
    TH_TRY(th_trace_parse(context, (const char *)bytes, size, &trace));
    TH_TRY(th_trace_verify(trace, th_trace_level(trace)));
    if (a->options.mode == TH_MODE_TRAIN_STEP) { /* one group for all parameters */
      uint32_t n = 0;
      for (uint32_t i = 0; i < trace->graphs[0]->n_inputs; i++) n += trace->inputs[i].kind == TH_INPUT_PARAMETER && trace->inputs[i].requires_grad;
      a->options.n_groups = 1;
      a->options.groups = &a->group;
      a->options.n_param_group = n;
      a->options.param_group = TH_ARENA_ARRAY(a->arena, uint32_t, n);
    }
  } else {
    th_status status = th_compile_options(context, bytes, size, &a->options, &trace);
    if (status && size && bytes[0] >= ' ') { /* a job begins with the byte 8 */
      th_status_free(status);
      return TH_ERROR(INVALID_ARGUMENT, "%s is no saved job (a CompileJob, as THUNDER_DUMP leaves it); a trace as text is read from a file whose name ends in .tir", strcmp(a->file, "-") ? a->file : "standard input");
    }
    if (status) return status;
    for (uint32_t i = 0; i < a->options.n_disabled && n_disabled < 64; i++) a->disabled[n_disabled++] = a->options.disabled[i];
    a->options.disabled = a->disabled; /* the job's and the command's */
    a->options.n_disabled = n_disabled;
  }
  if (a->chunk_bytes) a->options.chunk_bytes = a->chunk_bytes;
  if (a->memory_limit) a->options.memory_limit = a->memory_limit;
  if (!strcmp(a->dump, "all")) printf("// captured\n%s\n", th_trace_print(trace));
  bool one = strcmp(a->dump, "all") && strcmp(a->dump, "none");
  TH_TRY(th_pipeline_run(&a->options, trace, one ? a->dump : NULL, print_pass, a, &plans));
  if (!a->output) return TH_OK;
  th_emit_plan emitted[2];
  for (size_t i = 0; i < plans.n; i++) emitted[i] = (th_emit_plan){.name = plans.names[i], .trace = plans.traces[i]};
  uint8_t *executable;
  th_emit_report report = {0};
  TH_TRY(th_emit(&a->options, emitted, plans.n, &report, NULL, NULL, a->arena, &executable, &size));
  FILE *f = fopen(a->output, "wb");
  bool written = f && fwrite(executable, 1, size, f) == size;
  if (f && fclose(f)) written = false;
  return written ? TH_OK : TH_ERROR(UNAVAILABLE, "cannot write %s: %s", a->output, strerror(errno));
}

static int bad_choice(const char *option, const char *value, const char *known) {
  fprintf(stderr, "thunderc: --%s=%s: want %s\n", option, value, known);
  return 2;
}

static int index_of(const char *text, const char *const *names) {
  for (int i = 0; names[i]; i++)
    if (!strcmp(text, names[i])) return i;
  return -1;
}

/* The stand-in for a driver lies beside the programs: ../lib/cuda-stub (executors/cudnn/cudnn.h). */
static void find_stub(void) {
  static char path[4096 + 64];
  ssize_t n = readlink("/proc/self/exe", path, 4096);
  char *end = n > 0 && n < 4096 ? (path[n] = '\0', strrchr(path, '/')) : NULL;
  if (!end) return;
  strcpy(end, "/../lib/cuda-stub/libcuda.so.1");
  if (!access(path, R_OK)) th_cudnn_set_stub(path);
}

int main(int argc, char **argv) {
  enum { DUMP = 256, MODE, OPTIMIZER, WORLD, TARGET, CHUNK_BYTES, MEMORY_LIMIT, DISABLE, LIST, WORKER, VERSION };
  static const struct option options[] = {
      {"dump-after", required_argument, NULL, DUMP}, {"mode", required_argument, NULL, MODE}, {"optimizer", required_argument, NULL, OPTIMIZER},
      {"world", required_argument, NULL, WORLD},     {"target", required_argument, NULL, TARGET}, {"disable", required_argument, NULL, DISABLE},
      {"chunk-bytes", required_argument, NULL, CHUNK_BYTES}, {"memory-limit", required_argument, NULL, MEMORY_LIMIT},
      {"list-passes", no_argument, NULL, LIST},      {"worker", no_argument, NULL, WORKER},   {"version", no_argument, NULL, VERSION},
      {"help", no_argument, NULL, 'h'},              {0}};
  static const char *const modes[] = {"forward", "forward_backward", "train_step", NULL}, *const optimizers[] = {"none", "sgd", "adam", "adamw", NULL},
                   *const targets[] = {"x86-64-v3", "x86-64-v4", "aarch64", "sm_80", "sm_90", "sm_100", "simt", NULL};
  arguments a = {.dump = "all", .options = th_options_default(), .group = {.weight_decay = true}};
  int c, k;
  char *end;
  a.options.disabled = a.disabled;
  find_stub();
  while ((c = getopt_long(argc, argv, "ho:", options, NULL)) != -1) switch (c) {
      case DUMP: a.dump = optarg; break;
      case MODE:
        if ((k = index_of(optarg, modes)) < 0) return bad_choice("mode", optarg, "forward, forward_backward or train_step");
        a.options.mode = (th_mode)k;
        break;
      case OPTIMIZER:
        if ((k = index_of(optarg, optimizers)) < 0) return bad_choice("optimizer", optarg, "none, sgd, adam or adamw");
        a.options.optimizer = (th_optimizer)k;
        break;
      case WORLD:
        a.options.world = (uint32_t)strtoul(optarg, &end, 10);
        if (*end || a.options.world < 1) return bad_choice("world", optarg, "a number of ranks");
        break;
      case TARGET:
        if (index_of(optarg, targets) < 0) return bad_choice("target", optarg, "x86-64-v3, x86-64-v4, aarch64, sm_80, sm_90, sm_100 or simt");
        a.options.target.arch = optarg;
        if (!strncmp(optarg, "sm_", 3) || !strcmp(optarg, "simt")) a.options.target.name = "cuda";
        th_executors_of(&a.options.target, &a.options.executors, &a.options.n_executors);
        break;
      case CHUNK_BYTES: case MEMORY_LIMIT:
        *(c == CHUNK_BYTES ? &a.chunk_bytes : &a.memory_limit) = strtoull(optarg, &end, 10);
        if (*end || end == optarg) return bad_choice(c == CHUNK_BYTES ? "chunk-bytes" : "memory-limit", optarg, "a number of bytes");
        break;
      case DISABLE:
        if (!th_pass_find(optarg) || a.options.n_disabled == 64) return bad_choice("disable", optarg, "the name of a pass (see --list-passes)");
        a.disabled[a.options.n_disabled++] = optarg;
        break;
      case LIST:
        for (size_t i = 0; th_pass_at(i); i++) printf("%-14s %s\n", th_pass_at(i)->name, th_pass_at(i)->why);
        return 0;
      case WORKER: return th_worker_main();
      case VERSION: puts("thunderc " THUNDER_VERSION); return 0;
      case 'o': a.output = optarg; break;
      case 'h': fputs(usage, stdout); return 0;
      default: fputs(usage, stderr); return 2;
    }
  if (optind + 1 != argc) {
    if (optind == argc) fputs("thunderc: a FILE is missing\n", stderr);
    else fprintf(stderr, "thunderc: want one FILE, not \"%s\" too\n", argv[optind + 1]);
    fputs(usage, stderr);
    return 2;
  }
  if (strcmp(a.dump, "all") && strcmp(a.dump, "none") && !th_pass_find(a.dump)) return bad_choice("dump-after", a.dump, "all, none or the name of a pass (see --list-passes)");
  if (a.output && strcmp(a.dump, "all") && strcmp(a.dump, "none")) a.dump = "none";
  a.file = argv[optind];
  a.arena = th_arena_create(0);
  if (!a.arena) return 1;
  th_status status = th_arena_guard(a.arena, run, &a);
  int code = status ? fail(status) : 0;
  th_arena_destroy(a.arena);
  return code;
}
