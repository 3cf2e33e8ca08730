// Which data set stands at which place: exact shares, spread evenly, found for any place in constant time.
//
// Set 0 takes the places p where floor((p + 1) w0 / W) steps over floor(p w0 / W); the places that it leaves
// are numbered anew and shared out among the others in the same way. All in whole numbers: in W places after
// any multiple of W, set k stands exactly w_k times.
import { EXIT, Failure } from '../../io/failure.ts';

/** Sum of the whole shares at most: products of two numbers below it are exact. */
const LARGEST = 2 ** 26;
/** Decimals of a weight that are kept exactly. */
const DECIMALS = 6;

export interface Turn {
  /** Which set. */
  set: number;
  /** How many places of that set stand before: its samples are drawn in this order, 0, 1, 2, ... */
  turn: number;
}

export class Interleave {
  /** Whole shares, one a set; after `period` places the pattern repeats. */
  readonly shares: readonly number[];
  readonly period: number;

  /**
   * weights: one a set, relative to each other; 0 = never. Whole numbers up to a sum of 2^26, and decimals up
   * to six places, are kept exactly; others are rounded to shares of 2^26, at least 1 where there is a
   * weight.
   */
  constructor(weights: readonly number[]) {
    this.shares = wholeShares(weights);
    this.period = this.shares.reduce((sum, share) => sum + share, 0);
  }

  /** Writes into `out` which set stands at `place` (0..2^53-1) and returns it. */
  at(place: number, out: Turn): Turn {
    const { shares } = this;
    let rest = place;
    let total = this.period;
    for (let set = 0; set < shares.length; set++) {
      const share = shares[set]!;
      const slot = rest % total;
      const round = Math.floor((slot * share) / total);
      const before = ((rest - slot) / total) * share + round;
      if (Math.floor(((slot + 1) * share) / total) > round) {
        out.set = set;
        out.turn = before;
        return out;
      }
      rest -= before;
      total -= share;
    }
    throw new RangeError(`no set stands at place ${place}`);
  }

  /** How many places before `place` are those of `set`: the turn that it takes next. */
  before(set: number, place: number): number {
    let rest = place;
    let total = this.period;
    for (let other = 0; ; other++) {
      const share = this.shares[other]!;
      const slot = rest % total;
      const before = ((rest - slot) / total) * share + Math.floor((slot * share) / total);
      if (other === set) return before;
      rest -= before;
      total -= share;
    }
  }
}

function wholeShares(weights: readonly number[]): number[] {
  const bad = weights.find((weight) => !Number.isFinite(weight) || weight < 0);
  if (bad !== undefined) {
    throw new Failure({ what: 'data', why: `a weight is ${bad}`, fix: 'Give 0 or more', code: EXIT.usage });
  }
  const total = sum(weights);
  if (total === 0) {
    throw new Failure({ what: 'data', why: 'no set has a weight above 0', code: EXIT.usage });
  }
  for (let digits = 0; digits <= DECIMALS; digits++) {
    const scaled = weights.map((weight) => weight * 10 ** digits);
    const whole = scaled.map(Math.round);
    const exact = scaled.every((value, i) => Math.abs(value - whole[i]!) <= 1e-12 * value);
    if (exact && sum(whole) <= LARGEST) return whole;
  }
  const shares = weights.map((w) => (w > 0 ? Math.max(1, Math.round((w / total) * LARGEST)) : 0));
  const largest = shares.indexOf(Math.max(...shares));
  shares[largest]! -= sum(shares) - LARGEST;
  return shares;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
