// The order of a training stream over shards: which sample of which shard stands at which place.
//
// Every epoch of a set permutes its shards, cuts that order into windows of a few shards and permutes the
// samples inside each window. So each sample comes up once an epoch, only one window's shards are wanted at a
// time, and any place is found without a scan: shards and windows through sums, samples through a keyed
// permutation. All is a function of seed and place: ranks, workers, batch sizes and restarts change nothing.
import { EXIT, Failure } from '../../io/failure.ts';
import { hash3 } from '../hash.ts';
import { Permutation } from '../order.ts';
import { Interleave, type Turn } from './interleave.ts';

/** Streams of the hash. */
const SHARDS = 11;
const SAMPLES = 12;
/** Orders of epochs that are kept: the present one and the next, for looking ahead. */
const KEPT = 2;
/** Samples of a window at most, what a permutation reaches. */
const LARGEST_WINDOW = 2 ** 30;

export interface SetShape {
  /** Samples of each shard, in the order of the index. */
  readonly samples: readonly number[];
  /** Share of the places relative to the other sets. Left out of all sets: their numbers of samples. */
  readonly weight?: number | undefined;
}

/** What stands at a place. */
export interface Draw {
  set: number;
  /** Epochs of this set that are complete before. */
  epoch: number;
  /** Which shard of the set, and which sample of that shard. */
  shard: number;
  sample: number;
}

/** A window of a set: the shards that are wanted together. */
export interface Window {
  readonly epoch: number;
  readonly index: number;
  /** Its shards, by number in the set. */
  readonly shards: readonly number[];
  /** Turns of the set at which it begins and ends. */
  readonly first: number;
  readonly end: number;
}

export class StreamOrder {
  readonly interleave: Interleave;
  private readonly sets: readonly SetOrder[];
  private readonly turn: Turn = { set: 0, turn: 0 };

  /** seed: 0..2^53-1. window: shards that are shuffled together. Throws a Failure on sets without samples. */
  constructor(shapes: readonly SetShape[], seed: number, window: number) {
    const given = shapes.filter(({ weight }) => weight !== undefined).length;
    if (given !== 0 && given !== shapes.length) {
      const why = `${shapes.length - given} of ${shapes.length} sets have no weight`;
      throw new Failure({ what: 'data', why, fix: 'Give every set one, or none', code: EXIT.usage });
    }
    this.sets = shapes.map(({ samples }, set) => new SetOrder(samples, seed, set, window));
    this.interleave = new Interleave(shapes.map(({ weight }, set) => weight ?? this.sets[set]!.count));
    const empty = this.sets.findIndex(({ count }, set) => count === 0 && this.interleave.shares[set]! > 0);
    if (empty >= 0) throw new Failure({ what: `data set ${empty}`, why: 'has no samples', code: EXIT.usage });
  }

  /** Samples of a set: an epoch of it. */
  count(set: number): number {
    return this.sets[set]!.count;
  }

  /** Writes into `draw` what stands at `place` (0..2^53-1) and returns it. */
  at(place: number, draw: Draw): Draw {
    const { set, turn } = this.interleave.at(place, this.turn);
    draw.set = set;
    return this.sets[set]!.at(turn, draw);
  }

  /** The window of set `set` that holds its turn number `turn`. */
  window(set: number, turn: number): Window {
    return this.sets[set]!.window(turn);
  }
}

/** The shards of one epoch in their order, and the samples before each window. */
interface Epoch {
  readonly number: number;
  readonly shards: Uint32Array;
  readonly starts: Float64Array;
}

class SetOrder {
  readonly count: number;
  private readonly windows: number;
  private readonly epochs: Epoch[] = [];
  private latest: (Window & { readonly sums: Float64Array; readonly order: Permutation }) | undefined;

  constructor(
    private readonly samples: readonly number[],
    private readonly seed: number,
    private readonly set: number,
    window: number,
  ) {
    this.count = samples.reduce((sum, n) => sum + n, 0);
    this.windows = Math.max(1, Math.ceil(samples.length / window));
  }

  at(turn: number, draw: Draw): Draw {
    const latest = this.find(turn);
    const item = latest.order.at(turn - latest.first);
    let low = 0; // the last shard of the window whose samples begin at or before `item`
    let high = latest.shards.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (latest.sums[middle]! <= item) low = middle;
      else high = middle - 1;
    }
    draw.epoch = latest.epoch;
    draw.shard = latest.shards[low]!;
    draw.sample = item - latest.sums[low]!;
    return draw;
  }

  window(turn: number): Window {
    return this.read(turn);
  }

  private find(turn: number): NonNullable<typeof this.latest> {
    const { latest } = this;
    if (latest && turn >= latest.first && turn < latest.end) return latest;
    const window = this.read(turn);
    const sums = new Float64Array(window.shards.length);
    for (let i = 1; i < sums.length; i++) sums[i] = sums[i - 1]! + this.samples[window.shards[i - 1]!]!;
    const stream = hash3(hash3(SAMPLES, this.set, window.epoch), window.index, 0);
    const order = new Permutation(window.end - window.first, this.seed, stream);
    this.latest = { ...window, sums, order };
    return this.latest;
  }

  private read(turn: number): Window {
    const number = Math.floor(turn / this.count);
    const { shards, starts } = this.epoch(number);
    const inside = turn - number * this.count;
    let low = 0; // the last window that begins at or before `inside`: empty ones share their begin with it
    let high = this.windows - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle]! <= inside) low = middle;
      else high = middle - 1;
    }
    const first = number * this.count + starts[low]!;
    const end = number * this.count + starts[low + 1]!;
    return { epoch: number, index: low, shards: [...shards.subarray(...this.cut(low))], first, end };
  }

  private epoch(number: number): Epoch {
    const known = this.epochs.find((epoch) => epoch.number === number);
    if (known) return known;
    const { samples, windows } = this;
    const order = new Permutation(samples.length, this.seed, hash3(SHARDS, this.set, number));
    const shards = Uint32Array.from(samples, (_, place) => order.at(place));
    const starts = new Float64Array(windows + 1);
    for (let window = 0; window < windows; window++) {
      const [from, to] = this.cut(window);
      let sum = starts[window]!;
      for (let i = from; i < to; i++) sum += samples[shards[i]!]!;
      starts[window + 1] = sum;
      if (sum - starts[window]! > LARGEST_WINDOW) {
        const why = `a window holds ${sum - starts[window]!} samples, more than ${LARGEST_WINDOW}`;
        throw new Failure({ what: `data set ${this.set}`, why, fix: 'Make the window smaller' });
      }
    }
    this.epochs.unshift({ number, shards, starts });
    this.epochs.length = Math.min(this.epochs.length, KEPT);
    return this.epochs[0]!;
  }

  /** Places in the epoch's order of shards at which a window begins and ends; all are about equally long. */
  private cut(window: number): [number, number] {
    const { samples, windows } = this;
    const at = (edge: number) => Math.floor((edge * samples.length) / windows);
    return [at(window), at(window + 1)];
  }
}
