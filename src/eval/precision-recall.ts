// Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): the share of images of one set
// that lie within the manifold of the other, balls around its images that reach their k-th nearest neighbour.
import type { Lapack } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';
import type { FeatureRows } from './feature-rows.ts';

export interface PrecisionRecall {
  /** The share of A, which is judged, within the manifold of B: how good its images are. */
  readonly precision: number;
  /** The share of B within the manifold of A: how much of it A covers. */
  readonly recall: number;
  readonly k: number;
}

/** Rows whose distances are taken together: products of this many rows with that many others. */
const BLOCK = { rows: 512, columns: 4096 };

/** More than k images of each. */
export function precisionRecall(lapack: Lapack, a: FeatureRows, b: FeatureRows, k = 3): PrecisionRecall {
  if (Math.min(a.count, b.count) <= k) {
    throw new Failure({
      what: 'precision and recall',
      why: `need more than ${k} images of each set`,
      fix: 'Give more images',
    });
  }
  const [reachA, reachB] = [reaches(lapack, a, k), reaches(lapack, b, k)];
  const inB = new Uint8Array(a.count);
  const inA = new Uint8Array(b.count);
  eachDistance(lapack, a, b, (i, j, distance) => {
    if (distance <= reachB[j]!) inB[i] = 1;
    if (distance <= reachA[i]!) inA[j] = 1;
  });
  const share = (hits: Uint8Array) => hits.reduce((sum, hit) => sum + hit, 0) / hits.length;
  return { precision: share(inB), recall: share(inA), k };
}

/** The squared distance of every image to its k-th nearest neighbour, itself not counted. */
function reaches(lapack: Lapack, set: FeatureRows, k: number): Float64Array {
  const nearest = new Float64Array(set.count * k).fill(Number.POSITIVE_INFINITY);
  eachDistance(lapack, set, set, (i, j, distance) => {
    if (i === j) return;
    // Insertion into the k smallest so far, in order.
    let at = i * k + k - 1;
    if (distance >= nearest[at]!) return;
    for (; at > i * k && nearest[at - 1]! > distance; at--) nearest[at] = nearest[at - 1]!;
    nearest[at] = distance;
  });
  return Float64Array.from({ length: set.count }, (_, i) => nearest[i * k + k - 1]!);
}

/** Squared Euclidean distances of all pairs. */
function eachDistance(
  lapack: Lapack,
  a: FeatureRows,
  b: FeatureRows,
  see: (i: number, j: number, distance: number) => void,
): void {
  const { d } = a;
  const squares = (set: FeatureRows) =>
    Float64Array.from({ length: set.count }, (_, i) => set.row(i).reduce((sum, v) => sum + v * v, 0));
  const [normA, normB] = [squares(a), a === b ? null : squares(b)];
  const other = normB ?? normA;
  for (let c = 0; c < b.count; c += BLOCK.columns) {
    const n = Math.min(BLOCK.columns, b.count - c);
    const y = b.block(c, c + n);
    for (let r = 0; r < a.count; r += BLOCK.rows) {
      const m = Math.min(BLOCK.rows, a.count - r);
      const dots = lapack.product(a.block(r, r + m), y, { m, n, k: d, transB: true });
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++) {
          see(r + i, c + j, Math.max(0, normA[r + i]! + other[c + j]! - 2 * dots[i * n + j]!));
        }
      }
    }
  }
}
