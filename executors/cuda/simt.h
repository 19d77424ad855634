/* CUDA's blocks of threads on the host: what generated kernels need to be compiled by a C++17 compiler and run without a GPU.
 * The text stands before the kernels of a module (`th_simt_text`, simt_text.h) and includes the system's headers only. It is a
 * tool of tests: it finds wrong values, wrong synchronization and wrong indices, and says nothing about speed.
 *
 *   static __global__ void __launch_bounds__(256)
 *   th_kernel_7_body(const float *__restrict__ p0, float *__restrict__ o0, int64_t n0, unsigned *th_bad) {...}
 *   extern "C" int th_kernel_7(void *const *buffers, const int64_t *sizes, const double *scalars, const th_kernel_context *context) {
 *     return th_simt_launch("th_kernel_7", th_kernel_7_body, buffers, 2, sizes, scalars);
 *   }
 *   c++ -std=c++17 -O0 -fPIC -shared -fno-strict-aliasing -fno-gnu-unique -fwrapv -ffp-contract=off -fstack-clash-protection -o module.so module.cc
 *
 * Threads of a block are coroutines on the calling thread. One runs until a barrier or a collective of its warp makes it wait, then
 * another that can; a block runs to its end before the next one begins. The order is fixed (thread 0 first, each warp as far as
 * it gets), or, with a number in the environment variable TH_SIMT_SEED, drawn from it: blocks, threads, and who goes on after each
 * wait. Shared memory is 0xff bytes (NaN, -1) when a block begins.
 *
 * Aborts, with a line that names kernel, block and thread: a warp's collective for which a lane of its mask never comes; threads that
 * wait at different __syncthreads(); a lane that is not in its own mask; a write behind the dynamic shared memory; parameters that are
 * not those of the call. As on the device, threads that have returned do not count at a barrier; a lane that reads from one that is
 * not in the mask, or that the block does not have, gets 0xff bytes.
 *
 * Not seen: races that need two threads to run within one instruction, or two blocks to run interleaved; waiting in a loop for another
 * thread or block (it never ends). Dynamic shared memory is `extern __shared__ __align__(16) unsigned char th_shared[];`, that name and
 * type only. A stack's end is a guard page: a segmentation fault. Launches of one module exclude each other. */
#ifndef THUNDER_EXECUTORS_CUDA_SIMT_H
#define THUNDER_EXECUTORS_CUDA_SIMT_H

#include <link.h>
/* C's functions only: libstdc++'s overloads are half of what a small module takes to compile, and generated text calls sinf where it means it. */
#pragma push_macro("_GLIBCXX_INCLUDE_NEXT_C_HEADERS")
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS 1
#include <math.h>
#pragma pop_macro("_GLIBCXX_INCLUDE_NEXT_C_HEADERS")
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <type_traits>
#include <unistd.h>

#define TH_SIMT 1 /* generated text asks for it where inline PTX needs a stand-in */
#ifndef TH_SIMT_SHARED
#define TH_SIMT_SHARED 49152 /* most bytes of dynamic shared memory; a module that wants more defines it before this text */
#endif
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define TH_SIMT_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TH_SIMT_ASAN 1
#endif
#ifdef TH_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef TH_SIMT_STACK
#ifdef TH_SIMT_ASAN
#define TH_SIMT_STACK 262144 /* bytes of a thread's stack */
#else
#define TH_SIMT_STACK 65536
#endif
#endif
#if !defined __x86_64__ && !defined TH_SIMT_UCONTEXT
#define TH_SIMT_UCONTEXT 1
#endif
#ifdef TH_SIMT_UCONTEXT
#include <ucontext.h>
#endif

/* ---- the language ---- */

#define __global__ __attribute__((unused))
#define __device__ __attribute__((unused))
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* A variable of a function that outlives the call, and the one storage class that may follow extern: so both forms of the declaration are
 * as CUDA has them. All of a module's thread-local storage is therefore shared memory. */
#define __shared__ thread_local

/* Two and four of a type. may_alias: kernels load a row of anything sixteen bytes at a time. */
#define TH_SIMT_VECTOR(T, name, align2, align4) \
  struct __attribute__((aligned(align2), may_alias)) name##2 { T x, y; }; \
  struct __attribute__((aligned(align4), may_alias)) name##4 { T x, y, z, w; }; \
  static inline name##2 make_##name##2(T x, T y) { return name##2{x, y}; } \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return name##4{x, y, z, w}; }
