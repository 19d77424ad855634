/* Loss scaling, as torch.amp.GradScaler does it (Micikevicius et al., 2018, section 3.2): gradients in f16 are those of scale * loss, so
 * that small ones do not vanish; an update whose gradients are not all finite is skipped and the scale backs off; after enough good
 * updates in a row it grows. The scale (f32) and how many good ones there were in a row (i32) are inputs of kind state. Both, and whether
 * an update is skipped, are computed where the gradients are: no device waits for the host. Shared by the passes grad and optimizer. */
#ifndef THUNDER_IR_PASSES_LOSS_SCALE_H
#define THUNDER_IR_PASSES_LOSS_SCALE_H

#include "ir/build.h"

typedef struct th_loss_scale { /* f64 numbers in host memory, but for the first two */
  th_value scale, good_steps; /* f32, i32; rank 0 */
  th_value growth, backoff, interval;
} th_loss_scale;

/* A new input for the scale. The only input of kind state in what the pass grad makes. */
th_value th__loss_scale_add(th_trace *trace);
/* That input; TH_NO_VALUE where there is none. */
th_value th__loss_scale_find(const th_trace *trace);
/* 1 / scale (f32); and x, gradients of the scaled loss, times that, computed in f32 at least, in x's dtype. */
th_value th__loss_scale_inverse(th_builder *b, const th_loss_scale *s);
th_value th__unscale(th_builder *b, th_value x, th_value inverse);
/* Is every element of x finite? bool, rank 0. */
th_value th__all_finite(th_builder *b, th_value x);
/* The scale and the number of good steps after an update that was `finite` (bool, rank 0), or was skipped. */
void th__loss_scale_next(th_builder *b, const th_loss_scale *s, th_value finite, th_value *out_scale, th_value *out_good_steps);

#endif
