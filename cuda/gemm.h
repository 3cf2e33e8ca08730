// What the driver of kernel "gemm" (gemm.cpp) and its micro-kernels (packed.h, one object an instruction set)
// share.
#pragma once
#include "native.h"

// The slots of kernel "gemm": row-major C[M,N] = op(A) op(B) (+ C) (+ bias[N]), in a strided batch.
struct Gemm {
  const act *A, *B;
  act *C;
  const act *bias;
  // op(A) is [M,K]: A[M,K] with rows lda apart, or A[K,M] if transA; op(B) is [K,N]: B[K,N], or B[N,K] if
  // transB.
  long M, N, K, lda, ldb, ldc, transA, transB;
  // Elements from one product of the batch to the next.
  long batch, strideA, strideB, strideC, strideBias;
  // accumulate: C is added to, else it is overwritten. image_rows: rows of one image, for back ends whose
  // bits depend on how rows are cut into tiles; here they do not, and it changes nothing.
  long accumulate, image_rows;
};

#ifndef REAL_IS_DOUBLE

// A rectangle of C of one product, for depths [depth, depth_end), whole cuts.
struct GemmTile {
  long product, row, row_end, column, column_end, depth, depth_end;
};

// One set of micro-kernels. What is packed are 4-byte units of `step` neighbouring depths: floats, or pairs
// of bf16. op(B) is packed into panels of `columns` columns: for each cut, panel after panel, each [units of
// the cut][columns], short panels filled up with zeros.
struct GemmKernels {
  long rows, columns, step;
  // Packs `panels` panels from `column` on, depths [depth, depth + count).
  void (*pack_panels)(const Gemm &g, long product, long column, long panels, long depth, long count,
                      float *to);
  // Computes a tile; `panels` is op(B) of this product from depth tile.depth on, all columns, packed. Null:
  // the tile packs for itself, gemm_own_panels at a time. scratch: the tile's strips of rows, each filled up
  // to `rows`, and the own panels, of one cut.
  void (*compute)(const Gemm &g, const GemmTile &tile, const float *panels, float *scratch);
};

constexpr long gemm_own_panels = 4;

extern const GemmKernels gemm_v3, gemm_v4, gemm_bf16;

constexpr long ceil_div(long a, long b) { return (a + b - 1) / b; }
constexpr long rounded_up(long a, long b) { return ceil_div(a, b) * b; }

// Depth is cut into equal parts of at most 384 units (the last may be shorter): a panel of op(A) stays in the
// first-level cache. Part of the arithmetic, so a rule of K and the step alone.
inline long cut_of(long K, long step) {
  const long deepest = 384 * step;
  return K <= deepest ? (K > 0 ? K : 1) : rounded_up(ceil_div(K, ceil_div(K, deepest)), 8);
}

#endif
