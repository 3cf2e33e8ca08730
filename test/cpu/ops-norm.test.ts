// LayerNorm with modulation, gated residuals, both at once, and linear layers: forward, gradients, odd sizes.
import { describe, test } from 'bun:test';
import { expertLinear, linear } from '../../src/plan/ops/linear.ts';
import { norm, residual } from '../../src/plan/ops/norm.ts';
import { residualNorm } from '../../src/plan/ops/residual-norm.ts';
import { columns } from '../../src/plan/tensor.ts';
import { checkOp, randomInput, randomValues } from './op-case.ts';

const EPS = 1e-6;

/** xhat of each row of [rows, C]. */
function normalised(x: Float64Array, C: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length / C; row++) {
    const r = x.subarray(row * C, (row + 1) * C);
    const mean = r.reduce((a, b) => a + b, 0) / C;
    const variance = r.reduce((a, b) => a + (b - mean) ** 2, 0) / C;
    for (let c = 0; c < C; c++) out[row * C + c] = (r[c]! - mean) / Math.sqrt(variance + EPS);
  }
  return out;
}

describe('norm', () => {
  const [N, T, C] = [3, 5, 7];
  test('without weight, over views of columns', () => {
    checkOp({
      inputs: { x: randomInput([N, T, 2 * C + 1], 3) },
      build: ({ x }) => [norm(columns(x!, 0, C), null, EPS), norm(columns(x!, C, 2 * C), null, EPS)],
    });
  });

  test('with weight', () => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 4, 2, 0.5), w: randomInput([C], 5, 0.2, 1) },
      build: ({ x, w }) => [norm(x!, w!, EPS)],
      reference: ({ x, w }) => [normalised(x!, C).map((v, i) => v * w![i % C]!)],
    });
  });

  test('with weight and modulation out of one buffer', () => {
    checkOp({
      inputs: {
        x: randomInput([N, T, C], 6),
        w: randomInput([C], 7, 0.2, 1),
        mod: randomInput([N, 2 * C], 8, 0.5),
      },
      build: ({ x, w, mod }) => [norm(x!, w!, EPS, columns(mod!, C, 2 * C), columns(mod!, 0, C))],
      reference: ({ x, w, mod }) => [
        normalised(x!, C).map((v, i) => {
          const n = Math.floor(i / (T * C)) * 2 * C;
          const c = i % C;
          return v * w![c]! * (1 + mod![n + C + c]!) + mod![n + c]!;
        }),
      ],
    });
  });

  test('images of more rows than a slice has', () => {
    const long = { x: randomInput([2, 67, 3], 16), w: randomInput([3], 17, 0.2, 1) };
    checkOp({
      inputs: { ...long, a: randomInput([2, 67, 3], 18), mod: randomInput([2, 9], 19, 0.5) },
      build: ({ x, a, w, mod }) => {
        const [scale, shift, gate] = [0, 3, 6].map((c) => columns(mod!, c, c + 3));
        const [y, h] = residualNorm(norm(x!, w!, EPS, scale, shift), gate!, a!, w!, EPS, shift, scale);
        return [residual(y, scale!, h)];
      },
    });
  });

  test('a row of one element, an image of one row', () => {
    checkOp({
      // Its gradient is 0 but for rounding, which has no size to be compared with.
      forwardOnly: true,
      inputs: { x: randomInput([1, 1, 1], 9), w: randomInput([1], 10) },
      build: ({ x, w }) => [norm(x!, w!, EPS)],
      reference: () => [[0]],
    });
  });
});

describe('residual', () => {
  const [N, T, C] = [2, 3, 33];
  test('gated', () => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 1), a: randomInput([N, T, C], 2), g: randomInput([N, 3 * C], 3) },
      build: ({ x, a, g }) => [residual(x!, columns(g!, C, 2 * C), a!)],
      reference: ({ x, a, g }) => [
        x!.map((v, i) => v + a![i]! * g![Math.floor(i / (T * C)) * 3 * C + C + (i % C)]!),
      ],
    });
  });

  test('plain, both branches from one tensor', () => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 1) },
      build: ({ x }) => [residual(x!, null, x!)],
      reference: ({ x }) => [x!.map((v) => 2 * v)],
    });
  });
});

describe('residual and norm in one pass', () => {
  const [N, T, C] = [2, 5, 19];
  const inputs = {
    x: randomInput([N, T, C], 11),
    a: randomInput([N, T, C], 12),
    w: randomInput([C], 13, 0.3, 1),
    mod: randomInput([N, 3 * C], 14, 0.5),
  };
  test('with gate and modulation equals the two ops', () => {
    const parts = (m: Parameters<typeof columns>[0]) => [0, 1, 2].map((i) => columns(m, i * C, (i + 1) * C));
    checkOp({
      inputs,
      build: ({ x, a, w, mod }) => {
        const [shift, scale, gate] = parts(mod!);
        const [y, h] = residualNorm(x!, gate!, a!, w!, EPS, scale!, shift!);
        return [residual(y, null, h)];
      },
    });
  });

  test('without gate: y = x + a, h = norm(y) w', () => {
    checkOp({
      inputs: { x: inputs.x, a: inputs.a, w: inputs.w },
      build: ({ x, a, w }) => residualNorm(x!, null, a!, w!, EPS),
      reference: ({ x, a, w }) => {
        const y = x!.map((v, i) => v + a![i]!);
        return [y, normalised(y, C).map((v, i) => v * w![i % C]!)];
      },
    });
  });
});

describe('linear', () => {
  test('with bias, odd sizes', () => {
    const [M, K, N] = [5, 7, 3];
    checkOp({
      inputs: { x: randomInput([1, M, K], 1), w: randomInput([N, K], 2), b: randomInput([N], 3) },
      build: ({ x, w, b }) => [linear(x!, w!, b!)],
      reference: ({ x, w, b }) => [
        Float64Array.from({ length: M * N }, (_, i) => {
          const [row, n] = [Math.floor(i / N), i % N];
          let sum = b![n]!;
          for (let k = 0; k < K; k++) sum += x![row * K + k]! * w![n * K + k]!;
          return sum;
        }),
      ],
    });
  });

  test('of a strided view, used twice', () => {
    checkOp({
      inputs: { x: randomInput([2, 3, 10], 4), w: randomInput([6, 5], 5) },
      build: ({ x, w }) => [linear(columns(x!, 0, 5), w!), linear(columns(x!, 5, 10), w!)],
    });
  });

  test('one product per expert', () => {
    const [E, M, K, N] = [3, 5, 4, 7];
    checkOp({
      inputs: { x: { shape: [E, M, K], values: randomValues(E * M * K, 6) }, w: randomInput([E, K, N], 7) },
      build: ({ x, w }) => [expertLinear(x!, w!)],
      reference: ({ x, w }) => [
        Float64Array.from({ length: E * M * N }, (_, i) => {
          const [e, m, n] = [Math.floor(i / (M * N)), Math.floor(i / N) % M, i % N];
          let sum = 0;
          for (let k = 0; k < K; k++) sum += x![(e * M + m) * K + k]! * w![(e * K + k) * N + n]!;
          return sum;
        }),
      ],
    });
  });
});
