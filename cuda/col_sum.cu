// Sum over rows, column by column: bias gradients and the partial sums of norms. A block owns 64 columns.
#include "block.h"

// y[C] (+)= sum over rows of x[rows, C]
struct col_sum {
  const act *x;
  real *y;
  long rows, C, ldx, accumulate;
  BODY(long block) {
    const long first = block * 64, n = C - first < 64 ? C - first : 64;
    real *sum = y + first;
    if (!accumulate) EACH(c, n) sum[c] = 0;
    for (long r = 0; r < rows; ++r) {
      const act *row = x + r * ldx + first;
      EACH(c, n) sum[c] += load(row[c]);
    }
  }
};
KERNEL(col_sum)
