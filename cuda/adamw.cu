// The optimizer over flat buffers: loss sums, global gradient norm, clip factor and non-finite guard, AdamW
// with EMA. Parts: add_loss, sum_squares, clip_scale, adamw. What `state` and `scalars` hold is said in
// src/plan/ops/optimizer.ts.
#include "block.h"
#include "math.h"

enum {
  STATE_NORM,
  STATE_SCALE,
  STATE_SKIP,
  STATE_T,
  STATE_SKIPPED,
  STATE_LOSS,
  STATE_LOSS_SUM,
  STATE_IMAGES,
};
enum { SCALAR_LR, SCALAR_EMA_RATE };

// state.loss_sum += sum of loss, state.images += N. loss [N]. One block.
struct add_loss {
  const real *loss;
  real *state;
  long N;
  BODY(long) {
    real sum = 0;
    EACH_SUM(n, N, sum) sum += loss[n];
    sum = block_sum(sum);
    if (TID == 0) {
      state[STATE_LOSS_SUM] += sum;
      state[STATE_IMAGES] += (real)N;
    }
  }
};
KERNEL(add_loss)

// partial[block] = sum of x^2 over the block's `span` elements. x [count].
struct sum_squares {
  const real *x;
  real *partial;
  long count, span;
  BODY(long block) {
    const long first = block * span, n = count - first < span ? count - first : span;
    const real *from = x + first;
    double sum = 0;
    EACH_SUM(i, n, sum) sum += (double)from[i] * (double)from[i];
    const real total = block_sum((real)sum);
    if (TID == 0) partial[block] = total;
  }
};
KERNEL(sum_squares)

// norm = sqrt(sum of partial), scale = min(1, max_norm / (norm + 1e-6)) as PyTorch's clip_grad_norm_; loss =
// mean of what add_loss collected. Where norm or loss is not finite the step is skipped, else t advances.
// One block.
struct clip_scale {
  const real *partial;
  real *state;
  long blocks;
  double max_norm;
  BODY(long) {
    double sum = 0;
    EACH_SUM(i, blocks, sum) sum += (double)partial[i];
    const double norm = md::sqrt((double)block_sum((real)sum)), scale = max_norm / (norm + 1e-6);
    if (TID != 0) return;
    const real images = state[STATE_IMAGES], loss = images > 0 ? state[STATE_LOSS_SUM] / images : 0;
    const bool finite = norm - norm == 0 && loss - loss == 0;
    state[STATE_NORM] = (real)norm;
    state[STATE_SCALE] = (real)(scale < 1 ? scale : 1);
    state[STATE_SKIP] = finite ? 0 : 1;
    state[STATE_T] += finite ? 1 : 0;
    state[STATE_SKIPPED] += finite ? 0 : 1;
    state[STATE_LOSS] = loss;
    state[STATE_LOSS_SUM] = 0;
    state[STATE_IMAGES] = 0;
  }
};
KERNEL(clip_scale)

// What one step does to every element (PyTorch's AdamW, decoupled decay first):
//   w *= 1 - lr decay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2
//   w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
struct adamw_factors {
  real shrink, beta1, rest1, beta2, rest2, step, root, eps, clip;
  MEMBER real operator()(real w, real g, real &m, real &v) const {
    g *= clip;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    return w * shrink - step * m / (md::sqrt(v) * root + eps);
  }
};

// One AdamW step with EMA over flat buffers, zeroing the gradient, also on a skipped step. weight, grad, m, v
// [count]; ema [count] or none; copy [count]: the weights as kernels read them, or none.
// One block = `span` elements.
struct adamw {
  const real *scalars, *state;
  real *weight, *grad, *m, *v, *ema;
  act *copy;
  long count, span;
  double decay, lr_scale, beta1, beta2, eps;
  BODY(long block) {
    const long first = block * span, n = count - first < span ? count - first : span;
    real *w = weight + first, *g = grad + first, *m1 = m + first, *m2 = v + first;
    if (state[STATE_SKIP] != 0) {
      EACH(i, n) g[i] = 0;
      return;
    }
    const double t = state[STATE_T], lr = (double)scalars[SCALAR_LR] * lr_scale;
    const adamw_factors next = {(real)(1 - lr * decay),
                                (real)beta1,
                                (real)(1 - beta1),
                                (real)beta2,
                                (real)(1 - beta2),
                                (real)(lr / (1 - ::pow(beta1, t))),
                                (real)(1 / md::sqrt(1 - ::pow(beta2, t))),
                                (real)eps,
                                state[STATE_SCALE]};
    if (ema) {
      const real keep = scalars[SCALAR_EMA_RATE], rest = (real)(1 - (double)keep);
      real *e = ema + first;
      EACH(i, n) {
        const real updated = next(w[i], g[i], m1[i], m2[i]);
        w[i] = updated;
        e[i] = keep * e[i] + rest * updated;
        g[i] = 0;
      }
    } else {
      EACH(i, n) {
        w[i] = next(w[i], g[i], m1[i], m2[i]);
        g[i] = 0;
      }
    }
    if (copy) {
      act *to = copy + first;
      EACH(i, n) store(to[i], w[i]);
    }
  }
};
KERNEL(adamw)
