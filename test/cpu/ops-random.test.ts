// Random numbers: known answers of Philox, normal and uniform numbers against float64 formulas, independence
// of batches, sigma, masks with ties, caption dropout, initial weights.
import { describe, expect, test } from 'bun:test';
import type { Backend, Numbers } from '../../src/backend/backend.ts';
import {
  drawKeep,
  drawMask,
  drawSigma,
  gaussian,
  initConst,
  initNormal,
  initUniform,
  keepSmallest,
  PURPOSE,
  randomBits,
  words,
} from '../../src/plan/ops/random.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import type { Tensor } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { bothBackends } from './op-case.ts';

/** Draws for images at the given places of a run; returns the results as plain numbers. */
function draw(
  build: (places: Tensor, seed: Tensor) => Tensor,
  places: number[] = [0],
  seeds: number[] = [0],
  backend: Backend = bothBackends().f32,
): Float64Array<ArrayBuffer> {
  const t = new Trace();
  const p = t.input('places', [places.length, 2], 'i32');
  const s = t.input('seed', seeds.length === 1 ? [2] : [seeds.length, 2], 'i32');
  t.output('y', build(p, s));
  const runner = new Runner(backend, freeze('draw', t, { elemBytes: backend.elemBytes }));
  runner.set('places', Int32Array.from(places.flatMap(words)));
  runner.set('seed', Int32Array.from(seeds.flatMap(words)));
  runner.run();
  const y = Float64Array.from(runner.get('y'));
  runner.free();
  return y;
}

/** Philox4x32-10 in big integers. */
function philox(counter: number[], key: number[]): number[] {
  let [a, b, c, d] = counter.map((w) => BigInt(w >>> 0)) as [bigint, bigint, bigint, bigint];
  let [k, l] = key.map((w) => BigInt(w >>> 0)) as [bigint, bigint];
  const mask = 0xffffffffn;
  for (let i = 0; i < 10; i++) {
    const p = 0xd2511f53n * a;
    const q = 0xcd9e8d57n * c;
    [a, b, c, d] = [(q >> 32n) ^ b ^ k, q & mask, (p >> 32n) ^ d ^ l, p & mask];
    k = (k + 0x9e3779b9n) & mask;
    l = (l + 0xbb67ae85n) & mask;
  }
  return [a, b, c, d].map(Number);
}

const unsigned = (y: Numbers) => [...new Uint32Array(Int32Array.from(y).buffer)];

describe('philox', () => {
  // Random123's kat_vectors, philox4x32 10.
  test('the transcription in this test gives the known answers', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff];
    expect(philox(ones, [0xffffffff, 0xffffffff])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });

  const native = (counter: number[], key: number[]) => {
    const t = new Trace();
    const p = t.input('places', [1, 2], 'i32');
    const s = t.input('seed', [2], 'i32');
    t.output('y', randomBits(p, s, 4, counter[3]!, counter[0]! * 4));
    const { f32 } = bothBackends();
    const runner = new Runner(f32, freeze('kat', t, { elemBytes: f32.elemBytes }));
    runner.set(
      'places',
      Int32Array.from(counter.slice(1, 3), (w) => w | 0),
    );
    runner.set(
      'seed',
      Int32Array.from(key, (w) => w | 0),
    );
    runner.run();
    const y = unsigned(runner.get('y'));
    runner.free();
    return y;
  };

  test('the kernel gives them, too', () => {
    const F = 0xffffffff;
    for (const [counter, key] of [
      [
        [0, 0, 0, 0],
        [0, 0],
      ],
      [
        [F, F, F, F],
        [F, F],
      ],
      [
        [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
        [0xa4093822, 0x299f31d0],
      ],
      [
        [7, 1, 2, 3],
        [5, 6],
      ],
    ] as const) {
      expect(native([...counter], [...key])).toEqual(philox([...counter], [...key]));
    }
  });

  test('a seed is two words, and no other number is one', () => {
    expect(words(2 ** 53 - 1)).toEqual([-1, 2 ** 21 - 1]);
    expect(words(2 ** 32 + 5)).toEqual([5, 1]);
    for (const bad of [-1, 0.5, 2 ** 53, Number.NaN])
      expect(() => words(bad)).toThrow(/seed .* whole number/);
  });
});

