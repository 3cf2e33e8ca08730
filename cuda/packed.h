// Micro-kernels of the packed matrix product, for one instruction set: packed_v3.cpp, packed_v4.cpp and
// packed_bf16.cpp include this file.
//
// The arithmetic of every element of C, whatever tile, panel, thread or neighbours it is computed with:
//   base = C, bias, (C + bias) or nothing; for each cut of depth in order: base = base + sum, where sum is
//   one chain of fused multiply-adds over the depths of the cut in order, beginning at 0.
// Rows and columns beyond a panel's end change only which lanes are kept. So equal rows of A give equal rows
// of C to the bit. Built without contraction; what is fused is written as such.
//
// With bf16 dot products all of this holds but for two things: packing rounds both operands to bf16 (nearest,
// ties to even), and the chain takes a pair of neighbouring depths at a time (vdpbf16ps; an odd depth at the
// end is paired with zero), in float32. NaN and infinities pass through; these instructions read denormal
// numbers as zeros and return zeros for them.
#include "gemm.h"

#include <immintrin.h>

namespace {

#ifdef __AVX512F__
typedef __m512 vec;
constexpr int lanes = 16, max_rows = 12;
inline vec zero() { return _mm512_setzero_ps(); }
inline vec get(const float *from) { return _mm512_loadu_ps(from); }
inline void put(float *to, vec value) { _mm512_storeu_ps(to, value); }
inline vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
#else
typedef __m256 vec;
constexpr int lanes = 8, max_rows = 6;
inline vec zero() { return _mm256_setzero_ps(); }
inline vec get(const float *from) { return _mm256_loadu_ps(from); }
inline void put(float *to, vec value) { _mm256_storeu_ps(to, value); }
inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
#endif

// What is packed are units: floats, or pairs of bf16 (`step` 2). The second of a pair lies `apart` from the
// first; it is a zero unless `both`. four, eight: so many units whose numbers lie one behind the other.
#ifdef __AVX512BF16__
constexpr long step = 2;
inline vec fused(float a, vec b, vec c) {
  return _mm512_dpbf16_ps(c, __m512bh(_mm512_set1_ps(a)), __m512bh(b));
}
inline float unit(const float *from, long apart, bool both) {
  return _mm_cvtss_f32(__m128(_mm_cvtneps_pbh(_mm_setr_ps(from[0], both ? from[apart] : 0, 0, 0))));
}
inline __m128 four(const float *from) { return __m128(_mm256_cvtneps_pbh(_mm256_loadu_ps(from))); }
inline __m256 eight(const float *from) { return __m256(_mm512_cvtneps_pbh(_mm512_loadu_ps(from))); }
// As many units as lanes, of numbers that lie side by side.
inline vec units(const float *from, long apart, bool both) {
  typedef short words __attribute__((vector_size(64)));
  const words order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const vec seconds = both ? get(from + apart) : zero();
  return vec(__builtin_shuffle(words(_mm512_cvtne2ps_pbh(seconds, get(from))), order));
}
#else
constexpr long step = 1;
#ifdef __AVX512F__
inline vec fused(float a, vec b, vec c) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c); }
#else
inline vec fused(float a, vec b, vec c) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c); }
#endif
inline float unit(const float *from, long, bool) { return *from; }
inline __m128 four(const float *from) { return _mm_loadu_ps(from); }
inline __m256 eight(const float *from) { return _mm256_loadu_ps(from); }
inline vec units(const float *from, long, bool) { return get(from); }
#endif

constexpr int width = 2 * lanes;

// Where the sums of a panel go.
struct Target {
  float *c;
  long ldc, columns;
  bool adds;          // c is added to
  const float *bias;  // or null
};

// c[R, columns] = base + sum over units of a[unit][R] b[unit][V vectors]
template <int R, int V> __attribute__((noinline)) void multiply(long units, const float *a, const float *b,
                                                                 const Target &to) {
  vec sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = zero();
  for (long k = 0; k < units; ++k) {
    vec x[V];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) x[j] = get(b + j * lanes);
    __builtin_prefetch(b + 8 * width);
    if (V * sizeof(vec) > 64) __builtin_prefetch(b + 8 * width + 16);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < V; ++j) sum[i][j] = fused(a[i], x[j], sum[i][j]);
    a += max_rows;
    b += width;
  }
  float *c = to.c;
  const long ldc = to.ldc;
  if (to.columns >= V * lanes) {
    vec bias[V];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) bias[j] = to.bias ? get(to.bias + j * lanes) : zero();
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < V; ++j) {
        float *at = c + i * ldc + j * lanes;
        if (to.bias)
          put(at, add(to.adds ? add(get(at), bias[j]) : bias[j], sum[i][j]));
        else
          put(at, to.adds ? add(get(at), sum[i][j]) : sum[i][j]);
      }
    }
    return;
  }
  float kept[R][V * lanes];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) put(kept[i] + j * lanes, sum[i][j]);
  for (int i = 0; i < R; ++i)
    for (long j = 0; j < to.columns; ++j) {
      float *at = c + i * ldc + j;
      if (to.bias)
        *at = (to.adds ? *at + to.bias[j] : to.bias[j]) + kept[i][j];
      else
        *at = to.adds ? *at + kept[i][j] : kept[i][j];
    }
}

