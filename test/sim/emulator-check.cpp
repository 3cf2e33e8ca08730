// Checks of the emulator, a line each on standard output (`ok name` or `FAILED name: what`); the last line
// counts them. Kernels here are written as in cuda/*.cu, some of them wrong on purpose.
#include "../../cuda/block.h"

#include <initializer_list>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace {

// ---- kernels ---------------------------------------------------------------------------------------------

struct fold {
  const float *x;
  float *sum, *max;
  long count;
  BODY(long block) {
    real s = 0, m = -INFINITY;
    EACH_SUM(i, count, s) s += x[i];
    EACH_MAX(i, count, m) m = m < x[i] ? x[i] : m;
    s = block_sum(s);
    m = block_max(m);
    if (TID == LANES - 1) sum[block] = s, max[block] = m;
  }
};
KERNEL(fold)

// Each lane tells what the shuffles gave it.
struct shuffles {
  int *to;  // [5, LANES]
  BODY(long) {
    const int own = int(TID), lane = own & 31;
    const unsigned all = 0xffffffffu;
    int *out = to + TID;
    out[0] = __shfl_sync(all, own, 3);
    out[LANES] = __shfl_down_sync(all, own, 5);
    out[2 * LANES] = __shfl_up_sync(all, own, 7);
    out[3 * LANES] = __shfl_xor_sync(all, own, 9, 16);
    out[4 * LANES] = int(__ballot_sync(all, lane % 3 == 0));
    if (lane < 8) out[4 * LANES] += __any_sync(0xff, lane == 2) + 2 * __all_sync(0xff, lane == 2);
    __syncwarp();
  }
};
KERNEL(shuffles)

// Neighbours exchange numbers through shared memory, with or without the barrier that this needs.
struct neighbours {
  int *to;
  long with_barrier;
  BODY(long) {
    int *shared = scratch(int);
    shared[TID] = int(TID) + 1;
    if (with_barrier) block_sync();
    to[TID] = shared[(TID + 1) % LANES];
  }
};
KERNEL(neighbours)

// What goes wrong: 0 a barrier for some, 1 an early end, 2 a shuffle for some, 3 a lane outside its mask,
// 4 a source outside the mask, 5 a bad address, 6 __trap, 7 a write past shared memory, 8 another mask,
// 9 endless recursion, 10 shared memory that nobody wrote, 11 a copy that nobody waited for.
struct faulty {
  float *to;
  const float *bad;
  long kind;
  __attribute__((noinline)) long deeper(long n) const {
    volatile char frame[4096];
    frame[n % 4096] = 1;
    return n < 0 ? 0 : deeper(n + 1) + frame[n % 4096];
  }
  BODY(long) {
    float *shared = scratch(float);
    __shared__ float fixed[4];
    if (kind == 0 && TID % 2) block_sync();
    if (kind == 1) {
      if (TID == 5) return;
      block_sync();
    }
    if (kind == 2 && TID < 16) to[TID] = __shfl_sync(0xffffffffu, to[TID], 0);
    if (kind == 3) to[TID] = __shfl_sync(0x1u, to[TID], 0);
    if (kind == 4 && TID < 16) to[TID] = __shfl_down_sync(0xffffu, to[TID], 8);
    if (kind == 5) to[TID] = bad[TID];
    if (kind == 6 && TID == 3) __trap();
    if (kind == 7 && TID == 0) shared[64] = 1;
    if (kind == 8) __syncwarp(TID < 16 ? 0xffffffffu : 0xffff0000u);
    if (kind == 9) to[TID] = float(deeper(0));
    if (kind == 10) to[TID] = shared[TID] + fixed[TID % 4];
    if (kind == 11) {
      sim_copy_later(shared + 4 * (TID % 4), bad, 16, true);
      if (TID < 4) to[TID] = shared[TID];
    }
  }
};
KERNEL(faulty)

