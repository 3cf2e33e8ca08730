// LayerNorm over C with adaLN modulation, gated residuals, and both in one pass; forward and backward.
// Parts: norm_fwd, norm_bwd, residual_fwd, residual_bwd, residual_norm_fwd, residual_norm_bwd.
// Forward blocks are rows. Backward blocks are images of T rows: sums over rows stay inside a block, no
// atomics.
#include "block.h"
#include "math.h"

// mean and 1/sqrt(var + eps) of one row, var by a second pass over the centred values.
FN void row_stats(const act *x, long C, double eps, real &mean, real &rstd) {
  real s = 0;
  EACH_SUM(c, C, s) s += load(x[c]);
  mean = block_sum(s) / (real)C;
  const real m = mean;
  real v = 0;
  EACH_SUM(c, C, v) v += (load(x[c]) - m) * (load(x[c]) - m);
  rstd = (real)1 / md::sqrt(block_sum(v) / (real)C + (real)eps);
}

// h = xhat * w * (1 + scale) + shift; absent operands are 1, 0 and 0.
FN void row_affine(const act *x, const act *w, const act *scale, const act *shift, act *h, long C,
                          real mean, real rstd) {
  if (w && scale && shift) {
    EACH(c, C) store(h[c], (load(x[c]) - mean) * rstd * load(w[c]) * (1 + load(scale[c])) + load(shift[c]));
  } else if (w && !scale && !shift) {
    EACH(c, C) store(h[c], (load(x[c]) - mean) * rstd * load(w[c]));
  } else if (!w && !scale && !shift) {
    EACH(c, C) store(h[c], (load(x[c]) - mean) * rstd);
  } else {
    EACH(c, C) {
      const real g = (w ? load(w[c]) : 1) * (1 + (scale ? load(scale[c]) : 0));
      store(h[c], (load(x[c]) - mean) * rstd * g + (shift ? load(shift[c]) : 0));
    }
  }
}

// x, h [N, T, C]; w [C]; scale, shift [N, C]; mean, rstd [N, T]
struct norm_fwd {
  const act *x, *w, *scale, *shift;
  act *h;
  real *mean, *rstd;
  long C, T, ldx, ldh, ldmod;
  double eps;
  BODY(long row) {
    const act *xr = x + row * ldx;
    const long n = row / T;
    real m, r;
    row_stats(xr, C, eps, m, r);
    if (TID == 0) mean[row] = m, rstd[row] = r;
    const act *scale_n = scale ? scale + n * ldmod : nullptr, *shift_n = shift ? shift + n * ldmod : nullptr;
    row_affine(xr, w, scale_n, shift_n, h + row * ldh, C, m, r);
  }
};
KERNEL(norm_fwd)

// The two sums of one row's norm gradient: mean(g) and mean(g xhat), g = dh w (1 + scale).
FN void row_grad_means(const act *x, const act *w, const act *scale, const act *dh, long C, real m, real r,
                              real &mean_g, real &mean_gx) {
  real sg = 0, sgx = 0;
  if (w && scale) {
    EACH_SUM(c, C, sg, sgx) {
      const real g = load(dh[c]) * load(w[c]) * (1 + load(scale[c]));
      sg += g;
      sgx += g * (load(x[c]) - m);
    }
  } else if (w) {
    EACH_SUM(c, C, sg, sgx) {
      const real g = load(dh[c]) * load(w[c]);
      sg += g;
      sgx += g * (load(x[c]) - m);
    }
  } else {
    EACH_SUM(c, C, sg, sgx) {
      const real g = load(dh[c]) * (scale ? 1 + load(scale[c]) : 1);
      sg += g;
      sgx += g * (load(x[c]) - m);
    }
  }
  mean_g = block_sum(sg) / (real)C;
  mean_gx = block_sum(sgx) * r / (real)C;
}

