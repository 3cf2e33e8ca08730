// The training stream: batches of samples out of shards, by place, read by threads of the native library
// straight into the memory that the trainer gives.
import { availableParallelism, constants } from 'node:os';
import { Gather, type GatherFault } from '../../../ffi/gather.ts';
import { type Native, openNative } from '../../../ffi/native.ts';
import { EXIT, Failure } from '../../io/failure.ts';
import { osFailure } from '../../io/oserror.ts';
import { Ahead } from './ahead.ts';
import { type CacheSettings, ShardCache } from './cache.ts';
import { checkCache, openFiles } from './files.ts';
import { type Draw, StreamOrder } from './order.ts';
import { type ColumnSpec, type OpenShard, ShardSet } from './shard-set.ts';

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

/** How long the main thread sleeps at a time while a batch is read, before it looks after other things. */
const WAIT_US = 500;

/** A batch that is being read. */
interface Batch {
  readonly gather: Gather;
  readonly sets: Int32Array;
  readonly shards: Int32Array;
  readonly samples: Float64Array;
  /** By set and shard. */
  readonly held: Map<number, OpenShard>;
}

export class ShardStream {
  private readonly idle: Batch[] = [];
  private readonly running = new Set<Promise<void>>();
  private readonly draw: Draw = { set: 0, epoch: 0, shard: 0, sample: 0 };
  private readonly ahead: Ahead;

  private constructor(
    readonly order: StreamOrder,
    private readonly sets: readonly ShardSet[],
    private readonly columns: readonly ColumnSpec[],
    private readonly native: Native,
    private readonly ranks: number,
    private readonly rank: number,
    private readonly cache: ShardCache,
  ) {
    this.ahead = new Ahead(order, sets, native);
  }

  /**
   * Opens data sets for a model that takes `columns`. Throws a Failure for sets that are not there or
   * damaged,
   * and for columns that they lack or have in another size.
   */
  static async open(
    sets: readonly StreamSet[],
    columns: readonly ColumnSpec[],
    options: StreamOptions,
  ): Promise<ShardStream> {
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
    return new ShardStream(order, opened, columns, native, ranks, rank, cache);
  }

  /** Samples of all sets: so many places see each once where the sets have no weights of their own. */
  get count(): number {
    return this.sets.reduce((sum, _, set) => sum + this.order.count(set), 0);
  }

  /** Hash of the indexes of all sets: which samples there are. */
  get hash(): string {
    const facts = this.sets.map(({ files, samples }) => [
      samples,
      files.shards.map(({ raw, columns }) => [raw.basename, raw.bytes, columns.map(({ name }) => name)]),
    ]);
    return new Bun.SHA256().update(JSON.stringify(facts)).digest('hex');
  }

  /** How often the set of the sample at `place` has been gone through before. */
  epochOf(place: number): number {
    return this.order.at(place, this.draw).epoch;
  }

  /** The caption of the sample at `place`. */
  captionAt(place: number): Promise<string> {
    const { set, shard, sample } = this.order.at(place, this.draw);
    return this.sets[set]!.text(shard, sample, 'caption');
  }

  /**
   * Reads the samples at places first + rank, first + rank + ranks, ... into `into` (an array a column,
   * [N, bytes]) and writes those places into `places` [N]. Reading begins at once: call it for the next batch
   * with other arrays before this one is used up, and wait for it later. The arrays belong to the stream
   * until then. A sample that cannot be read, or is not as it should be, is a Failure that names it.
   */
  fill(into: readonly Uint8Array[], places: Float64Array, first: number): Promise<void> {
    this.checkArrays(into, places.length);
    const done = this.read(into, places, first);
    this.running.add(done);
    const forget = () => this.running.delete(done);
    done.then(forget, forget);
    return done;
  }

  /** Waits for what is being read and closes the files. */
  async close(): Promise<void> {
    await Promise.allSettled(this.running);
    this.cache.close();
    await this.ahead.close();
    for (const set of this.sets) set.close();
  }