TH_SIMT_VECTOR(signed char, char, 2, 4)
TH_SIMT_VECTOR(unsigned char, uchar, 2, 4)
TH_SIMT_VECTOR(short, short, 4, 8)
TH_SIMT_VECTOR(unsigned short, ushort, 4, 8)
TH_SIMT_VECTOR(int, int, 8, 16)
TH_SIMT_VECTOR(unsigned, uint, 8, 16)
TH_SIMT_VECTOR(long long, longlong, 16, 16)
TH_SIMT_VECTOR(unsigned long long, ulonglong, 16, 16)
TH_SIMT_VECTOR(float, float, 8, 16)
TH_SIMT_VECTOR(double, double, 16, 16)
struct uint3 { unsigned x, y, z; };

/* ---- threads ---- */

static constexpr int warpSize = 32;
static uint3 threadIdx, blockIdx, blockDim, gridDim; /* threadIdx.x is also the coroutine that runs; TH_SIMT_HOST: the caller */
static thread_local __attribute__((aligned(128))) unsigned char th_shared[TH_SIMT_SHARED + 64]; /* 64: must be 0xff still when a block ends */

enum { TH_SIMT_PLAIN = 1 }; /* flag of a launch: the kernel has no barrier and no collective, so its threads are plain calls */
enum { TH_SIMT_THREADS = 1024, TH_SIMT_HOST = TH_SIMT_THREADS };
enum th_simt_op { TH_SIMT_SYNC, TH_SIMT_IDX, TH_SIMT_XOR, TH_SIMT_UP, TH_SIMT_DOWN, TH_SIMT_BALLOT, TH_SIMT_ANY, TH_SIMT_ALL };
enum th_simt_wait : uint8_t { TH_SIMT_RUNS, TH_SIMT_AT_BARRIER, TH_SIMT_IN_WARP, TH_SIMT_RETURNED };

