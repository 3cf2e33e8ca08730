// Expert choice (MicroDiT, Sec. 3.2; Zhou et al. 2022): every expert takes the K tokens of an image that it
// finds most probable. Parts: route_fwd, route_bwd, dispatch_fwd, dispatch_bwd, combine_fwd, combine_bwd.
// `index` [N, E, K] lists the tokens of an expert, `slot` [N, E, T] is its inverse (-1: not taken), so that
// every sum over experts or tokens is done by one block in one order.
#include "block.h"
#include "math.h"

// An integer that orders like the number for numbers >= 0 and is total for NaN too, so that a diverged run
// still selects K different tokens.
FN int32_t order_key(float x) {
  int32_t key;
  memcpy(&key, &x, sizeof key);
  return key;
}
FN int64_t order_key(double x) {
  int64_t key;
  memcpy(&key, &x, sizeof key);
  return key;
}
typedef decltype(order_key(real())) order_type;

// probs = softmax of logits over E; index = the K most probable tokens of each expert, the most probable
// first, of equal ones the lowest token first; gate = their probabilities. One block = one image.
// Scratch: T keys as `real`, T ranks.
struct route_fwd {
  const real *logits;  // [N, T, E]
  const i32 *forced;   // [N, E, K]: takes the place of the choice, or absent
  real *probs;         // [N, T, E]
  i32 *index;          // [N, E, K]
  real *gate;          // [N, E, K]
  i32 *slot;           // [N, E, T]
  long T, E, K, ldlogits;
  BODY(long n) {
    const real *in = logits + n * T * ldlogits;
    real *p = probs + n * T * E;
    EACH(t, T) {
      real top = in[t * ldlogits];
      for (long e = 1; e < E; ++e) top = top < in[t * ldlogits + e] ? in[t * ldlogits + e] : top;
      real sum = 0;
      for (long e = 0; e < E; ++e) {
        const real power = md::exp(in[t * ldlogits + e] - top);
        p[t * E + e] = power;
        sum += power;
      }
      for (long e = 0; e < E; ++e) p[t * E + e] /= sum;
    }
    block_sync();
    order_type *key = scratch(order_type);
    i32 *rank = (i32 *)(key + T);
    for (long e = 0; e < E; ++e) {
      i32 *list = index + (n * E + e) * K, *place = slot + (n * E + e) * T;
      real *weight = gate + (n * E + e) * K;
      if (forced) {
        const i32 *given = forced + (n * E + e) * K;
        EACH(t, T) place[t] = -1;
        block_sync();
        for (long j = TID; j < K; j += LANES) {
          list[j] = given[j];
          weight[j] = p[given[j] * E + e];
          place[given[j]] = i32(j);
        }
        continue;
      }
      // A token's rank is the number of tokens before it: T^2 comparisons, all alike, no sort.
      block_sync();
      EACH(t, T) {
        key[t] = order_key(p[t * E + e]);
        rank[t] = 0;
      }
      block_sync();
      for (long u = 0; u < T; ++u) {
        const order_type rival = key[u];
        EACH(t, T) rank[t] += i32((rival > key[t]) | ((rival == key[t]) & (i32(u) < i32(t))));
      }
      for (long t = TID; t < T; t += LANES) {
        const long j = rank[t];
        place[t] = j < K ? i32(j) : -1;
        if (j >= K) continue;
        list[j] = i32(t);
        weight[j] = p[t * E + e];
      }
    }
  }
};
KERNEL(route_fwd)

// dlogits = probs (dp - sum over experts of dp probs), dp = dprobs + dgate where the expert took the token.
// One block = one image.
struct route_bwd {
  const real *probs;          // [N, T, E]
  const i32 *slot;            // [N, E, T]
  const real *dprobs, *dgate; // [N, T, E], [N, E, K]: either may be absent
  real *dlogits;              // [N, T, E]
  long T, E, K, lddlogits, add_dlogits;
  BODY(long n) {
    EACH(t, T) {
      const real *p = probs + (n * T + t) * E;
      real *out = dlogits + (n * T + t) * lddlogits;
      real mean = 0;
      for (long e = 0; e < E; ++e) mean += p[e] * arrived(n, t, e);
      for (long e = 0; e < E; ++e) out[e] = (add_dlogits ? out[e] : 0) + p[e] * (arrived(n, t, e) - mean);
    }
  }
  MEMBER real arrived(long n, long t, long e) const {
    const long j = slot[(n * E + e) * T + t];
    const real through = dgate && j >= 0 ? dgate[(n * E + e) * K + j] : 0;
    return through + (dprobs ? dprobs[(n * T + t) * E + e] : 0);
  }
};
KERNEL(route_bwd)

