// Attention on tensor cores in bf16, for heads of 32 and 64: other entry points for what attention.cu does,
// with the same arguments. Parts: attention_fwd_mma32, _mma64; attention_bwd_mma32, _mma64.
// A block has 4 warps and owns 64 rows, 16 a warp; it walks over the other side in tiles of 64 rows, the next
// tile on its way while one is worked on. Scores, weights and sums stay in registers; products take bf16
// and add in float (FlashAttention-2, Dao 2023, Sec. 3). q, k, v, dy and what is written lie at multiples of
// 16 bytes, rows at multiples of 8 elements.
#include "block.h"
#include "math.h"
#include "mma.h"

#if MD_CUDA && !defined(ACT_IS_FLOAT)

constexpr int MMA_ROWS = 64, MMA_THREADS = 128;
constexpr float MMA_LOG2E = 1.4426950409f;

// Rows of a tile that begins at `first` of `all`.
FN int mma_count(int all, int first) { return all - first < MMA_ROWS ? all - first : MMA_ROWS; }

// log2(e) / sqrt(Width): exp(score) = exp2(factor * (q . k))
template <int Width> struct mma_scale {
  static constexpr float root = Width == 64 ? 0.125f : 0.1767766953f, power = root * MMA_LOG2E;
};

// The 16 bytes at columns 8 chunk.. of a row of a tile [64, Width]. Chunks of a row are exchanged so that 8
// rows below each other lie in different banks.
template <int Width> FN bf16 *mma_place(bf16 *tile, int row, int chunk) {
  const int turned = Width == 64 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
  return tile + row * Width + turned * 8;
}

// Tiles of n rows.
FN int mma_tiles(long n) { return (int)((n + MMA_ROWS - 1) / MMA_ROWS); }

// Begins to copy a tile; rows from `rows` on are zeros.
template <int Width> FN void mma_fetch(bf16 *tile, const bf16 *from, int ld, int rows) {
  const int chunks = Width / 8, step = MMA_THREADS / chunks;
  const int first = (int)TID / chunks, chunk = (int)TID % chunks;
  from += first * ld + chunk * 8;
#pragma unroll
  for (int row = first; row < first + MMA_ROWS; row += step, from += step * ld)
    copy_async<16>(mma_place<Width>(tile, row, chunk), from, row < rows);
}

// 16 rows of a tile, as the left factor of products.
template <int Width> FN void mma_rows(uint32_t (&a)[Width / 16][4], bf16 *tile, int first, int lane) {
#pragma unroll
  for (int j = 0; j < Width / 16; ++j)
    load_matrices(a[j], mma_place<Width>(tile, first + lane % 16, 2 * j + lane / 16));
}

// s [16, 16] = a [16, Width] times the transposed 16 rows of a tile
template <int Width>
FN void mma_scores(float (&s)[2][4], const uint32_t (&a)[Width / 16][4], bf16 *tile, int first, int lane) {
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i / 4][i % 4] = 0;
#pragma unroll
  for (int j = 0; j < Width / 16; ++j) {
    uint32_t b[4];
    load_matrices(b, mma_place<Width>(tile, first + lane / 16 * 8 + lane % 8, 2 * j + lane / 8 % 2));
    mma_bf16(s[0], a[j], b[0], b[1]);
    mma_bf16(s[1], a[j], b[2], b[3]);
  }
}

// sum [16, Width] += w [16, 16], rounded, times 16 rows of a tile
template <int Width>
FN void mma_add(float (&sum)[Width / 8][4], const float (&w)[2][4], bf16 *tile, int first, int lane) {
  const uint32_t a[4] = {pack_bf16(w[0][0], w[0][1]), pack_bf16(w[0][2], w[0][3]),
                         pack_bf16(w[1][0], w[1][1]), pack_bf16(w[1][2], w[1][3])};
#pragma unroll
  for (int j = 0; j < Width / 16; ++j) {
    uint32_t b[4];
    load_transposed(b, mma_place<Width>(tile, first + lane % 16, 2 * j + lane / 16));
    mma_bf16(sum[2 * j], a, b[0], b[1]);
    mma_bf16(sum[2 * j + 1], a, b[2], b[3]);
  }
}

