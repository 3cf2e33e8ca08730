// The training stream of pictures: the order of the stream of latents, read and decoded by Workers.
import { EXIT, Failure } from '../../io/failure.ts';
import { ROWS_PER_WORD } from '../../text/words.ts';
import { type PictureColumns, pictureColumns, SIGNED } from '../shard-picture.ts';
import type { SourceShape } from '../source.ts';
import type { Draw } from './order.ts';
import type { Answer, Order, ShardPart } from './picture-worker.ts';
import { Running } from './running.ts';
import { STREAM, type StreamOptions, type StreamSet, StreamSets } from './sets.ts';

/** What a batch is written into. */
export interface PictureArrays {
  /** [N, 3, size, size] in [-1, 1]. */
  readonly x0: Float32Array;
  /** [N, S, 2]; -1 is padding. */
  readonly words: Int32Array;
}

export class PictureStream {
  private readonly draw: Draw = { set: 0, epoch: 0, shard: 0, sample: 0 };
  private readonly running = new Running();
  private readonly hands: Hand[];

  private constructor(
    private readonly of: StreamSets,
    /** Of each set by the columns of a shard, which shards of a set share. */
    private readonly columns: ReadonlyMap<unknown, PictureColumns>,
    private readonly shape: SourceShape,
    workers: number,
  ) {
    this.hands = Array.from({ length: workers }, () => new Hand());
  }

  /** Throws a Failure for sets that are not there or damaged, and for sets without pictures of the size. */
  static async open(
    sets: readonly StreamSet[],
    shape: SourceShape,
    options: StreamOptions,
  ): Promise<PictureStream> {
    const of = await StreamSets.open(sets, [], options);
    try {
      const columns = new Map<unknown, PictureColumns>();
      for (const { files } of of.sets) {
        for (const info of files.shards) {
          if (columns.has(info.columns)) continue;
          columns.set(info.columns, pictureColumns(info.columns, shape.size, files.address));
        }
      }
      return new PictureStream(of, columns, shape, Math.max(1, options.workers ?? STREAM.workers));
    } catch (error) {
      await of.close();
      throw error;
    }
  }

  get hash(): string {
    return this.of.hash;
  }

  /** The caption of the sample at `place`. */
  captionAt(place: number): Promise<string> {
    return this.of.text(place, (columns) => columns[this.columns.get(columns)!.caption]!.name);
  }

  /**
   * Writes the pictures and captions at places first + rank, first + rank + ranks, ... into the arrays, and
   * those places into `places` [N]. A sample that cannot be read or decoded is a Failure that names it.
   */
  fill(into: PictureArrays, places: Float64Array, first: number): Promise<void> {
    return this.running.add(this.read(into, places, first));
  }

  /** Waits for what is being read, and ends the Workers. */
  async close(): Promise<void> {
    await this.running.settled();
    for (const hand of this.hands) hand.end();
    await this.of.close();
  }

  private async read(into: PictureArrays, places: Float64Array, first: number): Promise<void> {
    const { order, ahead, ranks } = this.of;
    const { size, length, rows } = this.shape;
    const draws = Array.from(places, (_, i) => {
      places[i] = this.of.placeOf(first, i);
      return { ...order.at(places[i]!, this.draw) };
    });
    await this.bring(draws);
    ahead.look(first + places.length * ranks);
    const each = Math.ceil(draws.length / this.hands.length);
    await Promise.all(
      this.hands.map(async (hand, h) => {
        const from = h * each;
        const mine = draws.slice(from, from + each);
        if (mine.length === 0) return;
        const parts = this.partsOf(mine);
        const order = { size, captions: { length, rows }, count: mine.length, parts };
        const { pixels, words } = await hand.read(order);
        let to = from * 3 * size * size;
        for (const byte of pixels) into.x0[to++] = SIGNED[byte]!;
        into.words.set(words, from * length * ROWS_PER_WORD);
      }),
    );
  }

  /** Shards that are not on this machine are brought, all at once. */
  private async bring(draws: readonly Draw[]): Promise<void> {
    const coming = new Map<string, Promise<void>>();
    for (const { set, shard } of draws) {
      const key = `${set} ${shard}`;
      const known = this.of.sets[set]!;
      if (coming.has(key) || known.files.path(shard) !== undefined) continue;
      coming.set(key, known.bring(shard));
    }
    await Promise.all(coming.values());
  }

  private partsOf(draws: readonly Draw[]): ShardPart[] {
    const parts = new Map<string, ShardPart>();
    for (const [row, { set, shard, sample }] of draws.entries()) {
      const { files } = this.of.sets[set]!;
      const path = files.path(shard);
      if (path === undefined) throw lost(files.address, shard);
      const info = files.shards[shard]!;
      const part = parts.get(path) ?? {
        ...{ path, info, columns: this.columns.get(info.columns)! },
        ...{ samples: [], rows: [] },
      };
      parts.set(path, part);
      part.samples.push(sample);
      part.rows.push(row);
    }
    return [...parts.values()];
  }
}

function lost(address: string, shard: number): Failure {
  const why = `shard ${shard} was removed from the cache while it was wanted`;
  return new Failure({ what: address, why, fix: 'Allow the cache more' });
}

/** A Worker and what it was asked for. */
class Hand {
  private readonly worker = new Worker(workerAddress());
  private readonly waiting = new Map<number, PromiseWithResolvers<Answer>>();
  private last = 0;
  private broken: Failure | null = null;

  constructor() {
    this.worker.unref(); // the program waits for what is asked, not for idle Workers
    this.worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      if (this.waiting.size === 0) this.worker.unref();
      if (data.failure) reject(failureOf(data.failure));
      else resolve(data);
    };
    this.worker.onerror = ({ message }) => {
      this.broken = new Failure({ what: 'reading pictures', why: message });
      for (const { reject } of this.waiting.values()) reject(this.broken);
      this.waiting.clear();
    };
  }

  read(order: Omit<Order, 'id'>): Promise<Answer> {
    if (this.broken) return Promise.reject(this.broken);
    const answer = Promise.withResolvers<Answer>();
    const id = ++this.last;
    this.waiting.set(id, answer);
    this.worker.ref();
    this.worker.postMessage({ ...order, id } satisfies Order);
    return answer.promise;
  }

  end(): void {
    this.worker.terminate();
  }
}

/** The message has its parts already. */
function failureOf({ message, code }: NonNullable<Answer['failure']>): Failure {
  const [what = '', ...why] = message.split(': ');
  const known = code === EXIT.usage || code === EXIT.missing ? code : EXIT.failed;
  return new Failure({ what, why: why.join(': '), code: known });
}

/** The Worker's program: beside this file, or an entry point of the executable. */
function workerAddress(): string {
  const inside = import.meta.dir.startsWith('/$bunfs/');
  return inside
    ? '/$bunfs/root/data/stream/picture-worker.js'
    : new URL('./picture-worker.ts', import.meta.url).href;
}