namespace { /* everything: modules loaded into one process share nothing */

struct th_simt_state {
  const char *name;
  void (*body)(const void *);
  const void *closure;
  unsigned plain;
  uint64_t random; /* 0: fixed order */
  unsigned deep;   /* of this block, in random order: whoever could run last goes on first, so that warps drift apart */
  /* threads that can run; the last one is next */
  unsigned ready_count;
  uint16_t ready[TH_SIMT_THREADS];
  th_simt_wait wait[TH_SIMT_THREADS];
  /* the block's barrier: threads that have not returned, those that wait, the place that the first of them waits at */
  unsigned live, waiting, site, line, first, sum, sum_done;
  /* warp collectives: what each waiting lane has brought, and what it takes away */
  uint32_t pending[TH_SIMT_THREADS / 32], mask[TH_SIMT_THREADS];
  uint8_t op[TH_SIMT_THREADS]; /* twice th_simt_op, + 1 for 8 bytes */
  uint8_t source[TH_SIMT_THREADS];
  uint64_t value[TH_SIMT_THREADS], result[TH_SIMT_THREADS];
  /* stacks: a guard page, TH_SIMT_STACK bytes, a page in which the stacks begin at different cache lines */
  unsigned char *stacks;
  unsigned mapped;
  size_t stride, page;
#ifdef TH_SIMT_UCONTEXT
  ucontext_t host;
  ucontext_t *context[TH_SIMT_THREADS + 1];
#else
  void *context[TH_SIMT_THREADS + 1]; /* stack pointers */
#endif
  const void *host_bottom; /* of the caller's stack, for AddressSanitizer */
  size_t host_size;
  unsigned char *local; /* the module's thread-local storage, where it is known */
  size_t local_size;
};
th_simt_state th_simt;
pthread_mutex_t th_simt_mutex = PTHREAD_MUTEX_INITIALIZER;

[[noreturn]] __attribute__((format(printf, 2, 3), noinline, cold)) void th_simt_die(unsigned thread, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (thread == TH_SIMT_HOST) fprintf(stderr, "simt: %s: %s\n", th_simt.name, text);
  else fprintf(stderr, "simt: %s: block (%u, %u), thread %u %s\n", th_simt.name, blockIdx.x, blockIdx.y, thread, text);
  fflush(stderr);
  abort();
}

const char *th_simt_op_name(unsigned op) {
  static const char *const names[] = {"__syncwarp", "__shfl_sync", "__shfl_xor_sync", "__shfl_up_sync", "__shfl_down_sync",
                                      "__ballot_sync", "__any_sync", "__all_sync"};
  return names[op / 2];
}

uint64_t th_simt_random() { /* xorshift64* */
  uint64_t x = th_simt.random;
  x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
  th_simt.random = x;
  return (x * 0x2545f4914f6cdd1dULL) >> 32;
}

/* Nobody can run, and somebody waits for a lane of its warp. */
[[noreturn]] __attribute__((noinline, cold)) void th_simt_stuck() {
  unsigned thread = 0, other = TH_SIMT_THREADS;
  while (th_simt.wait[thread] != TH_SIMT_IN_WARP) thread++;
  for (unsigned lane = 0; lane < 32; lane++) {
    unsigned t = (thread & ~31u) + lane;
    if (t >= blockDim.x || !(th_simt.mask[thread] >> lane & 1)) continue;
    if (th_simt.wait[t] != TH_SIMT_IN_WARP || th_simt.op[t] != th_simt.op[thread] || th_simt.mask[t] != th_simt.mask[thread]) other = t;
  }
  char where[96];
  if (th_simt.wait[other] == TH_SIMT_RETURNED) snprintf(where, sizeof where, "has returned");
  else if (th_simt.wait[other] == TH_SIMT_AT_BARRIER) snprintf(where, sizeof where, "waits at the __syncthreads() of line %u", th_simt.line);
  else snprintf(where, sizeof where, "waits in %s(0x%08x)", th_simt_op_name(th_simt.op[other]), th_simt.mask[other]);
  th_simt_die(thread, "waits in %s(0x%08x) for thread %u, which %s", th_simt_op_name(th_simt.op[thread]), th_simt.mask[thread], other, where);
}

/* ---- coroutines ---- */

#ifndef TH_SIMT_UCONTEXT
/* Saves the registers that a call keeps and the stack pointer, goes on where `to` was saved. Written outside of any function: the compiler
 * must take it for a call that it knows nothing of. */
extern "C" __attribute__((visibility("hidden"))) void th_simt_switch(void **from, void *to);
__asm__(".pushsection .text\n.p2align 4\n.type th_simt_switch, @function\nth_simt_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
        ".size th_simt_switch, .-th_simt_switch\n.popsection\n");
#endif

void th_simt_jump(unsigned to, bool for_ever) {
  unsigned from = threadIdx.x;
  threadIdx.x = to;
#ifdef TH_SIMT_ASAN
  void *saved = nullptr;
  if (to == TH_SIMT_HOST) __sanitizer_start_switch_fiber(for_ever ? nullptr : &saved, th_simt.host_bottom, th_simt.host_size);
  else __sanitizer_start_switch_fiber(for_ever ? nullptr : &saved, th_simt.stacks + to * th_simt.stride + th_simt.page, TH_SIMT_STACK + th_simt.page);
#endif
#ifdef TH_SIMT_UCONTEXT
  swapcontext(th_simt.context[from], th_simt.context[to]);
#else
  th_simt_switch(&th_simt.context[from], th_simt.context[to]);
#endif
#ifdef TH_SIMT_ASAN
  __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
  (void)for_ever;
}

void th_simt_add_ready(unsigned thread) {
  th_simt.wait[thread] = TH_SIMT_RUNS;
  th_simt.ready[th_simt.ready_count++] = (uint16_t)thread;
}

/* Somebody who can run. */
unsigned th_simt_next() {
  unsigned count = th_simt.ready_count;
  if (__builtin_expect(!count, 0)) th_simt_stuck();
  if (__builtin_expect(th_simt.random != 0, 0)) {
    unsigned among = th_simt.deep && count > 32 ? 32 : count, k = count - 1 - (unsigned)(th_simt_random() % among);
    uint16_t chosen = th_simt.ready[k];
    th_simt.ready[k] = th_simt.ready[count - 1];
    th_simt.ready[count - 1] = chosen;
  }
  th_simt.ready_count = count - 1;
  return th_simt.ready[count - 1];
}

/* Lets others run: until what the calling thread waits for has come, or, where it is ready itself, its turn has. */
void th_simt_pause() {
  unsigned next = th_simt_next();
  if (next != threadIdx.x) th_simt_jump(next, false);
}

/* After the last one who had to come: in fixed order it goes on itself, in random order whoever is drawn. */
void th_simt_go_on() {
  if (!th_simt.random) return;
  th_simt_add_ready(threadIdx.x);
  th_simt_pause();
}

void th_simt_open_barrier(unsigned but) {
  th_simt.waiting = 0;
  th_simt.sum_done = th_simt.sum;
  for (unsigned t = blockDim.x; t-- > 0;)
    if (t != but && th_simt.wait[t] == TH_SIMT_AT_BARRIER) th_simt_add_ready(t);
}

__attribute__((noinline, unused)) unsigned th_simt_barrier(unsigned site, unsigned line, unsigned value) {
  unsigned self = threadIdx.x;
  if (th_simt.plain) th_simt_die(self, "comes to the __syncthreads() of line %u, but the launch says TH_SIMT_PLAIN", line);
  if (!th_simt.waiting) {
    th_simt.site = site, th_simt.line = line, th_simt.first = self, th_simt.sum = 0;
  } else if (th_simt.site != site) {
    th_simt_die(self, "comes to the __syncthreads() of line %u while thread %u waits at that of line %u%s", line, th_simt.first, th_simt.line,
                line == th_simt.line ? " (two in one line)" : "");
  }
  th_simt.waiting++;
  th_simt.sum += value;
  if (th_simt.waiting == th_simt.live) {
    th_simt_open_barrier(self);
    th_simt_go_on();
  } else {
    th_simt.wait[self] = TH_SIMT_AT_BARRIER;
    th_simt_pause();
  }
  return th_simt.sum_done; /* the next barrier does not open without this thread */
}

__attribute__((noinline, unused)) uint64_t th_simt_warp(unsigned op, uint32_t mask, uint64_t value, unsigned source) {
  unsigned self = threadIdx.x, first = self & ~31u, lane = self & 31, have = blockDim.x - first;
  uint32_t named = have >= 32 ? mask : mask & ((1u << have) - 1), *pending = &th_simt.pending[self / 32];
  if (th_simt.plain) th_simt_die(self, "comes to %s, but the launch says TH_SIMT_PLAIN", th_simt_op_name(op));
  if (!(named >> lane & 1)) th_simt_die(self, "calls %s with the mask 0x%08x, in which it is not itself", th_simt_op_name(op), mask);
  th_simt.op[self] = (uint8_t)op;
  th_simt.mask[self] = mask;
  th_simt.source[self] = (uint8_t)source;
  th_simt.value[self] = value;
  *pending |= 1u << lane;
  bool complete = (*pending & named) == named;
  for (uint32_t rest = named; complete && rest; rest &= rest - 1) {
    unsigned t = first + (unsigned)__builtin_ctz(rest);
    complete = th_simt.op[t] == op && th_simt.mask[t] == mask;
  }
  if (!complete) {
    th_simt.wait[self] = TH_SIMT_IN_WARP;
    th_simt_pause();
    return th_simt.result[self];
  }
  *pending &= ~named;
  uint64_t votes = 0;
  if (op / 2 >= TH_SIMT_BALLOT) {
    for (uint32_t rest = named; rest; rest &= rest - 1)
      if (th_simt.value[first + (unsigned)__builtin_ctz(rest)]) votes |= rest & -rest;
    if (op / 2 == TH_SIMT_ANY) votes = votes != 0;
    if (op / 2 == TH_SIMT_ALL) votes = votes == named;
  }
  for (uint32_t rest = named; rest;) { /* from the last lane down: the first one is next */
    unsigned l = 31 - (unsigned)__builtin_clz(rest), t = first + l;
    rest &= ~(1u << l);
    uint64_t brought = named >> th_simt.source[t] & 1 ? th_simt.value[first + th_simt.source[t]] : ~(uint64_t)0;
    th_simt.result[t] = op / 2 >= TH_SIMT_BALLOT ? votes : brought;
    if (t != self) th_simt_add_ready(t);
  }
  th_simt_go_on();
  return th_simt.result[self];
}

/* Where a thread begins. It never comes back. */
[[noreturn]] void th_simt_thread() {
#ifdef TH_SIMT_ASAN
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!th_simt.host_bottom) th_simt.host_bottom = bottom, th_simt.host_size = size; /* the first one comes from the caller */
#endif
  th_simt.body(th_simt.closure);
  th_simt.wait[threadIdx.x] = TH_SIMT_RETURNED;
  th_simt.live--;
  if (!th_simt.live) th_simt_jump(TH_SIMT_HOST, true);
  if (th_simt.waiting == th_simt.live) th_simt_open_barrier(TH_SIMT_HOST);
  th_simt_jump(th_simt_next(), true);
  __builtin_unreachable();
}

