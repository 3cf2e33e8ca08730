// Moving rows: kept tokens, mean over tokens, positions, caption dropout, guidance constant, words.
// Parts: gather_rows (+ bwd), keep_slots, mean_tokens (+ bwd), add_rows (+ bwd), scale_images,
// append_constant, lookup_words (+ bwd). One block alone writes an element: no atomics, equal repeats.
#include "block.h"

// to = from, or to += from
FN void move_row(act *to, const act *from, long C, bool add) {
  if (add) {
    EACH(c, C) store(to[c], load(to[c]) + load(from[c]));
  } else {
    EACH(c, C) to[c] = from[c];
  }
}

// y[n, k] = x[n, ids[n, k]]      x [N, T, C]; ids [N, K]; y [N, K, C]. One block = one row of y.
struct gather_rows {
  const act *x;
  const i32 *ids;
  act *y;
  long C, T, K, ldx, ldy;
  BODY(long row) {
    move_row(y + row * ldy, x + (row / K * T + ids[row]) * ldx, C, false);
  }
};
KERNEL(gather_rows)

// dx[n, t] = dy[n, slots[n, t]], or 0 where the token was dropped. dy [N, K, C]; dx [N, T, C].
// One block = one row of dx.
struct gather_rows_bwd {
  const i32 *slots;
  const act *dy;
  act *dx;
  long C, T, K, lddy, lddx, add_dx;
  BODY(long row) {
    const long slot = slots[row];
    act *to = dx + row * lddx;
    if (slot >= 0) {
      move_row(to, dy + (row / T * K + slot) * lddy, C, add_dx);
    } else if (!add_dx) {
      EACH(c, C) store(to[c], 0);
    }
  }
};
KERNEL(gather_rows_bwd)

// slots[n, t] = k where ids[n, k] = t, else -1. The ids of an image are distinct. One block = one image.
struct keep_slots {
  const i32 *ids;
  i32 *slots;
  long K, T;
  BODY(long n) {
    i32 *of = slots + n * T;
    EACH(t, T) of[t] = -1;
    block_sync();
    EACH(k, K) of[ids[n * K + k]] = (i32)k;
  }
};
KERNEL(keep_slots)

// y[n] = mean over s of x[n, s]      x [N, S, C]; y [N, C]. One block = one image; scratch: C sums.
struct mean_tokens {
  const act *x;
  act *y;
  long C, S, ldx, ldy;
  BODY(long n) {
    real *sum = scratch(real);
    EACH(c, C) sum[c] = 0;
    for (long s = 0; s < S; ++s) {
      const act *row = x + (n * S + s) * ldx;
      EACH(c, C) sum[c] += load(row[c]);
    }
    act *to = y + n * ldy;
    EACH(c, C) store(to[c], sum[c] / (real)S);
  }
};
KERNEL(mean_tokens)

// dx[n, s] = dy[n] / S. One block = one row of dx.
struct mean_tokens_bwd {
  const act *dy;
  act *dx;
  long C, S, lddy, lddx, add_dx;
  BODY(long row) {
    const act *from = dy + row / S * lddy;
    act *to = dx + row * lddx;
    if (add_dx) {
      EACH(c, C) store(to[c], load(to[c]) + load(from[c]) / (real)S);
    } else {
      EACH(c, C) store(to[c], load(from[c]) / (real)S);
    }
  }
};
KERNEL(mean_tokens_bwd)

// y[n, t] = x[n, t] + pos[t]      x, y [N, T, C]; pos [T, C]. One block = one row.
struct add_rows {
  const act *x, *pos;
  act *y;
  long C, T, ldx, ldpos, ldy;
  BODY(long row) {
    const act *from = x + row * ldx, *place = pos + row % T * ldpos;
    act *to = y + row * ldy;
    EACH(c, C) store(to[c], load(from[c]) + load(place[c]));
  }
};
KERNEL(add_rows)

// dx = dy. dx may be dy itself. One block = one row.
struct add_rows_bwd {
  const act *dy;
  act *dx;
  long C, lddy, lddx, add_dx;
  BODY(long row) {
    if (dx != dy) move_row(dx + row * lddx, dy + row * lddy, C, add_dx);
  }
};
KERNEL(add_rows_bwd)

// z[n, r] = y[n, r] keep[n]   y, z [N, R, C]; keep [N]. Also its own gradient, dy of dz. One block = one row.
struct scale_images {
  const act *y;
  const real *keep;
  act *z;
  long C, R, ldy, ldz, add_z;
  BODY(long row) {
    const act *from = y + row * ldy;
    act *to = z + row * ldz;
    const real k = keep[row / R];
    if (add_z) {
      EACH(c, C) store(to[c], load(to[c]) + load(from[c]) * k);
    } else {
      EACH(c, C) store(to[c], load(from[c]) * k);
    }
  }
};
KERNEL(scale_images)

// y[n] = a[n] for n < N, and v in every row for N <= n < 2 N. a [N, T, C]; v [C]. One block = one row of y.
struct append_constant {
  const act *a, *v;
  act *y;
  long C, rows, lda, ldy;
  BODY(long row) { move_row(y + row * ldy, row < rows ? a + row * lda : v, C, false); }
};
KERNEL(append_constant)

// y[n, s] = table[ids[n, s, 0]] + table[ids[n, s, 1]] + pos[s]; a negative second id adds nothing, a negative
// first id gives zeros. table [V, C]; ids [N, S, 2]; pos [S, C]; y [N, S, C]. One block = one row of y.
struct lookup_words {
  const act *table;
  const i32 *ids;
  const act *pos;
  act *y;
  long C, S, ldtable, ldpos, ldy;
  BODY(long row) {
    const long first = ids[2 * row], second = ids[2 * row + 1];
    act *to = y + row * ldy;
    if (first < 0) {
      EACH(c, C) store(to[c], 0);
      return;
    }
    const act *a = table + first * ldtable, *b = second < 0 ? nullptr : table + second * ldtable;
    const act *place = pos ? pos + row % S * ldpos : nullptr;
    EACH(c, C) store(to[c], load(a[c]) + (b ? load(b[c]) : 0) + (place ? load(place[c]) : 0));
  }
};
KERNEL(lookup_words)

// dtable[v] = sum of dy over the words v, dpos[s] = sum over n of dy[n, s]. One block = `span` columns.
struct lookup_words_bwd {
  const i32 *ids;
  const act *dy;
  real *dtable, *dpos;
  long C, N, S, V, span, lddy, lddtable, lddpos, add_dtable, add_dpos;
  BODY(long block) {
    const long from = block * span, n = C - from < span ? C - from : span;
    if (dtable && !add_dtable)
      for (long v = 0; v < V; ++v) EACH(c, n) dtable[v * lddtable + from + c] = 0;
    if (dpos && !add_dpos)
      for (long s = 0; s < S; ++s) EACH(c, n) dpos[s * lddpos + from + c] = 0;
    for (long row = 0; row < N * S; ++row) {
      const long first = ids[2 * row], second = ids[2 * row + 1];
      if (first < 0) continue;
      const act *d = dy + row * lddy + from;
      if (dtable) {
        real *a = dtable + first * lddtable + from;
        EACH(c, n) a[c] += load(d[c]);
        if (second >= 0) {
          real *b = dtable + second * lddtable + from;
          EACH(c, n) b[c] += load(d[c]);
        }
      }
      if (dpos) {
        real *p = dpos + row % S * lddpos + from;
        EACH(c, n) p[c] += load(d[c]);
      }
    }
  }
};
KERNEL(lookup_words_bwd)
