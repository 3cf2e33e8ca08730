// Images to patch tokens and back. Parts: patchify, unpatchify.
#include "block.h"

// y[n, (h, w), (c, i, j)] = x[n, c, h p + i, w p + j] * scale[n]: the order of a convolution's weight.
// x [N, Ch, H, W]; scale [N] or none; y [N, T, Ch p p], T = H W / p^2.
// One block = one row of an image's patches.
struct patchify {
  const real *x, *scale;
  act *y;
  long Ch, H, W, p, ldy;
  BODY(long block) {
    const long G = W / p, n = block / (H / p), h = block % (H / p), P = Ch * p * p;
    const real *image = x + n * Ch * H * W;
    act *tokens = y + block * G * ldy;
    const real by = scale ? scale[n] : 1;
    EACH(e, G * P) {
      const long w = e / P, c = e % P / (p * p), i = e % (p * p) / p, j = e % p;
      store(tokens[w * ldy + e % P], image[(c * H + h * p + i) * W + w * p + j] * by);
    }
  }
};
KERNEL(patchify)

// y[n, c, h p + i, w p + j] = token[n, (h, w)][(i, j, c)]; a token without a slot shows the mask token
// (zeros if none). tokens [N, K, p p Ch]; slots [N, T] or none (K = T); y [N, Ch, H, W].
// One block = one row of an image's patches.
struct unpatchify {
  const act *tokens;
  const i32 *slots;
  const act *mask_token;
  real *y;
  long Ch, H, W, p, K, ldtokens;
  BODY(long block) {
    const long R = H / p, G = W / p, n = block / R, h = block % R;
    real *image = y + n * Ch * H * W;
    EACH(e, Ch * p * W) {
      const long c = e / (p * W), i = e % (p * W) / W, x = e % W;
      const long t = h * G + x / p, k = slots ? (long)slots[n * R * G + t] : t;
      const act *token = k < 0 ? mask_token : tokens + (n * K + k) * ldtokens;
      image[(c * H + h * p + i) * W + x] = token ? load(token[(i * p + x % p) * Ch + c]) : 0;
    }
  }
};
KERNEL(unpatchify)
