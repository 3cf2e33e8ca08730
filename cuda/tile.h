// Small matrix products between tiles in scratch memory, called by all threads of a block.
//   tile_mul(C, ldc, A, lda, B, ldb, M, N, K, add)        C[M, N] (+)= A[M, K] B[K, N]
//   tile_mul_t(C, ldc, A, lda, B, ldb, M, N, K, add)      C[M, N] (+)= A[K, M]^T B[K, N]
//   tile_load, tile_load_t                                strided act rows to a padded tile, straight or transposed
// Rows of B and C begin at multiples of TILE_PAD elements and N is one. Whoever reads C afterwards calls block_sync
// first. CPU: blocks of up to TILE_ROWS x 2 vectors of C stay in registers, A is broadcast. CUDA: a thread an element.
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

// to[c, i] = from[i, c] * by for i < rows, c < cols; columns rows..ld-1 are 0.
FN void tile_load_t(real *to, long ld, const act *from, long ldfrom, long rows, long cols, real by) {
  for (long c = 0; c < cols; ++c) {
    EACH(i, rows) to[c * ld + i] = load(from[i * ldfrom + c]) * by;
    for (long i = rows + TID; i < ld; i += LANES) to[c * ld + i] = 0;
  }
}

#if MD_CUDA

template <bool Transposed>
FN void tile_product(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long N, long K,
                     bool add) {
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

// C[R, V vectors] (+)= A[R, K] B[K, V vectors]
template <int R, int V, bool Transposed>
static __attribute__((noinline)) void tile_registers(real *C, long ldc, const real *A, long lda, const real *B,
                                                     long ldb, long K, bool add) {
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
static inline void tile_strip(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long K,
                              bool add) {
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
FN void tile_mul_t(real *C, long ldc, const real *A, long lda, const real *B, long ldb, long M, long N, long K,
                   bool add) {
  tile_product<true>(C, ldc, A, lda, B, ldb, M, N, K, add);
}
