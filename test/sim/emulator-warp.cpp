// What lanes of an emulated warp do together: votes, shuffles, ldmatrix, mma. See emulator.h.
#ifndef MD_EMULATED
#define MD_EMULATED 1
#endif
#include "emulator.h"

unsigned __ballot_sync(unsigned mask, int predicate) {
  struct vote {
    bool own;
    unsigned all;
  } part = {predicate != 0, 0};
  sim_meet(mask, [](unsigned among, void *const *parts) {
    unsigned all = 0;
    for (unsigned i = 0; i < 32; ++i)
      if (among >> i & 1 && ((vote *)parts[i])->own) all |= 1u << i;
    for (unsigned i = 0; i < 32; ++i)
      if (among >> i & 1) ((vote *)parts[i])->all = all;
  }, &part);
  return part.all;
}

uint64_t sim_shuffle(unsigned mask, uint64_t value, unsigned source) {
  struct exchange {
    uint64_t value, result;
    unsigned source;
  } part = {value, 0, source};
  sim_meet(mask, [](unsigned among, void *const *parts) {
    for (unsigned i = 0; i < 32; ++i) {
      if (!(among >> i & 1)) continue;
      exchange &e = *(exchange *)parts[i];
      if (!(among >> e.source & 1))
        sim_fail(SIM_DIVERGED, "lane %u reads lane %u, which is not in mask %08x", i, e.source, among);
      e.result = ((exchange *)parts[e.source])->value;
    }
  }, &part);
  return part.result;
}

// ---- matrices -------------------------------------------------------------------------------------------

namespace {

struct rows {
  const void *row;
  uint32_t *to;
};

template <bool Transposed> void load_matrices(unsigned, void *const *parts) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned m = 0; m < 4; ++m) {
      const unsigned outer = lane / 4, pair = lane % 4 * 2;
      uint16_t two[2];
      for (unsigned j = 0; j < 2; ++j) {
        const unsigned row = Transposed ? pair + j : outer, column = Transposed ? outer : pair + j;
        two[j] = ((const uint16_t *)((const rows *)parts[8 * m + row])->row)[column];
      }
      ((rows *)parts[lane])->to[m] = uint32_t(two[0]) | uint32_t(two[1]) << 16;
    }
  }
}

float low(uint32_t pair) {
  pair <<= 16;
  float value;
  memcpy(&value, &pair, 4);
  return value;
}
float high(uint32_t pair) { return low(pair >> 16); }

struct product {
  float *d;
  const uint32_t *a, *b;
};

void multiply(unsigned, void *const *parts) {
  float A[16][16], B[16][8], D[16][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const product &p = *(const product *)parts[lane];
    const unsigned outer = lane / 4, pair = lane % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = outer + i % 2 * 8, column = pair + i / 2 * 8;
      A[row][column] = low(p.a[i]), A[row][column + 1] = high(p.a[i]);
      D[outer + i / 2 * 8][pair + i % 2] = p.d[i];
    }
    for (unsigned i = 0; i < 2; ++i) {
      B[pair + i * 8][outer] = low(p.b[i]), B[pair + i * 8 + 1][outer] = high(p.b[i]);
    }
  }
  for (unsigned i = 0; i < 16; ++i)
    for (unsigned k = 0; k < 16; ++k)
      for (unsigned j = 0; j < 8; ++j) D[i][j] += A[i][k] * B[k][j];
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned i = 0; i < 4; ++i)
      ((const product *)parts[lane])->d[i] = D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

}  // namespace

void sim_ldmatrix(uint32_t to[4], const void *row, bool transposed) {
  sim_aligned(row, 16);
  if (!sim_in_shared(row, 16)) sim_fail(SIM_TRAP, "ldmatrix outside shared memory");
  rows part = {row, to};
  sim_meet(0xffffffffu, transposed ? load_matrices<true> : load_matrices<false>, &part);
}

void sim_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  product part = {d, a, b};
  sim_meet(0xffffffffu, multiply, &part);
}
