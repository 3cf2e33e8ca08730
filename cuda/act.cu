// Activations and the plain sum, forward and backward: gelu_tanh, gelu_erf, gelu_quick, relu, swiglu, add.
// Everything is seen as rows [rows, C], each operand with its own row distance. One block = `span` rows.
#include "block.h"
#include "math.h"

// Rows of a block; the last block may have fewer than `span`.
FN long rows_of_block(long rows, long span, long block) {
  const long left = rows - block * span;
  return left < span ? left : span;
}

// tanh form: x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3)
// (Hendrycks & Gimpel 2016, Sec. 2). The sigmoid costs one exponential and keeps small results exact.
FN real gelu_tanh_gate(real x) {
  return md::sigmoid(real(1.5957691216057308) * x * (1 + real(0.044715) * x * x));
}
FN real gelu_tanh_of(real x) { return x * gelu_tanh_gate(x); }
FN real gelu_tanh_slope(real x) {
  const real s = gelu_tanh_gate(x), du = real(1.5957691216057308) * (1 + real(0.134145) * x * x);
  return s + x * s * (1 - s) * du;
}

// erf(x / sqrt(2)). In float32 on the CPU the rational function that XLA and Eigen use: without an
// exponential, half the price of md::erf, off by 3.4e-7 at most (of the gate, so relative to x).
FN double gelu_erf_core(double x) { return md::erf(x * 0.7071067811865476); }
#if MD_CUDA
FN float gelu_erf_core(float x) { return md::erf(x * 0.707106781f); }
#else
FN float gelu_erf_core(float x) {
  float t = x * 0.707106781f;
  t = t < -4.0f ? -4.0f : t;
  t = t > 4.0f ? 4.0f : t;
  const float s = t * t;
  float p = -2.72614225e-10f, q = -1.45660718e-5f;
  p = __builtin_fmaf(p, s, 2.77068142e-8f);
  p = __builtin_fmaf(p, s, -2.10102402e-6f);
  p = __builtin_fmaf(p, s, -5.69250639e-5f);
  p = __builtin_fmaf(p, s, -7.34990631e-4f);
  p = __builtin_fmaf(p, s, -2.95459981e-3f);
  p = __builtin_fmaf(p, s, -1.60960333e-2f);
  q = __builtin_fmaf(q, s, -2.13374055e-4f);
  q = __builtin_fmaf(q, s, -1.68282697e-3f);
  q = __builtin_fmaf(q, s, -7.37332917e-3f);
  q = __builtin_fmaf(q, s, -1.42647391e-2f);
  return p * t / q;
}
#endif

// erf form: x Phi(x), Phi the distribution function of the normal law
FN real gelu_erf_of(real x) { return real(0.5) * x * (1 + gelu_erf_core(x)); }
FN real gelu_erf_slope(real x) {
  const real density = real(0.3989422804014327) * md::exp(real(-0.5) * x * x);
  return real(0.5) * (1 + gelu_erf_core(x)) + x * density;
}

// x sigmoid(1.702 x), the form that the first CLIPs were trained with
FN real gelu_quick_of(real x) { return x * md::sigmoid(real(1.702) * x); }
FN real gelu_quick_slope(real x) {
  const real s = md::sigmoid(real(1.702) * x);
  return s + real(1.702) * x * s * (1 - s);
}

// y = gelu(x)
struct gelu_tanh_fwd {
  const act *x;  // [rows, C]
  act *y;        // [rows, C]
  long rows, C, span, ldx, ldy;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx;
      act *yr = y + row * ldy;
      map(yr, C, [](real v) { return gelu_tanh_of(v); }, xr);
    }
  }
};
KERNEL(gelu_tanh_fwd)

// dx = dy gelu'(x). dx may be dy itself.
struct gelu_tanh_bwd {
  const act *x, *dy;  // [rows, C]
  act *dx;            // [rows, C]
  long rows, C, span, ldx, lddy, lddx, add_dx;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx, *dyr = dy + row * lddy;
      act *out = dx + row * lddx;
      if (add_dx) {
        EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]) * gelu_tanh_slope(load(xr[c])));
      } else {
        map(out, C, [](real v, real d) { return d * gelu_tanh_slope(v); }, xr, dyr);
      }
    }
  }
};
KERNEL(gelu_tanh_bwd)

// y = gelu(x)
struct gelu_erf_fwd {
  const act *x;  // [rows, C]
  act *y;        // [rows, C]
  long rows, C, span, ldx, ldy;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx;
      act *yr = y + row * ldy;
      map(yr, C, [](real v) { return gelu_erf_of(v); }, xr);
    }
  }
};
KERNEL(gelu_erf_fwd)

// dx = dy gelu'(x). dx may be dy itself.
struct gelu_erf_bwd {
  const act *x, *dy;  // [rows, C]
  act *dx;            // [rows, C]
  long rows, C, span, ldx, lddy, lddx, add_dx;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx, *dyr = dy + row * lddy;
      act *out = dx + row * lddx;
      if (add_dx) {
        EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]) * gelu_erf_slope(load(xr[c])));
      } else {
        map(out, C, [](real v, real d) { return d * gelu_erf_slope(v); }, xr, dyr);
      }
    }
  }
};
KERNEL(gelu_erf_bwd)

