// Small matrix products between tiles in scratch memory, called by all threads of a block.
//   tile_mul(C, ldc, A, lda, B, ldb, M, N, K, add)      C[M, N] (+)= A[M, K] B[K, N]
//   tile_mul_t(C, ldc, A, lda, B, ldb, M, N, K, add)    C[M, N] (+)= A[K, M]^T B[K, N]
//   tile_load, tile_load_t                              strided act rows to a tile, straight or transposed
// N, ldb and ldc are multiples of TILE_PAD. Whoever reads C afterwards calls block_sync first.
// CPU: blocks of up to TILE_ROWS x 2 vectors of C stay in registers. CUDA: a thread an element.
#pragma once
#include "block.h"

#define TILE_PAD 16L

FN long tile_padded(long n) { return (n + TILE_PAD - 1) / TILE_PAD * TILE_PAD; }

// to[i, c] = from[i, c] * by for i < rows, c < cols; columns cols..ld-1 are 0.
FN void tile_load(real *to, long ld, const act *from, long ldfrom, long rows, long cols, real by) {
  for (long i = 0; i < rows; ++i) {
    EACH(c, cols) to[i * ld + c] = load(from[i * ldfrom + c]) * by;
    for (long c = cols + TID; c < ld; c += LANES) to[i * ld + c] = 0;
  }
}

#if MD_CUDA

// to[c, i] = from[i, c] * by for i < rows, c < cols; columns rows..ld-1 are 0.
FN void tile_load_t(real *to, long ld, const act *from, long ldfrom, long rows, long cols, real by) {
  for (long i = 0; i < rows; ++i) EACH(c, cols) to[c * ld + i] = load(from[i * ldfrom + c]) * by;
  EACH(c, cols) for (long i = rows; i < ld; ++i) to[c * ld + i] = 0;
}

template <bool Transposed>
FN void tile_product(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long N,
                     long K, bool add) {
  for (long at = TID; at < M * N; at += LANES) {
    const long i = at / N, j = at % N;
    real sum = add ? C[i * ldc + j] : 0;
    for (long k = 0; k < K; ++k) sum += A[Transposed ? k * lda + i : i * lda + k] * B[k * ldb + j];
    C[i * ldc + j] = sum;
  }
}

#else

#ifdef MD_ISA_V4
#define TILE_VECTOR 64
#define TILE_ROWS 8
#else
#define TILE_VECTOR 32
#define TILE_ROWS 6
#endif
typedef real tile_vector __attribute__((vector_size(TILE_VECTOR), aligned(sizeof(real)), may_alias));

// Four by four numbers at a time, by shuffles. Reads along rows: rows of a wide buffer often lie a multiple
// of 2 KiB apart, and a walk down a column would miss the first-level cache at every step.
typedef real tile_quad __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));
typedef decltype(tile_quad() < tile_quad()) tile_lanes;

// to[c, i] = from[i, c] * by for i < rows, c < cols; columns rows..ld-1 are 0.
FN void tile_load_t(real *to, long ld, const act *from, long ldfrom, long rows, long cols, real by) {
  const tile_lanes low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, left = {0, 1, 4, 5}, right = {2, 3, 6, 7};
  const long quads = cols / 4 * 4;
  long i = 0;
  for (; i + 4 <= rows; i += 4) {
    const act *r = from + i * ldfrom;
    for (long c = 0; c < quads; c += 4) {
      const tile_quad r0 = *(const tile_quad *)(r + c) * by, r1 = *(const tile_quad *)(r + ldfrom + c) * by;
      const tile_quad r2 = *(const tile_quad *)(r + 2 * ldfrom + c) * by;
      const tile_quad r3 = *(const tile_quad *)(r + 3 * ldfrom + c) * by;
      const tile_quad a = __builtin_shuffle(r0, r1, low), b = __builtin_shuffle(r2, r3, low);
      const tile_quad d = __builtin_shuffle(r0, r1, high), e = __builtin_shuffle(r2, r3, high);
      real *out = to + c * ld + i;
      *(tile_quad *)out = __builtin_shuffle(a, b, left);
      *(tile_quad *)(out + ld) = __builtin_shuffle(a, b, right);
      *(tile_quad *)(out + 2 * ld) = __builtin_shuffle(d, e, left);
      *(tile_quad *)(out + 3 * ld) = __builtin_shuffle(d, e, right);
    }
    for (long c = quads; c < cols; ++c)
      for (long j = 0; j < 4; ++j) to[c * ld + i + j] = r[j * ldfrom + c] * by;
  }
  for (; i < rows; ++i)
    for (long c = 0; c < cols; ++c) to[c * ld + i] = from[i * ldfrom + c] * by;
  for (long c = 0; c < cols; ++c)
    for (i = rows; i < ld; ++i) to[c * ld + i] = 0;
}

// C[R, V vectors] (+)= A[R, K] B[K, V vectors]
template <int R, int V, bool Transposed>
static __attribute__((noinline)) void tile_registers(real *C, long ldc, const real *A, long lda,
                                                     const real *B, long ldb, long K, bool add) {
  constexpr long width = TILE_VECTOR / sizeof(real);
  tile_vector c[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j)
      c[i][j] = add ? *(const tile_vector *)(C + i * ldc + j * width) : tile_vector{};
  for (long k = 0; k < K; ++k) {
    tile_vector b[V];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) b[j] = *(const tile_vector *)(B + k * ldb + j * width);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < V; ++j) c[i][j] += A[Transposed ? k * lda + i : i * lda + k] * b[j];
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) *(tile_vector *)(C + i * ldc + j * width) = c[i][j];
}

// The rows of one strip of V vectors: blocks of R rows, then the rest.
template <int R, int V, bool Transposed>
static inline void tile_strip(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M,
                              long K, bool add) {
  for (; M >= R; M -= R, C += R * ldc, A += Transposed ? R : R * lda)
    tile_registers<R, V, Transposed>(C, ldc, A, lda, B, ldb, K, add);
  if constexpr (R > 1)
    if (M > 0) tile_strip<R / 2, V, Transposed>(C, ldc, A, lda, B, ldb, M, K, add);
}

template <bool Transposed>
static void tile_product(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long N,
                         long K, bool add) {
  constexpr long width = TILE_VECTOR / sizeof(real);
  long j = 0;
  for (; j + 2 * width <= N; j += 2 * width)
    tile_strip<TILE_ROWS, 2, Transposed>(C + j, ldc, A, lda, B + j, ldb, M, K, add);
  for (; j < N; j += width) tile_strip<TILE_ROWS, 1, Transposed>(C + j, ldc, A, lda, B + j, ldb, M, K, add);
}

#endif

FN void tile_mul(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long N, long K,
                 bool add) {
  tile_product<false>(C, ldc, A, lda, B, ldb, M, N, K, add);
}
FN void tile_mul_t(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long N,
                   long K, bool add) {
  tile_product<true>(C, ldc, A, lda, B, ldb, M, N, K, add);
}
