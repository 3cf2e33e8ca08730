// Draws: random words, normal and uniform numbers, noise levels, masks, caption dropout; and constants.
// Parts: random_bits, gaussian, uniform, draw_sigma, draw_keep, keep_smallest, constant.
// seed [2], or one for each image [N, 2]; places [N, 2] (low, high word) or none: then `index` for all.
#include "random.h"

FN random_stream stream_of(const i32 *seed, long ldseed, const i32 *places, long n, long index,
                           long purpose) {
  const i32 *key = seed + n * ldseed;
  return random_stream{(uint32_t)key[0], (uint32_t)key[1], places ? (uint32_t)places[2 * n] : (uint32_t)index,
                       places ? (uint32_t)places[2 * n + 1] : (uint32_t)((uint64_t)index >> 32),
                       (uint32_t)purpose};
}

// Elements first .. of image n that a block draws; `chunks` blocks of `span` (a multiple of 4) make an image.
struct random_part {
  long n, first, count;
};
FN random_part part_of(long block, long M, long span, long chunks) {
  const long first = block % chunks * span;
  return random_part{block / chunks, first, M - first < span ? M - first : span};
}

// y[n, i] = word i of the stream of image n, i counted from `start` (a multiple of 4). y [N, M].
struct random_bits {
  const i32 *seed, *places;
  i32 *y;
  long M, span, chunks, ldseed, index, purpose, start;
  BODY(long block) {
    const random_part part = part_of(block, M, span, chunks);
    const random_stream s = stream_of(seed, ldseed, places, part.n, index, purpose);
    i32 *to = y + part.n * M + part.first;
    EACH(q, (part.count + 3) / 4) {
      uint32_t w[4];
      philox(s, (uint32_t)((start + part.first) / 4 + q), w[0], w[1], w[2], w[3]);
      for (long j = 0; j < 4; ++j)
        if (4 * q + j < part.count) to[4 * q + j] = (i32)w[j];
    }
  }
};
KERNEL(random_bits)

// y[n, i] = std z, z normal. y [N, M].
struct gaussian {
  const i32 *seed, *places;
  real *y;
  long M, span, chunks, ldseed, index, purpose;
  double std;
  BODY(long block) {
    const random_part part = part_of(block, M, span, chunks);
    const random_stream s = stream_of(seed, ldseed, places, part.n, index, purpose);
    real *to = y + part.n * M + part.first;
    const uint32_t group = (uint32_t)(part.first / 4);
    const long whole = part.count / 4;
    const float by = (float)std;
    EACH(q, whole) {
      float a, b, c, d;
      normal_four(s, group + (uint32_t)q, a, b, c, d);
      to[4 * q] = a * by;
      to[4 * q + 1] = b * by;
      to[4 * q + 2] = c * by;
      to[4 * q + 3] = d * by;
    }
    float z[4];
    normal_four(s, group + (uint32_t)whole, z[0], z[1], z[2], z[3]);
    EACH(j, part.count % 4) to[4 * whole + j] = z[j] * by;
  }
};
KERNEL(gaussian)

// u in 0 .. 1 - 2^-24, then -bound .. bound
FN float uniform_of(uint32_t word, float bound) {
  return exact_fma((float)(int32_t)(word >> 8), bound * 1.19209290e-7f, -bound);
}

// y[n, i] uniform in -bound .. bound. y [N, M].
struct uniform {
  const i32 *seed, *places;
  real *y;
  long M, span, chunks, ldseed, index, purpose;
  double bound;
  BODY(long block) {
    const random_part part = part_of(block, M, span, chunks);
    const random_stream s = stream_of(seed, ldseed, places, part.n, index, purpose);
    real *to = y + part.n * M + part.first;
    const uint32_t group = (uint32_t)(part.first / 4);
    const long whole = part.count / 4;
    const float by = (float)bound;
    EACH(q, whole) {
      uint32_t a, b, c, d;
      philox(s, group + (uint32_t)q, a, b, c, d);
      to[4 * q] = uniform_of(a, by);
      to[4 * q + 1] = uniform_of(b, by);
      to[4 * q + 2] = uniform_of(c, by);
      to[4 * q + 3] = uniform_of(d, by);
    }
    uint32_t w[4];
    philox(s, group + (uint32_t)whole, w[0], w[1], w[2], w[3]);
    EACH(j, part.count % 4) to[4 * whole + j] = uniform_of(w[j], by);
  }
};
KERNEL(uniform)

// sigma[n] = exp(z P_std + P_mean). One block.
struct draw_sigma {
  const i32 *seed, *places;
  real *sigma;
  long N, ldseed, purpose;
  double P_mean, P_std;
  BODY(long) {
    EACH(n, N) {
      float z, rest[3];
      normal_four(stream_of(seed, ldseed, places, n, 0, purpose), 0, z, rest[0], rest[1], rest[2]);
      sigma[n] = exact_exp(exact_fma(z, (float)P_std, (float)P_mean));
    }
  }
};
KERNEL(draw_sigma)

// keep[n] = 0 where the word of image n is below `threshold` = p 2^32, else 1. One block.
struct draw_keep {
  const i32 *seed, *places;
  real *keep;
  long N, ldseed, purpose, threshold;
  BODY(long) {
    EACH(n, N) {
      uint32_t word, rest[3];
      philox(stream_of(seed, ldseed, places, n, 0, purpose), 0, word, rest[0], rest[1], rest[2]);
      keep[n] = (long)word < threshold ? 0 : 1;
    }
  }
};
KERNEL(draw_keep)

// ids[n] = places of the K smallest of the T keys of image n (as unsigned words; of equal ones the first), in
// ascending order. keys [N, T]; ids [N, K]. One block = one image; scratch: T flags.
struct keep_smallest {
  const i32 *keys;
  i32 *ids;
  long T, K;
  BODY(long n) {
    const uint32_t *key = (const uint32_t *)keys + n * T;
    i32 *kept = scratch(i32), *to = ids + n * K;
    EACH(t, T) {
      const uint32_t own = key[t];
      i32 smaller = 0;
      for (long s = 0; s < t; ++s) smaller += key[s] <= own;
      for (long s = t + 1; s < T; ++s) smaller += key[s] < own;
      kept[t] = smaller < (i32)K;
    }
    block_sync();
    EACH(t, T) {
      if (kept[t]) {
        i32 before = 0;
        for (long s = 0; s < t; ++s) before += kept[s];
        to[before] = (i32)t;
      }
    }
  }
};
KERNEL(keep_smallest)

// y[i] = value. One block = `span` elements.
struct constant {
  real *y;
  long count, span;
  double value;
  BODY(long block) {
    const long first = block * span, n = count - first < span ? count - first : span;
    EACH(i, n) y[first + i] = (real)value;
  }
};
KERNEL(constant)
