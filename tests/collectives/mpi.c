/* The suite on `mpi`: each rank a process, started by thunderrun.   collectives_mpi [CASE]
 * Cases that lose their channel run alone: Open MPI cannot take a collective back, so the process ends after one. */
#include <unistd.h>

#include "tests/collectives/suite.h"
#include "tests/unit/check.h"

enum { SKIPPED = 77 };

static th_status open_rank(suite_rank *r, th_channel_options *options, th_channel **out_channel) {
  r->opened++;
  return th_channel_open("mpi", options, out_channel);
}

static const suite_backend backend = {.name = "mpi", .open = open_rank};

int main(int argc, char **argv) {
  const char *rank = getenv("RANK"), *size = getenv("WORLD_SIZE");
  th_channel *channel;
  if (!rank || !size) {
    fprintf(stderr, "start it by: thunderrun -n 2 --no-python %s\n", argv[0]);
    return 2;
  }
  th_status status = th_channel_open("mpi", NULL, &channel);
  if (th_status_code(status) == TH_CODE_NOT_FOUND) {
    fprintf(stderr, "skipped: %s\n", th_status_message(status));
    th_status_free(status);
    return SKIPPED;
  }
  CHECK_OK(status);
  th_channel_close(channel);
  suite_rank r = {.backend = &backend, .rank = atoi(rank), .size = atoi(size)};
  if (argc < 2) { /* another size than the job's */
    status = th_channel_open("mpi", &(th_channel_options){.expect_size = r.size + 1}, &channel);
    CHECK_INT(th_status_code(status), TH_CODE_FAILED_PRECONDITION);
    CHECK(!channel);
    th_status_free(status);
  }
  CHECK(suite_run(&r, argc > 1 ? argv[1] : NULL) > 0);
  puts("passed");
  fflush(stdout);
  if (r.lost) _exit(0); /* as channel.h says */
  return 0;
}