#ifdef TH_SIMT_ASAN
void th_simt_unpoison(unsigned t) { /* frames that never returned */
  __asan_unpoison_memory_region(th_simt.stacks + t * th_simt.stride + th_simt.page, th_simt.stride - th_simt.page);
}
#endif

void th_simt_make_thread(unsigned t) {
#ifdef TH_SIMT_ASAN
  th_simt_unpoison(t);
#endif
  unsigned char *top = th_simt.stacks + (t + 1) * th_simt.stride - t * 13 % 64 * 64;
#ifdef TH_SIMT_UCONTEXT
  unsigned char *bottom = th_simt.stacks + t * th_simt.stride + th_simt.page;
  ucontext_t *context = (ucontext_t *)(((uintptr_t)top - sizeof *context) & ~(uintptr_t)63);
  getcontext(context);
  context->uc_stack.ss_sp = bottom;
  context->uc_stack.ss_size = (size_t)((unsigned char *)context - bottom);
  context->uc_link = nullptr;
  makecontext(context, (void (*)(void))th_simt_thread, 0);
  th_simt.context[t] = context;
#else
  void **sp = (void **)top - 8; /* six registers, where to go, where that returns to (nowhere) */
  memset(sp, 0, 8 * sizeof *sp);
  sp[6] = (void *)th_simt_thread;
  th_simt.context[t] = sp; /* after `ret` the stack pointer is 8 below a multiple of 16, as after a call */
#endif
}

