// The Fréchet distance of two normal distributions, |mean difference|^2 + tr A + tr B - 2 tr (A B)^(1/2): FID
// where the features are Inception's. The trace of the root is exact, without the 1e-6 that pytorch-fid adds
// to the covariances where its root fails.
import type { Lapack } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';
import type { Gaussian } from './moments.ts';

export interface Frechet {
  /** At least 0, where rounding may lead for equal distributions. */
  readonly distance: number;
  /** How the trace of the root was taken. */
  readonly method: 'singular values of the centred features' | 'eigenvalues of the symmetric product';
  /** Directions in which each of the two varies at all; null where that was not found out. */
  readonly ranks: readonly [number | null, number | null];
  /** The smallest eigenvalue of each covariance over its largest; well below zero where it is none. */
  readonly least: readonly [number | null, number | null];
}

/** A matrix X [rows, d] with X^T X = a covariance. */
interface Factor {
  readonly values: Float64Array;
  readonly rows: number;
  /** The covariance's smallest eigenvalue over its largest. */
  readonly least: number;
}

export function frechetDistance(lapack: Lapack, a: Gaussian, b: Gaussian): Frechet {
  const { d } = a;
  if (b.d !== d) {
    throw new Failure({
      what: 'statistics',
      why: `of ${d} and of ${b.d} features cannot be compared`,
      fix: 'Make both with the same network',
    });
  }
  let offset = 0;
  let traces = 0;
  for (let i = 0; i < d; i++) {
    offset += (a.mean[i]! - b.mean[i]!) ** 2;
    traces += a.covariance[i * (d + 1)]! + b.covariance[i * (d + 1)]!;
  }
  if (a.rows && b.rows) {
    // The nuclear norm of X Y^T: no root of anything that rounding made of zeros.
    const [m, n] = [a.rows.length / d, b.rows.length / d];
    const product = lapack.product(a.rows, b.rows, { m, n, k: d, transB: true });
    const root = sum(lapack.singularValues(product, m, n));
    const method = 'singular values of the centred features';
    const ranks = [Math.min(d, m - 1), Math.min(d, n - 1)] as const;
    return { distance: Math.max(0, offset + traces - 2 * root), method, ranks, least: [null, null] };
  }
  // The root is taken of the one of whose images nothing is known, so that its rank comes to light.
  const swapped = a.count !== null && b.count === null;
  const [one, two] = swapped ? [b, a] : [a, b];
  const factor = factorOf(lapack, one);
  const other = one.count === null && two.count === null ? spectrumOf(lapack, two) : null;
  const inOrder = <T>(x: T, y: T): readonly [T, T] => (swapped ? [y, x] : [x, y]);
  return {
    distance: Math.max(0, offset + traces - 2 * rootTrace(lapack, factor, two)),
    method: 'eigenvalues of the symmetric product',
    ranks: inOrder<number | null>(factor.rows, other?.rank ?? null),
    least: inOrder<number | null>(factor.least, other?.least ?? null),
  };
}

/** tr (A B)^(1/2) for A = X^T X: the eigenvalues of A B are those of X B X^T. */
function rootTrace(lapack: Lapack, { values, rows: m }: Factor, { covariance, d }: Gaussian): number {
  if (m === 0) return 0;
  const half = lapack.product(values, covariance, { m, n: d, k: d });
  const product = lapack.product(half, values, { m, n: m, k: d, transB: true });
  return sum(lapack.symmetricEigen(product, m).map((v) => Math.sqrt(Math.max(0, v))));
}

/** X = diag(values)^(1/2) vectors, without the directions of which only rounding is left. */
function factorOf(lapack: Lapack, { covariance, d }: Gaussian): Factor {
  const vectors = Float64Array.from(covariance);
  const values = lapack.symmetricEigen(vectors, d, { vectors: true });
  const { rank, least } = rankOf(values);
  const first = d - rank;
  for (let i = first; i < d; i++) {
    const scale = Math.sqrt(values[i]!);
    for (let j = i * d; j < (i + 1) * d; j++) vectors[j]! *= scale;
  }
  return { values: vectors.slice(first * d), rows: rank, least };
}

function spectrumOf(lapack: Lapack, { covariance, d }: Gaussian) {
  return rankOf(lapack.symmetricEigen(Float64Array.from(covariance), d));
}

/** How many of eigenvalues, the smallest first, are more than rounding. */
function rankOf(values: Float64Array): { rank: number; least: number } {
  const largest = Math.max(values.at(-1) ?? 0, 0);
  const noise = values.length * Number.EPSILON * largest;
  return { rank: values.filter((v) => v > noise).length, least: largest > 0 ? values[0]! / largest : 0 };
}

function sum(values: Float64Array): number {
  return values.reduce((a, b) => a + b, 0);
}
