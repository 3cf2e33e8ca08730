// Conformance results: error measures of the golden READMEs, one result per group of tensors.

/** One line of the table that `verify` prints. */
export interface GroupResult {
  readonly group: string;
  /** Largest error of the group by its measure; null where nothing was checked. */
  readonly error: number | null;
  readonly bound: number | null;
  readonly status: 'pass' | 'fail' | 'skipped';
  /** The worst tensor, or why the group was skipped or could not be checked. */
  readonly note: string;
}

/** Collects the errors of one group: the largest counts. */
export class Group {
  private worst = -1;
  private where = '';

  constructor(
    readonly name: string,
    readonly bound: number,
  ) {}

  /** Enters one error; NaN fails the group. */
  add(error: number, what: string): void {
    const size = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
    if (size > this.worst) {
      this.worst = size;
      this.where = what;
    }
  }

  /** Null where nothing was entered. */
  result(): GroupResult | null {
    if (this.worst < 0) return null;
    const status = this.worst <= this.bound ? 'pass' : 'fail';
    return { group: this.name, error: this.worst, bound: this.bound, status, note: this.where };
  }
}

/** Collects absolute errors element by element: all but a share of them lie under the bound. */
export class MostGroup {
  private readonly errors: Float64Array[] = [];
  private largest = -1;
  private where = '';

  constructor(
    readonly name: string,
    readonly bound: number,
    /** Part of the elements that the bound holds for. */
    readonly share = 0.999,
  ) {}

  add(a: ArrayLike<number>, b: ArrayLike<number>, what: string): void {
    const differences = Float64Array.from(b, (v, i) => {
      const error = Math.abs((a[i] ?? Number.NaN) - v);
      return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
    });
    if (a.length !== b.length) differences.fill(Number.POSITIVE_INFINITY);
    this.errors.push(differences);
    const worst = differences.reduce((m, e) => Math.max(m, e), 0);
    if (worst > this.largest) {
      this.largest = worst;
      this.where = what;
    }
  }

  result(): GroupResult | null {
    const total = this.errors.reduce((sum, part) => sum + part.length, 0);
    if (total === 0) return null;
    const all = new Float64Array(total);
    let at = 0;
    for (const part of this.errors) {
      all.set(part, at);
      at += part.length;
    }
    all.sort();
    const error = all[Math.ceil(this.share * total) - 1]!;
    const status = error <= this.bound ? 'pass' : 'fail';
    const above = all.reduce((sum, e) => sum + (e > this.bound ? 1 : 0), 0);
    const note = `${this.where}; ${above} of ${total} elements above`;
    return { group: this.name, error, bound: this.bound, status, note };
  }
}

export function skipped(group: string, why: string): GroupResult {
  return { group, error: null, bound: null, status: 'skipped', note: why };
}

/** Results of one check; an error on the way (a broken file) fails the group that it belongs to. */
export function attempt(group: string, check: () => readonly (GroupResult | null)[]): readonly GroupResult[] {
  try {
    return check().filter((r) => r !== null);
  } catch (error) {
    const note = error instanceof Error ? error.message : String(error);
    return [{ group, error: null, bound: null, status: 'fail', note }];
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

/** sqrt(mean (a - b)^2 / mean b^2) */
export function relRms(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(size > 0 ? error / size : error);
}

/** 1 - cosine of the angle between two lists; 0 where both are zero. */
export function angle(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < b.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! ** 2;
    bb += b[i]! ** 2;
  }
  if (aa === 0 && bb === 0) return 0;
  return 1 - ab / Math.sqrt(aa * bb);
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

/** Bytes that are not the same; of another length, all of them. */
export function differing(ours: Uint8Array, theirs: Uint8Array): number {
  if (ours.length !== theirs.length) return Math.max(ours.length, theirs.length);
  if (Buffer.compare(ours, theirs) === 0) return 0;
  return ours.reduce((count, byte, i) => count + (byte === theirs[i] ? 0 : 1), 0);
}
