// EDM (Karras et al. 2022, Table 1): preconditioning, noising, denoiser, loss over kept patches, guidance.
// Parts: edm_coefficients, add_noise, denoise, edm_loss, edm_loss_bwd, guide. Images are contiguous.
#include "block.h"
#include "math.h"

FN real edm_c_skip(real sigma, real sd) { return sd * sd / (sigma * sigma + sd * sd); }
FN real edm_c_out(real sigma, real sd) { return sigma * sd / md::sqrt(sigma * sigma + sd * sd); }
// lambda(sigma)
FN real edm_weight(real sigma, real sd) { return (sigma * sigma + sd * sd) / ((sigma * sd) * (sigma * sd)); }

// All [N]; one block.
struct edm_coefficients {
  const real *sigma;
  real *c_skip, *c_out, *c_in, *c_noise;
  long N;
  double sigma_data;
  BODY(long) {
    const real sd = (real)sigma_data;
    EACH(n, N) {
      const real s = sigma[n];
      c_skip[n] = edm_c_skip(s, sd);
      c_out[n] = edm_c_out(s, sd);
      c_in[n] = 1 / md::sqrt(s * s + sd * sd);
      c_noise[n] = md::log(s) / 4;
    }
  }
};
KERNEL(edm_coefficients)

// y[n] = x[n] + noise[n] sigma[n]      x, noise, y [N, M]; sigma [N]. One block = one image.
struct add_noise {
  const real *x, *noise, *sigma;
  real *y;
  long M;
  BODY(long n) {
    const real *from = x + n * M, *e = noise + n * M, s = sigma[n];
    real *to = y + n * M;
    EACH(i, M) to[i] = from[i] + e[i] * s;
  }
};
KERNEL(add_noise)

// D[n] = c_skip[n] x[n] + c_out[n] F[n]      F, x, D [N, M]; c_skip, c_out [N]. One block = one image.
struct denoise {
  const real *F, *x, *c_skip, *c_out;
  real *D;
  long M;
  BODY(long n) {
    const real *f = F + n * M, *from = x + n * M, skip = c_skip[n], out = c_out[n];
    real *to = D + n * M;
    EACH(i, M) to[i] = skip * from[i] + out * f[i];
  }
};
KERNEL(denoise)

// Offset, inside an image, of element e of its kept tokens: token (h, w) = id, element (i, j, c) of p p Ch.
FN long token_pixel(long e, const i32 *ids, long Ch, long S, long p) {
  const long P = p * p * Ch, k = e / P, t = ids ? (long)ids[k] : k, G = S / p;
  const long c = e % Ch, j = e / Ch % p, i = e % P / (p * Ch);
  return (c * S + t / G * p + i) * S + t % G * p + j;
}

// loss[n] = weight(sigma) mean over kept patches of (c_skip xn + c_out F - x0)^2
// F [N, K, p p Ch]; x0, xn [N, Ch, S, S]; sigma, loss [N]; ids [N, K] or none (K = T). One block = one image.
struct edm_loss {
  const act *F;
  const real *x0, *xn, *sigma;
  const i32 *ids;
  real *loss;
  long Ch, S, p, K, ldF;
  double sigma_data;
  BODY(long n) {
    const real sd = (real)sigma_data, sg = sigma[n], skip = edm_c_skip(sg, sd), out = edm_c_out(sg, sd);
    const long P = p * p * Ch, image = n * Ch * S * S;
    const i32 *kept = ids ? ids + n * K : nullptr;
    real sum = 0;
    EACH_SUM(e, K * P, sum) {
      const long at = image + token_pixel(e, kept, Ch, S, p);
      const real d = skip * xn[at] + out * load(F[(n * K + e / P) * ldF + e % P]) - x0[at];
      sum += d * d;
    }
    sum = block_sum(sum);
    if (TID == 0) loss[n] = edm_weight(sg, sd) * sum / (real)(K * P);
  }
};
KERNEL(edm_loss)

// dF = dloss[n] weight(sigma) 2 / (K P) c_out (c_skip xn + c_out F - x0). One block = one image.
struct edm_loss_bwd {
  const act *F;
  const real *x0, *xn, *sigma;
  const i32 *ids;
  const real *dloss;
  act *dF;
  long Ch, S, p, K, ldF, lddF, add_dF;
  double sigma_data;
  BODY(long n) {
    const real sd = (real)sigma_data, sg = sigma[n], skip = edm_c_skip(sg, sd), out = edm_c_out(sg, sd);
    const long P = p * p * Ch, image = n * Ch * S * S;
    const real by = dloss[n] * edm_weight(sg, sd) * 2 / (real)(K * P) * out;
    const i32 *kept = ids ? ids + n * K : nullptr;
    EACH(e, K * P) {
      const long at = image + token_pixel(e, kept, Ch, S, p), row = n * K + e / P;
      const real d = by * (skip * xn[at] + out * load(F[row * ldF + e % P]) - x0[at]);
      act &to = dF[row * lddF + e % P];
      store(to, add_dF ? load(to) + d : d);
    }
  }
};
KERNEL(edm_loss_bwd)

// y[n] = u[n] + scale[n] (c[n] - u[n]); F = conditional images, then unconditional ones: [2 N, M]; y [N, M].
// scale [N], or one `by` for all. One block = one image.
struct guide {
  const real *F, *scale;
  real *y;
  long N, M;
  double by;
  BODY(long n) {
    const real *c = F + n * M, *u = F + (N + n) * M, g = scale ? scale[n] : (real)by;
    real *to = y + n * M;
    EACH(i, M) to[i] = u[i] + g * (c[i] - u[i]);
  }
};
KERNEL(guide)