// Writes or adds 16 rows of sums, of which `rows` are wanted, each by its factor. The way is over the warp's
// own 16 rows of a tile, so that memory is met 16 bytes at a time.
template <int Width>
FN void mma_write(act *to, long ld, int rows, const float (&sum)[Width / 8][4], float low, float high,
                  bool add, bf16 *tile, int first, int lane) {
  const int chunks = Width / 8;
  if (add) {
    for (int at = lane; at < 16 * chunks; at += 32) {
      const int row = at / chunks, chunk = at % chunks;
      if (row < rows) move16(mma_place<Width>(tile, first + row, chunk), to + row * ld + chunk * 8);
    }
    __syncwarp();
  }
#pragma unroll
  for (int j = 0; j < chunks; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
      const float by = half ? high : low;
      uint32_t *pair = (uint32_t *)mma_place<Width>(tile, first + row, j) + lane % 4;
      float x = sum[j][2 * half] * by, y = sum[j][2 * half + 1] * by;
      if (add) {
        x += float_of(*pair << 16);
        y += float_of(*pair & 0xffff0000u);
      }
      *pair = pack_bf16(x, y);
    }
  }
  __syncwarp();
  for (int at = lane; at < 16 * chunks; at += 32) {
    const int row = at / chunks, chunk = at % chunks;
    if (row < rows) move16(to + row * ld + chunk * 8, mma_place<Width>(tile, first + row, chunk));
  }
}

// The largest and the sum over the four lanes that hold a row.
FN float mma_row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
FN float mma_row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// q, y [N, T, H D]; k, v [N, S, H D]; lse [N, H, T]. One block = 64 queries of one head of one image.
// Shared memory: two stages of a tile of k and a tile of v, 512 Width bytes.
template <int Width>
struct attention_fwd_mma {
  const act *q, *k, *v;
  act *y;
  real *lse;
  long H, T, S, D, ldq, ldk, ldv, ldy, tileT, tileS;

  // What a warp keeps: its queries, the sums of weights and values, the running maximum of q . k and the sum
  // of weights of rows lane / 4 and lane / 4 + 8.
  struct state {
    uint32_t q[Width / 16][4];
    float y[Width / 8][4], top[2], sum[2];
  };

  // One tile of keys, of which `keys` are there (all 64 where Whole).
  template <bool Whole> MEMBER void step(state &own, bf16 *K, bf16 *V, int keys, int lane) const {
    float s[4][2][4];
#pragma unroll
    for (int p = 0; p < 4; ++p)
      if (Whole || 16 * p < keys) mma_scores<Width>(s[p], own.q, K, 16 * p, lane);
    if (!Whole) {
#pragma unroll
      for (int i = 0; i < 32; ++i)
        if (i / 8 * 16 + i / 4 % 2 * 8 + lane % 4 * 2 + i % 2 >= keys) s[i / 8][i / 4 % 2][i % 4] = -INFINITY;
    }
    float base[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = own.top[half];
#pragma unroll
      for (int i = 0; i < 16; ++i) top = fmaxf(top, s[i / 4][i / 2 % 2][2 * half + i % 2]);
      top = mma_row_max(top);
      const float keep = exp2_fast((own.top[half] - top) * mma_scale<Width>::power);
      own.top[half] = top;
      own.sum[half] *= keep;
#pragma unroll
      for (int j = 0; j < Width / 8; ++j) {
        own.y[j][2 * half] *= keep;
        own.y[j][2 * half + 1] *= keep;
      }
      base[half] = top * mma_scale<Width>::power;
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      float &w = s[i / 8][i / 4 % 2][i % 4];
      w = exp2_fast(w * mma_scale<Width>::power - base[i / 2 % 2]);
      own.sum[i / 2 % 2] += w;
    }
#pragma unroll
    for (int p = 0; p < 4; ++p)
      if (Whole || 16 * p < keys) mma_add<Width>(own.y, s[p], V, 16 * p, lane);
  }

