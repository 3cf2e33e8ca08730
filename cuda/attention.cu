// softmax(q k^T / sqrt(D)) v over short sequences, forward and backward, tile by tile: no score matrix in
// memory. Parts: attention_fwd and attention_causal_fwd (one block = one head of one image and one tile of
// queries), attention_delta (one block = one row), attention_bwd (one block = one head of one image, so that
// every sum is done by one block in one order).
// Scores are kept transposed, [key, query]: maxima, sums and exponents run along queries, a lane a query.
#include "block.h"
#include "math.h"
#include "tile.h"

// Softmax over key tiles as in Milakov & Gimelshein 2018: running maximum and sum. Sizes of tiles are
// multiples of TILE_PAD. Causal: query t sees keys 0..t. `room` is the block's scratch memory.
template <bool Causal, class Arguments> FN void attend(const Arguments &a, long block, real *room) {
  const long H = a.H, T = a.T, D = a.D, tileT = a.tileT, tileS = a.tileS;
  const long P = tile_padded(D), tiles = (T + tileT - 1) / tileT;
  const long n = block / tiles / H, h = block / tiles % H, t0 = block % tiles * tileT;
  const long nt = T - t0 < tileT ? T - t0 : tileT;
  const long S = Causal ? t0 + nt : a.S;  // keys that any of these queries sees
  real *Q = room;              // [D, tileT], transposed, divided by sqrt(D)
  real *K = Q + D * tileT;     // [tileS, P]
  real *V = K + tileS * P;     // [tileS, P]
  real *W = V + tileS * P;     // [tileS, tileT] scores, then exp(score - top)
  real *Y = W + tileS * tileT; // [tileT, P]
  real *top = Y + tileT * P, *sum = top + tileT, *keep = sum + tileT;  // [tileT]
  tile_load_t(Q, tileT, a.q + (n * T + t0) * a.ldq + h * D, a.ldq, nt, D, 1 / md::sqrt(real(D)));
  EACH(t, tileT) {
    top[t] = -INFINITY;
    sum[t] = 0;
  }
  for (long s0 = 0; s0 < S; s0 += tileS) {
    const long ns = S - s0 < tileS ? S - s0 : tileS;
    tile_load(K, P, a.k + (n * a.S + s0) * a.ldk + h * D, a.ldk, ns, D, 1);
    tile_load(V, P, a.v + (n * a.S + s0) * a.ldv + h * D, a.ldv, ns, D, 1);
    block_sync();
    tile_mul(W, tileT, K, P, Q, tileT, ns, tileT, D, false);
    block_sync();
    if (Causal) {
      for (long s = 0; s < ns; ++s)
        EACH(t, tileT) W[s * tileT + t] = s0 + s > t0 + t ? -INFINITY : W[s * tileT + t];
      block_sync();
    }
    EACH(t, tileT) keep[t] = top[t];
    for (long s = 0; s < ns; ++s)
      EACH(t, tileT) top[t] = top[t] < W[s * tileT + t] ? W[s * tileT + t] : top[t];
    EACH(t, tileT) {
      keep[t] = md::exp(keep[t] - top[t]);
      sum[t] *= keep[t];
    }
    for (long s = 0; s < ns; ++s) {
      EACH(t, tileT) {
        const real e = md::exp(W[s * tileT + t] - top[t]);
        W[s * tileT + t] = e;
        sum[t] += e;
      }
    }
    block_sync();
    if (s0 > 0) {
      for (long t = 0; t < nt; ++t) EACH(d, P) Y[t * P + d] *= keep[t];
      block_sync();
    }
    tile_mul_t(Y, P, W, tileT, V, P, nt, P, ns, s0 > 0);
    block_sync();
  }
  for (long t = 0; t < nt; ++t) {
    act *row = a.y + (n * T + t0 + t) * a.ldy + h * D;
    const real by = 1 / sum[t];
    EACH(d, D) store(row[d], Y[t * P + d] * by);
  }
  real *out = a.lse + (n * H + h) * T + t0;
  EACH(t, nt) out[t] = top[t] + md::log(sum[t]);
}

// q, y [N, T, H D]; k, v [N, S, H D]; lse [N, H, T] = log of the sum of exp(score)
struct attention_fwd {
  const act *q, *k, *v;
  act *y;
  real *lse;
  long H, T, S, D, ldq, ldk, ldv, ldy, tileT, tileS;
  BODY(long block) { attend<false>(*this, block, scratch(real)); }
};
KERNEL(attention_fwd)

// The same with S = T and each query seeing the keys up to its own place.
struct attention_causal_fwd {
  const act *q, *k, *v;
  act *y;
  real *lse;
  long H, T, S, D, ldq, ldk, ldv, ldy, tileT, tileS;
  BODY(long block) { attend<true>(*this, block, scratch(real)); }
};
KERNEL(attention_causal_fwd)

