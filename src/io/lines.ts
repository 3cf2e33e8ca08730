// Lines of text in and out: the one synchronous write loop for standard output (in Bun,
// `process.stdout.write` before an exit loses lines and `console.log` does not notice a closed pipe), and
// prompt lines from any stream.

import { writeSync } from 'node:fs';
import { osCode, osFailure } from './oserror.ts';

/** Longest wait between two tries when the other end of a non-blocking pipe is slow. */
const MAX_WAIT_MS = 20;

/** Writes to a file descriptor until everything is out. `name` stands in messages. */
export class Writer {
  #closed = false;

  constructor(
    readonly fd: number,
    readonly name = 'standard output',
  ) {}

  /** True once the reader has gone (`| head`): there is no one to write for, so end quietly. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Writes all of `data`; false if the reader has gone. Anything else that goes wrong is a Failure. */
  write(data: string | Uint8Array): boolean {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
    let wait = 1;
    for (let at = 0; at < bytes.length && !this.#closed; ) {
      try {
        at += writeSync(this.fd, bytes, at);
        wait = 1;
      } catch (error) {
        const code = osCode(error);
        if (code === 'EPIPE') this.#closed = true;
        else if (code === 'EAGAIN') wait = sleep(wait);
        else if (code !== 'EINTR') throw osFailure(error, this.name, 'write');
      }
    }
    return !this.#closed;
  }

  /** One record as a line of JSON; see `encodeRecord` in jsonl.ts for how numbers are written. */
  line(text: string): boolean {
    return this.write(`${text}\n`);
  }
}

/** One line of input, counted from 0: its text, or why it has none. */
export type Line = { readonly index: number } & ({ readonly text: string } | { readonly error: string });

export interface ReadOptions {
  /** Longest line in bytes, 1 MiB when left out; a longer one becomes an error and is passed over. */
  readonly maxBytes?: number;
}

/**
 * Cuts a byte stream into lines: LF or CRLF, a byte order mark at the very beginning is dropped, the last
 * line needs no newline. A line that is not UTF-8 or too long comes as an error in its place; the others are
 * not harmed.
 */
export async function* readLines(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: ReadOptions = {},
): AsyncGenerator<Line> {
  const maxBytes = options.maxBytes ?? 2 ** 20;
  let index = 0;
  // The pieces of the line that is not finished yet; none are kept once it is too long.
  let pieces: Uint8Array[] = [];
  let length = 0;
  const add = (piece: Uint8Array) => {
    length += piece.length;
    // Streams may use the buffer of a chunk again for the next one, hence the copy.
    if (length <= maxBytes) pieces.push(piece.slice());
    else pieces = [];
  };
  const take = (): Line => {
    const line = length > maxBytes ? tooLong(index, maxBytes) : decode(index, Buffer.concat(pieces));
    index++;
    pieces = [];
    length = 0;
    return line;
  };
  for await (const chunk of source) {
    let begin = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, begin)) {
      add(chunk.subarray(begin, end));
      begin = end + 1;
      yield take();
    }
    add(chunk.subarray(begin));
  }
  if (length > 0) yield take();
}

function decode(index: number, bytes: Uint8Array): Line {
  const hasMark = index === 0 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  const end = bytes.at(-1) === 13 ? bytes.length - 1 : bytes.length;
  try {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    return { index, text: decoder.decode(bytes.subarray(hasMark ? 3 : 0, end)) };
  } catch {
    return { index, error: 'the line is not UTF-8' };
  }
}

function tooLong(index: number, maxBytes: number): Line {
  return { index, error: `the line is longer than ${maxBytes} bytes` };
}

/** Sleeps `ms` without giving way to other events and returns the time to sleep next. */
function sleep(ms: number): number {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  return Math.min(2 * ms, MAX_WAIT_MS);
}
