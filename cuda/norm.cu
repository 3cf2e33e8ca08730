// LayerNorm over C with adaLN modulation, gated residuals, and both in one pass; forward and backward.
// Parts: norm_fwd, norm_bwd, slice_sum, residual_fwd, residual_bwd, residual_norm_fwd, residual_norm_bwd.
// Forward blocks are rows. Backward blocks are slices of an image's rows: sums over rows stay inside a block
// as partial sums, no atomics.
#include "block.h"
#include "math.h"

FN real row_mean(const act *x, long C) {
  real s = 0;
  EACH_SUM(c, C, s) s += load(x[c]);
  return block_sum(s) / (real)C;
}

// 1/sqrt(var + eps) of one row, var by a second pass over the centred values.
FN real row_rstd(const act *x, long C, double eps, real mean) {
  real v = 0;
  EACH_SUM(c, C, v) v += (load(x[c]) - mean) * (load(x[c]) - mean);
  return (real)1 / md::sqrt(block_sum(v) / (real)C + (real)eps);
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
    const real m = row_mean(xr, C), r = row_rstd(xr, C, eps, m);
    if (TID == 0) mean[row] = m, rstd[row] = r;
    const act *scale_n = scale ? scale + n * ldmod : nullptr, *shift_n = shift ? shift + n * ldmod : nullptr;
    row_affine(xr, w, scale_n, shift_n, h + row * ldh, C, m, r);
  }
};
KERNEL(norm_fwd)

// Rows of a slice: backward blocks are slices of `span` rows of one image of T rows, so that few images
// still keep many cores busy. A slice leaves its sums over rows as partial sums.
struct slice {
  long image, first, last;
  MEMBER slice(long block, long T, long span) {
    const long slices = (T + span - 1) / span, at = block % slices * span;
    image = block / slices;
    first = image * T + at;
    last = first + (T - at < span ? T - at : span);
  }
};

// f = w (1 + scale), the factor of the normalised row; absent operands are 1 and 0.
FN void row_factor(const act *w, const act *scale, real *f, long C) {
  EACH(c, C) f[c] = 1;
  if (w) EACH(c, C) f[c] = load(w[c]);
  if (scale) EACH(c, C) f[c] *= 1 + load(scale[c]);
}

FN void clear(real *p, long C) { EACH(c, C) p[c] = 0; }

// With g = dh f: mean(g) and mean(g xhat) of one row. Adds the row to the sums over rows dot += dh xhat and
// sum += dh, from which come dw = dot (1 + scale), dscale = dot w, dshift = sum.
FN void row_grad(const act *x, const act *dh, const real *f, real *dot, real *sum, long C, real m, real r,
                 real &mean_g, real &mean_gx) {
  real sg = 0, sgx = 0;
  EACH_SUM(c, C, sg, sgx) {
    const real d = load(dh[c]), hat = (load(x[c]) - m) * r, g = d * f[c];
    sg += g;
    sgx += g * hat;
    dot[c] += d * hat;
    sum[c] += d;
  }
  mean_g = block_sum(sg) / (real)C;
  mean_gx = block_sum(sgx) / (real)C;
}

// Writes the partial sums of a slice; absent operands as above, absent results are not wanted.
FN void write_sums(const real *dot, const real *sum, const act *w, const act *scale, real *dw, real *dscale,
                   real *dshift, long C) {
  if (dw && scale) {
    EACH(c, C) dw[c] = dot[c] * (1 + load(scale[c]));
  } else if (dw) {
    EACH(c, C) dw[c] = dot[c];
  }
  if (dscale && w) {
    EACH(c, C) dscale[c] = dot[c] * load(w[c]);
  } else if (dscale) {
    EACH(c, C) dscale[c] = dot[c];
  }
  if (dshift) EACH(c, C) dshift[c] = sum[c];
}