// y = gelu(x)
struct gelu_quick_fwd {
  const act *x;  // [rows, C]
  act *y;        // [rows, C]
  long rows, C, span, ldx, ldy;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx;
      act *yr = y + row * ldy;
      EACH(c, C) store(yr[c], gelu_quick_of(load(xr[c])));
    }
  }
};
KERNEL(gelu_quick_fwd)

// dx = dy gelu'(x). dx may be dy itself.
struct gelu_quick_bwd {
  const act *x, *dy;  // [rows, C]
  act *dx;            // [rows, C]
  long rows, C, span, ldx, lddy, lddx, add_dx;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx, *dyr = dy + row * lddy;
      act *out = dx + row * lddx;
      if (add_dx) {
        EACH(c, C) store(out[c], load(out[c]) + load(dyr[c]) * gelu_quick_slope(load(xr[c])));
      } else {
        EACH(c, C) store(out[c], load(dyr[c]) * gelu_quick_slope(load(xr[c])));
      }
    }
  }
};
KERNEL(gelu_quick_bwd)

// y = max(x, 0); a NaN stays one
struct relu_fwd {
  const act *x;  // [rows, C]
  act *y;        // [rows, C]
  long rows, C, span, ldx, ldy;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx;
      act *yr = y + row * ldy;
      EACH(c, C) {
        const real v = load(xr[c]);
        store(yr[c], v < 0 ? real(0) : v);
      }
    }
  }
};
KERNEL(relu_fwd)

// dx = dy where x > 0. dx may be dy itself.
struct relu_bwd {
  const act *x, *dy;  // [rows, C]
  act *dx;            // [rows, C]
  long rows, C, span, ldx, lddy, lddx, add_dx;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *xr = x + row * ldx, *dyr = dy + row * lddy;
      act *out = dx + row * lddx;
      EACH(c, C) {
        const real slope = load(xr[c]) > 0 ? load(dyr[c]) : real(0);
        store(out[c], add_dx ? load(out[c]) + slope : slope);
      }
    }
  }
};
KERNEL(relu_bwd)

// y = silu(a) b, silu(a) = a sigmoid(a)
struct swiglu_fwd {
  const act *a, *b;  // [rows, C]
  act *y;            // [rows, C]
  long rows, C, span, lda, ldb, ldy;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *ar = a + row * lda, *br = b + row * ldb;
      act *yr = y + row * ldy;
      map(yr, C, [](real a, real b) { return a * md::sigmoid(a) * b; }, ar, br);
    }
  }
};
KERNEL(swiglu_fwd)

// da = dy b s (1 + a (1 - s)), s = sigmoid(a); db = dy a s
struct swiglu_bwd {
  const act *a, *b, *dy;  // [rows, C]
  act *da, *db;           // [rows, C]
  long rows, C, span, lda, ldb, lddy, ldda, lddb, add_da, add_db;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *ar = a + row * lda, *br = b + row * ldb, *dyr = dy + row * lddy;
      act *dar = da ? da + row * ldda : nullptr, *dbr = db ? db + row * lddb : nullptr;
      if (dar && dbr && !add_da && !add_db) {
        EACH(c, C) {
          const real x = load(ar[c]), s = md::sigmoid(x), g = load(dyr[c]);
          store(dar[c], g * load(br[c]) * s * (1 + x * (1 - s)));
          store(dbr[c], g * x * s);
        }
        continue;
      }
      EACH(c, C) {
        const real x = load(ar[c]), s = md::sigmoid(x), g = load(dyr[c]);
        if (dar) store(dar[c], (add_da ? load(dar[c]) : 0) + g * load(br[c]) * s * (1 + x * (1 - s)));
        if (dbr) store(dbr[c], (add_db ? load(dbr[c]) : 0) + g * x * s);
      }
    }
  }
};
KERNEL(swiglu_bwd)

// y = a + b
struct add_fwd {
  const act *a, *b;  // [rows, C]
  act *y;            // [rows, C]
  long rows, C, span, lda, ldb, ldy;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      const act *ar = a + row * lda, *br = b + row * ldb;
      act *yr = y + row * ldy;
      EACH(c, C) store(yr[c], load(ar[c]) + load(br[c]));
    }
  }
};
KERNEL(add_fwd)

// da = dy, db = dy. Where a and b are one tensor, db is added after da is set.
struct add_bwd {
  const act *dy;  // [rows, C]
  act *da, *db;   // [rows, C]
  long rows, C, span, lddy, ldda, lddb, add_da, add_db;
  BODY(long block) {
    const long first = block * span, end = first + rows_of_block(rows, span, block);
    for (long row = first; row < end; ++row) {
      pass(dy + row * lddy, da ? da + row * ldda : nullptr, add_da);
      pass(dy + row * lddy, db ? db + row * lddb : nullptr, add_db);
    }
  }
  MEMBER void pass(const act *from, act *to, long add) const {
    if (!to) return;
    if (add) {
      EACH(c, C) store(to[c], load(to[c]) + load(from[c]));
    } else {
      EACH(c, C) store(to[c], load(from[c]));
    }
  }
};
KERNEL(add_bwd)
