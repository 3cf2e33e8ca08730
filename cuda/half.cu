// Half-precision numbers of data files, two in a word, as numbers to compute with. One block = `span` words.
#include "block.h"

// IEEE binary16 in the low bits. Its exponent starts 112 lower than binary32's, so the bits in place times
// 2^112 are the number, denormal ones too; infinity and NaN get the exponent that stands for them.
FN float half_value(uint32_t bits) {
  const float scaled = float_of((bits & 0x7fffu) << 13) * 5.192296858534828e33f;
  const uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return float_of(bits_of(scaled) | special | (bits & 0x8000u) << 16);
}

// y[2 i] = low half of x[i], y[2 i + 1] = its high half, into each kind of number.
template <class Y> FN void unpack_halves(const i32 *x, Y *y, long count, long span, long block) {
  const long first = block * span, n = count - first < span ? count - first : span;
  EACH(i, n) {
    const uint32_t word = uint32_t(x[first + i]);
    store(y[2 * (first + i)], load(half_value(word & 0xffffu)));
    store(y[2 * (first + i) + 1], load(half_value(word >> 16)));
  }
}

struct half_to_act {
  const i32 *x;  // [count]
  act *y;        // [2 count]
  long count, span;
  BODY(long block) { unpack_halves(x, y, count, span, block); }
};
KERNEL(half_to_act)

struct half_to_real {
  const i32 *x;  // [count]
  real *y;       // [2 count]
  long count, span;
  BODY(long block) { unpack_halves(x, y, count, span, block); }
};
KERNEL(half_to_real)
