// Convolutions over images whose channels lie together, [rows of the image, W, C].
// Parts: im2col (windows of an image as rows of a matrix), conv and conv_bias (a convolution as a whole),
// planes_to_rows, rows_to_planes.
#include "block.h"

// y[(o, w), (i, j, c)] = x[o stride + i - pad, w stride + j - pad, c], 0 outside of the image; output rows o
// from `first` on. x holds some rows of an image of H rows, the first of them row `base`. `up` 2: the image
// is seen twice as large, every pixel four times (nearest). One block = `span` pixels of one output row.
struct im2col {
  const act *x;  // [.., W, C]
  act *y;        // [rows, Wo, k k C]
  long C, H, W, Wo, base, first, k, stride, pad, up, span, ldx, ldy;
  BODY(long block) {
    const long groups = (Wo + span - 1) / span, row = block / groups, begin = block % groups * span;
    const long end = Wo - begin < span ? Wo : begin + span;
    for (long w = begin; w < end; ++w) {
      act *to = y + (row * Wo + w) * ldy;
      for (long i = 0; i < k; ++i) {
        const long v = (first + row) * stride + i - pad;
        for (long j = 0; j < k; ++j, to += C) {
          const long u = w * stride + j - pad;
          if (v >= 0 && v < H * up && u >= 0 && u < W * up) {
            const act *from = x + ((v / up - base) * W + u / up) * ldx;
            EACH(c, C) to[c] = from[c];
          } else {
            EACH(c, C) store(to[c], 0);
          }
        }
      }
    }
  }
};
KERNEL(im2col)

// y = x convolved with w: sums over windows of k x k pixels, `stride` apart, the first of them `pad` pixels
// before the image; zeros outside. The plain form, one sum after the other: where a library (cuDNN) or bands
// of products take its place, they are compared with this. One block = `span` pixels of an output row.
struct conv {
  const act *x;  // [N, H, W, C]
  const act *w;  // [Co, k, k, C]
  act *y;        // [N, Ho, Wo, Co]
  long N, H, W, C, Ho, Wo, Co, k, stride, pad, span;
  BODY(long block) {
    const long groups = (Wo + span - 1) / span, row = block / groups, begin = block % groups * span;
    const long end = Wo - begin < span ? Wo : begin + span, n = row / Ho, top = row % Ho * stride - pad;
    for (long p = begin; p < end; ++p) {
      const long left = p * stride - pad;
      EACH(o, Co) {
        real sum = 0;
        for (long i = 0; i < k; ++i) {
          for (long j = 0; j < k; ++j) {
            const long v = top + i, u = left + j;
            if (v < 0 || v >= H || u < 0 || u >= W) continue;
            const act *from = x + ((n * H + v) * W + u) * C, *by = w + ((o * k + i) * k + j) * C;
            for (long c = 0; c < C; ++c) sum += load(from[c]) * load(by[c]);
          }
        }
        store(y[(row * Wo + p) * Co + o], sum);
      }
    }
  }
};
KERNEL(conv)

// y = x + bias, added to y where `accumulate` is 1. One block = `span` pixels.
struct conv_bias {
  const act *x;     // [pixels, C]
  const act *bias;  // [C]
  act *y;           // [pixels, C]
  long C, pixels, accumulate, span;
  BODY(long block) {
    const long begin = block * span, end = pixels - begin < span ? pixels : begin + span;
    for (long p = begin; p < end; ++p) {
      const act *from = x + p * C;
      act *to = y + p * C;
      if (accumulate) {
        EACH(c, C) store(to[c], load(to[c]) + (load(from[c]) + load(bias[c])));
      } else {
        EACH(c, C) store(to[c], load(from[c]) + load(bias[c]));
      }
    }
  }
};
KERNEL(conv_bias)

// y[n, h, w, c] = x[n, c, h, w]. One block = one row of an image.
struct planes_to_rows {
  const real *x;  // [N, C, H, W]
  act *y;         // [N, H, W, C]
  long C, H, W, ldy;
  BODY(long row) {
    const long n = row / H, h = row % H;
    for (long c = 0; c < C; ++c) {
      const real *from = x + ((n * C + c) * H + h) * W;
      act *to = y + row * W * ldy + c;
      EACH(w, W) store(to[w * ldy], from[w]);
    }
  }
};
KERNEL(planes_to_rows)

// y[n, c, h, w] = x[n, h, w, c]. One block = one row of an image.
struct rows_to_planes {
  const act *x;  // [N, H, W, C]
  real *y;       // [N, C, H, W]
  long C, H, W, ldx;
  BODY(long row) {
    const long n = row / H, h = row % H;
    for (long c = 0; c < C; ++c) {
      const act *from = x + row * W * ldx + c;
      real *to = y + ((n * C + c) * H + h) * W;
      EACH(w, W) to[w] = load(from[w * ldx]);
    }
  }
};
KERNEL(rows_to_planes)
