// Batches read by the native library's reader threads (cuda/gather.cpp): a job is a list of samples in files
// and the arrays that their columns go to.

import { addressOf, Pinned } from './memory.ts';
import type { Native } from './native.ts';

/**
 * Bytes a column has: a number, or null where each sample says it. wanted: which array it goes to, or -1.
 * packed: its numbers are in 8 bits (src/io/q8.ts), and go there as halves.
 */
export interface GatherColumn {
  readonly bytes: number | null;
  readonly wanted: number;
  readonly packed: boolean;
}

/** Columns that a file may have at most. */
export const MAX_COLUMNS = 256;

/** How the samples of a file are laid out, for jobs. */
export class GatherLayout {
  private readonly memory: Pinned;

  /** columns: all of them, in the order of the file; MAX_COLUMNS at most. */
  constructor(columns: readonly GatherColumn[]) {
    if (columns.length > MAX_COLUMNS) throw new RangeError(`${columns.length} columns`);
    this.memory = new Pinned(8 + 12 * columns.length);
    const words = new Int32Array(this.memory.buffer);
    words[0] = columns.length;
    words[1] = columns.filter(({ bytes }) => bytes === null).length;
    for (const [i, { bytes, wanted, packed }] of columns.entries()) {
      words.set([bytes ?? -1, wanted, Number(packed)], 2 + 3 * i);
    }
  }

  get address(): number {
    return this.memory.address;
  }
}

/** A file of samples that is open. */
export interface GatherFile {
  readonly fd: number;
  readonly bytes: number;
  readonly samples: number;
  readonly layout: GatherLayout;
  /** Address of its mapping, 0 if it is not mapped. */
  readonly map: number;
}

/** Why a sample could not be read; the numbers are those of its kind. */
export type GatherFault =
  | { readonly kind: 'system'; readonly request: number; readonly errno: number }
  | { readonly kind: 'short'; readonly request: number; readonly offset: number }
  | { readonly kind: 'offsets'; readonly request: number; readonly begin: number; readonly end: number }
  | { readonly kind: 'sizes'; readonly request: number; readonly sum: number; readonly bytes: number }
  | { readonly kind: 'column'; readonly request: number; readonly wanted: number; readonly bytes: number };

/** Numbers of a request and of the job's head, as cuda/gather.cpp has them. */
const REQUEST = 6;
const HEAD = 11;
const [REQUESTS, COUNT, WANTED, CLAIM, FAILED, REASON, FIRST, SECOND, NEXT, DONE, FINISHED] = [
  ...Array(HEAD).keys(),
] as [number, number, number, number, number, number, number, number, number, number, number];
/** Threads claim about so many bytes at a time, but no more than so many samples. */
const CLAIM_BYTES = 2 ** 18;
const CLAIM_SAMPLES = 64;

/** Jobs that threads are at, and the arrays that they write into: neither may be collected meanwhile. */
const running = new Map<Gather, readonly Uint8Array[]>();

/** A job of up to `capacity` requests. May be used again once it is done. */
export class Gather {
  private readonly requests: Pinned;
  private readonly rows: Float64Array;
  private readonly head: Float64Array;
  private readonly memory: Pinned;
  private readonly wanted: Pinned;

  constructor(
    private readonly native: Native,
    readonly capacity: number,
    private readonly bytes: readonly number[],
  ) {
    this.requests = new Pinned(Math.max(1, capacity) * REQUEST * 8);
    this.rows = new Float64Array(this.requests.buffer);
    this.memory = new Pinned(HEAD * 8);
    this.head = new Float64Array(this.memory.buffer);
    this.wanted = new Pinned(Math.max(1, bytes.length) * 16);
  }

  /** Sample `sample` of an open file goes to row `request` of the arrays. */
  request(request: number, file: GatherFile, sample: number): void {
    this.write(request, file, sample, file.map);
  }

  /** Leaves row `request` of the arrays alone. */
  skip(request: number): void {
    this.rows[request * REQUEST + 3] = -2;
  }

  /** Not a sample: the whole file is read into memory, and mapped if `map` is true. */
  ready(request: number, file: GatherFile, map: boolean): void {
    this.write(request, file, -1, map ? 1 : 0);
  }

  /** Address of the mapping that `ready` made, 0 if none; whoever takes it ends it (Native.unmap). */
  mapOf(request: number): number {
    return this.rows[request * REQUEST + 5]!;
  }

  private write(request: number, file: GatherFile, sample: number, map: number): void {
    const { rows } = this;
    const at = request * REQUEST;
    rows[at] = file.fd;
    rows[at + 1] = file.bytes;
    rows[at + 2] = file.samples;
    rows[at + 3] = sample;
    rows[at + 4] = file.layout.address;
    rows[at + 5] = map;
  }

  /**
   * Starts requests 0..count-1. `into`: an array for each column, [count, bytes]. Files, layouts and arrays
   * must stay until the job is done.
   */
  start(count: number, into: readonly Uint8Array[]): void {
    const pairs = new Float64Array(this.wanted.buffer);
    for (const [i, array] of into.entries()) {
      if (array.byteLength < count * this.bytes[i]!) throw new RangeError('an array is too short');
      pairs[2 * i] = addressOf(array);
      pairs[2 * i + 1] = this.bytes[i]!;
    }
    const bytes = this.bytes.reduce((sum, n) => sum + n, 0);
    const { head } = this;
    head.fill(0);
    head[REQUESTS] = this.requests.address;
    head[COUNT] = count;
    head[WANTED] = this.wanted.address;
    head[CLAIM] = Math.max(1, Math.min(CLAIM_SAMPLES, Math.floor(CLAIM_BYTES / (bytes + 1))));
    head[FAILED] = -1;
    head[NEXT] = head[DONE] = head[FINISHED] = 0;
    this.native.gather(this.memory.address);
    running.set(this, into);
  }

  /** Whether all is read, after waiting for at most so many microseconds. */
  wait(microseconds: number): boolean {
    if (!this.native.gatherWait(this.memory.address, microseconds)) return false;
    running.delete(this);
    return true;
  }

  /** The first request that failed, once all is done. */
  get fault(): GatherFault | undefined {
    const request = this.head[FAILED]!;
    if (request < 0) return undefined;
    const [first, second] = [this.head[FIRST]!, this.head[SECOND]!];
    switch (this.head[REASON]) {
      case 1:
        return { kind: 'system', request, errno: first };
      case 2:
        return { kind: 'short', request, offset: first };
      case 3:
        return { kind: 'offsets', request, begin: first, end: second };
      case 4:
        return { kind: 'sizes', request, sum: first, bytes: second };
      default:
        return { kind: 'column', request, wanted: first, bytes: second };
    }
  }
}