  private async read(into: readonly Uint8Array[], places: Float64Array, first: number): Promise<void> {
    const count = places.length;
    const batch = this.takeBatch(count);
    for (let i = 0; i < count; i++) {
      const place = first + this.rank + i * this.ranks;
      const { set, shard, sample } = this.order.at(place, this.draw);
      places[i] = place;
      batch.sets[i] = set;
      batch.shards[i] = shard;
      batch.samples[i] = sample;
    }
    try {
      const missing = this.hold(batch, count);
      if (missing.length > 0) {
        await Promise.all(missing);
        this.hold(batch, count);
      }
      const afar: number[] = [];
      for (let i = 0; i < count; i++) {
        const open = batch.held.get(keyOf(batch, i));
        if (open) batch.gather.request(i, open, batch.samples[i]!);
        else {
          batch.gather.skip(i);
          afar.push(i);
        }
      }
      batch.gather.start(count, into);
      try {
        this.ahead.look(first + count * this.ranks);
        const faults = await Promise.all(afar.map((row) => this.readAfar(batch, row, into)));
        const fault = faults.find((found) => found !== undefined);
        if (fault) throw this.refusal(batch, fault, places[fault.request]!);
      } finally {
        while (!batch.gather.wait(WAIT_US)) await breathe();
      }
      const { fault } = batch.gather;
      if (fault) throw this.refusal(batch, fault, places[fault.request]!);
    } finally {
      for (const [key, open] of batch.held) this.sets[Math.floor(key / SHARDS)]!.release(open);
      batch.held.clear();
      this.idle.push(batch);
    }
  }

  /**
   * Opens the shards of a batch; returns what has to be waited for, after which it is called again. Samples
   * of
   * shards that can be read from afar do without.
   */
  private hold(batch: Batch, count: number): Promise<unknown>[] {
    const missing = new Map<number, Promise<unknown>>();
    for (let i = 0; i < count; i++) {
      const key = keyOf(batch, i);
      if (batch.held.has(key) || missing.has(key)) continue;
      const set = this.sets[batch.sets[i]!]!;
      const shard = batch.shards[i]!;
      const open = set.take(shard);
      if (open) batch.held.set(key, open);
      else if (!set.files.ranges || set.broken.has(shard)) missing.set(key, set.bring(shard));
    }
    return [...missing.values()];
  }

  private readAfar(batch: Batch, row: number, into: readonly Uint8Array[]): Promise<GatherFault | undefined> {
    const { files } = this.sets[batch.sets[row]!]!;
    const info = files.shards[batch.shards[row]!]!;
    return files.ranges!.read(info, batch.samples[row]!, this.columns, into, row);
  }

  private takeBatch(count: number): Batch {
    const place = this.idle.findIndex(({ gather }) => gather.capacity === count);
    if (place >= 0) return this.idle.splice(place, 1)[0]!;
    this.idle.length = 0;
    return {
      gather: new Gather(
        this.native,
        count,
        this.columns.map(({ bytes }) => bytes),
      ),
      sets: new Int32Array(count),
      shards: new Int32Array(count),
      samples: new Float64Array(count),
      held: new Map(),
    };
  }

  private checkArrays(into: readonly Uint8Array[], count: number): void {
    for (const [i, { column, bytes }] of this.columns.entries()) {
      const got = into[i]?.byteLength ?? 0;
      if (got !== count * bytes) {
        throw new RangeError(`${column}: ${got} bytes do not hold ${count} samples of ${bytes}`);
      }
    }
  }

  private refusal(batch: Batch, fault: GatherFault, place: number): unknown {
    const { files } = this.sets[batch.sets[fault.request]!]!;
    const info = files.shards[batch.shards[fault.request]!]!;
    const path = batch.held.get(keyOf(batch, fault.request))?.path ?? `${files.address}/${info.raw.basename}`;
    const sample = batch.samples[fault.request]!;
    const number = `${info.first + sample} of the set, place ${place}`;
    const where = `sample ${sample} of shard ${info.index} (${number})`;
    if (fault.kind === 'system') {
      const code = Object.entries(constants.errno).find(([, number]) => number === fault.errno)?.[0] ?? 'EIO';
      return osFailure(Object.assign(new Error(code), { code }), path, `read ${where}`);
    }
    const fix = 'Copy or download this shard again';
    if (fault.kind !== 'column') return new Failure({ what: path, why: `${where} ${wordsOf(fault)}`, fix });
    const { column, bytes } = this.columns[fault.wanted]!;
    const why = `${where} has ${fault.bytes} bytes of ${column}, the model takes ${bytes}`;
    return new Failure({ what: path, why, fix: 'Prepare the set for this model, or copy the shard again' });
  }
}

/** Shards of a set at most; more would not fit an index. */
const SHARDS = 2 ** 31;

function keyOf({ sets, shards }: Batch, i: number): number {
  return sets[i]! * SHARDS + shards[i]!;
}

function wordsOf(fault: Exclude<GatherFault, { kind: 'system' | 'column' }>): string {
  if (fault.kind === 'short') return `is cut off: the file ends at byte ${fault.offset}`;
  if (fault.kind === 'offsets') return `would lie from byte ${fault.begin} to ${fault.end}`;
  return `has ${fault.bytes} bytes, and its columns add up to ${fault.sum}`;
}

/** Lets timers, signals and input have their turn. */
function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