/* Mapped for each launch: a guard page each makes them many mappings, of which a process with many modules has too few. */
void th_simt_map_stacks() {
  const int protection = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
  th_simt.page = (size_t)sysconf(_SC_PAGESIZE);
  th_simt.stride = TH_SIMT_STACK + 2 * th_simt.page;
  void *base = mmap(nullptr, th_simt.stride * blockDim.x, protection, kind, -1, 0);
  if (base == MAP_FAILED) th_simt_die(TH_SIMT_HOST, "no memory for the stacks of %u threads", blockDim.x);
  th_simt.stacks = (unsigned char *)base;
  th_simt.mapped = blockDim.x;
  for (unsigned t = 0; t < blockDim.x; t++) mprotect(th_simt.stacks + t * th_simt.stride, th_simt.page, PROT_NONE);
}

void th_simt_drop_stacks() {
#ifdef TH_SIMT_ASAN
  for (unsigned t = 0; t < blockDim.x; t++) th_simt_unpoison(t);
#endif
  munmap(th_simt.stacks, th_simt.stride * th_simt.mapped);
  th_simt.mapped = 0;
}

/* ---- shared memory ---- */

int th_simt_find_local(struct dl_phdr_info *info, size_t, void *) {
  bool ours = false;
  size_t size = 0;
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type == PT_LOAD) ours |= (uintptr_t)&th_simt - (uintptr_t)(info->dlpi_addr + p->p_vaddr) < p->p_memsz;
    if (p->p_type == PT_TLS) size = p->p_memsz;
  }
  if (!ours) return 0;
  if (info->dlpi_name && info->dlpi_name[0] && info->dlpi_tls_data) { /* a program's own storage may hold other things */
    th_simt.local = (unsigned char *)info->dlpi_tls_data;
    th_simt.local_size = size;
  }
  return 1;
}

void th_simt_fill_shared(size_t dynamic) {
  if (th_simt.local) {
    unsigned char *end = th_shared + sizeof th_shared;
    memset(th_simt.local, 0xff, (size_t)(th_shared - th_simt.local));
    memset(end, 0xff, (size_t)(th_simt.local + th_simt.local_size - end));
  }
  memset(th_shared, 0xff, dynamic + 64);
}

void th_simt_check_shared(size_t dynamic) {
  for (size_t i = 0; i < 64; i++)
    if (th_shared[dynamic + i] != 0xff)
      th_simt_die(TH_SIMT_HOST, "block (%u, %u) wrote to byte %zu of its %zu bytes of dynamic shared memory", blockIdx.x, blockIdx.y,
                  dynamic + i, dynamic);
}

/* ---- launches ---- */

/* 0 .. n - 1 in another order: i -> (a i + b) mod n, a without a common divisor with n. */
struct th_simt_order {
  uint64_t a = 1, b = 0, n;
  explicit th_simt_order(uint64_t count) : n(count) {
    if (!th_simt.random || n < 2) return;
    for (uint64_t g = 0; g != 1;) {
      a = 1 + th_simt_random() % n;
      g = a;
      for (uint64_t h = n, r; h; g = h, h = r) r = g % h;
    }
    b = th_simt_random() % n;
  }
  uint64_t operator()(uint64_t i) const { return (uint64_t)(((unsigned __int128)a * i + b) % n); }
};

void th_simt_run_block(const void *) {
  unsigned n = blockDim.x;
  th_simt.live = n;
  th_simt.waiting = th_simt.ready_count = 0;
  th_simt.deep = th_simt.random ? th_simt_random() & 1 : 0;
  memset(th_simt.pending, 0, sizeof th_simt.pending);
  th_simt_order order(n);
  for (unsigned t = n; t-- > 0;) {
    th_simt_make_thread(t);
    th_simt_add_ready((unsigned)order(t));
  }
  threadIdx.x = TH_SIMT_HOST;
  th_simt_jump(th_simt_next(), false);
}

template <typename B> void th_simt_call(const void *closure) { (*static_cast<const B *>(closure))(); }

template <typename B> void th_simt_run_plain(const void *closure) {
  const B &body = *static_cast<const B *>(closure);
  if (!th_simt.random) {
    for (unsigned t = 0; t < blockDim.x; t++) {
      threadIdx.x = t;
      body();
    }
    return;
  }
  th_simt_order order(blockDim.x);
  for (unsigned t = 0; t < blockDim.x; t++) {
    threadIdx.x = (unsigned)order(t);
    body();
  }
}

void th_simt_seed() {
  const char *text = getenv("TH_SIMT_SEED");
  th_simt.random = 0;
  if (!text || !*text) return;
  uint64_t z = strtoull(text, nullptr, 10) + 0x9e3779b97f4a7c15ULL; /* splitmix64 */
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
  z ^= z >> 31;
  th_simt.random = z ? z : 1;
}

