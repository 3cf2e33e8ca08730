// Micro-kernels of the packed matrix product, for one instruction set: packed_v3.cpp and packed_v4.cpp
// include this file.
//
// The arithmetic of every element of C, whatever tile, panel, thread or neighbours it is computed with:
//   base = C, bias, (C + bias) or nothing; for each cut of depth in order: base = base + sum, where sum is one
//   chain of fused multiply-adds over the depths of the cut in order, beginning at 0.
// Rows and columns beyond a panel's end change only which lanes are kept. So equal rows of A give equal rows
// of C to the bit. Built without contraction; what is fused is written as such.
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
inline vec fused(float a, vec b, vec c) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c); }
#else
typedef __m256 vec;
constexpr int lanes = 8, max_rows = 6;
inline vec zero() { return _mm256_setzero_ps(); }
inline vec get(const float *from) { return _mm256_loadu_ps(from); }
inline void put(float *to, vec value) { _mm256_storeu_ps(to, value); }
inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
inline vec fused(float a, vec b, vec c) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c); }
#endif

constexpr int width = 2 * lanes;
constexpr long columns_in_cache = 512;

// Where the sums of a panel go.
struct Target {
  float *c;
  long ldc, columns;
  bool adds;          // c is added to
  const float *bias;  // or null
};

