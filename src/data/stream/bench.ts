// How fast the training stream is beside a plain read of the same shards: both warm, in one run, in turns.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Pinned } from '../../../ffi/memory.ts';
import { MdsIndex } from '../../io/mds/index.ts';
import { MdsSet } from '../../io/mds/set.ts';
import { MdsWriter } from '../../io/mds/writer.ts';
import type { MdsSample } from '../../io/mds/values.ts';
import { hash3 } from '../hash.ts';
import type { ColumnSpec } from './columns.ts';
import { ShardStream } from './stream.ts';

/** Columns of stage 1 at full width: 4 x 32 x 32 latents and 77 x 1024 states of the text tower, in fp16. */
export const STAGE_1: readonly ColumnSpec[] = [
  { column: 'caption_latents', bytes: 77 * 1024 * 2 },
  { column: 'latents_256', bytes: 4 * 32 * 32 * 2 },
];

export interface DataBench {
  readonly images_per_s: number;
  /** Bytes of columns delivered into batches, and bytes of shards read one after the other, a second. */
  readonly stream_gb_per_s: number;
  readonly sequential_gb_per_s: number | null;
  /** The first over the second, the median of the rounds; null, both, for compressed shards. */
  readonly ratio: number | null;
  readonly images: number;
  readonly batch: number;
  readonly workers: number;
  readonly window: number;
  readonly cores: number;
  /** Most anonymous memory of the process in the run: files that are mapped belong to the system's cache. */
  readonly bytes_peak: number;
}

export interface DataBenchOptions {
  readonly path: string;
  readonly columns: readonly ColumnSpec[];
  readonly batch: number;
  readonly workers: number;
  readonly window: number;
  /** Measured rounds after one to warm up; the median is told. */
  readonly repeats: number;
}

/** Columns of a set that are no text, as long as its first sample has them. */
export function columnsOf(path: string): ColumnSpec[] {
  using set = MdsSet.open(path);
  const columns = set.index.shards[0]?.columns ?? [];
  return columns
    .filter(({ encoding }) => !/^(str|json)/.test(encoding))
    .map(({ name }) => ({ column: name, bytes: set.columnBytes(0, name).length }));
}

/** Writes a set of random samples: a caption and the columns, about `bytes` bytes in all, not compressed. */
export function writeRandomSet(path: string, columns: readonly ColumnSpec[], bytes: number): void {
  const encodings = Object.fromEntries(columns.map(({ column }) => [column, 'bytes']));
  using writer = MdsWriter.open(path, { caption: 'str', ...encodings });
  const each = columns.reduce((sum, column) => sum + column.bytes, 0);
  const count = Math.max(1, Math.floor(bytes / each));
  for (let i = 0; i < count; i++) {
    const sample: Record<string, MdsSample[string]> = { caption: `sample ${i}` };
    for (const [k, column] of columns.entries()) sample[column.column] = noise(column.bytes, i, k);
    writer.write(sample);
  }
  writer.finish();
}

/** Bytes that depend on sample and column alone. */
function noise(bytes: number, sample: number, column: number): Uint8Array {
  const out = new Uint8Array(bytes);
  const words = new Uint32Array(out.buffer, 0, bytes >> 2);
  let state = hash3(sample, column, 0);
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = state;
  }
  return out;
}

export async function benchData(options: DataBenchOptions): Promise<DataBench> {
  const { path, columns, batch, workers, window, repeats } = options;
  const index = MdsIndex.read(path);
  // Compressed shards are read from a cache, so there is no plain read that does the same.
  const plain = index.shards.every(({ zip }) => zip === null);
  const stream = await ShardStream.open([{ path }], columns, { seed: 1, workers, window });
  const buffers = [0, 1].map(() => ({
    into: columns.map(({ bytes }) => new Pinned(bytes * batch).bytes),
    places: new Float64Array(batch),
  }));
  const batches = Math.max(1, Math.floor(stream.count / batch));
  let place = 0;
  const epoch = async () => {
    const started = performance.now();
    let coming = stream.fill(buffers[0]!.into, buffers[0]!.places, place);
    for (let i = 1; i <= batches; i++) {
      place += batch;
      const here = coming;
      const { into, places } = buffers[i % 2]!;
      if (i < batches) coming = stream.fill(into, places, place);
      await here;
    }
    return (performance.now() - started) / 1000;
  };
  const each = columns.reduce((sum, { bytes }) => sum + bytes, 0);
  const times: { stream: number; read: number }[] = [];
  let peak = 0;
  for (let round = 0; round <= repeats; round++) {
    const read = plain ? readAll(index) : 0;
    const streamed = await epoch();
    if (round > 0) times.push({ read, stream: streamed });
    peak = Math.max(peak, anonymousBytes());
  }
  await stream.close();
  const shardBytes = index.shards.reduce((sum, { raw }) => sum + raw.bytes, 0);
  const seconds = median(times.map((time) => time.stream));
  const bytes = batches * batch * each;
  const rates = times.map((time) => bytes / time.stream / (shardBytes / time.read));
  return {
    images_per_s: (batches * batch) / seconds,
    stream_gb_per_s: bytes / seconds / 1e9,
    sequential_gb_per_s: plain ? shardBytes / median(times.map((time) => time.read)) / 1e9 : null,
    ratio: plain ? median(rates) : null,
    images: index.count,
    batch,
    workers,
    window,
    cores: availableParallelism(),
    bytes_peak: peak,
  };
}

function anonymousBytes(): number {
  const kib = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return kib === undefined ? process.memoryUsage.rss() : Number(kib) * 1024;
}

const PIECE = 2 ** 20;

/** Reads every shard from its first byte to its last into one small buffer; returns the seconds. */
function readAll({ folder, shards }: MdsIndex): number {
  const piece = new Pinned(PIECE).bytes;
  const started = performance.now();
  for (const { raw } of shards) {
    const fd = openSync(join(folder, raw.basename), 'r');
    while (readSync(fd, piece, 0, PIECE, null) > 0);
    closeSync(fd);
  }
  return (performance.now() - started) / 1000;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[sorted.length >> 1]! + sorted[(sorted.length - 1) >> 1]!) / 2;
}
