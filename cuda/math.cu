// Applies one function of math.h to an array, so that tests can measure its error on every build.
#include "block.h"
#include "math.h"

struct math_map {
  const act *x;  // [count]
  act *y;        // [count]
  long count, function;
  template <class F> MEMBER void each(F f) const {
    EACH(i, count) store(y[i], f(load(x[i])));
  }
  BODY(long) {
    if (function == 0) each([](real v) { return md::exp(v); });
    if (function == 1) each([](real v) { return md::log(v); });
    if (function == 2) each([](real v) { return md::erf(v); });
    if (function == 3) each([](real v) { return md::tanh(v); });
    if (function == 4) each([](real v) { return md::sigmoid(v); });
    if (function == 5) each([](real v) { return load(bf16_of(float(v))); });
  }
};
KERNEL(math_map)