void th_simt_run_grid(const int64_t *ints, void (*block)(const void *)) {
  if (ints[0] < 0 || ints[1] < 0 || ints[0] > 0x7fffffff || ints[1] > 65535)
    th_simt_die(TH_SIMT_HOST, "a grid of (%lld, %lld)", (long long)ints[0], (long long)ints[1]);
  if (ints[2] < 1 || ints[2] > TH_SIMT_THREADS) th_simt_die(TH_SIMT_HOST, "%lld threads in a block", (long long)ints[2]);
  if (ints[3] < 0 || ints[3] > TH_SIMT_SHARED)
    th_simt_die(TH_SIMT_HOST, "%lld bytes of dynamic shared memory; its module is compiled for %d (TH_SIMT_SHARED)", (long long)ints[3],
                TH_SIMT_SHARED);
  size_t dynamic = (size_t)ints[3];
  gridDim = uint3{(unsigned)ints[0], (unsigned)ints[1], 1};
  blockDim = uint3{(unsigned)ints[2], 1, 1};
  threadIdx = blockIdx = uint3{0, 0, 0};
  th_simt_seed();
  if (!th_simt.plain) {
    th_simt.host_bottom = nullptr;
    th_simt.local = nullptr;
    *(volatile unsigned char *)th_shared = 0; /* the storage comes with its first use */
    dl_iterate_phdr(th_simt_find_local, nullptr);
    th_simt_map_stacks();
#ifdef TH_SIMT_UCONTEXT
    th_simt.context[TH_SIMT_HOST] = &th_simt.host;
#endif
  }
  th_simt_order order((uint64_t)gridDim.x * gridDim.y);
  for (uint64_t i = 0; i < order.n; i++) {
    uint64_t k = th_simt.random ? order(i) : i;
    blockIdx.x = (unsigned)(k % gridDim.x);
    blockIdx.y = (unsigned)(k / gridDim.x);
    if (!th_simt.plain || dynamic) th_simt_fill_shared(dynamic);
    block(th_simt.closure);
    if (!th_simt.plain || dynamic) th_simt_check_shared(dynamic);
  }
  if (!th_simt.plain) th_simt_drop_stacks();
}

struct th_simt_arguments {
  void *const *buffers;
  const int64_t *ints;
  const double *scalars;
  unsigned n_buffers, buffers_taken, left, flagged;
  unsigned bad;
  template <typename T> T take() {
    left--;
    if constexpr (std::is_same_v<T, unsigned *>) {
      if (!left) {
        flagged = 1;
        return &bad;
      }
    }
    if constexpr (std::is_pointer_v<T>) {
      if (buffers_taken == n_buffers)
        th_simt_die(TH_SIMT_HOST, "has more than %u pointers as parameters, th_bad not among them", n_buffers);
      return static_cast<T>(buffers[buffers_taken++]);
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<T>(*scalars++);
    } else {
      static_assert(std::is_integral_v<T>, "parameters of a kernel are pointers, integers and floating point numbers");
      return static_cast<T>(*ints++);
    }
  }
};

template <typename... A> struct th_simt_run {
  th_simt_run(const int64_t *ints, const th_simt_arguments &from, void (*kernel)(A...), A... a) {
    if (!from.flagged) th_simt_die(TH_SIMT_HOST, "its last parameter is not unsigned *th_bad");
    if (from.buffers_taken != from.n_buffers)
      th_simt_die(TH_SIMT_HOST, "has %u pointers as parameters, th_bad not among them, and was given %u buffers", from.buffers_taken, from.n_buffers);
    auto body = [&] { kernel(a...); };
    th_simt.closure = &body;
    th_simt.body = th_simt_call<decltype(body)>;
    th_simt_run_grid(ints, th_simt.plain ? th_simt_run_plain<decltype(body)> : th_simt_run_block);
  }
};

/* Runs a kernel. buffers: its pointers in their order, without the last parameter, unsigned *th_bad, whose value is returned. ints: blocks
 * in x and y, threads of a block, bytes of dynamic shared memory, then the kernel's integers. scalars: its floating point numbers.
 * flags: TH_SIMT_PLAIN or 0. */
template <typename... A>
int th_simt_launch(const char *name, void (*kernel)(A...), void *const *buffers, unsigned n_buffers, const int64_t *ints, const double *scalars,
                   unsigned flags = 0) {
  pthread_mutex_lock(&th_simt_mutex);
  th_simt.name = name;
  th_simt.plain = flags & TH_SIMT_PLAIN;
  th_simt_arguments from = {buffers, ints + 4, scalars, n_buffers, 0, sizeof...(A), 0, 0};
  th_simt_run<A...>{ints, from, kernel, from.take<A>()...}; /* braces: from left to right */
  int bad = (int)from.bad;
  pthread_mutex_unlock(&th_simt_mutex);
  return bad;
}

} // namespace

