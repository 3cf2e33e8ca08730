// softmax over rows of scores in memory, for attention whose heads are too wide for tiles (attention.cu).
#include "block.h"
#include "math.h"

// y = exp(x by - max) / sum of exp(x by - max) over a row. One block = one row.
struct softmax_rows {
  const real *x;  // [rows, C]
  act *y;         // [rows, C]
  long C, ldx, ldy;
  double by;
  BODY(long row) {
    const real *from = x + row * ldx;
    act *to = y + row * ldy;
    const real scale = (real)by;
    real top = -INFINITY;
    EACH_MAX(c, C, top) top = top < from[c] * scale ? from[c] * scale : top;
    top = block_max(top);
    real sum = 0;
    EACH_SUM(c, C, sum) sum += md::exp(from[c] * scale - top);
    sum = 1 / block_sum(sum);
    EACH(c, C) store(to[c], md::exp(from[c] * scale - top) * sum);
  }
};
KERNEL(softmax_rows)