  BODY(long block) {
    const int tiles = mma_tiles(T), keys = (int)S, head = (int)block / tiles;
    const int t0 = (int)block % tiles * MMA_ROWS, rows = mma_count((int)T, t0);
    const long n = head / (int)H, h = head % (int)H;
    const int lane = (int)TID % 32, first = (int)TID / 32 * 16;
    bf16 *tile = scratch(bf16);
    const auto K = [&](int stage) { return tile + stage * 2 * MMA_ROWS * Width; };
    const auto V = [&](int stage) { return K(stage) + MMA_ROWS * Width; };
    const act *kh = k + n * S * ldk + h * Width, *vh = v + n * S * ldv + h * Width;
    const auto fetch = [&](int stage, int s0) {
      const int there = mma_count(keys, s0);
      mma_fetch<Width>(K(stage), kh + s0 * ldk, (int)ldk, there);
      mma_fetch<Width>(V(stage), vh + s0 * ldv, (int)ldv, there);
    };

    // The queries go through the second stage before it is needed.
    mma_fetch<Width>(K(1), q + (n * T + t0) * ldq + h * Width, (int)ldq, rows);
    fetch(0, 0);
    copy_wait();
    block_sync();
    state own;
    mma_rows<Width>(own.q, K(1), first, lane);
#pragma unroll
    for (int i = 0; i < Width / 2; ++i) own.y[i / 4][i % 4] = 0;
    own.top[0] = own.top[1] = -INFINITY;
    own.sum[0] = own.sum[1] = 0;
    block_sync();
    int stage = 0;
    for (int s0 = 0; s0 < keys; s0 += MMA_ROWS, stage ^= 1) {
      if (s0 + MMA_ROWS < keys) fetch(stage ^ 1, s0 + MMA_ROWS);
      if (first < rows) {
        if (keys - s0 >= MMA_ROWS) {
          step<true>(own, K(stage), V(stage), MMA_ROWS, lane);
        } else {
          step<false>(own, K(stage), V(stage), keys - s0, lane);
        }
      }
      copy_wait();
      block_sync();
    }
    if (first >= rows) return;
    const float low = mma_row_sum(own.sum[0]), high = mma_row_sum(own.sum[1]);
    act *to = y + (n * T + t0 + first) * ldy + h * Width;
    mma_write<Width>(to, ldy, rows - first, own.y, 1 / low, 1 / high, false, tile, first, lane);
    if (lane % 4 == 0) {
      real *out = lse + (n * H + h) * T + t0 + first;
      const int row = lane / 4;
      if (first + row < rows) out[row] = own.top[0] * mma_scale<Width>::root + md::log(low);
      if (first + row + 8 < rows) out[row + 8] = own.top[1] * mma_scale<Width>::root + md::log(high);
    }
  }
};

struct attention_fwd_mma32 : attention_fwd_mma<32> {};
KERNEL_OF(attention_fwd_mma32, MMA_THREADS, 3)
struct attention_fwd_mma64 : attention_fwd_mma<64> {};
KERNEL_OF(attention_fwd_mma64, MMA_THREADS, 3)

// W = exp(score - lse), dS = W (dy v^T - delta) / sqrt(D); dv = W^T dy, dk = dS^T q, dq = dS k, with delta =
// dy . y of each query. The grid has two parts, so that every sum is made by one block in one order: first
// N H tiles(S) blocks that own 64 keys and write dk and dv, then N H tiles(T) that own 64 queries and write
// dq. Shared memory: two stages of two tiles and of 64 numbers of lse and delta, 512 Width + 1024 bytes.
template <int Width>
struct attention_bwd_mma {
  const act *q, *k, *v;
  const real *lse;
  const act *dy;
  const real *delta;
  act *dq, *dk, *dv;
  real *work;
  long H, T, S, D, ldq, ldk, ldv, lddy, lddq, lddk, lddv, tileT, tileS, add_dq, add_dk, add_dv;

  // What a warp keeps: 16 rows of k and v, or of q and dy; dk and dv, or dq; and, of queries, lse in powers
  // of two and delta of rows lane / 4 and lane / 4 + 8.
  struct state {
    uint32_t left[Width / 16][4], right[Width / 16][4];
    float first[Width / 8][4], second[Width / 8][4], lse[2], delta[2];
  };

