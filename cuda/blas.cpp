// What OpenBLAS does here: the yardstick of the benches, and kernel "gemm" of the double build, which is a
// reference that owes nothing to gemm.cpp.
#include "gemm.h"

#include <cblas.h>
#include <stdlib.h>

extern "C" void gotoblas_dynamic_init();
extern "C" void gotoblas_dynamic_quit();

namespace {

// Block b is one plain product C_b = A_b B_b of n x n matrices, on one thread.
struct Yardstick {
  const act *A, *B;
  act *C;
  long n;
};

void run_yardstick(const void *slots, long first, long last, char *) {
  const Yardstick &y = *static_cast<const Yardstick *>(slots);
  const blasint n = blasint(y.n);
  for (long b = first; b < last; ++b) {
    const long at = b * y.n * y.n;
#ifdef REAL_IS_DOUBLE
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1.0, y.A + at, n, y.B + at, n, 0.0,
                y.C + at, n);
#else
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1.0f, y.A + at, n, y.B + at, n, 0.0f,
                y.C + at, n);
#endif
  }
}

}  // namespace

const md_entry yardstick_entry = {"blas_square", run_yardstick, long(sizeof(Yardstick) / 8)};

#ifdef REAL_IS_DOUBLE

namespace {

// One block: one product of the batch.
void run(const void *slots, long first, long last, char *) {
  const Gemm &g = *static_cast<const Gemm *>(slots);
  const CBLAS_TRANSPOSE a = g.transA ? CblasTrans : CblasNoTrans, b = g.transB ? CblasTrans : CblasNoTrans;
  for (long product = first; product < last; ++product) {
    act *C = g.C + product * g.strideC;
    const act *bias = g.bias ? g.bias + product * g.strideBias : nullptr;
    for (long i = 0; bias && i < g.M; ++i)
      for (long j = 0; j < g.N; ++j) C[i * g.ldc + j] = (g.accumulate ? C[i * g.ldc + j] : 0) + bias[j];
    cblas_dgemm(CblasRowMajor, a, b, blasint(g.M), blasint(g.N), blasint(g.K), 1.0,
                g.A + product * g.strideA, blasint(g.lda), g.B + product * g.strideB, blasint(g.ldb),
                g.accumulate || bias ? 1.0 : 0.0, C, blasint(g.ldc));
  }
}

}  // namespace

const md_entry gemm_entry = {"gemm", run, long(sizeof(Gemm) / 8)};

bool gemm_run(const void *slots) {
  pool_run(&gemm_entry, slots, static_cast<const Gemm *>(slots)->batch, false);
  return true;
}

#endif

// OpenBLAS chooses its kernels when it is loaded. Its own choice is not the fastest where it takes AVX-512
// for granted: Zen 4 halves 512-bit instructions and does better with the AVX2 kernels, and its Cooperlake
// set is behind SkylakeX in single precision (bench/SPEED.md). OPENBLAS_CORETYPE, if set, is left to
// decide.
void blas_init() {
  if (getenv("OPENBLAS_CORETYPE") || !__builtin_cpu_supports("avx512f")) return;
  const char *core = __builtin_cpu_is("amdfam19h") ? "Haswell" : "SkylakeX";
  gotoblas_dynamic_quit();
  setenv("OPENBLAS_CORETYPE", core, 1);
  gotoblas_dynamic_init();
  unsetenv("OPENBLAS_CORETYPE");
}
