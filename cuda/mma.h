// Instructions of tensor-core kernels as functions: bf16 matrix products of a warp, their operands from
// shared memory, asynchronous copies, fast powers of two. For bf16 on GPUs (sm_80 and newer) and emulated.
#pragma once
#include "block.h"

#if MD_CUDA && !defined(ACT_IS_FLOAT)

// Two numbers as one register, `low` in the lower half.
FN uint32_t pack_bf16(float low, float high) {
#ifdef MD_EMULATED
  return uint32_t(bf16_of(low).bits) | uint32_t(bf16_of(high).bits) << 16;
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

// 2^x within 2 units in the last place; denormal results are 0.
FN float exp2_fast(float x) {
#ifdef MD_EMULATED
  return ::exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Moves 16 bytes, both addresses multiples of it.
FN void move16(void *to, const void *from) {
  struct alignas(16) words {
    uint32_t word[4];
  };
#ifdef MD_EMULATED
  sim_aligned(to, 16);
  sim_aligned(from, 16);
#endif
  *(words *)to = *(const words *)from;
}

// d += a b: a [16, 16], b [16, 8], d [16, 8] spread over the lanes of a warp (PTX: mma.m16n8k16). With g =
// lane / 4 and t = lane % 4: d holds (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1); a holds pairs of
// columns of rows g, g + 8, g, g + 8, from column 2t, 2t, 2t + 8, 2t + 8; b0 and b1 hold rows 2t, 2t + 1 and
// 2t + 8, 2t + 9 of column g.
FN void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef MD_EMULATED
  const uint32_t b[2] = {b0, b1};
  sim_mma_bf16(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 x 8 matrices from shared memory: lane i names row i % 8 of matrix i / 8, and gets of each matrix the
// pair (lane / 4, 2 (lane % 4)) and its right neighbour.
FN void load_matrices(uint32_t (&to)[4], const bf16 *row) {
#ifdef MD_EMULATED
  sim_ldmatrix(to, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
#endif
}

// The same of the transposed matrices.
FN void load_transposed(uint32_t (&to)[4], const bf16 *row) {
#ifdef MD_EMULATED
  sim_ldmatrix(to, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
#endif
}

// Copies Bytes (4 or 16, both addresses multiples of it) from global to shared memory behind the thread's
// back, or writes zeros and reads nothing. Arrived after copy_wait and then a barrier.
template <int Bytes> FN void copy_async(void *shared, const void *global, bool there) {
#ifdef MD_EMULATED
  sim_copy_later(shared, global, Bytes, there);
#else
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared), size = there ? Bytes : 0;
  if (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(size)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(size)
                 : "memory");
  }
#endif
}

// Waits for all copies of this thread.
FN void copy_wait() {
#ifdef MD_EMULATED
  sim_copy_wait();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#endif
