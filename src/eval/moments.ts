// Mean and covariance of features in float64: gathered row by row, merged over parts and machines, and the
// normal distribution that they say.
import { doubles, type Lapack } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';

/** A normal distribution of features: what a Fréchet distance needs of a set of images. */
export interface Gaussian {
  /** Features of an image. */
  readonly d: number;
  /** Images; null where a file does not say. */
  readonly count: number | null;
  /** [d] */
  readonly mean: Float64Array;
  /** [d, d], both triangles; divided by count - 1 (np.cov). */
  readonly covariance: Float64Array;
  /** The centred features over sqrt(count - 1) [count, d], whose X^T X is the covariance; null of many. */
  readonly rows: Float64Array | null;
}

/** Up to so many rows are kept: as many as pool3 has features, below which a covariance is singular. */
export const ROWS_KEPT = 2048;
/** Rows that one product takes together. */
const CHUNK = 256;

/**
 * Sums that rows are added to. Each chunk is centred by its own mean and then joined to what is there (Chan,
 * Golub, LeVeque 1979), so that a large mean costs no digits, and any split gives the same within rounding.
 */
export class Moments {
  count = 0;
  readonly mean: Float64Array;
  /** Lower triangle of the sum over rows of (x - mean)(x - mean)^T. */
  private readonly scatter: Float64Array<ArrayBuffer>;
  private readonly chunk: Float64Array<ArrayBuffer>;
  private waiting = 0;
  private kept: Float64Array[] | null = [];

  constructor(
    private readonly lapack: Lapack,
    readonly d: number,
  ) {
    this.mean = doubles(d);
    this.scatter = doubles(d * d);
    this.chunk = doubles((CHUNK + 1) * d);
  }

  /** Adds rows [.., d]. A value that is not finite is a Failure. */
  add(features: ArrayLike<number>): void {
    const { d } = this;
    if (features.length % d !== 0) {
      throw new Failure({ what: 'features', why: `${features.length} numbers are not rows of ${d}` });
    }
    for (let row = 0; row < features.length; row += d) {
      const at = this.waiting * d;
      for (let i = 0; i < d; i++) {
        const v = features[row + i]!;
        if (!Number.isFinite(v)) throw new Failure({ what: 'features', why: `hold ${v}` });
        this.chunk[at + i] = v;
      }
      this.kept?.push(this.chunk.slice(at, at + d));
      if (this.kept && this.kept.length > ROWS_KEPT) this.kept = null;
      this.waiting += 1;
      if (this.waiting === CHUNK) this.join();
    }
  }

  /** Adds what another one holds. */
  merge(other: Moments): void {
    if (other.d !== this.d) {
      throw new Failure({ what: 'features', why: `${this.d} and ${other.d} of them do not merge` });
    }
    this.join();
    other.join();
    const { kept } = this;
    this.kept = kept && other.kept && kept.length + other.kept.length <= ROWS_KEPT ? kept : null;
    if (this.kept && other.kept) this.kept.push(...other.kept);
    for (let i = 0; i < this.scatter.length; i++) this.scatter[i]! += other.scatter[i]!;
    this.shift(other.mean, other.count);
  }

  /** Sums that a saved distribution stands for, to merge it with others. */
  static of(lapack: Lapack, { d, count, mean, covariance }: Gaussian, what: string): Moments {
    if (count === null) {
      throw new Failure({
        what,
        why: 'does not say of how many images it is, so it cannot be merged',
        fix: 'Use statistics that `microdiff eval stats` wrote',
      });
    }
    const moments = new Moments(lapack, d);
    moments.count = count;
    moments.kept = null;
    moments.mean.set(mean);
    for (let i = 0; i < d * d; i++) moments.scatter[i] = covariance[i]! * (count - 1);
    return moments;
  }

  /** Fewer than two rows have no covariance: a Failure. */
  gaussian(what: string): Gaussian {
    this.join();
    const { d, count } = this;
    if (count < 2) {
      throw new Failure({
        what,
        why: `has ${count === 0 ? 'no image' : 'one image'}; a covariance needs two, a usable one thousands`,
        fix: 'Give more images',
      });
    }
    const covariance = doubles(d * d);
    for (let i = 0; i < d; i++) {
      for (let j = 0; j <= i; j++) {
        covariance[i * d + j] = this.scatter[i * d + j]! / (count - 1);
        covariance[j * d + i] = covariance[i * d + j]!;
      }
    }
    return { d, count, mean: this.mean.slice(), covariance, rows: this.centredRows() };
  }

  private centredRows(): Float64Array | null {
    const { kept, d, mean } = this;
    if (!kept) return null;
    const scale = 1 / Math.sqrt(kept.length - 1);
    const rows = doubles(kept.length * d);
    for (const [r, row] of kept.entries()) {
      for (let i = 0; i < d; i++) rows[r * d + i] = (row[i]! - mean[i]!) * scale;
    }
    return rows;
  }

  /** Takes the waiting rows in. */
  private join(): void {
    const { d, chunk, waiting: n } = this;
    if (n === 0) return;
    const mean = new Float64Array(d);
    for (let at = 0; at < n * d; at += d) {
      for (let i = 0; i < d; i++) mean[i]! += chunk[at + i]!;
    }
    for (let i = 0; i < d; i++) mean[i]! /= n;
    for (let at = 0; at < n * d; at += d) {
      for (let i = 0; i < d; i++) chunk[at + i]! -= mean[i]!;
    }
    this.lapack.addScatter(chunk.subarray(0, n * d), n, d, this.scatter);
    this.waiting = 0;
    this.shift(mean, n);
  }

  /** Moves the mean to that of both, and enters what the distance of the two means adds. */
  private shift(mean: Float64Array, n: number): void {
    const { d, count } = this;
    const total = count + n;
    if (n === 0) return;
    const delta = doubles(d);
    const scale = Math.sqrt((count / total) * n);
    for (let i = 0; i < d; i++) {
      const difference = mean[i]! - this.mean[i]!;
      delta[i] = difference * scale;
      this.mean[i]! += (difference * n) / total;
    }
    if (count > 0) this.lapack.addScatter(delta, 1, d, this.scatter);
    this.count = total;
  }
}
