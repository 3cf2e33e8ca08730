// The order of a training stream: exact shares, each sample once an epoch, the same from anywhere and for
// any number of ranks.
import { describe, expect, test } from 'bun:test';
import { Interleave } from '../../src/data/stream/interleave.ts';
import { type Draw, StreamOrder } from '../../src/data/stream/order.ts';

const draw = (): Draw => ({ set: 0, epoch: 0, shard: 0, sample: 0 });
const turn = () => ({ set: 0, turn: 0 });

/** Shards of uneven lengths, some of one sample and some empty, that hold `count` samples together. */
function shards(count: number, mean: number): number[] {
  const out: number[] = [];
  for (let left = count, i = 0; left > 0; i++) {
    const length = Math.min(left, i % 13 === 5 ? 0 : i % 7 === 3 ? 1 : mean + ((i * 37) % 101) - 50);
    out.push(length);
    left -= length;
  }
  return out;
}

const COUNTS = [600_003, 250_000, 149_000, 999, 1];
const SETS = COUNTS.map((count, i) => ({ samples: shards(count, [400, 900, 120, 64, 60][i]!) }));
const TOTAL = 1_000_003;

describe('shares', () => {
  test.each<number[]>([
    [1, 1],
    [3, 0, 2, 7],
    [0.7, 0.3],
    [37_000_001, 12_345, 1],
    [Math.PI, Math.E, 1e-12],
  ])('%p, %p ... are exact in a period, even within it, turns without gaps', (...weights) => {
    const mix = new Interleave(weights);
    const sum = weights.reduce((a, b) => a + b);
    for (const [set, share] of mix.shares.entries()) {
      const exact = (weights[set]! / sum) * mix.period;
      expect(Math.abs(share - exact)).toBeLessThanOrEqual(mix.period === 2 ** 26 ? weights.length : 1e-6);
      for (const periods of [1, 2, 999]) expect(mix.before(set, periods * mix.period)).toBe(periods * share);
    }
    for (const start of [0, 12_345, mix.period - 3, 2 ** 53 - 6000]) {
      const next = weights.map((_, set) => mix.before(set, start));
      for (let place = start; place < start + 5000; place++) {
        const at = mix.at(place, turn());
        expect(at.turn).toBe(next[at.set]!++);
        const part = mix.shares[at.set]! / mix.period;
        if (start === 0) expect(Math.abs(at.turn - place * part)).toBeLessThan(weights.length);
      }
    }
  });

  test('small decimals and counts are kept as they are', () => {
    expect(new Interleave([0.7, 0.3]).shares).toEqual([7, 3]);
    expect(new Interleave([0.25, 1e-6]).shares).toEqual([250_000, 1]);
    expect(new Interleave([22_000_000, 15_000_001]).shares).toEqual([22_000_000, 15_000_001]);
    expect(new Interleave([1 / 3, 1 / 3, 1 / 3]).period).toBe(2 ** 26);
  });

  test('weights that are no weights are refused', () => {
    expect(() => new Interleave([0, 0])).toThrow('no set has a weight above 0');
    expect(() => new Interleave([1, -1])).toThrow('a weight is -1');
    expect(() => new Interleave([1, Number.NaN])).toThrow('a weight is NaN');
  });
});

/** One number for a sample, its set and its epoch apart. */
function keyOf({ set, shard, sample }: Draw, starts: readonly number[][]): number {
  return starts[set]![shard]! + sample;
}

/** For each set, which number its shards' first samples have among all samples of all sets. */
function startsOf(sets: readonly { samples: readonly number[] }[]): number[][] {
  let next = 0;
  return sets.map(({ samples }) =>
    samples.map((n) => {
      next += n;
      return next - n;
    }),
  );
}