// a b of one warp by ldmatrix and mma: a [16, 16]; b [16, 8], as it lies (transposed on load).
struct product {
  const bf16 *a, *b;
  float *d;
  BODY(long) {
    bf16 *A = scratch(bf16), *B = A + 16 * 24;
    EACH(i, 256) A[i / 16 * 24 + i % 16] = a[i];
    EACH(i, 128) B[i / 8 * 8 + i % 8] = b[i];
    block_sync();
    uint32_t fa[4], fb[4];
    const long lane = TID;
    sim_ldmatrix(fa, A + lane % 16 * 24 + lane / 16 * 8, false);
    sim_ldmatrix(fb, B + lane % 16 * 8, true);
    float sum[4] = {0, 0, 0, 0};
    sim_mma_bf16(sum, fa, fb);
    for (long i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
  }
};
KERNEL(product)

// y = 2 a + b by 16 bytes at a time, where all lie at multiples of 16 bytes.
struct mapped {
  const act *a, *b;
  act *y;
  long n;
  BODY(long) {
    map(y, n, [](real a, real b) { return 2 * a + b; }, a, b);
  }
};
KERNEL(mapped)

struct where {
  int *to;  // [blocks]: the order in which blocks ran
  int *count;
  BODY(long) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    if (threadIdx.x + threadIdx.y + threadIdx.z == 0) to[block] = (*count)++;
  }
};
KERNEL(where)

// ---- checks ----------------------------------------------------------------------------------------------

int checks, failures;

void check(bool good, const char *name, const char *what) {
  ++checks;
  failures += !good;
  printf(good ? "ok %s\n" : "FAILED %s: %s\n", name, what);
}

constexpr sim_order orders[] = {SIM_FORWARD, SIM_REVERSE, SIM_RANDOM};

const sim_kernel *find(const char *name) {
  for (const sim_kernel *k = sim_kernels_begin(); k < sim_kernels_end(); ++k)
    if (strcmp(k->name, name) == 0) return k;
  printf("no kernel %s\n", name);
  exit(1);
}

template <class K>
int run(const char *name, const K &arguments, unsigned blocks, unsigned threads, unsigned shared,
        sim_order order, unsigned seed = 1, const void **fault = nullptr) {
  return sim_run(find(name), {blocks, 1, 1}, {threads, 1, 1}, shared, &arguments, order, seed, fault);
}

void folds() {
  float x[1000], sum[3], max[3];
  double exact = 0;
  for (int i = 0; i < 1000; ++i) x[i] = float((i * 7919) % 1000) / 8, exact += x[i];
  for (unsigned threads : {1u, 31u, 32u, 33u, 96u, 256u, 1000u, 1024u}) {
    float first = 0;
    bool good = true;
    for (sim_order order : orders) {
      const int code = run("fold", fold{x, sum, max, 1000}, 3, threads, 0, order);
      if (order == SIM_FORWARD) first = sum[2];
      for (int block = 0; block < 3; ++block)
        good = good && code == 0 && fabs(sum[block] - exact) < 1e-2 && max[block] == 124.875f &&
               sum[block] == first;
    }
    char name[64];
    snprintf(name, sizeof name, "block_sum and block_max of %u threads", threads);
    check(good, name, sim_reason());
  }
}

void warps() {
  int to[5 * 64];
  for (sim_order order : orders) {
    const int code = run("shuffles", shuffles{to}, 1, 64, 0, order);
    bool good = code == 0;
    for (int i = 0; i < 64; ++i) {
      const int lane = i % 32, base = i - lane;
      good = good && to[i] == base + 3 && to[64 + i] == (lane + 5 < 32 ? i + 5 : i) &&
             to[128 + i] == (lane < 7 ? i : i - 7) && to[192 + i] == (i ^ 9) &&
             to[256 + i] == 0x49249249 + (lane < 8 ? 1 : 0);
    }
    check(good, "shuffles and votes", sim_reason());
  }
}

void barriers() {
  int to[96];
  const auto right = [&](int code) {
    bool good = code == 0;
    for (int i = 0; i < 96; ++i) good = good && to[i] == (i + 1) % 96 + 1;
    return good;
  };
  unsigned wrong = 0;
  for (sim_order order : orders) {
    check(right(run("neighbours", neighbours{to, 1}, 1, 96, 96 * 4, order)), "barrier", sim_reason());
    wrong += !right(run("neighbours", neighbours{to, 0}, 1, 96, 96 * 4, order));
  }
  check(wrong == 3, "a missing barrier shows", "results were right");
  check(run("neighbours", neighbours{to, 0}, 1, 1, 4, SIM_FORWARD) == 0 && to[0] == 1, "one thread", "");
}

