/* What a fuzz target gives: text.c and wire.c each define these. driver.c runs them without libFuzzer (any compiler, any
 * sanitizer, reproducible from a seed); a build by clang with -fsanitize=fuzzer takes libFuzzer's driver instead. */
#ifndef THUNDER_TESTS_FUZZ_H
#define THUNDER_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "ir/pass.h"

/* libFuzzer's names. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* The target's input for a golden trace in text form: memory of `arena`, or NULL where the form does not carry it. */
const uint8_t *fuzz_seed_of(th_arena *arena, const char *text, size_t length, size_t *out_size);

typedef struct fuzz_counts { uint64_t inputs, parsed, verified, reached_passes, through; } fuzz_counts;
extern fuzz_counts fuzz_seen;

/* What both targets do with a trace that was read: verify, print and read again, encode and decode, run the passes with the
 * options that `hash` chooses. A rule that is broken ends the program. */
void fuzz_trace(th_trace *trace, uint32_t hash);
uint32_t fuzz_hash(const uint8_t *data, size_t size);
uint32_t fuzz_random(uint32_t *state, uint32_t below); /* [0, below); below 0 gives 0 */
void fuzz_broken(const char *rule, const char *more) __attribute__((noreturn));
/* Another pointwise op with the operands, attributes and level of `kind`; `kind` itself where there is none. */
th_op_kind fuzz_like(uint32_t *state, th_op_kind kind);

#endif
