// exp, log, erf, tanh, sigmoid, sqrt, sin, cos for kernels: md::exp(x) and so on, for float and double.
// The float forms for the CPU are polynomials without branches, which g++ vectorises inside EACH without
// -ffast-math; measured error is below 2 units in the last place (test/cpu/native-math.test.ts). NaN goes
// through, infinities and denormal results are right. Double forms are libm's; CUDA forms are CUDA's own.
#pragma once
#include "block.h"

namespace md {

FN double exp(double x) { return ::exp(x); }
FN double log(double x) { return ::log(x); }
FN double erf(double x) { return ::erf(x); }
FN double tanh(double x) { return ::tanh(x); }
FN double sqrt(double x) { return ::sqrt(x); }
FN double sin(double x) { return ::sin(x); }
FN double cos(double x) { return ::cos(x); }
FN double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }
FN float sin(float x) { return ::sinf(x); }
FN float cos(float x) { return ::cosf(x); }

#if MD_CUDA

FN float sqrt(float x) { return ::sqrtf(x); }
FN float exp(float x) { return ::expf(x); }
FN float log(float x) { return ::logf(x); }
FN float erf(float x) { return ::erff(x); }
FN float tanh(float x) { return ::tanhf(x); }

#else

FN float sqrt(float x) { return __builtin_sqrtf(x); }

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2 in two parts; 2^n in two factors, so that results
// near overflow and denormal ones are right. Written so that a NaN passes every comparison unchanged.
FN float exp(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  float shifted = __builtin_fmaf(x, 1.44269504f, magic);
  float n = shifted - magic;
  float r = __builtin_fmaf(n, -0.693145752f, x);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.37805939e-3f;
  p = __builtin_fmaf(p, r, 8.37312452e-3f);
  p = __builtin_fmaf(p, r, 4.16695364e-2f);
  p = __builtin_fmaf(p, r, 1.66664720e-1f);
  p = __builtin_fmaf(p, r, 4.99999851e-1f);
  p = __builtin_fmaf(p, r, 1.0f);
  p = __builtin_fmaf(p, r, 1.0f);
  int32_t power = int32_t(bits_of(shifted) - bits_of(magic));
  int32_t half = power >> 1;
  float low = float_of(uint32_t(half + 127) << 23);
  float high = float_of(uint32_t(power - half + 127) << 23);
  return p * low * high;
}

// log(a) = e ln 2 + log(m), m in [2/3, 4/3). Denormal arguments are scaled first.
FN float log(float a) {
  uint32_t tiny = a < 1.17549435e-38f ? 0xffffffffu : 0u;
  float scaled = tiny ? a * 8388608.0f : a;
  float shift = tiny ? -23.0f : 0.0f;
  int32_t e = int32_t((bits_of(scaled) - 0x3f2aaaabu) & 0xff800000u);
  float m = float_of(bits_of(scaled) - uint32_t(e)) - 1.0f;
  float exponent = __builtin_fmaf(float(e), 1.19209290e-7f, shift);
  float s = m * m;
  float r = -0.130310059f, t = 0.140869141f;
  r = __builtin_fmaf(r, s, -0.121483512f);
  t = __builtin_fmaf(t, s, 0.139814854f);
  r = __builtin_fmaf(r, s, -0.166846126f);
  t = __builtin_fmaf(t, s, 0.200120345f);
  r = __builtin_fmaf(r, s, -0.249996200f);
  r = __builtin_fmaf(t, m, r);
  r = __builtin_fmaf(r, m, 0.333331972f);
  r = __builtin_fmaf(r, m, -0.500000000f);
  r = __builtin_fmaf(r, s, m);
  r = __builtin_fmaf(exponent, 0.693147182f, r);
  r = a == 0.0f ? -__builtin_inff() : r;
  r = a < 0.0f ? __builtin_nanf("") : r;
  return a < __builtin_inff() ? r : a + a;
}

// erf: a polynomial near 0, 1 - exp(polynomial) beyond; both are computed and one is chosen.
FN float erf(float x) {
  float t = x < 0.0f ? -x : x;
  t = t > 8.0f ? 8.0f : t;
  float s = t * t;
  float r = __builtin_fmaf(-1.72853470e-5f, t, 3.83197126e-4f);
  float u = __builtin_fmaf(-3.88396438e-3f, t, 2.42546219e-2f);
  r = __builtin_fmaf(r, s, u);
  r = __builtin_fmaf(r, t, -1.06777877e-1f);
  r = __builtin_fmaf(r, t, -6.34846687e-1f);
  r = __builtin_fmaf(r, t, -1.28717512e-1f);
  r = __builtin_fmaf(r, t, -t);
  float far = 1.0f - exp(r);
  far = x < 0.0f ? -far : far;
  float near = -5.96761703e-4f;
  near = __builtin_fmaf(near, s, 4.99119423e-3f);
  near = __builtin_fmaf(near, s, -2.67681349e-2f);
  near = __builtin_fmaf(near, s, 1.12819925e-1f);
  near = __builtin_fmaf(near, s, -3.76125336e-1f);
  near = __builtin_fmaf(near, s, 1.28379166e-1f);
  near = __builtin_fmaf(near, x, x);
  return t > 0.927734375f ? far : near;
}

// tanh: an odd polynomial near 0, 1 - 2 / (exp(2x) + 1) beyond.
FN float tanh(float x) {
  float t = x < 0.0f ? -x : x;
  float far = 1.0f - 2.0f / (exp(2.0f * t) + 1.0f);
  far = x < 0.0f ? -far : far;
  float s = x * x;
  float near = -5.70498872745e-3f;
  near = __builtin_fmaf(near, s, 2.06390887954e-2f);
  near = __builtin_fmaf(near, s, -5.37397155531e-2f);
  near = __builtin_fmaf(near, s, 1.33314422036e-1f);
  near = __builtin_fmaf(near, s, -3.33332819422e-1f);
  near = __builtin_fmaf(near * s, x, x);
  return t > 0.625f ? far : near;
}

#endif

FN float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace md