/* ---- what kernels call: synchronization ---- */

#define __syncthreads() ((void)th_simt_barrier(__COUNTER__, __LINE__, 0))
#define __syncthreads_count(p) ((int)th_simt_barrier(__COUNTER__, __LINE__, (p) ? 1 : 0))
#define __syncthreads_or(p) ((int)(th_simt_barrier(__COUNTER__, __LINE__, (p) ? 1 : 0) != 0))
#define __syncthreads_and(p) ((int)(th_simt_barrier(__COUNTER__, __LINE__, (p) ? 0 : 1) == 0))
static inline void __syncwarp(unsigned mask = 0xffffffff) { th_simt_warp(2 * TH_SIMT_SYNC, mask, 0, threadIdx.x & 31); }
static inline unsigned __ballot_sync(unsigned mask, int p) { return (unsigned)th_simt_warp(2 * TH_SIMT_BALLOT, mask, p != 0, threadIdx.x & 31); }
static inline int __any_sync(unsigned mask, int p) { return (int)th_simt_warp(2 * TH_SIMT_ANY, mask, p != 0, threadIdx.x & 31); }
static inline int __all_sync(unsigned mask, int p) { return (int)th_simt_warp(2 * TH_SIMT_ALL, mask, p != 0, threadIdx.x & 31); }

template <typename T> static inline T th_simt_shuffle(th_simt_op op, unsigned mask, T v, int n, int width) {
  int lane = (int)(threadIdx.x & 31), first = lane & ~(width - 1), last = first + width - 1;
  if (width < 1 || width > 32 || (width & (width - 1))) th_simt_die(threadIdx.x, "calls %s with a width of %d", th_simt_op_name(2 * op), width);
  int source = op == TH_SIMT_IDX ? first + (n & (width - 1)) : op == TH_SIMT_XOR ? lane ^ n : op == TH_SIMT_UP ? lane - n : lane + n;
  if (source < 0 || source > last || (op == TH_SIMT_UP && source < first)) source = lane;
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  bits = th_simt_warp(2 * op + (sizeof v == 8), mask, bits, (unsigned)source);
  memcpy(&v, &bits, sizeof v);
  return v;
}
#define TH_SIMT_SHUFFLES(T) \
  static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32) { return th_simt_shuffle(TH_SIMT_IDX, mask, v, lane, width); } \
  static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) { return th_simt_shuffle(TH_SIMT_XOR, mask, v, bits, width); } \
  static inline T __shfl_up_sync(unsigned mask, T v, unsigned n, int width = 32) { return th_simt_shuffle(TH_SIMT_UP, mask, v, (int)n, width); } \
  static inline T __shfl_down_sync(unsigned mask, T v, unsigned n, int width = 32) { return th_simt_shuffle(TH_SIMT_DOWN, mask, v, (int)n, width); }
TH_SIMT_SHUFFLES(int)
TH_SIMT_SHUFFLES(unsigned)
TH_SIMT_SHUFFLES(long)
TH_SIMT_SHUFFLES(unsigned long)
TH_SIMT_SHUFFLES(long long)
TH_SIMT_SHUFFLES(unsigned long long)
TH_SIMT_SHUFFLES(float)
TH_SIMT_SHUFFLES(double)

static inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }
static inline void __threadfence() { __asm__ volatile("" ::: "memory"); }
static inline void __threadfence_system() { __asm__ volatile("" ::: "memory"); }
[[noreturn]] static inline void __trap() { th_simt_die(threadIdx.x, "calls __trap()"); }

/* ---- atomics: no other thread runs meanwhile ---- */

#define TH_SIMT_ATOMIC(name, T, expression) \
  static inline T name(T *p, T v) { \
    T old = *p; \
    *p = (T)(expression); \
    return old; \
  }
#define TH_SIMT_ATOMICS(T) \
  TH_SIMT_ATOMIC(atomicMax, T, old < v ? v : old) \
  TH_SIMT_ATOMIC(atomicMin, T, v < old ? v : old) \
  TH_SIMT_ATOMIC(atomicOr, T, old | v) \
  TH_SIMT_ATOMIC(atomicAnd, T, old & v) \
  TH_SIMT_ATOMIC(atomicXor, T, old ^ v)
