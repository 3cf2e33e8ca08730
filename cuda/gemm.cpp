// Kernel "gemm": how a product is shared out over the pool. The work itself is in packed.h; what an element
// comes out as does not depend on anything decided here, so tiles may follow the number of threads.
//
// Many rows: op(B) is packed once, by all threads, into a buffer that stays; then tiles of rows are computed
// from it. Few rows: tiles of columns, each packing its own part of op(B) just before its use.
#include "gemm.h"

#ifndef REAL_IS_DOUBLE

namespace {

// Below this many operations waking the others costs more than they save (bench/SPEED.md).
constexpr double alone_below = 1e7;
constexpr long few_rows = 128;
// Packed floats of op(B) at a time; more only if a single cut of depth takes more.
constexpr long packed_floats = 2 << 20;
constexpr long panels_together = 4;

// What the pool's blocks are made of; its address is the slots of the commands below.
struct Job {
  const Gemm *gemm;
  const GemmKernels *kernels;
  float *packed;              // or null: tiles pack for themselves
  long product, products;     // first of them, number
  long depth, depth_end;      // whole cuts
  long down, across;          // tiles of one product
  long panels, groups, cuts;  // of one product
};

float *packed = nullptr;
long packed_size = 0;

float *packed_buffer(long floats) {
  if (packed && floats <= packed_size) return packed;
  md_free(packed, 4 * packed_size);
  packed_size = floats > 0 ? floats : 1;
  packed = static_cast<float *>(md_alloc(4 * packed_size));
  return packed;
}

// Packed floats of one product. All cuts but the last are whole units.
long product_floats(const Job &job) {
  return ceil_div(job.depth_end - job.depth, job.kernels->step) * job.panels * job.kernels->columns;
}

// One block: some panels of one cut.
void pack(const void *slots, long first, long last, char *) {
  const Job &job = *static_cast<const Job *>(slots);
  const Gemm &g = *job.gemm;
  const long width = job.kernels->columns, step = job.kernels->step, cut = cut_of(g.K, step);
  for (long block = first; block < last; ++block) {
    const long group = block % job.groups, rest = block / job.groups;
    const long panel = group * panels_together;
    const long panels = job.panels - panel < panels_together ? job.panels - panel : panels_together;
    const long product = rest / job.cuts, at = rest % job.cuts * cut;
    const long depth = job.depth + at, count = job.depth_end - depth < cut ? job.depth_end - depth : cut;
    float *to = job.packed + product * product_floats(job) +
                (at / step * job.panels + panel * ceil_div(count, step)) * width;
    job.kernels->pack_panels(g, job.product + product, panel * width, panels, depth, count, to);
  }
}

// One block: one tile of C.
void compute(const void *slots, long first, long last, char *scratch) {
  const Job &job = *static_cast<const Job *>(slots);
  const Gemm &g = *job.gemm;
  const long width = job.kernels->columns;
  for (long block = first; block < last; ++block) {
    const long down = block % job.down, rest = block / job.down;
    const long across = rest % job.across, product = rest / job.across;
    GemmTile tile;
    tile.product = job.product + product;
    tile.row = down * g.M / job.down;
    tile.row_end = (down + 1) * g.M / job.down;
    tile.column = across * job.panels / job.across * width;
    tile.column_end = (across + 1) * job.panels / job.across * width;
    if (tile.column_end > g.N) tile.column_end = g.N;
    tile.depth = job.depth;
    tile.depth_end = job.depth_end;
    const float *panels = job.packed ? job.packed + product * product_floats(job) : nullptr;
    job.kernels->compute(g, tile, panels, reinterpret_cast<float *>(scratch));
  }
}

const md_entry pack_entry = {"gemm_pack", pack, 0}, compute_entry = {"gemm_compute", compute, 0};

// Tiles of about `each` out of `whole`, their number (of `times` products) a multiple of the threads where
// that is little.
long tiles(long whole, long each, long times, long threads) {
  long count = ceil_div(whole, each);
  while (count < whole && count * times < 16 * threads && count * times % threads) ++count;
  return count;
}

bool scratch_for(long rows, const GemmKernels &kernels, long cut) {
  const long units = ceil_div(cut, kernels.step);
  const long strips = ceil_div(rows, kernels.rows) * (kernels.rows * units + 16);
  return pool_scratch(uint64_t(4 * (strips + gemm_own_panels * kernels.columns * units) + 64));
}

}  // namespace

bool gemm_run(const void *slots) {
  const Gemm &g = *static_cast<const Gemm *>(slots);
  if (g.M <= 0 || g.N <= 0 || g.batch <= 0) return true;
  const GemmKernels &kernels = gemm_in_bf16() ? gemm_bf16 : md_isa() == 4 ? gemm_v4 : gemm_v3;
  const bool alone = 2.0 * double(g.M) * double(g.N) * double(g.K) * double(g.batch) < alone_below;
  const long threads = alone ? 1 : pool_threads(), step = kernels.step;
  const long cut = cut_of(g.K, step);
  Job job = {};
  job.gemm = &g;
  job.kernels = &kernels;
  job.panels = ceil_div(g.N, kernels.columns);
  job.groups = ceil_div(job.panels, panels_together);
  job.depth_end = g.K;
  if (g.M <= few_rows) {
    job.down = 1;
    job.across = tiles(job.panels, ceil_div(256, kernels.columns), g.batch, threads);
    while (job.across < job.panels && job.across * g.batch < 4 * threads) ++job.across;
    job.products = g.batch;
    if (!scratch_for(g.M, kernels, cut)) return false;
    pool_run(&compute_entry, &job, job.across * job.products, alone);
    return true;
  }

  const long one_cut = ceil_div(g.K < cut ? g.K : cut, step) * job.panels * kernels.columns;
  const long all_cuts = ceil_div(g.K, step) * job.panels * kernels.columns;
  const long most = packed_floats > one_cut ? packed_floats : one_cut;
  const long products = all_cuts <= most ? (all_cuts > 0 ? most / all_cuts : g.batch) : 1;
  const long depths = all_cuts <= most ? (g.K > 0 ? g.K : 1) : most / one_cut * cut;
  const long together = products < g.batch ? products : g.batch;
  const long deepest = g.K < depths ? g.K : depths;
  job.packed = packed_buffer(ceil_div(deepest, step) * job.panels * kernels.columns * together);
  job.down = tiles(g.M, 4 * 12, together, threads);
  job.across = 1;
  while (job.across < job.panels && job.across * job.down * together < 4 * threads) ++job.across;
  if (!job.packed || !scratch_for(ceil_div(g.M, job.down), kernels, cut)) return false;
  for (job.product = 0; job.product < g.batch; job.product += products) {
    job.products = g.batch - job.product < products ? g.batch - job.product : products;
    job.depth = 0;
    do {
      job.depth_end = job.depth + depths < g.K ? job.depth + depths : g.K;
      job.cuts = ceil_div(job.depth_end - job.depth, cut);
      pool_run(&pack_entry, &job, job.products * job.cuts * job.groups, alone);
      pool_run(&compute_entry, &job, job.products * job.down * job.across, alone);
      job.depth = job.depth_end;
    } while (job.depth < g.K);
  }
  return true;
}

// The pool's own blocks are made above; replay calls gemm_run.
const md_entry gemm_entry = {"gemm", nullptr, long(sizeof(Gemm) / 8)};

#endif
