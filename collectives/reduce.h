/* Arithmetic of reductions on the CPU, for back ends that reduce themselves or whose library lacks a dtype.
 * Narrow floats (f16, bf16, fp8) are reduced in f32 and rounded once, to nearest even. Thread-safe: no state. */
#ifndef THUNDER_COLLECTIVES_REDUCE_H
#define THUNDER_COLLECTIVES_REDUCE_H

#include "collectives/channel.h"

/* INVALID_ARGUMENT when `dtype` has no such reduction. */
th_status th__reduce_check(th_dtype dtype, th_reduce reduce);

/* The dtype in which values of `dtype` are accumulated: f32 for narrow floats, else itself. */
th_dtype th__reduce_accumulator(th_dtype dtype);

/* accumulator[i] = input[i], converted to the accumulator dtype. */
void th__reduce_load(th_dtype dtype, const void *input, void *accumulator, size_t count);
/* accumulator[i] = reduce(accumulator[i], input[i]); input in `dtype`. avg adds. */
void th__reduce_add(th_dtype dtype, th_reduce reduce, const void *input, void *accumulator, size_t count);
/* output[i] = accumulator[i], for avg divided by `size`, converted to `dtype`. In place is fine. */
void th__reduce_store(th_dtype dtype, th_reduce reduce, int size, const void *accumulator, void *output, size_t count);

float th__narrow_to_f32(th_dtype dtype, uint16_t bits);
uint16_t th__narrow_from_f32(th_dtype dtype, float value);

#endif
