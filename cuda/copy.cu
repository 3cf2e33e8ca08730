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
