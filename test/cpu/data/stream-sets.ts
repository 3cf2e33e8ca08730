// Small sets of shards whose samples say which they are, and what a stream of them must deliver.
import { join } from 'node:path';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import type { ColumnSpec } from '../../../src/data/stream/columns.ts';
import type { ShardStream } from '../../../src/data/stream/stream.ts';

/** Bytes of a column of sample `item` of set `set`: its numbers, then a pattern of its own. */
export function columnOf(set: number, item: number, column: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) out[i] = (item * 31 + set * 7 + column * 3 + i * (1 + (item % 5))) & 0xff;
  new DataView(out.buffer).setUint32(0, (set << 24) | item, true);
  return out;
}

export const captionOf = (set: number, item: number) =>
  `caption ${item} of set ${set} ${'é'.repeat(item % 9)}`;

export interface SetParts {
  readonly count: number;
  readonly columns: readonly ColumnSpec[];
  /** Bytes of a shard at most. */
  readonly limit: number;
  readonly compression?: string;
  readonly hashes?: readonly string[];
}

/** Writes set `set` into `folder`/set-N and returns that path. `extra`: a column that nobody wants. */
export function writeSet(folder: string, set: number, parts: SetParts): string {
  const path = join(folder, `set-${set}`);
  const columns = Object.fromEntries(parts.columns.map(({ column }) => [column, 'bytes']));
  using writer = MdsWriter.open(
    path,
    { caption: 'str', extra: 'bytes', number: 'int64', ...columns },
    { compression: parts.compression ?? null, hashes: parts.hashes ?? [], sizeLimit: parts.limit },
  );
  for (let item = 0; item < parts.count; item++) {
    const values = parts.columns.map(({ column, bytes }, i) => [column, columnOf(set, item, i, bytes)]);
    writer.write({
      caption: captionOf(set, item),
      extra: new Uint8Array((item * 13) % 70),
      number: BigInt(item),
      ...Object.fromEntries(values),
    });
  }
  writer.finish();
  return path;
}

export function arraysFor(columns: readonly ColumnSpec[], count: number): Uint8Array[] {
  return columns.map(({ bytes }) => new Uint8Array(new ArrayBuffer(count * bytes)));
}

/**
 * Set and item of every row of a batch, after checking that each row is what was written, in every column.
 */
export function itemsOf(into: readonly Uint8Array[], columns: readonly ColumnSpec[]): string[] {
  const count = into[0]!.length / columns[0]!.bytes;
  return Array.from({ length: count }, (_, row) => {
    const head = new DataView(into[0]!.buffer, into[0]!.byteOffset + row * columns[0]!.bytes);
    const number = head.getUint32(0, true);
    const [set, item] = [number >>> 24, number & 0xffffff];
    for (const [i, { bytes }] of columns.entries()) {
      const got = into[i]!.subarray(row * bytes, (row + 1) * bytes);
      if (Buffer.compare(got, columnOf(set, item, i, bytes)) !== 0) return `damaged ${set}.${item}`;
    }
    return `${set}.${item}`;
  });
}

/** The items at places first, first + 1, ... as `batch`es of a stream deliver them. */
export async function streamed(
  stream: ShardStream,
  columns: readonly ColumnSpec[],
  first: number,
  count: number,
  batch = count,
): Promise<string[]> {
  const out: string[] = [];
  for (let at = 0; at < count; at += batch) {
    const size = Math.min(batch, count - at);
    const into = arraysFor(columns, size);
    await stream.fill(into, new Float64Array(size), first + at);
    out.push(...itemsOf(into, columns));
  }
  return out;
}