describe('normal numbers', () => {
  const [SEED, PLACE, M] = [1234567890123, 2 ** 40 + 17, 20_003];
  const noise = (backend?: Backend) =>
    draw((p, s) => gaussian(p, s, [1, M], PURPOSE.noise), [PLACE], [SEED], backend);

  test('follow Box and Muller to float32 rounding', () => {
    const z = noise();
    for (let q = 0; q < M / 4; q++) {
      const w = philox([q, ...words(PLACE), PURPOSE.noise], words(SEED));
      for (let i = 0; i < 4 && 4 * q + i < M; i++) {
        const [a, b] = [w[i & 2]!, w[(i & 2) + 1]!];
        const u = Math.fround(Math.fround(a >>> 1) / 2 ** 31 + 2 ** -32);
        const turn = (2 * Math.PI * b) / 2 ** 32;
        const want = Math.sqrt(-2 * Math.log(u)) * (i % 2 === 0 ? Math.cos(turn) : Math.sin(turn));
        expect(Math.abs(z[4 * q + i]! - want)).toBeLessThan(1.2e-6);
      }
    }
  });

  test('have the moments of a normal distribution', () => {
    const z = draw((p, s) => gaussian(p, s, [1, 1_000_000], 9), [3], [0]);
    const moment = (k: number) => z.reduce((sum, v) => sum + v ** k, 0) / z.length;
    expect(Math.abs(moment(1))).toBeLessThan(0.004);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.006);
    expect(Math.abs(moment(3))).toBeLessThan(0.016);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.04);
    expect(z.reduce((most, v) => Math.max(most, Math.abs(v)), 0)).toBeGreaterThan(4.5);
  });

  test('are equal to the bit on both libraries', () => {
    expect(noise(bothBackends().f64)).toEqual(noise());
  });

  test('depend on seed and place alone, not on the batch', () => {
    const shape = [33];
    const batch = (places: number[], seeds: number[]) =>
      draw((p, s) => gaussian(p, s, [places.length, ...shape], PURPOSE.noise), places, seeds);
    const all = batch([5, 6, 7], [42]);
    const one = batch([6], [42]);
    expect(all.slice(33, 66)).toEqual(one);
    expect(batch([6, 6], [41, 42]).slice(33)).toEqual(one);
    expect(batch([6], [43])).not.toEqual(one);
    expect(all.slice(0, 33)).not.toEqual(one);
    const other = draw((p, s) => gaussian(p, s, [1, ...shape], PURPOSE.churn), [6], [42]);
    expect(other).not.toEqual(one);
  });

  test('an image of several blocks has one counter', () => {
    const long = draw((p, s) => gaussian(p, s, [2, 40_001], 1), [8, 9], [1]);
    const short = draw((p, s) => gaussian(p, s, [1, 16_387], 1), [9], [1]);
    expect(long.slice(40_001, 40_001 + 16_387)).toEqual(short);
  });
});

