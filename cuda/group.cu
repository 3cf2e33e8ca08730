// GroupNorm over images whose channels lie together, in three steps: group_rows (sums of each image row),
// group_merge (sums of the image), group_apply. The first step's results do not depend on which other rows
// are there, so an image in strips has the same statistics to the bit.
#include "block.h"
#include "math.h"

// Of one image row: mean and sum of (x - mean)^2 over its W pixels, channel by channel. One block = one row.
struct group_rows {
  const act *x;  // [rows, W, C]
  real *sums;    // [rows, 2 C]: means, then squares
  long C, W, ldx;
  BODY(long row) {
    const act *xr = x + row * W * ldx;
    real *mean = sums + row * 2 * C, *squares = mean + C;
    EACH(c, C) mean[c] = 0;
    for (long w = 0; w < W; ++w) EACH(c, C) mean[c] += load(xr[w * ldx + c]);
    EACH(c, C) {
      mean[c] /= (real)W;
      squares[c] = 0;
    }
    for (long w = 0; w < W; ++w) {
      EACH(c, C) {
        const real d = load(xr[w * ldx + c]) - mean[c];
        squares[c] += d * d;
      }
    }
  }
};
KERNEL(group_rows)

// Means and variances of parts to those of the whole (Chan, Golub & LeVeque 1979), over the H rows of an
// image and the C / G channels of a group. factor = w / sqrt(var + eps). One block = one group of one image.
struct group_merge {
  const real *sums;  // [N, H, 2 C]
  const act *w;      // [C]
  real *mean;        // [N, C]
  real *factor;      // [N, C]
  long C, H, W, G;
  double eps;
  BODY(long block) {
    const long n = block / G, D = C / G, c0 = block % G * D;
    const real *part = sums + n * H * 2 * C + c0;
    const real parts = (real)H * (real)D;
    real total = 0;
    EACH_SUM(h, H, total) {
      for (long c = 0; c < D; ++c) total += part[h * 2 * C + c];
    }
    const real m = block_sum(total) / parts;
    real squares = 0;
    EACH_SUM(h, H, squares) {
      for (long c = 0; c < D; ++c) {
        const real d = part[h * 2 * C + c] - m;
        squares += part[h * 2 * C + C + c] + (real)W * d * d;
      }
    }
    const real rstd = 1 / md::sqrt(block_sum(squares) / (parts * (real)W) + (real)eps);
    EACH(c, D) {
      mean[n * C + c0 + c] = m;
      factor[n * C + c0 + c] = rstd * load(w[c0 + c]);
    }
  }
};
KERNEL(group_merge)

// y = (x - mean) * factor + bias, then silu if asked for. One block = `span` pixels.
struct group_apply {
  const act *x;  // [pixels, C]
  const real *mean, *factor;
  const act *bias;
  act *y;
  long C, pixels, silu, span, ldx, ldy;
  BODY(long block) {
    const long begin = block * span, end = pixels - begin < span ? pixels : begin + span;
    for (long p = begin; p < end; ++p) {
      const act *from = x + p * ldx;
      act *to = y + p * ldy;
      if (silu) {
        EACH(c, C) {
          const real v = (load(from[c]) - mean[c]) * factor[c] + load(bias[c]);
          store(to[c], v * md::sigmoid(v));
        }
      } else {
        EACH(c, C) store(to[c], (load(from[c]) - mean[c]) * factor[c] + load(bias[c]));
      }
    }
  }
};
KERNEL(group_apply)