TH_SIMT_ATOMICS(int)
TH_SIMT_ATOMICS(unsigned)
TH_SIMT_ATOMICS(long long)
TH_SIMT_ATOMICS(unsigned long long)
TH_SIMT_ATOMIC(atomicAdd, int, (unsigned)old + (unsigned)v)
TH_SIMT_ATOMIC(atomicAdd, unsigned, old + v)
TH_SIMT_ATOMIC(atomicAdd, unsigned long long, old + v)
TH_SIMT_ATOMIC(atomicAdd, float, old + v)
TH_SIMT_ATOMIC(atomicAdd, double, old + v)
TH_SIMT_ATOMIC(atomicSub, int, (unsigned)old - (unsigned)v)
TH_SIMT_ATOMIC(atomicSub, unsigned, old - v)
TH_SIMT_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
TH_SIMT_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#define TH_SIMT_EXCHANGE(T) TH_SIMT_ATOMIC(atomicExch, T, v)
TH_SIMT_EXCHANGE(int)
TH_SIMT_EXCHANGE(unsigned)
TH_SIMT_EXCHANGE(unsigned long long)
TH_SIMT_EXCHANGE(float)
#define TH_SIMT_CAS(T) \
  static inline T atomicCAS(T *p, T expected, T v) { \
    T old = *p; \
    if (old == expected) *p = v; \
    return old; \
  }
TH_SIMT_CAS(int)
TH_SIMT_CAS(unsigned)
TH_SIMT_CAS(unsigned long long)
TH_SIMT_CAS(unsigned short)

/* ---- loads and stores with hints ---- */

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldca(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline void __stcg(T *p, T v) { *p = v; }
template <typename T> static inline void __stcs(T *p, T v) { *p = v; }

/* ---- numbers: what is not in C. The approximate ones are exact here. ---- */

template <typename T, typename F> static inline T th_simt_bits(F x) {
  static_assert(sizeof(T) == sizeof(F), "");
  T y;
  memcpy(&y, &x, sizeof y);
  return y;
}
static inline unsigned __float_as_uint(float x) { return th_simt_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return th_simt_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return th_simt_bits<float>(x); }
static inline float __int_as_float(int x) { return th_simt_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return th_simt_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return th_simt_bits<double>(x); }

/* Beyond the range: its end; NaN: 0. `end`: the first number behind it. */
template <typename T> static inline T th_simt_convert(double x, double least, double end) {
  if (x != x) return 0;
  return x >= end ? (T) ~(T)((T)-1 > 0 ? 0 : (T)1 << (sizeof(T) * 8 - 1)) : x < least ? (T)least : (T)x;
}
static inline int __float2int_rn(float x) { return th_simt_convert<int>(rint((double)x), -0x1p31, 0x1p31); }
static inline int __float2int_rz(float x) { return th_simt_convert<int>(trunc((double)x), -0x1p31, 0x1p31); }
static inline unsigned __float2uint_rn(float x) { return th_simt_convert<unsigned>(rint((double)x), 0, 0x1p32); }
static inline unsigned __float2uint_rz(float x) { return th_simt_convert<unsigned>(trunc((double)x), 0, 0x1p32); }
static inline long long __float2ll_rn(float x) { return th_simt_convert<long long>(rint((double)x), -0x1p63, 0x1p63); }
static inline long long __float2ll_rz(float x) { return th_simt_convert<long long>(trunc((double)x), -0x1p63, 0x1p63); }
static inline int __double2int_rn(double x) { return th_simt_convert<int>(rint(x), -0x1p31, 0x1p31); }
static inline long long __double2ll_rn(double x) { return th_simt_convert<long long>(rint(x), -0x1p63, 0x1p63); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline double __ll2double_rn(long long x) { return (double)x; }

static inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __drcp_rn(double x) { return 1.0 / x; }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
static inline float __saturatef(float x) { return x != x || x < 0 ? 0.0f : x > 1 ? 1.0f : x; }
/* glibc's header declares functions of these names */
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)

static inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((uint64_t)x * y >> 32); }
static inline int __mulhi(int x, int y) { return (int)((int64_t)x * y >> 32); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) { return (uint64_t)((unsigned __int128)x * y >> 64); }
static inline long long __mul64hi(long long x, long long y) { return (long long)((__int128)x * y >> 64); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }

#define TH_SIMT_MIN_MAX(T) \
  static inline T min(T x, T y) { return y < x ? y : x; } \
  static inline T max(T x, T y) { return x < y ? y : x; }
TH_SIMT_MIN_MAX(int)
TH_SIMT_MIN_MAX(unsigned)
TH_SIMT_MIN_MAX(long)
TH_SIMT_MIN_MAX(unsigned long)
TH_SIMT_MIN_MAX(long long)
TH_SIMT_MIN_MAX(unsigned long long)
static inline unsigned min(int x, unsigned y) { return min((unsigned)x, y); }
static inline unsigned min(unsigned x, int y) { return min(x, (unsigned)y); }
static inline unsigned max(int x, unsigned y) { return max((unsigned)x, y); }
static inline unsigned max(unsigned x, int y) { return max(x, (unsigned)y); }
static inline float min(float x, float y) { return fminf(x, y); }
static inline float max(float x, float y) { return fmaxf(x, y); }
static inline double min(double x, double y) { return fmin(x, y); }
static inline double max(double x, double y) { return fmax(x, y); }

#endif
