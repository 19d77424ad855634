/* Compile worker: what `thunderc --worker` does. thunderd starts it, feeds it jobs one at a time over stdin and reads
 * answers from its stdout, in the frames of proto/daemon.proto ("WORKER"); it compiles by daemon/thunderc/compile.h.
 *
 * The worker bounds itself before it reads the first byte: address space ($THUNDER_COMPILE_MEMORY bytes), no core file,
 * and it dies with the daemon (PR_SET_PDEATHSIG). Its wall-clock limit is the daemon's to enforce. Descriptors 0 and 1 are moved away, so whatever
 * a compile or a child of it prints on stdout goes to stderr, which is the daemon's log.
 *
 * An error text that begins with "op <n>" or "graph <g> op <n>" (decimal indices) fills Error.op and Error.graph, by
 * which the client finds the user's source line.
 *
 * Thread: the caller's; one job at a time. */
#ifndef THUNDER_DAEMON_THUNDERC_WORKER_H
#define THUNDER_DAEMON_THUNDERC_WORKER_H

/* Serves jobs until end of stdin. Returns the process's exit code: 0 at end of input, 1 when the pipe broke or what
 * came over it could not be understood. */
int th_worker_main(void);

#endif