describe('training draws', () => {
  test('sigma is exp of a normal number', () => {
    const places = Array.from({ length: 1001 }, (_, i) => i);
    const sigma = draw((p, s) => drawSigma(p, s, -0.6, 1.2), places, [7]);
    const z = draw((p, s) => gaussian(p, s, [1001, 1], PURPOSE.sigma), places, [7]);
    for (let i = 0; i < 1001; i++) {
      expect(Math.abs(sigma[i]! / Math.exp(z[i]! * 1.2 - 0.6) - 1)).toBeLessThan(1e-6);
    }
  });

  test('captions are dropped with the probability', () => {
    const places = Array.from({ length: 20_000 }, (_, i) => i);
    const keep = draw((p, s) => drawKeep(p, s, 0.1), places, [3]);
    expect(new Set(keep)).toEqual(new Set([0, 1]));
    expect(Math.abs(keep.reduce((a, b) => a + b, 0) / 20_000 - 0.9)).toBeLessThan(0.01);
    expect(new Set(draw((p, s) => drawKeep(p, s, 0), places, [3]))).toEqual(new Set([1]));
    expect(new Set(draw((p, s) => drawKeep(p, s, 1), places, [3]))).toEqual(new Set([0]));
  });

  test('masks keep the smallest keys, ascending, of equal ones the first', () => {
    const keys = [5, -1, 3, 3, 0, 3, 7, 3, 3, 0, 9, -5, -5, 1];
    const t = new Trace();
    t.output('ids', keepSmallest(t.input('keys', [2, 7], 'i32'), 3));
    const { f32 } = bothBackends();
    const runner = new Runner(f32, freeze('mask', t, { elemBytes: f32.elemBytes }));
    runner.set('keys', keys);
    runner.run();
    expect([...runner.get('ids')]).toEqual([2, 3, 4, 0, 2, 6]);
    runner.free();
  });

  test('every token is kept equally often', () => {
    const [T, K, N] = [37, 9, 2000];
    const places = Array.from({ length: N }, (_, i) => i + 2 ** 33);
    const ids = draw((p, s) => drawMask(p, s, T, K), places, [11]);
    const times = new Array<number>(T).fill(0);
    for (let n = 0; n < N; n++) {
      const row = [...ids.slice(n * K, (n + 1) * K)];
      expect(row).toEqual([...new Set(row)].sort((a, b) => a - b));
      for (const t of row) times[t]!++;
    }
    const want = (N * K) / T;
    for (const n of times) expect(Math.abs(n - want)).toBeLessThan(5 * Math.sqrt(want));
  });
});

test('initial weights: normal, uniform and constant, by the number of the parameter', () => {
  const [A, B, C] = [70_001, 50_000, 77];
  const t = new Trace();
  const seed = t.input('seed', [2], 'i32');
  const a = t.fixed('weight', 'a', [A], 0, { elem: 'real' });
  const b = t.fixed('weight', 'b', [B], 70_016, { elem: 'real' });
  const c = t.fixed('weight', 'c', [C], 120_064, { elem: 'real' });
  initNormal(a, 0.02, { seed, number: 4 });
  initUniform(b, 0.25, { seed, number: 5 });
  initConst(c, 1.5);
  for (const [name, x] of Object.entries({ a, b, c })) t.output(name, x);
  const { f32 } = bothBackends();
  const plan = freeze('init', t, { elemBytes: f32.elemBytes });
  const weight = f32.alloc(plan.program.spaceBytes.weight!);
  const runner = new Runner(f32, plan, { weight });
  runner.set('seed', words(99));
  runner.run();
  const [x, y, z] = [runner.get('a'), runner.get('b'), runner.get('c')];
  runner.free();
  weight.free();
  const unit = draw((p, s) => gaussian(p, s, [1, A], PURPOSE.init), [4], [99]);
  expect(x).toEqual(Float32Array.from(unit, (v) => Math.fround(v * Math.fround(0.02))));
  const values = Float64Array.from(y);
  expect(Math.max(...values)).toBeLessThan(0.25);
  expect(Math.min(...values)).toBeGreaterThanOrEqual(-0.25);
  expect(Math.abs(values.reduce((s, v) => s + v, 0) / B)).toBeLessThan(0.005);
  expect(values.reduce((s, v) => s + v * v, 0) / B).toBeCloseTo(0.25 ** 2 / 3, 3);
  expect(z).toEqual(new Float32Array(C).fill(1.5));
});
