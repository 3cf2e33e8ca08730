// Random numbers that depend on (seed, index, purpose, element) alone, with equal bits on every compiler.
// Parts: Philox4x32-10, and log, exp, sine and cosine in float out of single roundings: products, sums and
// explicit fma. A file that includes this one is compiled without contraction (EXACT in build.mk).
#pragma once
#include "block.h"
#include "math.h"

// One stream of Philox4x32-10: key = 64-bit seed, counter = (element / 4, index low, index high, purpose).
struct random_stream {
  uint32_t key_low, key_high, index_low, index_high, purpose;
};

FN void philox_round(uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d, uint32_t k, uint32_t l) {
  const uint64_t p = 0xd2511f53ull * a, q = 0xcd9e8d57ull * c;
  a = (uint32_t)(q >> 32) ^ b ^ k;
  c = (uint32_t)(p >> 32) ^ d ^ l;
  b = (uint32_t)q;
  d = (uint32_t)p;
}

// Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": the four words of elements 4 group ..
FN void philox(const random_stream &s, uint32_t group, uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d) {
  a = group, b = s.index_low, c = s.index_high, d = s.purpose;
  uint32_t k = s.key_low, l = s.key_high;
  for (int i = 0; i < 10; ++i) {
    philox_round(a, b, c, d, k, l);
    k += 0x9e3779b9u;
    l += 0xbb67ae85u;
  }
}

FN float exact_fma(float a, float b, float c) {
#if MD_CUDA
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// log(a) = e ln 2 + log(1 + m), a positive and not denormal.
FN float exact_log(float a) {
  const int32_t e = (int32_t)((bits_of(a) - 0x3f2aaaabu) & 0xff800000u);
  const float m = float_of(bits_of(a) - (uint32_t)e) - 1.0f;
  const float s = m * m;
  float r = exact_fma(-0.130310059f, s, -0.121483512f), t = exact_fma(0.140869141f, s, 0.139814854f);
  r = exact_fma(r, s, -0.166846126f);
  t = exact_fma(t, s, 0.200120345f);
  r = exact_fma(r, s, -0.249996200f);
  r = exact_fma(t, m, r);
  r = exact_fma(r, m, 0.333331972f);
  r = exact_fma(r, m, -0.500000000f);
  r = exact_fma(r, s, m);
  return exact_fma((float)e * 1.19209290e-7f, 0.693147182f, r);
}

// exp(x) = 2^n exp(r) for -87 < x < 88.
FN float exact_exp(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = exact_fma(x, 1.44269504f, magic), n = shifted - magic;
  const float r = exact_fma(n, -1.42860677e-6f, exact_fma(n, -0.693145752f, x));
  float p = exact_fma(1.37805939e-3f, r, 8.37312452e-3f);
  p = exact_fma(p, r, 4.16695364e-2f);
  p = exact_fma(p, r, 1.66664720e-1f);
  p = exact_fma(p, r, 4.99999851e-1f);
  p = exact_fma(p, r, 1.0f);
  p = exact_fma(p, r, 1.0f);
  return p * float_of((bits_of(shifted) - bits_of(magic) + 127u) << 23);
}

// Sine and cosine of 2 pi turn / 2^32: the nearest quarter turn, then polynomials on -pi/4 .. pi/4.
FN void exact_turn(uint32_t turn, float &sine, float &cosine) {
  const uint32_t quarter = (turn + 0x20000000u) >> 30;
  const float x = (float)(int32_t)(turn - (quarter << 30)) * 1.46291808e-9f, z = x * x;
  float s = exact_fma(-1.95152959e-4f, z, 8.33216087e-3f), c = exact_fma(2.44331571e-5f, z, -1.38873163e-3f);
  s = exact_fma(s, z, -1.66666546e-1f);
  c = exact_fma(c, z, 4.16666457e-2f);
  s = exact_fma(s * z, x, x);
  c = exact_fma(c * z, z, exact_fma(-0.5f, z, 1.0f));
  const bool odd = quarter & 1u;
  const uint32_t flip_sine = (quarter & 2u) << 30, flip_cosine = ((quarter + 1u) & 2u) << 30;
  sine = float_of(bits_of(odd ? c : s) ^ flip_sine);
  cosine = float_of(bits_of(odd ? s : c) ^ flip_cosine);
}

// Two normal numbers of two words (Box and Muller 1958). The first word gives a uniform number in 2^-32 .. 1.
FN void normal_pair(uint32_t a, uint32_t b, float &x, float &y) {
  const float u = exact_fma((float)(int32_t)(a >> 1), 4.65661287e-10f, 2.32830644e-10f);
  const float radius = md::sqrt(-2.0f * exact_log(u));
  exact_turn(b, y, x);
  x *= radius;
  y *= radius;
}

FN void normal_four(const random_stream &s, uint32_t group, float &a, float &b, float &c, float &d) {
  uint32_t i, j, k, l;
  philox(s, group, i, j, k, l);
  normal_pair(i, j, a, b);
  normal_pair(k, l, c, d);
}
