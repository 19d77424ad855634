/* Fail points: named places where a test can make a program die, fail or pause.
 *
 *     TH_FAILPOINT("step.rank_started");                    kill, exit, sleep
 *     TH_TRY(TH_FAILPOINT_STATUS("channel.start"));         error as well
 *
 * THUNDER_FAILPOINTS = name=action[:argument][@n],...   in the environment of the program turns them on:
 *   kill        raise(SIGKILL)
 *   exit[:c]    _exit(c), default 1
 *   error[:code] TH_FAILPOINT_STATUS returns a status with that number of th_code, default UNAVAILABLE (14)
 *   sleep:ms    sleeps, then goes on
 * @n acts at the n-th pass only (1 is the first); without it at every pass.
 * THUNDER_FAILPOINTS_RANK=r limits them to the process whose RANK is r.
 *
 * Compiled in only where THUNDER_FAILPOINTS is defined (a CMake option, on by default, off in bundles); else the
 * macros are nothing. Every name is in docs/design/0001-parts-and-processes.md, section 11. Thread-safe. */
#ifndef THUNDER_IR_BASE_FAILPOINT_H
#define THUNDER_IR_BASE_FAILPOINT_H

#include "ir/base/status.h"

#ifdef THUNDER_FAILPOINTS
#define TH_FAILPOINT(name) th_status_free(th_failpoint_hit(name))
#define TH_FAILPOINT_STATUS(name) th_failpoint_hit(name)
#else
#define TH_FAILPOINT(name) ((void)0)
#define TH_FAILPOINT_STATUS(name) TH_OK
#endif

/* Acts when `name` is on; use the macros. */
th_status th_failpoint_hit(const char *name);

/* Reads `text` (the syntax above) in place of the environment's; for tests. INVALID_ARGUMENT names the bad part. */
th_status th_failpoint_configure(const char *text);

#endif
