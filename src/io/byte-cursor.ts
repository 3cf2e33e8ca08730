// Bytes of a file in order, through a small window: for formats that do not say beforehand how long they are.

import { Failure } from './failure.ts';
import type { Source } from './source.ts';

const WINDOW_BYTES = 2 ** 16;

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Reads on from a place, never beyond `end`. */
export class ByteCursor {
  private window: Uint8Array = new Uint8Array(0);
  /** Place in the file of the window's first byte. */
  private origin: number;
  private at = 0;

  constructor(
    private readonly source: Source,
    begin: number,
    private readonly end: number,
    /** What is read, for messages: "data.pkl". */
    private readonly what: string,
  ) {
    this.origin = begin;
  }

  /** Place in the file of the next byte. */
  get position(): number {
    return this.origin + this.at;
  }

  get remaining(): number {
    return this.end - this.position;
  }

  byte(): number {
    if (this.at === this.window.length) this.refill(1);
    return this.window[this.at++]!;
  }

  /** The next `length` bytes; good until the next call. Beyond the end is a Failure. */
  take(length: number): Uint8Array {
    if (this.at + length > this.window.length) this.refill(length);
    this.at += length;
    return this.window.subarray(this.at - length, this.at);
  }

  /** The next `length` bytes as a number, little-endian; more than 2^53 stays more than any file has. */
  uint(length: 1 | 2 | 4 | 8): number {
    let value = 0;
    const bytes = this.take(length);
    for (let i = length - 1; i >= 0; i--) value = value * 256 + bytes[i]!;
    return value;
  }

  /** The next `length` bytes as UTF-8 text. */
  text(length: number): string {
    const place = this.position;
    const text = decode(this.take(length));
    if (text === undefined) throw this.refuse(`holds text that is not UTF-8 at byte ${place}`);
    return text;
  }

  /** Text up to the next line feed, which is passed over; at most `longest` bytes. */
  line(longest: number): string {
    const bytes: number[] = [];
    for (let byte = this.byte(); byte !== 0x0a; byte = this.byte()) {
      bytes.push(byte);
      if (bytes.length > longest) throw this.refuse(`holds a name of more than ${longest} bytes`);
    }
    const text = decode(Uint8Array.from(bytes));
    if (text === undefined) throw this.refuse('holds a name that is not UTF-8');
    return text;
  }

  refuse(why: string, fix = 'Copy or download it again'): Failure {
    return new Failure({ what: this.source.path, why: `${this.what} ${why}`, fix });
  }

  private refill(length: number): void {
    if (length > this.remaining) {
      throw this.refuse(`is truncated: ${length} bytes are needed at byte ${this.position}`);
    }
    const place = this.position;
    this.window = new Uint8Array(Math.min(Math.max(WINDOW_BYTES, length), this.remaining));
    this.origin = place;
    this.at = 0;
    this.source.fill(this.window, place);
  }
}

/** UTF-8 as text; undefined where it is none. */
export function decode(bytes: Uint8Array): string | undefined {
  try {
    return UTF8.decode(bytes);
  } catch {
    return undefined;
  }
}