describe('1,000,003 samples of five sets', () => {
  const starts = startsOf(SETS);
  const sequence = (order: StreamOrder, first: number, count: number) => {
    const out = new Int32Array(count);
    const at = draw();
    for (let i = 0; i < count; i++) out[i] = keyOf(order.at(first + i, at), starts);
    return out;
  };
  const whole = sequence(new StreamOrder(SETS, 7, 16), 0, TOTAL);

  test('come up once each in as many places, whatever the ranks', () => {
    const seen = new Uint8Array(TOTAL);
    for (const key of whole) seen[key]!++;
    expect(seen.every((times) => times === 1)).toBe(true);
    for (const ranks of [1, 2, 3, 8]) {
      const together = new Int32Array(TOTAL).fill(-1);
      for (let rank = 0; rank < ranks; rank++) {
        const order = new StreamOrder(SETS, 7, 16); // each rank is a process of its own
        const at = draw();
        for (let place = rank; place < TOTAL; place += ranks)
          together[place] = keyOf(order.at(place, at), starts);
      }
      expect(Bun.hash(together)).toBe(Bun.hash(whole));
    }
  });

  test('go on after a kill at any place as if nothing had been', () => {
    let place = 0;
    for (let life = 0; place < TOTAL; life++) {
      const length = Math.min(TOTAL - place, [1, 131_072, 5, 77_777, 400_001][life % 5]!);
      const order = new StreamOrder(SETS, 7, 16);
      expect(Bun.hash(sequence(order, place, length))).toBe(Bun.hash(whole.subarray(place, place + length)));
      place += length;
    }
  });

  test('have another order in the next epoch, with another seed, with another window', () => {
    const same = (other: Int32Array) => other.filter((key, i) => key === whole[i]).length;
    expect(same(sequence(new StreamOrder(SETS, 7, 16), TOTAL, 100_000))).toBeLessThan(200);
    expect(same(sequence(new StreamOrder(SETS, 8, 16), 0, 100_000))).toBeLessThan(200);
    expect(same(sequence(new StreamOrder(SETS, 7, 3), 0, 100_000))).toBeLessThan(200);
  });

  test('with weights of their own have epochs of their own, each sample once in each', () => {
    const sets = SETS.map(({ samples }, i) => ({ samples, weight: [1, 3, 0.5, 0.01, 0.001][i] }));
    const order = new StreamOrder(sets, 3, 4);
    const seen = COUNTS.map(() => new Map<number, Uint8Array>());
    const drawn = COUNTS.map(() => 0);
    const at = draw();
    for (let place = 0; place < TOTAL; place++) {
      const { set, epoch } = order.at(place, at);
      expect(epoch).toBe(Math.floor(drawn[set]! / COUNTS[set]!));
      const times = seen[set]!.get(epoch) ?? new Uint8Array(COUNTS[set]!);
      seen[set]!.set(epoch, times);
      times[keyOf(at, starts) - starts[set]![0]!]!++;
      drawn[set]!++;
    }
    expect(drawn[1]! / drawn[0]!).toBeCloseTo(3, 4);
    for (const [set, epochs] of seen.entries()) {
      for (const [epoch, times] of epochs) {
        const complete = (epoch + 1) * COUNTS[set]! <= drawn[set]!;
        expect(times.every((n) => (complete ? n === 1 : n <= 1))).toBe(true);
      }
    }
    expect(seen[1]!.size).toBe(3);
  });
});

describe('windows', () => {
  test('hold a few shards, all of their samples, one after the other', () => {
    const samples = shards(50_000, 300);
    const order = new StreamOrder([{ samples }], 5, 8);
    const at = draw();
    let windows = 0;
    const wanted: number[] = [];
    for (let place = 0; place < 100_000; ) {
      const { shards: now, first, end, epoch } = order.window(0, place);
      expect(first).toBe(place);
      expect(now.length).toBeLessThanOrEqual(8);
      expect(now.length).toBeGreaterThanOrEqual(7); // all are about equally long
      wanted.push(...now.map((shard) => epoch * samples.length + shard));
      for (; place < end; place++) {
        order.at(place, at);
        expect(now.includes(at.shard) && at.epoch === epoch).toBe(true);
        expect(at.sample).toBeLessThan(samples[at.shard]!);
      }
      windows++;
    }
    expect(windows).toBe(2 * Math.ceil(samples.length / 8));
    expect(wanted.toSorted((a, b) => a - b)).toEqual([...Array(2 * samples.length).keys()]);
  });

  test('are found without a scan: far out as quickly as at the start', () => {
    const samples = Array.from({ length: 110_000 }, () => 340); // 7 TB of shards
    const entering = (place: number) => {
      const started = performance.now();
      new StreamOrder([{ samples }, { samples }], 1, 64).at(place, draw());
      return performance.now() - started;
    };
    entering(1);
    const far = Math.min(entering(2 ** 52 + 1), entering(2 ** 53 - 1));
    expect(far).toBeLessThan(5 * Math.max(entering(0), entering(2)));
    expect(new StreamOrder([{ samples }], 1, 64).at(2 ** 52, draw()).epoch).toBe(
      Math.floor(2 ** 52 / 37_400_000),
    );
  });

  test('mix the shards: neighbours come from all of the window', () => {
    const order = new StreamOrder([{ samples: Array(64).fill(100) }], 9, 16);
    const at = draw();
    const near = new Set(Array.from({ length: 100 }, (_, place) => order.at(place, at).shard));
    expect(near.size).toBeGreaterThan(13);
    const samples = new Set(Array.from({ length: 100 }, (_, place) => order.at(place, at).sample));
    expect(samples.size).toBeGreaterThan(45);
  });

  test('of sets without samples are refused', () => {
    expect(() => new StreamOrder([{ samples: [0], weight: 1 }], 1, 4)).toThrow('data set 0: has no samples');
    expect(() => new StreamOrder([{ samples: [] }], 1, 4)).toThrow();
    const sets = [{ samples: [1] }, { samples: [1], weight: 2 }];
    expect(() => new StreamOrder(sets, 1, 4)).toThrow('1 of 2 sets have no weight');
    expect(
      new StreamOrder(
        [
          { samples: [1], weight: 1 },
          { samples: [0], weight: 0 },
        ],
        1,
        4,
      ).count(1),
    ).toBe(0);
  });
});