// delta[n, h, t] = dy[n, t] . y[n, t] over the D columns of head h. One block = one row of y, dy [N T, H D].
struct attention_delta {
  const act *y, *dy;
  real *delta;
  long H, T, D, ldy, lddy;
  BODY(long row) {
    const long n = row / T, t = row % T;
    for (long h = 0; h < H; ++h) {
      const act *a = y + row * ldy + h * D, *b = dy + row * lddy + h * D;
      real dot = 0;
      EACH_SUM(d, D, dot) dot += load(a[d]) * load(b[d]);
      dot = block_sum(dot);
      if (TID == 0) delta[(n * H + h) * T + t] = dot;
    }
  }
};
KERNEL(attention_delta)

// W = exp(score - lse), dS = W (dy v^T - delta) / sqrt(D)
// dv = W^T dy, dq = dS k, dk = dS^T q                            (FlashAttention, Dao et al. 2022, App. B.4)
// dq is summed over tiles of keys in `work` [N, H, T, P], which is absent where one tile holds all keys.
struct attention_bwd {
  const act *q, *k, *v;
  const real *lse;
  const act *dy;
  const real *delta;  // [N, H, T], of attention_delta
  act *dq, *dk, *dv;
  real *work;
  long H, T, S, D, ldq, ldk, ldv, lddy, lddq, lddk, lddv, tileT, tileS, add_dq, add_dk, add_dv;
  BODY(long block) {
    const long P = tile_padded(D), n = block / H, h = block % H;
    const real by = 1 / md::sqrt(real(D));
    real *Q = scratch(real);      // [tileT, P]
    real *dY = Q + tileT * P;     // [tileT, P]
    real *Qt = dY + tileT * P;    // [D, tileT], divided by sqrt(D)
    real *dYt = Qt + D * tileT;   // [D, tileT]
    real *dQ = dYt + D * tileT;   // [tileT, P]
    real *K = dQ + tileT * P;     // [tileS, P]
    real *V = K + tileS * P;      // [tileS, P]
    real *dK = V + tileS * P;     // [tileS, P]
    real *dV = dK + tileS * P;    // [tileS, P]
    real *W = dV + tileS * P;     // [tileS, tileT]
    real *dS = W + tileS * tileT; // [tileS, tileT]
    real *base = dS + tileS * tileT, *dot = base + tileT;  // [tileT]: lse, delta
    const act *qh = q + n * T * ldq + h * D, *dyh = dy + n * T * lddy + h * D;
    for (long s0 = 0; s0 < S; s0 += tileS) {
      const long ns = S - s0 < tileS ? S - s0 : tileS;
      tile_load(K, P, k + (n * S + s0) * ldk + h * D, ldk, ns, D, 1);
      tile_load(V, P, v + (n * S + s0) * ldv + h * D, ldv, ns, D, 1);
      for (long t0 = 0; t0 < T; t0 += tileT) {
        const long nt = T - t0 < tileT ? T - t0 : tileT;
        tile_load(Q, P, qh + t0 * ldq, ldq, nt, D, 1);
        tile_load(dY, P, dyh + t0 * lddy, lddy, nt, D, 1);
        tile_load_t(Qt, tileT, qh + t0 * ldq, ldq, nt, D, by);
        tile_load_t(dYt, tileT, dyh + t0 * lddy, lddy, nt, D, 1);
        EACH(t, tileT) {
          base[t] = t < nt ? lse[(n * H + h) * T + t0 + t] : 0;
          dot[t] = t < nt ? delta[(n * H + h) * T + t0 + t] : 0;
        }
        block_sync();
        tile_mul(W, tileT, K, P, Qt, tileT, ns, tileT, D, false);
        tile_mul(dS, tileT, V, P, dYt, tileT, ns, tileT, D, false);
        block_sync();
        for (long s = 0; s < ns; ++s) {
          EACH(t, tileT) {
            const real w = md::exp(W[s * tileT + t] - base[t]);
            W[s * tileT + t] = w;
            dS[s * tileT + t] = w * (dS[s * tileT + t] - dot[t]) * by;
          }
        }
        block_sync();
        if (dv) tile_mul(dV, P, W, tileT, dY, P, ns, P, nt, t0 > 0);
        if (dk) tile_mul(dK, P, dS, tileT, Q, P, ns, P, nt, t0 > 0);
        if (dq) {
          real *sum = work ? work + ((n * H + h) * T + t0) * P : dQ;
          tile_mul_t(sum, P, dS, tileT, K, P, nt, P, ns, s0 > 0);
          block_sync();
          if (s0 + ns == S) put(dq + (n * T + t0) * lddq + h * D, lddq, sum, P, nt, add_dq);
        }
        block_sync();
      }
      if (dk) put(dk + (n * S + s0) * lddk + h * D, lddk, dK, P, ns, add_dk);
      if (dv) put(dv + (n * S + s0) * lddv + h * D, lddv, dV, P, ns, add_dv);
      block_sync();
    }
  }
  MEMBER void put(act *to, long ld, const real *from, long P, long rows, long add) const {
    for (long i = 0; i < rows; ++i) {
      if (add) {
        EACH(d, D) store(to[i * ld + d], load(to[i * ld + d]) + from[i * P + d]);
      } else {
        EACH(d, D) store(to[i * ld + d], from[i * P + d]);
      }
    }
  }
};
KERNEL(attention_bwd)
