// Steps whose loss or gradient norm is far out of what it was lately, told from the median of the last steps.

/** Steps that a step is compared with, and how many there must be. */
const WINDOW = 128;
const ENOUGH = 32;
/** How many times the usual distance from the median is far out, and the least that counts as usual. */
const FAR = 6;
const LEAST = 0.05;

/** A value that is far out, and the median that it was compared with. */
export interface Spike {
  readonly value: number;
  readonly median: number;
}

/**
 * The last values of one quantity. Distances are taken of logarithms: a loss falls by orders of magnitude.
 */
export class SpikeWatch {
  private readonly logs: number[] = [];

  /**
   * Takes the next value; returns it with the median where it is far above. Infinite and NaN ones are
   * passed over.
   */
  note(value: number): Spike | null {
    if (!Number.isFinite(value) || value <= 0) return null;
    const log = Math.log(value);
    const spike = this.judge(log);
    this.logs.push(log);
    if (this.logs.length > WINDOW) this.logs.shift();
    return spike && { value, median: Math.exp(spike.median) };
  }

  private judge(log: number): { median: number } | null {
    if (this.logs.length < ENOUGH) return null;
    const median = medianOf(this.logs);
    // 1.4826 makes the median distance a standard deviation, were the values normally distributed.
    const usual = Math.max(LEAST, 1.4826 * medianOf(this.logs.map((x) => Math.abs(x - median))));
    return log - median > FAR * usual ? { median } : null;
  }
}

function medianOf(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort();
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}