// x, dh, dx [N, T, C]; dw, dscale, dshift [slices, C] partial sums. One block = one slice. Scratch: 3 C.
struct norm_bwd {
  const act *x, *w, *scale;
  const real *mean, *rstd;
  const act *dh;
  act *dx;
  real *dw, *dscale, *dshift;
  long C, T, span, ldx, ldmod, lddh, lddx, add_dx;
  BODY(long block) {
    const slice rows(block, T, span);
    if (!w && !scale && !dshift) {
      for (long row = rows.first; row < rows.last; ++row) {
        plain(x + row * ldx, dh + row * lddh, dx + row * lddx, mean[row], rstd[row]);
      }
      return;
    }
    real *f = scratch(real), *dot = f + C, *sum = dot + C;
    const act *scale_n = scale ? scale + rows.image * ldmod : nullptr;
    row_factor(w, scale_n, f, C);
    clear(dot, C);
    clear(sum, C);
    for (long row = rows.first; row < rows.last; ++row) {
      const act *xr = x + row * ldx, *dhr = dh + row * lddh;
      const real m = mean[row], r = rstd[row];
      real mg, mgx;
      row_grad(xr, dhr, f, dot, sum, C, m, r, mg, mgx);
      if (!dx) continue;
      act *out = dx + row * lddx;
      if (add_dx) {
        EACH(c, C) {
          const real hat = (load(xr[c]) - m) * r;
          store(out[c], load(out[c]) + r * (load(dhr[c]) * f[c] - mg - hat * mgx));
        }
      } else {
        EACH(c, C) {
          const real hat = (load(xr[c]) - m) * r;
          store(out[c], r * (load(dhr[c]) * f[c] - mg - hat * mgx));
        }
      }
    }
    write_sums(dot, sum, w, scale_n, dw ? dw + block * C : nullptr, dscale ? dscale + block * C : nullptr,
               dshift ? dshift + block * C : nullptr, C);
  }
  // A row of a norm without weight and modulation (q and k of attention).
  MEMBER void plain(const act *xr, const act *dhr, act *out, real m, real r) const {
    real sg = 0, sgx = 0;
    EACH_SUM(c, C, sg, sgx) {
      sg += load(dhr[c]);
      sgx += load(dhr[c]) * (load(xr[c]) - m);
    }
    const real mg = block_sum(sg) / (real)C, mgx = block_sum(sgx) * r * r / (real)C;
    if (add_dx) {
      EACH(c, C) store(out[c], load(out[c]) + r * (load(dhr[c]) - mg - (load(xr[c]) - m) * mgx));
    } else {
      EACH(c, C) store(out[c], r * (load(dhr[c]) - mg - (load(xr[c]) - m) * mgx));
    }
  }
};
KERNEL(norm_bwd)

// y[n] (+)= sum over the image's slices of partial. partial [N slices, C], y [N, C]. One block = one image.
// Scratch: C.
struct slice_sum {
  const real *partial;
  act *y;
  long C, slices, ldy, add_y;
  BODY(long n) {
    const real *from = partial + n * slices * C;
    act *to = y + n * ldy;
    real *sum = scratch(real);
    if (add_y) {
      EACH(c, C) sum[c] = load(to[c]);
    } else {
      clear(sum, C);
    }
    for (long s = 0; s < slices; ++s) EACH(c, C) sum[c] += from[s * C + c];
    EACH(c, C) store(to[c], sum[c]);
  }
};
KERNEL(slice_sum)

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

// dx = dy, da = gate[n] dy, dgate[n] = sum over rows of dy a, as partial sums [slices, C]. dx may be dy
// itself. One block = one slice.
struct residual_bwd {
  const act *a, *gate, *dy;
  act *dx, *da;
  real *dgate;
  long C, T, span, lda, ldmod, lddy, lddx, ldda, add_dx, add_da;
  BODY(long block) {
    const slice rows(block, T, span);
    const act *g = gate ? gate + rows.image * ldmod : nullptr;
    real *dg = dgate ? dgate + block * C : nullptr;
    if (dg) clear(dg, C);
    for (long row = rows.first; row < rows.last; ++row) {
      const act *dyr = dy + row * lddy;
      if (dg) {
        const act *ar = a + row * lda;
        EACH(c, C) dg[c] += load(dyr[c]) * load(ar[c]);
      }
      if (da) branch(dyr, g, da + row * ldda);
      if (!dx || dx == dy) continue;
      act *out = dx + row * lddx;
      if (add_dx) {
        EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]));
      } else {
        EACH(c, C) store(out[c], load(dyr[c]));
      }
    }
  }
  MEMBER void branch(const act *dyr, const act *g, act *out) const {
    if (add_da && g) {
      EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]) * load(g[c]));
    } else if (add_da) {
      EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]));
    } else if (g) {
      EACH(c, C) store(out[c], load(dyr[c]) * load(g[c]));
    } else {
      EACH(c, C) store(out[c], load(dyr[c]));
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
    real sum = 0;
    if (gate) {
      const act *g = gate + n * ldgate;
      EACH_SUM(c, C, sum) {
        store(yr[c], load(xr[c]) + load(g[c]) * load(ar[c]));
        sum += load(yr[c]);
      }
    } else {
      EACH_SUM(c, C, sum) {
        store(yr[c], load(xr[c]) + load(ar[c]));
        sum += load(yr[c]);
      }
    }
    const real m = block_sum(sum) / (real)C, r = row_rstd(yr, C, eps, m);
    if (TID == 0) mean[row] = m, rstd[row] = r;
    const act *scale_n = scale ? scale + n * ldmod : nullptr, *shift_n = shift ? shift + n * ldmod : nullptr;
    row_affine(yr, w, scale_n, shift_n, h + row * ldh, C, m, r);
  }
};
KERNEL(residual_norm_fwd)