// Adds one row to the sums over rows: dw += dh (1 + scale) xhat, dscale += dh w xhat, dshift += dh.
FN void row_grad_sums(const act *x, const act *w, const act *scale, const act *dh, real *dw, act *dscale,
                             act *dshift, long C, real m, real r) {
  if (dw && dscale && dshift) {
    EACH(c, C) {
      const real d = load(dh[c]), dx = d * (load(x[c]) - m) * r;
      dw[c] += dx * (1 + load(scale[c]));
      store(dscale[c], load(dscale[c]) + dx * load(w[c]));
      store(dshift[c], load(dshift[c]) + d);
    }
    return;
  }
  if (dw) EACH(c, C) dw[c] += load(dh[c]) * (load(x[c]) - m) * r * (scale ? 1 + load(scale[c]) : 1);
  if (dscale) {
    EACH(c, C) {
      const real dx = load(dh[c]) * (load(x[c]) - m) * r;
      store(dscale[c], load(dscale[c]) + dx * (w ? load(w[c]) : 1));
    }
  }
  if (dshift) EACH(c, C) store(dshift[c], load(dshift[c]) + load(dh[c]));
}

FN void zero_unless(bool keep, act *p, long C) {
  if (p && !keep) EACH(c, C) store(p[c], 0);
}

// x, dh, dx [N, T, C]; dw [N, C] partial sums; dscale, dshift [N, C]
struct norm_bwd {
  const act *x, *w, *scale;
  const real *mean, *rstd;
  const act *dh;
  act *dx;
  real *dw;
  act *dscale, *dshift;
  long C, T, ldx, ldmod, lddh, lddx, lddmod, add_dx, add_dmod;
  BODY(long n) {
    const act *sc = scale ? scale + n * ldmod : nullptr;
    act *ds = dscale ? dscale + n * lddmod : nullptr, *db = dshift ? dshift + n * lddmod : nullptr;
    real *dwn = dw ? dw + n * C : nullptr;
    if (dwn) EACH(c, C) dwn[c] = 0;
    zero_unless(add_dmod, ds, C);
    zero_unless(add_dmod, db, C);
    for (long row = n * T; row < (n + 1) * T; ++row) {
      const act *xr = x + row * ldx, *dhr = dh + row * lddh;
      const real m = mean[row], r = rstd[row];
      row_grad_sums(xr, w, sc, dhr, dwn, ds, db, C, m, r);
      if (!dx) continue;
      real mg, mgx;
      row_grad_means(xr, w, sc, dhr, C, m, r, mg, mgx);
      act *out = dx + row * lddx;
      if (add_dx) {
        EACH(c, C) {
          const real g = load(dhr[c]) * (w ? load(w[c]) : 1) * (sc ? 1 + load(sc[c]) : 1);
          store(out[c], load(out[c]) + r * (g - mg - (load(xr[c]) - m) * r * mgx));
        }
      } else {
        EACH(c, C) {
          const real g = load(dhr[c]) * (w ? load(w[c]) : 1) * (sc ? 1 + load(sc[c]) : 1);
          store(out[c], r * (g - mg - (load(xr[c]) - m) * r * mgx));
        }
      }
    }
  }
};
KERNEL(norm_bwd)

// y = x + gate[n] a                x, a, y [N, T, C]; gate [N, C]
struct residual_fwd {
  const act *x, *a, *gate;
  act *y;
  long C, T, ldx, lda, ldy, ldmod;
  BODY(long row) {
    const act *xr = x + row * ldx, *ar = a + row * lda;
    act *yr = y + row * ldy;
    if (gate) {
      const act *g = gate + row / T * ldmod;
      EACH(c, C) store(yr[c], load(xr[c]) + load(g[c]) * load(ar[c]));
    } else {
      EACH(c, C) store(yr[c], load(xr[c]) + load(ar[c]));
    }
  }
};
KERNEL(residual_fwd)

// dx = dy, da = gate[n] dy, dgate[n] = sum over rows of dy a. dx may be dy itself.
struct residual_bwd {
  const act *a, *gate, *dy;
  act *dx, *da, *dgate;
  long C, T, lda, ldmod, lddy, lddx, ldda, lddmod, add_dx, add_da, add_dgate;
  BODY(long n) {
    const act *g = gate ? gate + n * ldmod : nullptr;
    act *dg = dgate ? dgate + n * lddmod : nullptr;
    zero_unless(add_dgate, dg, C);
    for (long row = n * T; row < (n + 1) * T; ++row) {
      const act *ar = a + row * lda, *dyr = dy + row * lddy;
      if (dg) EACH(c, C) store(dg[c], load(dg[c]) + load(dyr[c]) * load(ar[c]));
      if (da) {
        act *out = da + row * ldda;
        if (add_da) {
          EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]) * (g ? load(g[c]) : 1));
        } else {
          EACH(c, C) store(out[c], load(dyr[c]) * (g ? load(g[c]) : 1));
        }
      }
      if (dx && dx != dy) {
        act *out = dx + row * lddx;
        if (add_dx) {
          EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]));
        } else {
          EACH(c, C) store(out[c], load(dyr[c]));
        }
      }
    }
  }
};
KERNEL(residual_bwd)

