// fill, scale, add: the simplest kernels and the pattern for others. One block = `span` elements (the last
// one fewer); the tracer chooses span and blocks = ceil(count / span).
#include "block.h"

// y[i] = value
struct fill {
  act *y;  // [count]
  long count, span;
  double value;
  BODY(long block) {
    long first = block * span, n = count - first < span ? count - first : span;
    EACH(i, n) store(y[first + i], real(value));
  }
};
KERNEL(fill)

// y[i] = x[i] * by
struct scale {
  const act *x;  // [count]
  act *y;        // [count]
  long count, span;
  double by;
  BODY(long block) {
    long first = block * span, n = count - first < span ? count - first : span;
    EACH(i, n) store(y[first + i], load(x[first + i]) * real(by));
  }
};
KERNEL(scale)

// y[i] = a[i] + b[i]
struct add {
  const act *a, *b;  // [count]
  act *y;            // [count]
  long count, span;
  BODY(long block) {
    long first = block * span, n = count - first < span ? count - first : span;
    EACH(i, n) store(y[first + i], load(a[first + i]) + load(b[first + i]));
  }
};
KERNEL(add)
