// Matrix products for runner.c alone, which has no cuBLASLt: kernel "gemm" of plans, an element a thread.
#include "../../cuda/block.h"

// The slots of kernel "gemm" (cuda/gemm.h); blocks of THREADS elements of C. AB: kind of A and B, Out: of C.
template <class AB, class Out> struct plain_product {
  const AB *A, *B;
  Out *C;
  const AB *bias;
  long M, N, K, lda, ldb, ldc, transA, transB, batch, strideA, strideB, strideC, strideBias, accumulate, rows;
  BODY(long block) {
    const long at = block * LANES + TID;
    if (at >= batch * M * N) return;
    const long i = at / (M * N), m = at / N % M, n = at % N;
    const AB *a = A + i * strideA, *b = B + i * strideB;
    float sum = bias ? load(bias[i * strideBias + n]) : 0;
    for (long k = 0; k < K; ++k)
      sum += load(a[transA ? k * lda + m : m * lda + k]) * load(b[transB ? n * ldb + k : k * ldb + n]);
    Out &c = C[i * strideC + m * ldc + n];
    store(c, accumulate ? load(c) + sum : sum);
  }
};
struct gemm_act_act : plain_product<act, act> {};
struct gemm_act_real : plain_product<act, real> {};
struct gemm_real_real : plain_product<real, real> {};
KERNEL(gemm_act_act)
KERNEL(gemm_act_real)
KERNEL(gemm_real_real)
