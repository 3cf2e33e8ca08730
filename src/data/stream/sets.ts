// The sets of a stream as they are opened: their order, their shards, what is looked ahead for.
import { availableParallelism } from 'node:os';
import { type Native, openNative } from '../../../ffi/native.ts';
import { EXIT, Failure } from '../../io/failure.ts';
import type { MdsColumn } from '../../io/mds/index.ts';
import { Ahead } from './ahead.ts';
import { type CacheSettings, ShardCache } from './cache.ts';
import { checkCache, openFiles } from './files.ts';
import { type Draw, StreamOrder } from './order.ts';
import type { ColumnSpec } from './columns.ts';
import { ShardSet } from './shard-set.ts';

export interface StreamSet {
  /** A folder with an index.json, or its address: http://, https://, s3://. */
  readonly path: string;
  /** Share of the places relative to the other sets; given for all of them or for none (then their sizes). */
  readonly weight?: number | undefined;
  /** Only so many samples, the first of the set. */
  readonly count?: number | undefined;
}

export interface StreamOptions {
  /** Of the order: 0..2^53-1. */
  readonly seed: number;
  /** Processes that share the run, and which one this is. */
  readonly ranks?: number;
  readonly rank?: number;
  /** Reading threads; the order does not depend on them. */
  readonly workers?: number;
  /** Shards of a set that are shuffled together; part of the order. */
  readonly window?: number;
  /** Where shards that are compressed or behind an address are kept, uncompressed. */
  readonly cache?: CacheSettings;
}

export const STREAM = { window: 64, workers: Math.min(4, availableParallelism()) } as const;

export class StreamSets {
  private readonly draw: Draw = { set: 0, epoch: 0, shard: 0, sample: 0 };
  readonly ahead: Ahead;

  private constructor(
    readonly order: StreamOrder,
    readonly sets: readonly ShardSet[],
    readonly native: Native,
    readonly ranks: number,
    readonly rank: number,
    private readonly cache: ShardCache,
  ) {
    this.ahead = new Ahead(order, sets, native);
  }

  /** `columns`: what every shard must have. Throws a Failure for sets that are not there or damaged. */
  static async open(
    sets: readonly StreamSet[],
    columns: readonly ColumnSpec[],
    options: StreamOptions,
  ): Promise<StreamSets> {
    const { seed, ranks = 1, rank = 0, workers = STREAM.workers, window = STREAM.window } = options;
    if (!(Number.isInteger(ranks) && Number.isInteger(rank) && rank >= 0 && rank < ranks)) {
      throw new Failure({ what: 'data', why: `there is no rank ${rank} of ${ranks}`, code: EXIT.usage });
    }
    if (!(Number.isInteger(window) && window >= 1)) {
      throw new Failure({ what: 'data', why: `a window of ${window} shards`, code: EXIT.usage });
    }
    const cache = new ShardCache(options.cache);
    const files = await Promise.all(sets.map(({ path }) => openFiles(path, cache, options.cache ?? {})));
    checkCache(files, window, cache);
    const native = await openNative();
    const opened = files.map((of, i) => new ShardSet(of, columns, sets[i]!.count, 2 * window, native));
    const shapes = opened.map(({ samples }, i) => ({ samples, weight: sets[i]!.weight }));
    const order = new StreamOrder(shapes, seed, window);
    native.startReaders(Math.max(1, workers));
    return new StreamSets(order, opened, native, ranks, rank, cache);
  }

  get count(): number {
    return this.sets.reduce((sum, _, set) => sum + this.order.count(set), 0);
  }

  get hash(): string {
    const facts = this.sets.map(({ files, samples }) => [
      samples,
      files.shards.map(({ raw: { basename, bytes, hashes }, columns }) => {
        return [basename, bytes, hashes, columns.map(({ name }) => name)];
      }),
    ]);
    return new Bun.SHA256().update(JSON.stringify(facts)).digest('hex');
  }

  /** The place of image `i` of this rank's batch whose images of all ranks begin at `first`. */
  placeOf(first: number, i: number): number {
    return first + this.rank + i * this.ranks;
  }

  /** The text of the sample at `place`, in the column that `columnOf` names. */
  text(place: number, columnOf: (columns: readonly MdsColumn[]) => string): Promise<string> {
    const { set, shard, sample } = this.order.at(place, this.draw);
    const { files } = this.sets[set]!;
    return this.sets[set]!.text(shard, sample, columnOf(files.shards[shard]!.columns));
  }

  async close(): Promise<void> {
    this.cache.close();
    await this.ahead.close();
    for (const set of this.sets) set.close();
  }
}
