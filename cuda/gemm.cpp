// Kernel "gemm": row-major C[M,N] = op(A) op(B) (+ C) (+ bias[N]), in a strided batch, cut into tiles of C
// that the pool hands to its threads; each tile is one call of OpenBLAS's serial sgemm (dgemm in the double
// build).
#include "native.h"

#include <cblas.h>
#include <stdlib.h>

extern "C" void gotoblas_dynamic_init();
extern "C" void gotoblas_dynamic_quit();

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
  long span, images;         // rows of one image, number of images: tiles lie within one
  long rows, columns;        // of one tile
  long down, across, count;  // tiles of one image; of everything
};

// OpenBLAS's kernels take 12 or 4 rows of ours at a time.
constexpr long whole_rows = 12;

long ceil_div(long a, long b) { return (a + b - 1) / b; }

// The grid is a rule of the shape alone, so that results do not depend on the number of threads. Wide tiles
// of many rows keep OpenBLAS near its best (it packs op(B) anew for each tile); an even number of them
// keeps two cores busy (bench/SPEED.md). With image_rows every image gets the same tiles, whichever it is
// and however many there are, so its rows come out of the very same calls.
Tiles tiles_of(const Gemm &g) {
  long span = g.image_rows > 0 && g.image_rows < g.M ? g.image_rows : g.M;
  long images = ceil_div(g.M, span);
  long known = g.image_rows > 0 ? 1 : g.batch;
  long down = 1, across = 1;
  while (span / (2 * down) >= 256 && down * known < 4) down *= 2;
  while (g.N / (2 * across) >= 256 && down * across * known < 4) across *= 2;
  Tiles t;
  t.span = span;
  t.rows = down == 1 ? span : ceil_div(ceil_div(span, down), whole_rows) * whole_rows;
  t.columns = across == 1 ? g.N : ceil_div(ceil_div(g.N, across), 16) * 16;
  t.down = ceil_div(span, t.rows);
  t.across = ceil_div(g.N, t.columns);
  t.count = images * t.down * t.across * g.batch;
  t.images = images;
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
    long down = rest % t.down, image = rest / t.down % t.images, product = rest / t.down / t.images;
    long begin = image * t.span, row = begin + down * t.rows, column = across * t.columns;
    long end = begin + t.span < g.M ? begin + t.span : g.M;
    long rows = end - row < t.rows ? end - row : t.rows;
    if (rows <= 0) continue;
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

// The yardstick of the benches: block b is one plain OpenBLAS product C_b = A_b B_b of n x n matrices, on one
// thread.
struct Yardstick {
  const act *A, *B;
  act *C;
  long n;
};

void run_yardstick(const void *slots, long first, long last, char *) {
  const Yardstick &y = *static_cast<const Yardstick *>(slots);
  Gemm g = {};
  g.K = g.lda = g.ldb = g.ldc = y.n;
  for (long b = first; b < last; ++b) {
    long at = b * y.n * y.n;
    multiply(g, y.A + at, y.B + at, y.C + at, y.n, y.n, real(0));
  }
}

}  // namespace

const md_entry yardstick_entry = {"blas_square", run_yardstick, long(sizeof(Yardstick) / 8)};
const md_entry gemm_entry = {"gemm", run, long(sizeof(Gemm) / 8)};

md_grid gemm_grid(const void *slots, int) { return {tiles_of(*static_cast<const Gemm *>(slots)).count, 0}; }

// OpenBLAS chooses its kernels when it is loaded. Its own choice is not the fastest where it takes AVX-512
// for granted: Zen 4 halves 512-bit instructions and does better with the AVX2 kernels, and its Cooperlake
// set is behind SkylakeX in single precision (bench/SPEED.md). OPENBLAS_CORETYPE, if set, is left to
// decide.
void gemm_init() {
  if (getenv("OPENBLAS_CORETYPE") || !__builtin_cpu_supports("avx512f")) return;
  const char *core = __builtin_cpu_is("amdfam19h") ? "Haswell" : "SkylakeX";
  gotoblas_dynamic_quit();
  setenv("OPENBLAS_CORETYPE", core, 1);
  gotoblas_dynamic_init();
  unsetenv("OPENBLAS_CORETYPE");
}