typedef void (*Multiply)(long units, const float *a, const float *b, const Target &to);
#define MULTIPLY(R) {multiply<R, 1>, multiply<R, 2>}
const Multiply multiply_rows[max_rows][2] = {
    MULTIPLY(1), MULTIPLY(2), MULTIPLY(3), MULTIPLY(4), MULTIPLY(5), MULTIPLY(6),
#if __AVX512F__
    MULTIPLY(7), MULTIPLY(8), MULTIPLY(9), MULTIPLY(10), MULTIPLY(11), MULTIPLY(12),
#endif
};

// ---- packing -------------------------------------------------------------------------------------------

// to[k * stride + i] = unit k of row i of from, 4 x 4.
inline void turn4(const float *from, long ld, float *to, long stride) {
  __m128 a = four(from), b = four(from + ld), c = four(from + 2 * ld), d = four(from + 3 * ld);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + stride, b);
  _mm_storeu_ps(to + 2 * stride, c);
  _mm_storeu_ps(to + 3 * stride, d);
}

// The same, 8 x 8.
inline void turn8(const float *from, long ld, float *to, long stride) {
  __m256 r[8], u[8], w[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = eight(from + i * ld);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    u[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    u[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    w[i] = _mm256_shuffle_ps(u[i], u[i + 2], 0x44);
    w[i + 1] = _mm256_shuffle_ps(u[i], u[i + 2], 0xee);
    w[i + 2] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0x44);
    w[i + 3] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * stride, _mm256_permute2f128_ps(w[i], w[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * stride, _mm256_permute2f128_ps(w[i], w[i + 4], 0x31));
  }
}

// Rows of a tile are spread evenly over the least number of strips: two of 7 and 6 rows beat 12 and 1.
struct Strips {
  long count, least, longer;  // the first `longer` strips have a row more than `least`
  explicit Strips(long rows) : count(ceil_div(rows, max_rows)), least(rows / count), longer(rows % count) {}
  long begin(long s) const { return s * least + (s < longer ? s : longer); }
  long size(long s) const { return least + (s < longer); }
};

// Floats from one packed strip to the next; a store of a whole vector may run over the end of a strip.
inline long strip_floats(long cut) { return max_rows * ceil_div(cut, step) + 16; }

// Strips of A^T: along the rows of A and all strips at once, as its rows lie far apart. Each strip takes a
// whole vector, of which what lies beyond its rows is overwritten by the next or never read.
void pack_along(const float *from, long ld, Strips strips, long whole, long count, float *to, long stride) {
  for (long k = 0; k < count; k += step, from += step * ld, to += max_rows) {
    const bool both = k + step <= count;
    for (long s = 0; s < whole; ++s) {
      for (long j = 0; j < step; ++j) __builtin_prefetch(from + (8 + j) * ld + strips.begin(s));
      put(to + s * stride, units(from + strips.begin(s), ld, both));
    }
    for (long s = whole; s < strips.count; ++s)
      for (long i = 0; i < strips.size(s); ++i)
        to[s * stride + i] = unit(from + strips.begin(s) + i, ld, both);
  }
}

// One strip of A: 8 x 8 or 4 x 4 units at a time are turned; the last may overlap those before, so that
// nothing beyond A is read.
void pack_across(const float *from, long ld, long rows, long count, float *to) {
  long turned = 0;
  if (max_rows > 8 && rows >= 8) {
    turned = count / step / 8 * 8;
    for (long k = 0; k < turned; k += 8) {
      const float *at = from + k * step, *last = at + (rows - 4) * ld;
      turn8(at, ld, to + k * max_rows, max_rows);
      if (rows > 8) {
        turn4(last, ld, to + k * max_rows + rows - 4, max_rows);
        turn4(last + 4 * step, ld, to + (k + 4) * max_rows + rows - 4, max_rows);
      }
    }
  } else if (rows >= 4) {
    turned = count / step / 4 * 4;
    for (long k = 0; k < turned; k += 4) {
      const float *at = from + k * step;
      turn4(at, ld, to + k * max_rows, max_rows);
      if (rows > 4) turn4(at + (rows - 4) * ld, ld, to + k * max_rows + rows - 4, max_rows);
    }
  }
  for (long k = turned; k * step < count; ++k)
    for (long i = 0; i < rows; ++i)
      to[k * max_rows + i] = unit(from + i * ld + k * step, 1, (k + 1) * step <= count);
}

// to[s][k][i] = op(A)[row + begin(s) + i][depth + k], k in units, strips `stride` floats apart, units
// max_rows.
void pack_rows(const Gemm &g, long product, long row, Strips strips, long depth, long count, float *to,
               long stride) {
  const float *A = g.A + product * g.strideA;
  if (!g.transA) {
    for (long s = 0; s < strips.count; ++s)
      pack_across(A + (row + strips.begin(s)) * g.lda + depth, g.lda, strips.size(s), count, to + s * stride);
    return;
  }
  long whole = strips.count;
  while (whole > 0 && row + strips.begin(whole - 1) + lanes > g.M) --whole;
  pack_along(A + depth * g.lda + row, g.lda, strips, whole, count, to, stride);
}

// to[p][k][width] = op(B)[depth + k][column + p * width + j], k in units, for `panels` panels; zeros beyond
// the last column.
void pack_panels(const Gemm &g, long product, long column, long panels, long depth, long count, float *to) {
  const float *B = g.B + product * g.strideB;
  const long columns = g.N - column < panels * width ? g.N - column : panels * width;
  const long stride = ceil_div(count, step) * width;
  if (!g.transB) {
    // Along the rows of B, all panels at once, as they lie far apart.
    const float *from = B + depth * g.ldb + column;
    const long whole = columns / width;
    for (long k = 0; k < count; k += step, from += step * g.ldb, to += width) {
      const bool both = k + step <= count;
      for (long p = 0; p < whole; ++p) {
        for (long j = 0; j < step; ++j) {
          __builtin_prefetch(from + (8 + j) * g.ldb + p * width);
          if (width > 16) __builtin_prefetch(from + (8 + j) * g.ldb + p * width + 16);
        }
        put(to + p * stride, units(from + p * width, g.ldb, both));
        put(to + p * stride + lanes, units(from + p * width + lanes, g.ldb, both));
      }
      for (long j = whole * width; j < panels * width; ++j)
        to[whole * stride + j - whole * width] = j < columns ? unit(from + j, g.ldb, both) : 0;
    }
    return;
  }
  const float *from = B + column * g.ldb + depth;
  for (long q = 0; q < panels * width; q += 8, from += 8 * g.ldb) {
    float *panel = to + q / width * stride + q % width;
    const long left = columns - q, turned = left >= 8 ? count / step / 8 * 8 : 0;
    for (long k = 0; k < turned; k += 8) turn8(from + k * step, g.ldb, panel + k * width, width);
    for (long k = turned; k * step < count; ++k)
      for (long j = 0; j < 8; ++j)
        panel[k * width + j] = j < left ? unit(from + j * g.ldb + k * step, 1, (k + 1) * step <= count) : 0;
  }
}

// ---- tiles ---------------------------------------------------------------------------------------------

void compute(const Gemm &g, const GemmTile &tile, const float *panels, float *scratch) {
  const long cut = cut_of(g.K, step);
  const Strips strips(tile.row_end - tile.row);
  float *own = scratch + strips.count * strip_floats(cut);
  float *C = g.C + tile.product * g.strideC;
  const float *bias = g.bias ? g.bias + tile.product * g.strideBias : nullptr;
  long depth = tile.depth;
  do {
    const long count = tile.depth_end - depth < cut ? tile.depth_end - depth : cut;
    const long deep = ceil_div(count, step);
    pack_rows(g, tile.product, tile.row, strips, depth, count, scratch, strip_floats(cut));
    // As many columns at a time as the second-level cache holds beside the rows.
    const long columns = panels ? 512 : gemm_own_panels * width;
    for (long column = tile.column; column < tile.column_end; column += columns) {
      const long end = column + columns < tile.column_end ? column + columns : tile.column_end;
      const float *first = panels ? panels + column * deep : own;
      if (!panels)
        pack_panels(g, tile.product, column, ceil_div(end - column, width), depth, count, own);
      for (long s = 0; s < strips.count; ++s) {
        const float *rows = scratch + s * strip_floats(cut);
        Target to;
        to.ldc = g.ldc;
        to.adds = depth > 0 || g.accumulate;
        for (long c = column; c < end; c += width) {
          to.columns = end - c < width ? end - c : width;
          to.c = C + (tile.row + strips.begin(s)) * g.ldc + c;
          to.bias = bias && depth == 0 ? bias + c : nullptr;
          const Multiply multiply = multiply_rows[strips.size(s) - 1][to.columns > lanes];
          multiply(deep, rows, first + (c - column) * deep, to);
        }
      }
    }
    if (panels) panels += rounded_up(g.N, width) * deep;
    depth += count;
  } while (depth < tile.depth_end);
}

}  // namespace
