// Which item stands at which place of a run: sources mixed by weight, each in a new seeded order every epoch.
// All is a function of the seed and the place alone, so batch split, ranks and restarts change nothing.
import { Failure } from '../io/failure.ts';
import { hash3 } from './hash.ts';
import { Permutation } from './order.ts';

/** Weights are rounded to shares of so many places; within them a source's places are spread evenly. */
const PERIOD = 1024;
/** Streams of the hash. Epochs of source k use ORDER + k as theirs. */
const CAPTION = 0;
const ORDER = 1;

export interface Part {
  /** Items 0..count-1, 1..2^30. */
  readonly count: number;
  /** Share of the places relative to the other parts; 0 = never. */
  readonly weight: number;
}

/** What stands at a place. */
export interface Draw {
  source: number;
  item: number;
  /** 32 even bits that choose the wording of the caption. */
  captionIndex: number;
}

export class Mix {
  /** Source of each place of a period, and how many places of that source stand before it. */
  private readonly pattern = new Uint16Array(PERIOD);
  private readonly before = new Uint16Array(PERIOD);
  private readonly share: Float64Array;
  private readonly counts: Float64Array;
  /** The order of each source's latest epoch. */
  private readonly orders: (Permutation | undefined)[];
  private readonly epochs: Float64Array;

  /** seed: 0..2^53-1. Throws when no part has a weight above 0, or a part with weight is empty. */
  constructor(
    parts: readonly Part[],
    readonly seed: number,
  ) {
    const total = parts.reduce((sum, part) => sum + part.weight, 0);
    if (!(total > 0)) throw new Failure({ what: 'data', why: 'no source has a weight above 0', code: 2 });
    if (parts.some((part) => part.weight > 0 && part.count < 1)) {
      throw new Failure({ what: 'data', why: 'a source has no items', code: 2 });
    }
    this.counts = Float64Array.from(parts, (part) => part.count);
    this.share = shares(parts.map((part) => part.weight / total));
    this.orders = parts.map(() => undefined);
    this.epochs = new Float64Array(parts.length).fill(-1);
    const given = new Float64Array(parts.length);
    for (let place = 0; place < PERIOD; place++) {
      let next = -1; // the source that is furthest behind its share
      let behind = Number.NEGATIVE_INFINITY;
      for (let source = 0; source < parts.length; source++) {
        const lag = (this.share[source]! * (place + 1)) / PERIOD - given[source]!;
        if (this.share[source]! > given[source]! && lag > behind) {
          next = source;
          behind = lag;
        }
      }
      this.pattern[place] = next;
      this.before[place] = given[next]!;
      given[next]!++;
    }
  }

  /** Writes into `draw` what stands at `place` (0..2^53-1) and returns it. */
  at(place: number, draw: Draw): Draw {
    const slot = place % PERIOD;
    const source = this.pattern[slot]!;
    const turn = ((place - slot) / PERIOD) * this.share[source]! + this.before[slot]!;
    const count = this.counts[source]!;
    const epoch = Math.floor(turn / count);
    if (this.epochs[source] !== epoch) {
      this.orders[source] = new Permutation(count, this.seed, hash3(ORDER + source, epoch, 0));
      this.epochs[source] = epoch;
    }
    draw.source = source;
    draw.item = this.orders[source]!.at(turn - epoch * count);
    draw.captionIndex = hash3(this.seed, CAPTION, place);
    return draw;
  }
}

/** Fractions that add up to 1 -> whole shares that add up to PERIOD, at least 1 where there is a weight. */
function shares(fractions: readonly number[]): Float64Array {
  const out = Float64Array.from(fractions, (f) => (f > 0 ? Math.max(1, Math.round(f * PERIOD)) : 0));
  const largest = out.indexOf(Math.max(...out));
  out[largest]! -= out.reduce((sum, share) => sum + share, 0) - PERIOD;
  return out;
}
