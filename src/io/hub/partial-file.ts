// A file on its way in: its bytes at their places, and behind them one counter per chunk that says how much
// of it is there. Chunks can come in any order; a kill at any moment loses at most the last write, because a
// counter is written after the bytes it counts.

import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { osFailure } from '../oserror.ts';

const COUNTER = 8;

export interface Chunk {
  readonly index: number;
  /** First byte of the chunk and the byte behind its last, in the file. */
  readonly start: number;
  readonly end: number;
}

export class PartialFile {
  /** Bytes that are there. */
  received = 0;
  /** Bytes that were there when it was opened. */
  readonly resumed: number;
  readonly #fd: number;
  readonly #done: number[];
  readonly #taken = new Set<number>();

  /** Opens or makes the file for `bytes` bytes; one that does not fit them is begun anew. */
  constructor(
    readonly path: string,
    readonly bytes: number,
    readonly chunkBytes: number,
  ) {
    const chunks = Math.ceil(bytes / chunkBytes);
    this.#done = new Array<number>(chunks).fill(0);
    this.#fd = this.#try(() => openSync(path, constants.O_RDWR | constants.O_CREAT, 0o666));
    this.#try(() => this.#readCounters());
    this.resumed = this.received;
  }

  /** The next chunk that is neither whole nor taken, taken by this; undefined when there is none. */
  take(): Chunk | undefined {
    const index = this.#done.findIndex((done, i) => !this.#taken.has(i) && done < this.#length(i));
    if (index < 0) return undefined;
    this.#taken.add(index);
    const start = index * this.chunkBytes;
    return { index, start, end: start + this.#length(index) };
  }

  release(chunk: Chunk): void {
    this.#taken.delete(chunk.index);
  }

  /** Bytes of a chunk that are there, from its first on. */
  doneOf(chunk: Chunk): number {
    return this.#done[chunk.index]!;
  }

  get isWhole(): boolean {
    return this.received === this.bytes;
  }

  /** Adds bytes behind those of the chunk that are there; what goes past its end is cut. */
  append(chunk: Chunk, bytes: Uint8Array): void {
    const done = this.#done[chunk.index]!;
    const room = Math.min(bytes.length, chunk.end - chunk.start - done);
    this.#try(() => {
      for (let at = 0; at < room; ) {
        at += writeSync(this.#fd, bytes, at, room - at, chunk.start + done + at);
      }
      this.#count(chunk.index, done + room);
    });
  }

  /** Forgets every byte. */
  restart(): void {
    this.#try(() => {
      for (const index of this.#done.keys()) this.#count(index, 0);
    });
    this.#taken.clear();
  }

  /** Cuts the counters off and puts everything on the disk. */
  seal(): void {
    this.#try(() => {
      ftruncateSync(this.#fd, this.bytes);
      fsyncSync(this.#fd);
    });
  }

  close(): void {
    closeSync(this.#fd);
  }

  #readCounters(): void {
    const { size } = fstatSync(this.#fd);
    const trailer = new BigUint64Array(this.#done.length);
    if (size === this.bytes && size > 0) {
      // Sealed, and then not moved to its place: the counters are gone, the bytes are there.
      this.#done.forEach((_, index) => {
        this.#done[index] = this.#length(index);
      });
      this.received = this.bytes;
      ftruncateSync(this.#fd, this.bytes + trailer.byteLength);
      for (const [index, done] of this.#done.entries()) this.#write(index, done);
      return;
    }
    if (size !== this.bytes + trailer.byteLength) {
      ftruncateSync(this.#fd, 0);
      ftruncateSync(this.#fd, this.bytes + trailer.byteLength);
      return;
    }
    readSync(this.#fd, trailer, 0, trailer.byteLength, this.bytes);
    for (const [index, counter] of trailer.entries()) {
      const done = Number(counter);
      this.#done[index] = done <= this.#length(index) ? done : 0;
      this.received += this.#done[index];
    }
  }

  #count(index: number, done: number): void {
    this.received += done - this.#done[index]!;
    this.#done[index] = done;
    this.#write(index, done);
  }

  #write(index: number, done: number): void {
    const counter = new BigUint64Array([BigInt(done)]);
    writeSync(this.#fd, counter, 0, COUNTER, this.bytes + COUNTER * index);
  }

  #length(index: number): number {
    return Math.min(this.chunkBytes, this.bytes - index * this.chunkBytes);
  }

  #try<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      throw osFailure(error, this.path, 'write');
    }
  }
}
