// Kernel Inception distance (Binkowski et al. 2018, arXiv 1801.01401): the unbiased squared maximum mean
// discrepancy with the kernel (x y / d + 1)^3, over subsets drawn by a seed.
import type { Lapack } from '../../ffi/lapack.ts';
import { doubles } from '../../ffi/lapack.ts';
import { Permutation } from '../data/order.ts';
import { Failure } from '../io/failure.ts';
import type { FeatureRows } from './feature-rows.ts';

export interface Kid {
  readonly mean: number;
  /** Standard deviation over the subsets. */
  readonly deviation: number;
  readonly subsets: number;
  readonly subset_size: number;
}

export interface KidOptions {
  readonly subsets: number;
  /** Images of each set in a subset; fewer where a set has fewer. */
  readonly size: number;
  readonly seed: number;
}

/** At least two images of each. */
export function kernelDistance(
  lapack: Lapack,
  a: FeatureRows,
  b: FeatureRows,
  { subsets, size, seed }: KidOptions,
): Kid {
  const m = Math.min(size, a.count, b.count);
  if (m < 2) throw new Failure({ what: 'kid', why: 'needs two images of each set', fix: 'Give more images' });
  const values = Array.from({ length: subsets }, (_, i) => {
    const [x, y] = [a, b].map((rows, k) => drawn(rows, m, seed, 2 * i + k)) as [Float64Array, Float64Array];
    return discrepancy(lapack, x, y, m, a.d);
  });
  const mean = values.reduce((sum, v) => sum + v, 0) / subsets;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / subsets;
  return { mean, deviation: Math.sqrt(variance), subsets, subset_size: m };
}

/** m rows of a set, none twice. */
function drawn(rows: FeatureRows, m: number, seed: number, stream: number): Float64Array {
  const order = new Permutation(rows.count, seed, stream);
  const out = doubles(m * rows.d);
  for (let i = 0; i < m; i++) out.set(rows.row(order.at(i)), i * rows.d);
  return out;
}

function discrepancy(lapack: Lapack, x: Float64Array, y: Float64Array, m: number, d: number): number {
  const products = (p: Float64Array, q: Float64Array) =>
    lapack.product(p, q, { m, n: m, k: d, transB: true });
  const total = (dots: Float64Array, diagonal: boolean) => {
    let sum = 0;
    for (let i = 0; i < dots.length; i++) {
      if (diagonal || i % (m + 1) !== 0) sum += (dots[i]! / d + 1) ** 3;
    }
    return sum;
  };
  const within = total(products(x, x), false) + total(products(y, y), false);
  return within / (m * (m - 1)) - (2 * total(products(x, y), true)) / (m * m);
}
