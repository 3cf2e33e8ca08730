// Checks of the tensor-core attention under emulation, a line each on standard output, as emulator-check:
// values and gradients of many shapes against the definition in double, in three orders of threads whose
// results have to be equal to the bit, between canaries.
//   attention-check           all shapes
//   attention-check few       a handful
#include "../../cuda/block.h"

#include <initializer_list>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace {

int checks, failures;
uint32_t seed = 1;

double draw() {
  seed = seed * 1664525u + 1013904223u;
  return double(seed >> 8) / 8388608.0 - 1;
}

constexpr uint16_t canary = 0x7fc1;  // a NaN: reading it spoils the result

// rows [rows, cols] at distance `ld`, canaries between them and before; a guard page comes right after.
struct matrix {
  long rows, cols, ld;
  size_t count, bytes;
  char *base;
  bf16 *whole, *at;
  matrix(long rows, long cols, long ld) : rows(rows), cols(cols), ld(ld) {
    count = size_t(rows * ld + 8 - (ld - cols));
    bytes = (count * 2 + 4095) / 4096 * 4096;
    base = (char *)mmap(nullptr, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) abort();
    mprotect(base + bytes, 4096, PROT_NONE);
    whole = (bf16 *)(base + bytes) - count;
    at = whole + 8;
    for (size_t i = 0; i < count; ++i) whole[i].bits = canary;
  }
  matrix(const matrix &) = delete;
  ~matrix() { munmap(base, bytes + 4096); }
  bf16 &operator()(long row, long col) const { return at[row * ld + col]; }
  void fill() const {
    for (long r = 0; r < rows; ++r)
      for (long c = 0; c < cols; ++c) (*this)(r, c) = bf16_of(float(draw()));
  }
  void copy(const matrix &from) const { memcpy(whole, from.whole, count * 2); }
  bool guarded() const {
    for (size_t i = 0; i < count; ++i) {
      const long place = long(i) - 8;
      if ((place < 0 || place % ld >= cols) && whole[i].bits != canary) return false;
    }
    return true;
  }
};

// Numbers in float, with the guard page.
struct numbers {
  size_t count, bytes;
  char *base;
  float *at;
  explicit numbers(long n) : count(size_t(n)), bytes((count * 4 + 4095) / 4096 * 4096) {
    base = (char *)mmap(nullptr, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) abort();
    mprotect(base + bytes, 4096, PROT_NONE);
    at = (float *)(base + bytes) - count;
  }
  numbers(const numbers &) = delete;
  ~numbers() { munmap(base, bytes + 4096); }
};

struct shape {
  long N, H, T, S, D, wide;
  bool add, dq, dk, dv;
};

// Slots as in cuda/attention_mma.cu.
struct forward_slots {
  const bf16 *q, *k, *v;
  bf16 *y;
  float *lse;
  long H, T, S, D, ldq, ldk, ldv, ldy, tileT, tileS;
};
struct backward_slots {
  const bf16 *q, *k, *v;
  const float *lse;
  const bf16 *dy;
  const float *delta;
  bf16 *dq, *dk, *dv;
  float *work;
  long H, T, S, D, ldq, ldk, ldv, lddy, lddq, lddk, lddv, tileT, tileS, add_dq, add_dk, add_dv;
};

const sim_kernel *find(const char *name, long D) {
  char full[64];
  snprintf(full, sizeof full, "%s_mma%ld", name, D);
  for (const sim_kernel *k = sim_kernels_begin(); k < sim_kernels_end(); ++k)
    if (strcmp(k->name, full) == 0) return k;
  printf("FAILED no kernel %s\n", full);
  exit(1);
}

double *zeros(long n) { return (double *)calloc(size_t(n), sizeof(double)); }

