// Features of many images, kept as they came: for measures that need more of them than mean and covariance.
import { Failure } from '../io/failure.ts';

export class FeatureRows {
  private readonly parts: Float32Array[] = [];

  constructor(readonly d: number) {}

  get count(): number {
    return this.parts.length;
  }

  /** Adds rows [.., d]; they are copied. */
  add(features: Float32Array): void {
    const { d } = this;
    if (features.length % d !== 0) {
      throw new Failure({ what: 'features', why: `${features.length} numbers are not rows of ${d}` });
    }
    for (let at = 0; at < features.length; at += d) this.parts.push(features.slice(at, at + d));
  }

  row(i: number): Float32Array {
    return this.parts[i]!;
  }

  /** Rows from..to-1 side by side in float64. */
  block(from: number, to: number): Float64Array<ArrayBuffer> {
    const { d } = this;
    const out = new Float64Array(new ArrayBuffer(8 * (to - from) * d));
    for (let i = from; i < to; i++) out.set(this.parts[i]!, (i - from) * d);
    return out;
  }
}
