// Windows that move over images [N, H, W, C], kh x kw pixels, `stride` apart, the first of them padH rows and
// padW columns outside of the image. Parts: windows (as rows of a matrix), max_pool, mean_pool.
#include "block.h"

// y[(n, o, p), (i, j, c)] = x[n, o stride + i - padH, p stride + j - padW, c], 0 outside of the image; rows
// of y from `first` on, counted over all images. One block = `span` rows.
struct windows {
  const act *x;  // [N, H, W, C]
  act *y;        // [rows, kh kw C]
  long C, H, W, Ho, Wo, kh, kw, stride, padH, padW, first, rows, span, ldy;
  BODY(long block) {
    const long begin = block * span, end = rows - begin < span ? rows : begin + span;
    for (long row = begin; row < end; ++row) {
      const long at = first + row, p = at % Wo, o = at / Wo % Ho, n = at / Wo / Ho;
      const long left = p * stride - padW;
      // Columns of the window that lie in the image, and its numbers before, in and behind them.
      const long skip = left < 0 ? -left : 0, stop = W - left < kw ? W - left : kw;
      const long lead = skip * C, run = (stop - skip) * C, tail = (kw - stop) * C;
      act *to = y + row * ldy;
      for (long i = 0; i < kh; ++i, to += kw * C) {
        const long v = o * stride + i - padH;
        if (v < 0 || v >= H) {
          EACH(c, kw * C) store(to[c], 0);
          continue;
        }
        const act *from = x + ((n * H + v) * W + left + skip) * C;
        EACH(c, lead) store(to[c], 0);
        EACH(c, run) to[lead + c] = from[c];
        EACH(c, tail) store(to[lead + run + c], 0);
      }
    }
  }
};
KERNEL(windows)

// What pools do with the pixels of a window that lie in the image, channel by channel.
struct pool_max {
  static MEMBER real first() { return -INFINITY; }
  static MEMBER real join(real a, real b) { return b > a || b != b ? b : a; }
  static MEMBER real last(real a, long) { return a; }
};
struct pool_mean {
  static MEMBER real first() { return 0; }
  static MEMBER real join(real a, real b) { return a + b; }
  static MEMBER real last(real a, long pixels) { return a / real(pixels); }
};

// One row of y's pixels; `held` is scratch for the C numbers of one of them.
template <class Pool, class Fields> FN void pool_row(const Fields &f, long row, real *held) {
  const long n = row / f.Ho, top = row % f.Ho * f.stride - f.pad;
  const long v0 = top < 0 ? 0 : top, v1 = top + f.k < f.H ? top + f.k : f.H;
  for (long p = 0; p < f.Wo; ++p) {
    const long left = p * f.stride - f.pad;
    const long u0 = left < 0 ? 0 : left, u1 = left + f.k < f.W ? left + f.k : f.W;
    EACH(c, f.C) held[c] = Pool::first();
    for (long v = v0; v < v1; ++v) {
      for (long u = u0; u < u1; ++u) {
        const act *from = f.x + ((n * f.H + v) * f.W + u) * f.C;
        EACH(c, f.C) held[c] = Pool::join(held[c], load(from[c]));
      }
    }
    act *to = f.y + (row * f.Wo + p) * f.ldy;
    EACH(c, f.C) store(to[c], Pool::last(held[c], (v1 - v0) * (u1 - u0)));
  }
}

// y[n, o, p, c] = the largest number of the window of channel c. One block = one row of y's pixels.
struct max_pool {
  const act *x;  // [N, H, W, C]
  act *y;        // [N, Ho, Wo, C]
  long C, H, W, Ho, Wo, k, stride, pad, ldy;
  BODY(long row) { pool_row<pool_max>(*this, row, scratch(real)); }
};
KERNEL(max_pool)

// y[n, o, p, c] = the mean of the window of channel c. One block = one row of y's pixels.
struct mean_pool {
  const act *x;  // [N, H, W, C]
  act *y;        // [N, Ho, Wo, C]
  long C, H, W, Ho, Wo, k, stride, pad, ldy;
  BODY(long row) { pool_row<pool_mean>(*this, row, scratch(real)); }
};
KERNEL(mean_pool)