  // One tile of the other side: q and dy beside own keys, or k and v beside own queries. `count` of its rows
  // are there (all 64 where Whole); the others are zeros, and so are the lse and delta of such queries, which
  // therefore add nothing. As much is unrolled as registers hold.
  template <bool Keys, bool Whole>
  MEMBER void step(state &own, bf16 *left, bf16 *right, const float *lses, const float *deltas, int count,
                   int lane) const {
#pragma unroll (Width == 64 ? (Keys ? 1 : 2) : 4)
    for (int p = 0; p < 4; ++p) {
      if (!Whole && 16 * p >= count) break;
      const int column = 16 * p + lane % 4 * 2;
      float w[2][4], ds[2][4];
      mma_scores<Width>(w, own.left, left, 16 * p, lane);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int place = column + i / 4 * 8 + i % 2;
        const float base = Keys ? lses[place] * MMA_LOG2E : own.lse[i / 2 % 2];
        float &weight = w[i / 4][i % 4];
        weight = exp2_fast(weight * mma_scale<Width>::power - base);
        if (!Keys && !Whole && place >= count) weight = 0;
      }
      if (Keys) mma_add<Width>(own.second, w, right, 16 * p, lane);
      mma_scores<Width>(ds, own.right, right, 16 * p, lane);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int place = column + i / 4 * 8 + i % 2;
        float &slope = ds[i / 4][i % 4];
        slope = w[i / 4][i % 4] * (slope - (Keys ? deltas[place] : own.delta[i / 2 % 2]));
      }
      mma_add<Width>(own.first, ds, left, 16 * p, lane);
    }
  }

  template <bool Keys> MEMBER void sweep(int head, int block) const {
    const long n = head / (int)H, h = head % (int)H;
    const int r0 = block * MMA_ROWS, count = (int)(Keys ? T : S);
    const int lane = (int)TID % 32, first = (int)TID / 32 * 16;
    const int rows = mma_count((int)(Keys ? S : T), r0);
    const act *qh = q + n * T * ldq + h * Width, *kh = k + n * S * ldk + h * Width;
    const act *dyh = dy + n * T * lddy + h * Width, *vh = v + n * S * ldv + h * Width;
    const real *lseh = lse + (n * H + h) * T, *deltah = delta + (n * H + h) * T;
    bf16 *tile = scratch(bf16);
    float *numbers = (float *)(tile + 4 * MMA_ROWS * Width);
    const auto left = [&](int stage) { return tile + stage * 2 * MMA_ROWS * Width; };
    const auto right = [&](int stage) { return left(stage) + MMA_ROWS * Width; };
    const auto fetch = [&](int stage, int c0) {
      const int there = mma_count(count, c0);
      mma_fetch<Width>(left(stage), Keys ? qh + c0 * ldq : kh + c0 * ldk, (int)(Keys ? ldq : ldk), there);
      mma_fetch<Width>(right(stage), Keys ? dyh + c0 * lddy : vh + c0 * ldv, (int)(Keys ? lddy : ldv), there);
      if (!Keys) return;
      const int at = (int)TID % MMA_ROWS;
      const real *from = ((int)TID < MMA_ROWS ? lseh : deltah) + c0;
      copy_async<4>(numbers + stage * 2 * MMA_ROWS + TID, from + (at < there ? at : 0), at < there);
    };

    mma_fetch<Width>(left(1), Keys ? kh + r0 * ldk : qh + r0 * ldq, (int)(Keys ? ldk : ldq), rows);
    mma_fetch<Width>(right(1), Keys ? vh + r0 * ldv : dyh + r0 * lddy, (int)(Keys ? ldv : lddy), rows);
    fetch(0, 0);
    copy_wait();
    block_sync();
    state own;
    mma_rows<Width>(own.left, left(1), first, lane);
    mma_rows<Width>(own.right, right(1), first, lane);
#pragma unroll
    for (int i = 0; i < Width / 2; ++i) own.first[i / 4][i % 4] = own.second[i / 4][i % 4] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + lane / 4 + 8 * half;
      const bool there = !Keys && row < rows;
      own.lse[half] = there ? lseh[r0 + row] * MMA_LOG2E : 0;
      own.delta[half] = there ? deltah[r0 + row] : 0;
    }
    block_sync();
    int stage = 0;
    for (int c0 = 0; c0 < count; c0 += MMA_ROWS, stage ^= 1) {
      if (c0 + MMA_ROWS < count) fetch(stage ^ 1, c0 + MMA_ROWS);
      if (first < rows) {
        const float *lses = numbers + stage * 2 * MMA_ROWS, *deltas = lses + MMA_ROWS;
        if (Keys || count - c0 >= MMA_ROWS) {
          step<Keys, true>(own, left(stage), right(stage), lses, deltas, MMA_ROWS, lane);
        } else {
          step<false, false>(own, left(stage), right(stage), lses, deltas, count - c0, lane);
        }
      }
      copy_wait();
      block_sync();
    }
    if (first >= rows) return;
    const float by = mma_scale<Width>::root;
    const long row = (Keys ? n * S : n * T) + r0 + first, column = h * Width;
    if (!Keys) {
      put(dq + row * lddq + column, lddq, rows, own.first, by, add_dq, tile, first, lane);
      return;
    }
    if (dk) put(dk + row * lddk + column, lddk, rows, own.first, by, add_dk, left(0), first, lane);
    if (dv) put(dv + row * lddv + column, lddv, rows, own.second, 1, add_dv, right(0), first, lane);
  }

  MEMBER void put(act *to, long ld, int rows, const float (&sum)[Width / 8][4], float by, long add,
                  bf16 *tile, int first, int lane) const {
    mma_write<Width>(to, ld, rows - first, sum, by, by, add != 0, tile, first, lane);
  }

  BODY(long block) {
    const int tiles_T = mma_tiles(T), tiles_S = mma_tiles(S);
    const int heads = (int)gridDim.x / (tiles_T + tiles_S), at = (int)block, after = at - heads * tiles_S;
    if (after < 0) {
      if (dk || dv) sweep<true>(at / tiles_S, at % tiles_S);
    } else {
      if (dq) sweep<false>(after / tiles_T, after % tiles_T);
    }
  }
};

struct attention_bwd_mma32 : attention_bwd_mma<32> {};
KERNEL_OF(attention_bwd_mma32, MMA_THREADS, 3)
struct attention_bwd_mma64 : attention_bwd_mma<64> {};
KERNEL_OF(attention_bwd_mma64, MMA_THREADS, 3)

#endif
