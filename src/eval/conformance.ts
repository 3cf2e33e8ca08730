// Conformance results: error measures of the golden READMEs, one result per group of tensors.

/** One line of the table that `verify` prints. */
export interface GroupResult {
  readonly group: string;
  /** Largest error of the group by its measure; null where nothing was checked. */
  readonly error: number | null;
  readonly bound: number;
  readonly status: 'pass' | 'fail' | 'skipped';
  /** The worst tensor, or why the group was skipped. */
  readonly note: string;
}

/** Collects the errors of one group: the largest counts. */
export class Group {
  private worst = -1;
  private where = '';
  private checked = 0;

  constructor(
    readonly name: string,
    readonly bound: number,
  ) {}

  /** Enters one error; NaN fails the group. */
  add(error: number, what: string): void {
    this.checked += 1;
    const size = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
    if (size > this.worst) {
      this.worst = size;
      this.where = what;
    }
  }

  result(): GroupResult | null {
    if (this.checked === 0) return null;
    const status = this.worst <= this.bound ? 'pass' : 'fail';
    return { group: this.name, error: this.worst, bound: this.bound, status, note: this.where };
  }
}

/** max |a - b| / max |b| */
export function relMax(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error = Math.max(error, Math.abs(a[i]! - b[i]!));
    size = Math.max(size, Math.abs(b[i]!));
  }
  return size > 0 ? error / size : error;
}

/** L2 norm of the difference over L2 norm of b. */
export function relL2(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return size > 0 ? Math.sqrt(error / size) : Math.sqrt(error);
}

/** Largest absolute difference. */
export function maxAbs(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let error = 0;
  for (let i = 0; i < b.length; i++) error = Math.max(error, Math.abs(a[i]! - b[i]!));
  return error;
}

/** |a - b| / |b| of two numbers. */
export function relative(a: number, b: number): number {
  return b === 0 ? Math.abs(a) : Math.abs(a - b) / Math.abs(b);
}

/** Every s-th element, s = max(1, floor(n / 256)): how the `.compact` golden files sample a tensor. */
export function compact(values: ArrayLike<number>): Float64Array {
  const step = Math.max(1, Math.floor(values.length / 256));
  return Float64Array.from({ length: Math.ceil(values.length / step) }, (_, i) => values[i * step]!);
}
