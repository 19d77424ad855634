/* Elements of every dtype, and reductions of them by the plainest means: for the suite. */
#ifndef THUNDER_TESTS_COLLECTIVES_NUMBERS_H
#define THUNDER_TESTS_COLLECTIVES_NUMBERS_H

#include "collectives/channel.h"

/* The element that `seed` stands for. Sums of up to 16 of one dtype are exact in its accumulator, whatever the order, so results
 * can be compared bit for bit; integers take all values (sums wrap), floats also NaN and the infinities. */
void numbers_element(th_dtype dtype, uint64_t seed, void *out);
/* out = reduction of the `size` elements inputs[0..size). */
void numbers_reduce(th_dtype dtype, th_reduce reduce, int size, const void *const *inputs, void *out);
/* The same bits, or both NaN. */
bool numbers_same(th_dtype dtype, const void *a, const void *b);
/* Is there such a reduction? By the comments of th_reduce in channel.h. */
bool numbers_allowed(th_dtype dtype, th_reduce reduce);
uint64_t numbers_mix(uint64_t a, uint64_t b);

#endif
