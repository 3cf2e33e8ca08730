// A seeded permutation of 0..count-1 that can be asked at any place in constant time: a Feistel network over
// the next power of four, walked until it lands inside (Black and Rogaway, "Ciphers with Arbitrary Finite
// Domains", cycle walking).
import { hash3, mix32 } from './hash.ts';

const ROUNDS = 6;

export class Permutation {
  private readonly bits: number;
  private readonly mask: number;
  private readonly keys = new Uint32Array(ROUNDS);

  /** count: 1..2^30; another seed or stream is another order. */
  constructor(
    readonly count: number,
    seed: number,
    stream: number,
  ) {
    let bits = 1;
    while (4 ** bits < count) bits++;
    this.bits = bits;
    this.mask = 2 ** bits - 1;
    for (let round = 0; round < ROUNDS; round++) this.keys[round] = hash3(seed, stream, round);
  }

  /** What stands at `place`, 0 <= place < count. Each number comes up at one place. */
  at(place: number): number {
    const { bits, mask, keys, count } = this;
    let value = place;
    do {
      let left = value >>> bits;
      let right = value & mask;
      for (let round = 0; round < ROUNDS; round++) {
        const next = left ^ (mix32(right + keys[round]!) & mask);
        left = right;
        right = next;
      }
      value = (left << bits) | right;
    } while (value >= count);
    return value;
  }
}
