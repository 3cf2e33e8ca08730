// The training stream: batches of samples out of shards, by place, read by threads of the native library
// straight into the memory that the trainer gives.
import { constants } from 'node:os';
import { Gather, type GatherFault } from '../../../ffi/gather.ts';
import { Failure } from '../../io/failure.ts';
import { osFailure } from '../../io/oserror.ts';
import { type ColumnSpec, columnIn } from './columns.ts';
import type { Draw, StreamOrder } from './order.ts';
import { Running } from './running.ts';
import { type StreamOptions, type StreamSet, StreamSets } from './sets.ts';
import type { OpenShard } from './shard-set.ts';

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
  private readonly running = new Running();
  private readonly draw: Draw = { set: 0, epoch: 0, shard: 0, sample: 0 };

  private constructor(
    private readonly of: StreamSets,
    private readonly columns: readonly ColumnSpec[],
  ) {}

  /**
   * Opens data sets for a model that takes `columns`. Throws a Failure for sets that are not there or
   * damaged, and for columns that they lack or have in another size.
   */
  static async open(
    sets: readonly StreamSet[],
    columns: readonly ColumnSpec[],
    options: StreamOptions,
  ): Promise<ShardStream> {
    return new ShardStream(await StreamSets.open(sets, columns, options), columns);
  }

  get order(): StreamOrder {
    return this.of.order;
  }

  /** Samples of all sets: so many places see each once where the sets have no weights of their own. */
  get count(): number {
    return this.of.count;
  }

  /** Hash of the indexes of all sets: which samples there are. */
  get hash(): string {
    return this.of.hash;
  }

  /** How often the set of the sample at `place` has been gone through before. */
  epochOf(place: number): number {
    return this.order.at(place, this.draw).epoch;
  }

  /** The caption of the sample at `place`. */
  captionAt(place: number): Promise<string> {
    return this.of.text(place, () => 'caption');
  }

  /**
   * Reads the samples at places first + rank, first + rank + ranks, ... into `into` (an array a column,
   * [N, bytes]) and writes those places into `places` [N]. Reading begins at once: call it for the next batch
   * with other arrays before this one is used up, and wait for it later. The arrays belong to the stream
   * until then. A sample that cannot be read, or is not as it should be, is a Failure that names it.
   */
  fill(into: readonly Uint8Array[], places: Float64Array, first: number): Promise<void> {
    this.checkArrays(into, places.length);
    return this.running.add(this.read(into, places, first));
  }

  /** Waits for what is being read and closes the files. */
  async close(): Promise<void> {
    await this.running.settled();
    await this.of.close();
  }

  private async read(into: readonly Uint8Array[], places: Float64Array, first: number): Promise<void> {
    const count = places.length;
    const batch = this.takeBatch(count);
    for (let i = 0; i < count; i++) {
      const place = this.of.placeOf(first, i);
      const { set, shard, sample } = this.order.at(place, this.draw);
      places[i] = place;
      batch.sets[i] = set;
      batch.shards[i] = shard;
      batch.samples[i] = sample;
    }
    try {
      // Once more each time: another process may have made room for its own shards meanwhile.
      for (let missing = this.hold(batch, count); missing.length > 0; missing = this.hold(batch, count)) {
        await Promise.all(missing);
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
        this.of.ahead.look(first + count * this.of.ranks);
        const faults = await Promise.all(afar.map((row) => this.readAfar(batch, row, into)));
        const fault = faults.find((found) => found !== undefined);
        if (fault) throw this.refusal(batch, fault, places[fault.request]!);
      } finally {
        while (!batch.gather.wait(WAIT_US)) await breathe();
      }
      const { fault } = batch.gather;
      if (fault) throw this.refusal(batch, fault, places[fault.request]!);
    } finally {
      for (const [key, open] of batch.held) this.of.sets[Math.floor(key / SHARDS)]!.release(open);
      batch.held.clear();
      this.idle.push(batch);
    }
  }

  /**
   * Opens the shards of a batch; returns what has to be waited for, after which it is called again. Samples
   * of shards that can be read from afar do without.
   */
  private hold(batch: Batch, count: number): Promise<unknown>[] {
    const missing = new Map<number, Promise<unknown>>();
    for (let i = 0; i < count; i++) {
      const key = keyOf(batch, i);
      if (batch.held.has(key) || missing.has(key)) continue;
      const set = this.of.sets[batch.sets[i]!]!;
      const shard = batch.shards[i]!;
      const open = set.take(shard);
      if (open) batch.held.set(key, open);
      else if (!set.files.ranges || set.broken.has(shard)) missing.set(key, set.bring(shard));
    }
    return [...missing.values()];
  }

  private readAfar(batch: Batch, row: number, into: readonly Uint8Array[]): Promise<GatherFault | undefined> {
    const { files } = this.of.sets[batch.sets[row]!]!;
    const info = files.shards[batch.shards[row]!]!;
    return files.ranges!.read(info, batch.samples[row]!, this.columns, into, row);
  }

  private takeBatch(count: number): Batch {
    const place = this.idle.findIndex(({ gather }) => gather.capacity === count);
    if (place >= 0) return this.idle.splice(place, 1)[0]!;
    this.idle.length = 0;
    return {
      gather: new Gather(
        this.of.native,
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
    const { files } = this.of.sets[batch.sets[fault.request]!]!;
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
    const { name, bytes } = columnIn(info.columns, this.columns[fault.wanted]!, files.address);
    const why = `${where} has ${fault.bytes} bytes of ${name}, the model takes ${bytes}`;
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