// y = x + gate[n] a; h = norm(y) w (1 + scale[n]) + shift[n]
struct residual_norm_fwd {
  const act *x, *a, *gate, *w, *scale, *shift;
  act *y, *h;
  real *mean, *rstd;
  long C, T, ldx, lda, ldgate, ldmod, ldy, ldh;
  double eps;
  BODY(long row) {
    const long n = row / T;
    const act *xr = x + row * ldx, *ar = a + row * lda;
    act *yr = y + row * ldy;
    if (gate) {
      const act *g = gate + n * ldgate;
      EACH(c, C) store(yr[c], load(xr[c]) + load(g[c]) * load(ar[c]));
    } else {
      EACH(c, C) store(yr[c], load(xr[c]) + load(ar[c]));
    }
    block_sync();
    real m, r;
    row_stats(yr, C, eps, m, r);
    if (TID == 0) mean[row] = m, rstd[row] = r;
    const act *scale_n = scale ? scale + n * ldmod : nullptr, *shift_n = shift ? shift + n * ldmod : nullptr;
    row_affine(yr, w, scale_n, shift_n, h + row * ldh, C, m, r);
  }
};
KERNEL(residual_norm_fwd)

// dx = dy + norm gradient of dh; da = gate[n] dx; dgate[n] = sum over rows of dx a. dx may be dy itself.
struct residual_norm_bwd {
  const act *y, *a, *gate, *w, *scale;
  const real *mean, *rstd;
  const act *dh, *dy;
  act *dx, *da, *dgate;
  real *dw;
  act *dscale, *dshift;
  long C, T, ldy, lda, ldgate, ldmod, lddh, lddy, lddx, ldda, lddgate, lddmod;
  long add_dx, add_da, add_dgate, add_dmod;
  BODY(long n) {
    const act *sc = scale ? scale + n * ldmod : nullptr, *g = gate ? gate + n * ldgate : nullptr;
    act *ds = dscale ? dscale + n * lddmod : nullptr, *db = dshift ? dshift + n * lddmod : nullptr;
    act *dg = dgate ? dgate + n * lddgate : nullptr;
    real *dwn = dw ? dw + n * C : nullptr;
    if (dwn) EACH(c, C) dwn[c] = 0;
    zero_unless(add_dmod, ds, C);
    zero_unless(add_dmod, db, C);
    zero_unless(add_dgate, dg, C);
    for (long row = n * T; row < (n + 1) * T; ++row) {
      const act *yr = y + row * ldy, *dhr = dh + row * lddh, *ar = a + row * lda;
      const act *dyr = dy ? dy + row * lddy : nullptr;
      const real m = mean[row], r = rstd[row];
      row_grad_sums(yr, w, sc, dhr, dwn, ds, db, C, m, r);
      real mg, mgx;
      row_grad_means(yr, w, sc, dhr, C, m, r, mg, mgx);
      act *dxr = dx ? dx + row * lddx : nullptr, *dar = da ? da + row * ldda : nullptr;
      EACH(c, C) {
        const real go = load(dhr[c]) * (w ? load(w[c]) : 1) * (sc ? 1 + load(sc[c]) : 1);
        const real d = (dyr ? load(dyr[c]) : 0) + r * (go - mg - (load(yr[c]) - m) * r * mgx);
        if (dar) store(dar[c], (add_da ? load(dar[c]) : 0) + d * (g ? load(g[c]) : 1));
        if (dg) store(dg[c], load(dg[c]) + d * load(ar[c]));
        if (dxr) store(dxr[c], (add_dx ? load(dxr[c]) : 0) + d);
      }
    }
  }
};
KERNEL(residual_norm_bwd)