// The definition, head by head; gradients of sum(y dy).
struct reference {
  double *y, *lse, *delta, *dq, *dk, *dv;
  reference(const shape &z, const matrix &q, const matrix &k, const matrix &v, const matrix &dy) {
    const long C = z.H * z.D;
    y = zeros(z.N * z.T * C), dq = zeros(z.N * z.T * C), dk = zeros(z.N * z.S * C), dv = zeros(z.N * z.S * C);
    lse = zeros(z.N * z.H * z.T), delta = zeros(z.N * z.H * z.T);
    double *w = zeros(z.S), *slope = zeros(z.S);
    for (long n = 0; n < z.N; ++n)
      for (long h = 0; h < z.H; ++h)
        for (long t = 0; t < z.T; ++t) {
          const long row = n * z.T + t, c0 = h * z.D;
          const auto dot = [&](const matrix &a, const matrix &b, long s) {
            double sum = 0;
            for (long d = 0; d < z.D; ++d) sum += double(load(a(row, c0 + d))) * load(b(n * z.S + s, c0 + d));
            return sum;
          };
          double top = -INFINITY, sum = 0, mean = 0;
          for (long s = 0; s < z.S; ++s) top = fmax(top, w[s] = dot(q, k, s) / sqrt(double(z.D)));
          for (long s = 0; s < z.S; ++s) sum += w[s] = ::exp(w[s] - top);
          for (long s = 0; s < z.S; ++s) w[s] /= sum;
          for (long s = 0; s < z.S; ++s) mean += w[s] * (slope[s] = dot(dy, v, s));
          lse[(n * z.H + h) * z.T + t] = top + ::log(sum);
          delta[(n * z.H + h) * z.T + t] = mean;
          for (long s = 0; s < z.S; ++s) {
            const double ds = w[s] * (slope[s] - mean) / sqrt(double(z.D));
            for (long d = 0; d < z.D; ++d) {
              const long c = c0 + d, at = row * C + c, key = (n * z.S + s) * C + c;
              y[at] += w[s] * load(v(n * z.S + s, c));
              dq[at] += ds * load(k(n * z.S + s, c));
              dk[key] += ds * load(q(row, c));
              dv[key] += w[s] * load(dy(row, c));
            }
          }
        }
    free(w);
    free(slope);
  }
  ~reference() {
    for (double *p : {y, lse, delta, dq, dk, dv}) free(p);
  }
};

// Largest error of got - before, and the largest exact number. NaN counts as infinite.
double error_of(const matrix &got, const matrix *before, const double *exact, double relative,
                double &largest) {
  double worst = 0;
  largest = 0;
  for (long r = 0; r < got.rows; ++r)
    for (long c = 0; c < got.cols; ++c) {
      const double goal = exact[r * got.cols + c] + (before ? double(load((*before)(r, c))) : 0);
      const double error = fabs(double(load(got(r, c))) - goal) - relative * fabs(goal);
      largest = fmax(largest, fabs(exact[r * got.cols + c]));
      worst = error <= worst ? worst : error == error ? error : INFINITY;
    }
  return worst;
}

void report(bool good, const shape &z, const char *what, double error, const char *why) {
  ++checks;
  failures += !good;
  printf("%s %s N %ld H %ld T %ld S %ld D %ld wide %ld add %d: error %.1e %s\n", good ? "ok" : "FAILED",
         what, z.N, z.H, z.T, z.S, z.D, z.wide, z.add, error, why);
}

// Runs a launch in each order, again in the first, and compares what is written to the bit.
template <class Slots, class Reset, class Same>
bool in_every_order(const sim_kernel *kernel, const Slots &slots, long blocks, long shared, Reset reset,
                    Same same) {
  const sim_order orders[] = {SIM_FORWARD, SIM_REVERSE, SIM_RANDOM, SIM_FORWARD};
  for (int i = 0; i < 4; ++i) {
    reset(i > 0);
    const int code = sim_run(kernel, {unsigned(blocks), 1, 1}, {128, 1, 1}, unsigned(shared), &slots,
                             orders[i], unsigned(blocks), nullptr);
    if (code) return printf("%s\n", sim_reason()), false;
    if (i > 0 && !same()) return puts("orders differ"), false;
  }
  return true;
}

