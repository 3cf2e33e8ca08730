// Sum over rows, column by column, in two halves so that many blocks share the rows: part_sum and
// part_sum_real (partial sums of stretches of rows, from act or real), col_sum (their sum).
#include "block.h"

// y[chunk, C] = sum over the chunk's `span` rows of x[rows, C]. A block owns one chunk and `width` columns.
template <class From> struct part_sums {
  MEMBER static void block(const From *x, real *y, long rows, long C, long ldx, long span, long width,
                           long block) {
    const long strips = (C + width - 1) / width, chunk = block / strips, first = block % strips * width;
    const long n = C - first < width ? C - first : width;
    const long r0 = chunk * span, count = rows - r0 < span ? rows - r0 : span;
    const From *from = x + r0 * ldx + first;
    real *sum = y + chunk * C + first;
    EACH(c, n) sum[c] = load(from[c]);
    for (long r = 1; r < count; ++r) EACH(c, n) sum[c] += load(from[r * ldx + c]);
  }
};

struct part_sum {
  const act *x;
  real *y;
  long rows, C, ldx, span, width;
  BODY(long block) { part_sums<act>::block(x, y, rows, C, ldx, span, width, block); }
};
KERNEL(part_sum)

struct part_sum_real {
  const real *x;
  real *y;
  long rows, C, ldx, span, width;
  BODY(long block) { part_sums<real>::block(x, y, rows, C, ldx, span, width, block); }
};
KERNEL(part_sum_real)

// y[C] (+)= sum over rows of x[rows, C]. A block owns 64 columns.
struct col_sum {
  const real *x;
  real *y;
  long rows, C, ldx, accumulate;
  BODY(long block) {
    const long first = block * 64, n = C - first < 64 ? C - first : 64;
    real *sum = y + first;
    if (!accumulate) EACH(c, n) sum[c] = 0;
    for (long r = 0; r < rows; ++r) {
      const real *row = x + r * ldx + first;
      EACH(c, n) sum[c] += row[c];
    }
  }
};
KERNEL(col_sum)