void faults() {
  float to[64], source[64] = {};
  const char *names[] = {"barrier for some threads", "early end before a barrier", "shuffle for some lanes",
                         "lane outside its mask", "source outside the mask", "bad address", "trap",
                         "write past shared memory", "masks that differ", "stack overflow"};
  const int expected[] = {SIM_DIVERGED, SIM_DIVERGED, SIM_DIVERGED, SIM_DIVERGED, SIM_DIVERGED, SIM_FAULT,
                          SIM_TRAP, SIM_FAULT, SIM_DIVERGED, SIM_FAULT};
  char *unmapped = (char *)mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (long kind = 0; kind < 10; ++kind) {
    for (sim_order order : orders) {
      const void *fault = nullptr;
      memset(to, 0, sizeof to);
      const faulty arguments = {to, (const float *)unmapped, kind};
      const int code = run("faulty", arguments, 2, 32, 240, order, 7, &fault);
      bool good = code == expected[kind] && sim_reason()[0] != 0;
      if (kind == 5) good = good && (const char *)fault >= unmapped && (const char *)fault < unmapped + 128;
      check(good, names[kind], sim_reason());
    }
  }
  // Launches after a failed one are as good as ever.
  check(run("faulty", faulty{to, source, 10}, 1, 32, 256, SIM_FORWARD) == 0 && isnan(to[0]) && isnan(to[31]),
        "fresh shared memory is NaN", sim_reason());
  check(run("faulty", faulty{to, source, 11}, 1, 32, 256, SIM_FORWARD) == 0 && isnan(to[0]),
        "a copy without a wait does not arrive", sim_reason());
  check(run("faulty", faulty{to, source, 12}, 1, 1025, 0, SIM_FORWARD) == SIM_TRAP &&
            run("faulty", faulty{to, source, 12}, 1, 32, 240 << 10, SIM_FORWARD) == SIM_TRAP &&
            run("faulty", faulty{to, source, 12}, 0, 32, 0, SIM_FORWARD) == SIM_TRAP,
        "launches that no GPU accepts", sim_reason());
}

void products() {
  bf16 a[256], b[128];
  float d[128];
  for (int i = 0; i < 256; ++i) a[i] = bf16_of(float((i * 37) % 61 - 30));
  for (int i = 0; i < 128; ++i) b[i] = bf16_of(float((i * 23) % 31 - 15));
  for (sim_order order : orders) {
    bool good = run("product", product{a, b, d}, 1, 32, (16 * 24 + 16 * 8) * 2, order) == 0;
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float exact = 0;
        for (int k = 0; k < 16; ++k) exact += load(a[i * 16 + k]) * load(b[k * 8 + j]);
        good = good && d[i * 8 + j] == exact;
      }
    }
    check(good, "ldmatrix and mma", sim_reason());
  }
}

void maps() {
  alignas(16) act a[640], b[640], y[640];
  bool good = true;
  for (long n : {0L, 1L, 7L, 8L, 9L, 64L, 77L, 600L}) {
    for (int shift = 0; shift < 16; ++shift) {  // a, b or the result out of line, the result in b's place
      act *x[] = {a + (shift & 1), b + (shift >> 1 & 1), y + (shift >> 2 & 1)};
      for (int i = 0; i < 640; ++i) store(a[i], real(i % 29)), store(b[i], real(i % 31)), store(y[i], -1);
      if (shift & 8) x[2] = x[1];
      const mapped arguments = {x[0], x[1], x[2], n};
      good = good && run("mapped", arguments, 1, 32 + 32 * (shift & 1), 0, orders[n % 3]) == 0;
      for (long i = -1; i <= n; ++i) {
        const long place = x[2] - (shift & 8 ? b : y) + i, from_b = x[1] - b + i;
        if (place < 0) continue;
        const real old = shift & 8 ? real(from_b % 31) : real(-1), inside = i >= 0 && i < n;
        good = good && load(x[2][i]) == (inside ? real(2 * ((x[0] - a + i) % 29) + from_b % 31) : old);
      }
    }
  }
  check(good, "map", sim_reason());
}

void grids() {
  int to[24], count, other[24];
  for (sim_order order : orders) {
    bool good = true;
    for (int *list : {to, other}) {
      count = 0;
      const where arguments = {list, &count};
      good = good && sim_run(find("where"), {2, 3, 4}, {4, 2, 2}, 0, &arguments, order, 5, nullptr) == 0;
    }
    good = good && count == 24 && memcmp(to, other, sizeof to) == 0;
    if (order == SIM_FORWARD) good = good && to[0] == 0 && to[23] == 23;
    if (order == SIM_REVERSE) good = good && to[0] == 23 && to[23] == 0;
    check(good, "order of blocks", sim_reason());
  }
}

}  // namespace

int main() {
  folds();
  warps();
  barriers();
  faults();
  products();
  maps();
  grids();
  printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
