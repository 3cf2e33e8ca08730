// The Fréchet distance of two normal distributions, |mean difference|^2 + tr A + tr B - 2 tr (A B)^(1/2): FID
// where the features are Inception's. The trace of the root is exact, without the 1e-6 that pytorch-fid adds
// to the covariances where its root fails.
import type { Lapack } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';
import type { Gaussian } from './moments.ts';

export interface Frechet {
  /** May be a rounding error below zero for equal distributions. */
  readonly distance: number;
  /** How the trace of the root was taken. */
  readonly method: 'singular values of the centred features' | 'eigenvalues of the symmetric product';
  /** Directions in which each of the two varies at all, as far as that was found out; null where not. */
  readonly ranks: readonly [number | null, number | null];
}

/** A matrix X [rows, d] with X^T X = a covariance. */
interface Factor {
  readonly values: Float64Array;
  readonly rows: number;
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
    return { distance: offset + traces - 2 * root, method, ranks: [Math.min(d, m - 1), Math.min(d, n - 1)] };
  }
  // Eigenvalues of X B X^T with A = X^T X are those of A B.
  const method = 'eigenvalues of the symmetric product';
  const factor = factorOf(lapack, a);
  const { rows: m } = factor;
  if (m === 0) return { distance: offset + traces, method, ranks: [0, null] };
  const half = lapack.product(factor.values, b.covariance, { m, n: d, k: d });
  const product = lapack.product(half, factor.values, { m, n: m, k: d, transB: true });
  const root = sum(lapack.symmetricEigen(product, m).map((v) => Math.sqrt(Math.max(0, v))));
  return { distance: offset + traces - 2 * root, method, ranks: [m, null] };
}

/** X = diag(values)^(1/2) vectors, without the directions of which only rounding is left. */
function factorOf(lapack: Lapack, { covariance, d }: Gaussian): Factor {
  const vectors = Float64Array.from(covariance);
  const values = lapack.symmetricEigen(vectors, d, { vectors: true });
  const noise = d * Number.EPSILON * Math.max(values[d - 1]!, 0);
  const first = values.findIndex((v) => v > noise);
  if (first < 0) return { values: new Float64Array(0), rows: 0 };
  for (let i = first; i < d; i++) {
    const scale = Math.sqrt(values[i]!);
    for (let j = i * d; j < (i + 1) * d; j++) vectors[j]! *= scale;
  }
  return { values: vectors.slice(first * d), rows: d - first };
}

function sum(values: Float64Array): number {
  return values.reduce((a, b) => a + b, 0);
}