void check(const shape &z) {
  const long C = z.H * z.D, ld = C + z.wide, tiles_T = (z.T + 63) / 64, tiles_S = (z.S + 63) / 64;
  matrix q(z.N * z.T, C, ld), k(z.N * z.S, C, ld + z.wide), v(z.N * z.S, C, ld), dy(z.N * z.T, C, ld);
  matrix y(z.N * z.T, C, ld + z.wide), y_first(z.N * z.T, C, ld + z.wide);
  numbers lse(z.N * z.H * z.T), lse_first(z.N * z.H * z.T), delta(z.N * z.H * z.T);
  for (const matrix *m : {&q, &k, &v, &dy}) m->fill();
  for (long r = 0; r < q.rows; ++r)  // scores that reach about 8, so that weights differ
    for (long c = 0; c < C; ++c) q(r, c) = bf16_of(4 * load(q(r, c)));
  const reference exact(z, q, k, v, dy);

  const forward_slots ahead = {q.at, k.at, v.at, y.at, lse.at, z.H, z.T, z.S,
                               z.D,  q.ld, k.ld, v.ld, y.ld,   64,  64};
  bool good = in_every_order(
      find("attention_fwd", z.D), ahead, z.N * z.H * tiles_T, 512 * z.D,
      [&](bool again) {
        if (again) y_first.copy(y), memcpy(lse_first.at, lse.at, lse.count * 4);
        y.fill();
        memset(lse.at, 0xff, lse.count * 4);
      },
      [&] {
        return memcmp(y.whole, y_first.whole, y.count * 2) == 0 &&
               memcmp(lse.at, lse_first.at, lse.count * 4) == 0;
      });
  double largest, lse_error = 0;
  // 2e-3 beyond the rounding of the result itself
  const double error = error_of(y, nullptr, exact.y, 1.0 / 256, largest);
  for (size_t i = 0; i < lse.count; ++i) {
    const double off = fabs(lse.at[i] - exact.lse[i]);
    lse_error = off <= lse_error ? lse_error : off == off ? off : INFINITY;
  }
  report(good && y.guarded() && error < 2e-3, z, "forward", error, y.guarded() ? "" : "canary");
  report(lse_error < 1e-4, z, "lse", lse_error, "");
  
  matrix dq(q.rows, C, ld), dk(k.rows, C, ld), dv(v.rows, C, ld + z.wide);
  matrix dq0(q.rows, C, ld), dk0(k.rows, C, ld), dv0(v.rows, C, ld + z.wide);
  matrix dq1(q.rows, C, ld), dk1(k.rows, C, ld), dv1(v.rows, C, ld + z.wide);
  const matrix *now[] = {&dq, &dk, &dv}, *before[] = {&dq0, &dk0, &dv0}, *first[] = {&dq1, &dk1, &dv1};
  const double *goals[] = {exact.dq, exact.dk, exact.dv};
  const bool wanted[] = {z.dq, z.dk, z.dv};
  const char *names[] = {"dq", "dk", "dv"};
  for (int i = 0; i < 3; ++i) before[i]->fill();
  for (size_t i = 0; i < lse.count; ++i) lse.at[i] = float(exact.lse[i]), delta.at[i] = float(exact.delta[i]);
  const backward_slots back = {
      q.at, k.at, v.at, lse.at, dy.at, delta.at, z.dq ? dq.at : nullptr, z.dk ? dk.at : nullptr,
      z.dv ? dv.at : nullptr, nullptr, z.H, z.T, z.S, z.D, q.ld, k.ld, v.ld, dy.ld, dq.ld, dk.ld, dv.ld, 64,
      64, z.add, z.add, z.add};
  good = in_every_order(
      find("attention_bwd", z.D), back, z.N * z.H * (tiles_T + tiles_S), 512 * z.D + 1024,
      [&](bool again) {
        for (int i = 0; i < 3; ++i) {
          if (again) first[i]->copy(*now[i]);
          now[i]->copy(*before[i]);
        }
      },
      [&] {
        bool same = true;
        for (int i = 0; i < 3; ++i)
          same = same && memcmp(now[i]->whole, first[i]->whole, now[i]->count * 2) == 0;
        return same;
      });
  for (int i = 0; i < 3; ++i) {
    if (!wanted[i]) {
      report(memcmp(now[i]->whole, before[i]->whole, now[i]->count * 2) == 0, z, names[i], 0, "not wanted");
      continue;
    }
    const matrix *added = z.add ? before[i] : nullptr;
    const double off = error_of(*now[i], added, goals[i], z.add ? 1.0 / 256 : 0, largest);
    const bool guarded = now[i]->guarded();
    report(good && guarded && off < 1e-2 * largest + 1e-5, z, names[i], off / (largest + 1e-5),
           guarded ? "" : "canary");
  }
}

}  // namespace

int main(int count, char **) {
  const bool few = count > 1;
  const long sizes[][2] = {{64, 64}, {130, 77}, {1, 1},     {1, 7},     {7, 1},   {16, 16},
                           {63, 65}, {64, 77},  {65, 63},   {77, 130},  {128, 200}, {256, 256},
                           {1, 300}, {300, 1},  {15, 129},  {17, 33},   {192, 47}};
  const int n = few ? 2 : int(sizeof sizes / sizeof *sizes);
  for (long D : {32, 64}) {
    for (int i = 0; i < n; ++i) {
      const long T = sizes[i][0], S = sizes[i][1], H = 1 + i % 3, N = 1 + i % 2;
      const bool dq = i % 7 != 3, dk = i % 7 != 5, dv = i % 7 != 6;
      check({T < 200 ? N : 1, T < 200 ? H : 1, T, S, D, i % 4 * 8, i % 2 == 1, dq, dk, dv});
    }
    if (!few)
      for (long T = 1; T < 200; T += 29)
        check({1, 1, T, 200 - T, D, 24, T % 2 == 0, true, T % 5 != 0, T % 3 != 0});
  }
  printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
