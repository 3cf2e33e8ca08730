// What is in a set of shards: its columns in numbers, from samples spread over the whole set.

import type { MdsIndex, MdsColumn } from '../io/mds/index.ts';
import { MdsSet } from '../io/mds/set.ts';
import { ColumnCounter, type ColumnStats } from './column-stats.ts';

export interface SetReport {
  readonly folder: string;
  readonly samples: number;
  readonly shards: number;
  /** Of the files that are read, and of the shards unpacked. */
  readonly bytes: number;
  readonly raw_bytes: number;
  /** Shards by compression; "none" for plain ones. */
  readonly compression: Readonly<Record<string, number>>;
  /** Samples that the columns' numbers are of. */
  readonly looked_at: number;
  readonly columns: readonly ColumnStats[];
}

export interface InspectOptions {
  /** Most samples to look at, 0 for all. */
  readonly samples: number;
  readonly onSample?: (done: number, total: number) => void;
}

/** Numbers of samples, evenly spread: all of them where there are no more than `most`. */
export function spread(count: number, most: number): number[] {
  const take = most === 0 ? count : Math.min(count, most);
  return Array.from({ length: take }, (_, i) => Math.floor((i * count) / take));
}

/** Looks at a set; damage in what is looked at is a Failure. */
export function inspectShards(folder: string, { samples, onSample }: InspectOptions): SetReport {
  using set = MdsSet.open(folder, { openShards: 1 });
  const counters = new Map<string, ColumnCounter>();
  const chosen = spread(set.count, samples);
  for (const [done, i] of chosen.entries()) {
    const { shard: number, sample } = set.index.locate(i);
    const shard = set.shard(number);
    for (const [c, column] of shard.columns.entries()) {
      counterOf(counters, column).add(shard.value(sample, c), shard.columnBytes(sample, c));
    }
    onSample?.(done + 1, chosen.length);
  }
  return {
    ...counts(set.index),
    looked_at: chosen.length,
    columns: [...counters.values()].map((c) => c.stats()),
  };
}

/** Columns of one name and encoding are one, whatever shards they are in. */
function counterOf(counters: Map<string, ColumnCounter>, column: MdsColumn): ColumnCounter {
  const key = JSON.stringify([column.name, column.encoding]);
  let counter = counters.get(key);
  if (!counter) {
    counter = new ColumnCounter(column);
    counters.set(key, counter);
  }
  return counter;
}

function counts({ folder, count, shards }: MdsIndex) {
  const compression: Record<string, number> = {};
  let [bytes, raw] = [0, 0];
  for (const info of shards) {
    const name = info.compression ?? 'none';
    compression[name] = (compression[name] ?? 0) + 1;
    bytes += (info.zip ?? info.raw).bytes;
    raw += info.raw.bytes;
  }
  return { folder, samples: count, shards: shards.length, bytes, raw_bytes: raw, compression };
}
