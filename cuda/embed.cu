// Sinusoids of the noise level.
#include "block.h"
#include "math.h"

// y[n] = (cos(t[n] f_i), sin(t[n] f_i)), f_i = exp(-ln(10000) i / half), half = dim / 2. In double, because
// the rounding of an angle in float would be its whole error. t [N]; y [N, dim]. One block = one row.
struct timestep_embedding {
  const real *t;
  act *y;
  long dim, ldy;
  BODY(long n) {
    const long half = dim / 2;
    const double at = t[n], rate = -9.210340371976184 / (double)half;
    act *to = y + n * ldy;
    EACH(i, half) {
      const double angle = at * md::exp(rate * (double)i);
      store(to[i], (real)md::cos(angle));
      store(to[half + i], (real)md::sin(angle));
    }
  }
};
KERNEL(timestep_embedding)
