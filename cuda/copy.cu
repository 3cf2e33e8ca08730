// Copies rows between strided places, repeating the source where the target has more rows. One block = one
// row.
#include "block.h"

// y[row, C] = x[row mod rows, C]
struct copy_rows {
  const act *x;
  act *y;
  long C, rows, ldx, ldy;
  BODY(long row) {
    const act *from = x + row % rows * ldx;
    act *to = y + row * ldy;
    EACH(c, C) to[c] = from[c];
  }
};
KERNEL(copy_rows)

// y = x rounded to act. One block = `span` elements.
struct cast {
  const real *x;  // [count]
  act *y;         // [count]
  long count, span;
  BODY(long block) {
    const long first = block * span, n = count - first < span ? count - first : span;
    EACH(i, n) store(y[first + i], x[first + i]);
  }
};
KERNEL(cast)
