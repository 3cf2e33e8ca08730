// Kernel "gemm": row-major C[M,N] = op(A) op(B) (+ C) (+ bias[N]), in a strided batch, cut into tiles of C
// that the pool hands to its threads; each tile is one call of OpenBLAS's serial sgemm (dgemm in the double
// build).
#include "native.h"

#include <cblas.h>

namespace {

struct Gemm {
  const act *A, *B;
  act *C;
  const act *bias;
  // op(A) is [M,K]: A[M,K] with rows lda apart, or A[K,M] if transA; op(B) is [K,N]: B[K,N], or B[N,K] if
  // transB.
  long M, N, K, lda, ldb, ldc, transA, transB;
  // Elements from one product of the batch to the next.
  long batch, strideA, strideB, strideC, strideBias;
  // accumulate: C is added to, else it is overwritten. image_rows: rows of one image, 0 where tiles are free.
  long accumulate, image_rows;
};

struct Tiles {
  long rows, columns;        // of one tile
  long down, across, count;  // tiles of one product; of the batch
};

long ceil_div(long a, long b) { return (a + b - 1) / b; }

Tiles tiles_of(const Gemm &g) {
  Tiles t;
  t.rows = g.image_rows > 0 ? g.image_rows : 256;
  t.columns = 512;
  if (t.rows > g.M) t.rows = g.M;
  if (t.columns > g.N) t.columns = g.N;
  t.down = ceil_div(g.M, t.rows);
  t.across = ceil_div(g.N, t.columns);
  t.count = t.down * t.across * g.batch;
  return t;
}

void multiply(const Gemm &g, const act *A, const act *B, act *C, long rows, long columns, real beta) {
  CBLAS_TRANSPOSE a = g.transA ? CblasTrans : CblasNoTrans, b = g.transB ? CblasTrans : CblasNoTrans;
  blasint m = blasint(rows), n = blasint(columns), k = blasint(g.K);
  blasint lda = blasint(g.lda), ldb = blasint(g.ldb), ldc = blasint(g.ldc);
#ifdef REAL_IS_DOUBLE
  cblas_dgemm(CblasRowMajor, a, b, m, n, k, 1.0, A, lda, B, ldb, beta, C, ldc);
#else
  cblas_sgemm(CblasRowMajor, a, b, m, n, k, 1.0f, A, lda, B, ldb, beta, C, ldc);
#endif
}

void run(const void *slots, long first, long last, char *) {
  const Gemm &g = *static_cast<const Gemm *>(slots);
  const Tiles t = tiles_of(g);
  for (long tile = first; tile < last; ++tile) {
    long across = tile % t.across, rest = tile / t.across;
    long down = rest % t.down, product = rest / t.down;
    long row = down * t.rows, column = across * t.columns;
    long rows = g.M - row < t.rows ? g.M - row : t.rows;
    long columns = g.N - column < t.columns ? g.N - column : t.columns;
    const act *A = g.A + product * g.strideA + (g.transA ? row : row * g.lda);
    const act *B = g.B + product * g.strideB + (g.transB ? column * g.ldb : column);
    act *C = g.C + product * g.strideC + row * g.ldc + column;
    if (g.bias) {
      // The bias is what the product is added to, so that it costs no pass of its own over C.
      const act *bias = g.bias + product * g.strideBias + column;
      for (long i = 0; i < rows; ++i) {
        act *c = C + i * g.ldc;
        if (g.accumulate)
          for (long j = 0; j < columns; ++j) c[j] += bias[j];
        else
          for (long j = 0; j < columns; ++j) c[j] = bias[j];
      }
    }
    multiply(g, A, B, C, rows, columns, g.accumulate || g.bias ? real(1) : real(0));
  }
}

}  // namespace

const md_entry gemm_entry = {"gemm", run, long(sizeof(Gemm) / 8)};

md_grid gemm_grid(const void *slots, int) { return {tiles_of(*static_cast<const Gemm *>(slots)).count, 0}; }

void gemm_init() {}