// y[e, n K + k] = x[n, index[n, e, k]]. One block = one row of y.
struct dispatch_fwd {
  const act *x;      // [N, T, C]
  const i32 *index;  // [N, E, K]
  act *y;            // [E, N K, C]
  long N, T, C, E, K, ldx, ldy;
  BODY(long row) {
    const long e = row / (N * K), n = row / K % N, k = row % K;
    const act *from = x + (n * T + index[(n * E + e) * K + k]) * ldx;
    act *to = y + row * ldy;
    EACH(c, C) to[c] = from[c];
  }
};
KERNEL(dispatch_fwd)

// dx[n, t] = sum over the experts that took the token of their rows of dy. One block = one token.
struct dispatch_bwd {
  const act *dy;    // [E, N K, C]
  const i32 *slot;  // [N, E, T]
  act *dx;          // [N, T, C]
  long N, T, C, E, K, lddy, lddx, add_dx;
  BODY(long row) {
    const long n = row / T, t = row % T;
    act *to = dx + row * lddx;
    bool first = !add_dx;
    for (long e = 0; e < E; ++e) {
      const long k = slot[(n * E + e) * T + t];
      if (k < 0) continue;
      const act *from = dy + ((e * N + n) * K + k) * lddy;
      if (first) {
        EACH(c, C) to[c] = from[c];
      } else {
        EACH(c, C) store(to[c], load(to[c]) + load(from[c]));
      }
      first = false;
    }
    if (first) EACH(c, C) store(to[c], 0);
  }
};
KERNEL(dispatch_bwd)

// y[n, t] = sum over the experts that took the token of gate * their row of ye. One block = one token.
struct combine_fwd {
  const act *ye;     // [E, N K, C]
  const real *gate;  // [N, E, K]
  const i32 *slot;   // [N, E, T]
  act *y;            // [N, T, C]
  long N, T, C, E, K, ldye, ldy;
  BODY(long row) {
    const long n = row / T, t = row % T;
    act *to = y + row * ldy;
    bool first = true;
    for (long e = 0; e < E; ++e) {
      const long k = slot[(n * E + e) * T + t];
      if (k < 0) continue;
      const act *from = ye + ((e * N + n) * K + k) * ldye;
      const real g = gate[(n * E + e) * K + k];
      if (first) {
        EACH(c, C) store(to[c], g * load(from[c]));
      } else {
        EACH(c, C) store(to[c], load(to[c]) + g * load(from[c]));
      }
      first = false;
    }
    if (first) EACH(c, C) store(to[c], 0);
  }
};
KERNEL(combine_fwd)

// dye[e, n K + k] = gate dy[n, t], dgate[n, e, k] = dy[n, t] . ye[e, n K + k], t = index[n, e, k].
// One block = one row of ye.
struct combine_bwd {
  const act *ye;     // [E, N K, C]
  const real *gate;  // [N, E, K]
  const i32 *index;  // [N, E, K]
  const act *dy;     // [N, T, C]
  act *dye;          // [E, N K, C]
  real *dgate;       // [N, E, K]
  long N, T, C, E, K, ldye, lddy, lddye, add_dye, add_dgate;
  BODY(long row) {
    const long e = row / (N * K), n = row / K % N, k = row % K;
    const long at = (n * E + e) * K + k;
    const act *dyr = dy + (n * T + index[at]) * lddy;
    if (dgate) {
      const act *yr = ye + row * ldye;
      real dot = 0;
      EACH_SUM(c, C, dot) dot += load(dyr[c]) * load(yr[c]);
      dot = block_sum(dot);
      if (TID == 0) dgate[at] = (add_dgate ? dgate[at] : 0) + dot;
    }
    if (!dye) return;
    const real g = gate[at];
    act *to = dye + row * lddye;
    if (add_dye) {
      EACH(c, C) store(to[c], load(to[c]) + g * load(dyr[c]));
    } else {
      EACH(c, C) store(to[c], g * load(dyr[c]));
    }
  }
};
KERNEL(combine_bwd)
