// Kernels with the mistakes that the tests of the stand-ins must notice, and one without. Test source only.
#include "block.h"

// y[i] = by * x[i], one block: without a mistake.
struct good_scale {
  const real *x;
  real *y;
  long n;
  double by;
  BODY(long) {
    EACH(i, n) y[i] = real(by) * x[i];
  }
};
KERNEL(good_scale)

// y[i] = x[n - 1 - i] by way of scratch, with a barrier between.
struct good_turn {
  const real *x;
  real *y;
  long n;
  BODY(long) {
    real *between = scratch(real);
    EACH(i, n) between[i] = x[i];
    block_sync();
    EACH(i, n) y[i] = between[n - 1 - i];
  }
};
KERNEL(good_turn)

// The same without the barrier.
struct no_barrier {
  const real *x;
  real *y;
  long n;
  BODY(long) {
    real *between = scratch(real);
    EACH(i, n) between[i] = x[i];
    EACH(i, n) y[i] = between[n - 1 - i];
  }
};
KERNEL(no_barrier)

// A barrier that only the first threads reach.
struct lame_barrier {
  real *y;
  long n;
  BODY(long) {
    if (TID < 3) block_sync();
    EACH(i, n) y[i] = 1;
  }
};
KERNEL(lame_barrier)

// Writes `distance` elements after the end of y[n]; -1: before its beginning.
struct wild_write {
  real *y;
  long n, distance;
  BODY(long) {
    EACH(i, n) y[i] = 1;
    if (TID == 0) y[distance < 0 ? -1 : n - 1 + distance] = 2;
  }
};
KERNEL(wild_write)

// Every thread writes one place: the last one wins.
struct race {
  real *y;
  BODY(long) { y[0] = real(TID); }
};
KERNEL(race)

// Blocks add to one place without atomics, each to half of what is there.
struct block_race {
  real *y;
  BODY(long block) {
    if (TID == 0) y[0] = y[0] * real(0.5) + real(block);
  }
};
KERNEL(block_race)

// Reads its scratch without having written to it.
struct fresh_scratch {
  real *y;
  BODY(long) {
    if (TID == 0) y[0] = scratch(real)[0];
  }
};
KERNEL(fresh_scratch)
