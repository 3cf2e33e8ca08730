// The polynomials of cuda/math.h against Math's doubles: error in units in the last place, special values;
// and bf16 rounding.

import { expect, test } from 'bun:test';
import { openNative } from '../../ffi/native.ts';
import { noise, run } from './native-commands.ts';

const native = await openNative();
native.init(2);
const FUNCTIONS = ['exp', 'log', 'erf', 'tanh', 'sigmoid', 'bf16'] as const;

function map(name: (typeof FUNCTIONS)[number], values: ArrayLike<number>): Float32Array {
  using x = native.alloc(4 * values.length);
  using y = native.alloc(4 * values.length);
  x.f32(0, values.length).set(values);
  const integers = [values.length, FUNCTIONS.indexOf(name)];
  run(native, [{ kernel: native.kernel('math_map'), blocks: 1, pointers: [x.address, y.address], integers }]);
  return y.f32(0, values.length).slice();
}

/** erf in double: series near 0, continued fraction beyond. */
function erf(x: number): number {
  const t = Math.abs(x);
  if (t < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let k = 60; k > 0; k--) fraction = k / 2 / (t + fraction);
  return Math.sign(x) * (1 - Math.exp(-t * t) / (Math.sqrt(Math.PI) * (t + fraction)));
}

const REFERENCE = {
  exp: Math.exp,
  log: Math.log,
  erf,
  tanh: Math.tanh,
  sigmoid: (x: number) => 1 / (1 + Math.exp(-x)),
};

/** Distance in units in the last place of the float nearest to the true value. */
function ulps(got: number, want: number): number {
  const magnitude = Math.max(Math.abs(want), 2 ** -126);
  return Math.abs(got - want) / 2 ** (Math.floor(Math.log2(magnitude)) - 23);
}

const next = noise(23);
const spread = (scale: number) => Float32Array.from({ length: 200_000 }, () => scale * next());
const tiny = Float32Array.from({ length: 20_000 }, () => next() * 2 ** (-60 * Math.abs(next())));

test.each([
  ['exp', [spread(87), spread(1), tiny], 1.5],
  ['log', [spread(1e5).map(Math.abs), spread(0.5).map((v) => 1 + v), tiny.map(Math.abs)], 1.5],
  ['erf', [spread(5), spread(1), tiny], 2],
  ['tanh', [spread(10), spread(0.7), tiny], 2],
  ['sigmoid', [spread(20), tiny], 3],
] as const)('%s is within its bound', (name, inputs, bound) => {
  let worst = 0;
  for (const values of inputs) {
    map(name, values).forEach((got, i) => {
      worst = Math.max(worst, ulps(got, REFERENCE[name](values[i]!)));
    });
  }
  expect(worst).toBeLessThan(bound);
});

test('special values', () => {
  const special = [Number.NaN, Infinity, -Infinity, 0, 200, -200];
  expect([...map('exp', special)]).toEqual([Number.NaN, Infinity, 0, 1, Infinity, 0]);
  expect([...map('erf', special)]).toEqual([Number.NaN, 1, -1, 0, 1, -1]);
  expect([...map('tanh', special)]).toEqual([Number.NaN, 1, -1, 0, 1, -1]);
  expect([...map('sigmoid', special)]).toEqual([Number.NaN, 1, 0, 0.5, 1, 0]);
  expect([...map('log', [Number.NaN, Infinity, 0, -1, 1])]).toEqual([
    Number.NaN,
    Infinity,
    -Infinity,
    Number.NaN,
    0,
  ]);
  const denormal = map('exp', [-90, -100, -103])[1]!;
  expect(Math.abs(denormal / Math.exp(-100) - 1)).toBeLessThan(0.02);
});

test('bf16 rounds to nearest even and keeps NaN and infinity', () => {
  const special = [1, 1.00390625, 1.01171875, -1.00390625, 3.3895313892515355e38, Number.NaN, Infinity];
  expect([...map('bf16', special)]).toEqual([
    1,
    1,
    1.015625,
    -1,
    3.3895313892515355e38,
    Number.NaN,
    Infinity,
  ]);
  const values = spread(100);
  const rounded = map('bf16', values);
  const bits = new Uint32Array(rounded.buffer);
  for (let i = 0; i < values.length; i++) {
    const half = 2 ** (Math.floor(Math.log2(Math.abs(values[i]!))) - 8);
    if (bits[i]! & 0xffff || Math.abs(rounded[i]! - values[i]!) > half)
      throw new Error(`${values[i]} -> ${rounded[i]}`);
  }
});
