// The gate of a router: logits of each expert for each token, in float32 whatever act is, because rounded
// logits tie and the choice drifts. Parts: gate_fwd (one block = one row), gate_bwd (one block = a stretch of
// rows).
#include "block.h"

// logits[row, e] = x[row] . w[e]          x [rows, C]; w [E, C]; logits [rows, E]
struct gate_fwd {
  const act *x;
  const real *w;
  real *logits;
  long C, E, ldx;
  BODY(long row) {
    const act *xr = x + row * ldx;
    for (long e = 0; e < E; ++e) {
      const real *we = w + e * C;
      real sum = 0;
      EACH_SUM(c, C, sum) sum += load(xr[c]) * we[c];
      sum = block_sum(sum);
      if (TID == 0) logits[row * E + e] = sum;
    }
  }
};
KERNEL(gate_fwd)

// dx[row] (+)= sum over e of dlogits[row, e] w[e]; dw[block, e] = sum over the block's `span` rows of
// dlogits[row, e] x[row]. Scratch: the block's dlogits [span, E], and a row of C.
struct gate_bwd {
  const act *x;
  const real *w, *dlogits;
  act *dx;
  real *dw;
  long rows, C, E, span, ldx, lddlogits, lddx, add_dx;
  BODY(long block) {
    const long first = block * span, count = rows - first < span ? rows - first : span;
    real *d = scratch(real), *sum = d + span * E;
    for (long r = 0; r < count; ++r) EACH(e, E) d[r * E + e] = dlogits[(first + r) * lddlogits + e];
    block_sync();
    if (dx) {
      for (long r = 0; r < count; ++r) {
        act *to = dx + (first + r) * lddx;
        const real *dr = d + r * E;
        if (add_dx) {
          EACH(c, C) sum[c] = load(to[c]);
        } else {
          EACH(c, C) sum[c] = 0;
        }
        for (long e = 0; e < E; ++e) EACH(c, C) sum[c] += dr[e] * w[e * C + c];
        EACH(c, C) store(to[c], sum[c]);
      }
    }
    if (dw) {
      for (long e = 0; e < E; ++e) {
        real *to = dw + (block * E + e) * C;
        EACH(c, C) to[c] = 0;
        for (long r = 0; r < count; ++r) {
          const act *from = x + (first + r) * ldx;
          const real by = d[r * E + e];
          EACH(c, C) to[c] += by * load(from[c]);
        }
      }
    }
  }
};
KERNEL(gate_bwd)