// dx = dy + norm gradient of dh; da = gate[n] dx; dgate[n] = sum over rows of dx a. dx may be dy itself.
// dgate, dw, dscale, dshift [slices, C] partial sums. One block = one slice. Scratch: 5 C.
struct residual_norm_bwd {
  const act *y, *a, *gate, *w, *scale;
  const real *mean, *rstd;
  const act *dh, *dy;
  act *dx, *da;
  real *dgate, *dw, *dscale, *dshift;
  long C, T, span, ldy, lda, ldgate, ldmod, lddh, lddy, lddx, ldda, add_dx, add_da;
  BODY(long block) {
    const slice rows(block, T, span);
    real *f = scratch(real), *dot = f + C, *sum = dot + C, *g = sum + C, *dg = g + C;
    const act *scale_n = scale ? scale + rows.image * ldmod : nullptr;
    row_factor(w, scale_n, f, C);
    row_factor(gate ? gate + rows.image * ldgate : nullptr, nullptr, g, C);
    clear(dot, C);
    clear(sum, C);
    clear(dg, C);
    const bool usual = dy && dx && da && !add_dx && !add_da;
    for (long row = rows.first; row < rows.last; ++row) {
      const act *yr = y + row * ldy, *dhr = dh + row * lddh, *ar = a + row * lda;
      const act *dyr = dy ? dy + row * lddy : nullptr;
      act *dxr = dx ? dx + row * lddx : nullptr, *dar = da ? da + row * ldda : nullptr;
      const real m = mean[row], r = rstd[row];
      real mg, mgx;
      row_grad(yr, dhr, f, dot, sum, C, m, r, mg, mgx);
      if (usual && dgate) {
        EACH(c, C) {
          const real d = load(dyr[c]) + r * (load(dhr[c]) * f[c] - mg - (load(yr[c]) - m) * r * mgx);
          store(dar[c], d * g[c]);
          dg[c] += d * load(ar[c]);
          store(dxr[c], d);
        }
      } else if (usual && !gate) {
        EACH(c, C) {
          const real d = load(dyr[c]) + r * (load(dhr[c]) * f[c] - mg - (load(yr[c]) - m) * r * mgx);
          store(dar[c], d);
          store(dxr[c], d);
        }
      } else {
        EACH(c, C) {
          const real d =
              (dyr ? load(dyr[c]) : 0) + r * (load(dhr[c]) * f[c] - mg - (load(yr[c]) - m) * r * mgx);
          if (dar) store(dar[c], (add_da ? load(dar[c]) : 0) + d * g[c]);
          dg[c] += d * load(ar[c]);
          if (dxr) store(dxr[c], (add_dx ? load(dxr[c]) : 0) + d);
        }
      }
    }
    write_sums(dot, sum, w, scale_n, dw ? dw + block * C : nullptr, dscale ? dscale + block * C : nullptr,
               dshift ? dshift + block * C : nullptr, C);
    if (dgate) EACH(c, C) dgate[block * C + c] = dg[c];
  }
};
KERNEL(residual_norm_bwd)