// c[R, columns] = base + sum over depth of a[depth][R] b[depth][V vectors]
template <int R, int V> __attribute__((noinline)) void multiply(long depth, const float *a, const float *b,
                                                                 const Target &to) {
  vec sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = zero();
  for (long k = 0; k < depth; ++k) {
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

typedef void (*Multiply)(long depth, const float *a, const float *b, const Target &to);
#define MULTIPLY(R) {multiply<R, 1>, multiply<R, 2>}
const Multiply multiply_rows[max_rows][2] = {
    MULTIPLY(1), MULTIPLY(2), MULTIPLY(3), MULTIPLY(4), MULTIPLY(5), MULTIPLY(6),
#if __AVX512F__
    MULTIPLY(7), MULTIPLY(8), MULTIPLY(9), MULTIPLY(10), MULTIPLY(11), MULTIPLY(12),
#endif
};

// ---- packing -------------------------------------------------------------------------------------------

// to[k * stride + i] = from[i * ld + k], 4 x 4. `from` names four rows.
inline void turn4(const float *const from[4], long k, float *to, long stride) {
  __m128 a = _mm_loadu_ps(from[0] + k), b = _mm_loadu_ps(from[1] + k);
  __m128 c = _mm_loadu_ps(from[2] + k), d = _mm_loadu_ps(from[3] + k);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + stride, b);
  _mm_storeu_ps(to + 2 * stride, c);
  _mm_storeu_ps(to + 3 * stride, d);
}

// The same, 8 x 8, from rows ld apart.
inline void turn8(const float *from, long ld, float *to, long stride) {
  __m256 r[8], u[8], w[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * ld);
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

// to[k][max_rows] = op(A)[row + i][depth + k], i < rows <= max_rows. Four rows at a time; the last four may
// overlap those before, so that nothing beyond A is read. What lies beyond `rows` is left as it is.
void pack_rows(const Gemm &g, long product, long row, long rows, long depth, long count, float *to) {
  const float *A = g.A + product * g.strideA;
  constexpr int groups = (max_rows + 3) / 4;
  long first[groups];
  for (int q = 0; q < groups; ++q) first[q] = 4 * q + 4 <= rows ? 4 * q : rows - 4;
  if (g.transA) {
    const float *from = A + depth * g.lda + row;
    if (rows < 4) {
      for (long k = 0; k < count; ++k)
        for (long i = 0; i < rows; ++i) to[k * max_rows + i] = from[k * g.lda + i];
      return;
    }
    for (long k = 0; k < count; ++k, from += g.lda, to += max_rows) {
      __builtin_prefetch(from + 12 * g.lda);
#pragma GCC unroll 4
      for (int q = 0; q < groups; ++q) _mm_storeu_ps(to + first[q], _mm_loadu_ps(from + first[q]));
    }
    return;
  }
  const float *from = A + row * g.lda + depth;
  long turned = 0;
  if (rows >= 4) {
    turned = count / 4 * 4;
    for (int q = 0; q < groups; ++q) {
      const float *at = from + first[q] * g.lda;
      const float *const four[4] = {at, at + g.lda, at + 2 * g.lda, at + 3 * g.lda};
      for (long k = 0; k < turned; k += 4) turn4(four, k, to + k * max_rows + first[q], max_rows);
    }
  }
  for (long k = turned; k < count; ++k)
    for (long i = 0; i < rows; ++i) to[k * max_rows + i] = from[i * g.lda + k];
}

// to[k][width] = op(B)[depth + k][column + j]; zeros beyond the last column.
void pack_panel(const Gemm &g, long product, long column, long depth, long count, float *to) {
  const float *B = g.B + product * g.strideB;
  const long columns = g.N - column < width ? g.N - column : width;
  if (!g.transB) {
    const float *from = B + depth * g.ldb + column;
    if (columns == width) {
      for (long k = 0; k < count; ++k, from += g.ldb, to += width) {
        __builtin_prefetch(from + 8 * g.ldb);
        __builtin_prefetch(from + 8 * g.ldb + 16);
        put(to, get(from));
        put(to + lanes, get(from + lanes));
      }
      return;
    }
    for (long k = 0; k < count; ++k, from += g.ldb, to += width)
      for (long j = 0; j < width; ++j) to[j] = j < columns ? from[j] : 0;
    return;
  }
  const float *from = B + column * g.ldb + depth;
  for (long q = 0; q < width; q += 8, from += 8 * g.ldb) {
    const long left = columns - q, turned = left >= 8 ? count / 8 * 8 : 0;
    for (long k = 0; k < turned; k += 8) turn8(from + k, g.ldb, to + k * width + q, width);
    for (long k = turned; k < count; ++k)
      for (long j = 0; j < 8; ++j) to[k * width + q + j] = j < left ? from[j * g.ldb + k] : 0;
  }
}

// ---- tiles ---------------------------------------------------------------------------------------------

void compute(const Gemm &g, const GemmTile &tile, const float *panels, float *scratch) {
  const long cut = cut_of(g.K), rows = tile.row_end - tile.row;
  // Rows are spread evenly over the least number of panels: two of 7 and 6 beat 12 and 1.
  const long strips = ceil_div(rows, max_rows);
  float *own = scratch + strips * max_rows * cut;
  const long across = rounded_up(g.N, width);
  float *C = g.C + tile.product * g.strideC;
  const float *bias = g.bias ? g.bias + tile.product * g.strideBias : nullptr;
  long depth = tile.depth;
  do {
    const long count = tile.depth_end - depth < cut ? tile.depth_end - depth : cut;
    for (long s = 0; s < strips; ++s) {
      const long row = s * rows / strips, row_end = (s + 1) * rows / strips;
      pack_rows(g, tile.product, tile.row + row, row_end - row, depth, count, scratch + s * max_rows * cut);
    }
    Target to = {nullptr, g.ldc, 0, depth > 0 || g.accumulate, nullptr};
    auto multiply_strip = [&](long s, long column, const float *panel) {
      const long row = s * rows / strips, row_end = (s + 1) * rows / strips;
      to.columns = tile.column_end - column < width ? tile.column_end - column : width;
      to.c = C + (tile.row + row) * g.ldc + column;
      to.bias = bias && depth == 0 ? bias + column : nullptr;
      multiply_rows[row_end - row - 1][to.columns > lanes](count, scratch + s * max_rows * cut, panel, to);
    };
    if (panels) {
      // As many columns at a time as the second-level cache holds beside the rows.
      for (long column = tile.column; column < tile.column_end; column += columns_in_cache) {
        const long end = column + columns_in_cache < tile.column_end ? column + columns_in_cache
                                                                     : tile.column_end;
        for (long s = 0; s < strips; ++s)
          for (long c = column; c < end; c += width) multiply_strip(s, c, panels + c * count);
      }
      panels += across * count;
    } else {
      for (long column = tile.column; column < tile.column_end; column += width) {
        pack_panel(g, tile.product, column, depth, count, own);
        for (long s = 0; s < strips; ++s) multiply_strip(s, column, own);
      }
    }
    depth += count;
  } while (depth < tile.depth_end);
}

}  // namespace
