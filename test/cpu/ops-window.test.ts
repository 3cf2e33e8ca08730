// Windows of images, pools and ReLU against plain loops in float64: windows that are not square, strides,
// several images, bands, results in some columns of another tensor.
import { describe, expect, test } from 'bun:test';
import { relu } from '../../src/plan/ops/act.ts';
import { maxPool, meanPool, square, type WindowForm, windowConv } from '../../src/plan/ops/window.ts';
import { columns } from '../../src/plan/tensor.ts';
import { traceOf } from '../../src/plan/trace.ts';
import { checkOp, randomInput } from './op-case.ts';

type Shape = readonly [N: number, H: number, W: number, C: number];

const extent = (n: number, k: number, stride: number, pad: number) =>
  Math.floor((n + 2 * pad - k) / stride) + 1;

/** Calls `see` with the pixels (as [n, v, u] in one number) of every window that lie in the image. */
function windowsOf([N, H, W]: Shape, f: WindowForm, see: (at: number, pixels: number[][]) => void) {
  const [Ho, Wo] = [extent(H, f.kh, f.stride, f.padH), extent(W, f.kw, f.stride, f.padW)];
  for (let at = 0; at < N * Ho * Wo; at++) {
    const [p, o, n] = [at % Wo, Math.floor(at / Wo) % Ho, Math.floor(at / Wo / Ho)];
    const pixels: number[][] = [];
    for (let i = 0; i < f.kh; i++) {
      for (let j = 0; j < f.kw; j++) {
        const [v, u] = [o * f.stride + i - f.padH, p * f.stride + j - f.padW];
        if (v >= 0 && v < H && u >= 0 && u < W) pixels.push([(n * H + v) * W + u, i * f.kw + j]);
      }
    }
    see(at, pixels);
  }
  return N * Ho * Wo;
}

function convolved(x: Float64Array, shape: Shape, w: Float64Array, b: Float64Array, f: WindowForm) {
  const [Co, C, area] = [b.length, shape[3], f.kh * f.kw];
  const y: number[] = [];
  windowsOf(shape, f, (_, pixels) => {
    for (let o = 0; o < Co; o++) {
      let sum = b[o]!;
      for (const [pixel = 0, tap = 0] of pixels) {
        for (let c = 0; c < C; c++) sum += x[pixel * C + c]! * w[(o * area + tap) * C + c]!;
      }
      y.push(sum);
    }
  });
  return y;
}

function pooled(
  x: Float64Array,
  shape: Shape,
  f: WindowForm,
  join: (values: number[]) => number,
): Float64Array {
  const C = shape[3];
  const y: number[] = [];
  windowsOf(shape, f, (_, pixels) => {
    for (let c = 0; c < C; c++) y.push(join(pixels.map(([pixel = 0]) => x[pixel * C + c]!)));
  });
  return Float64Array.from(y);
}

const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

const forms: [string, WindowForm, Shape, number][] = [
  ['3x3, stride 2, two images', square(3, 2), [2, 7, 9, 3], 4],
  ['3x3 as large as the image', square(3, 1, 1), [3, 5, 4, 5], 2],
  ['5x5', square(5, 1, 2), [1, 6, 7, 2], 3],
  ['1x7', { kh: 1, kw: 7, stride: 1, padH: 0, padW: 3 }, [2, 3, 9, 4], 3],
  ['7x1', { kh: 7, kw: 1, stride: 1, padH: 3, padW: 0 }, [2, 9, 3, 4], 5],
  ['1x3 wider than the image', { kh: 1, kw: 3, stride: 1, padH: 0, padW: 1 }, [1, 3, 1, 17], 3],
  ['3x1', { kh: 3, kw: 1, stride: 1, padH: 1, padW: 0 }, [2, 2, 5, 3], 7],
  ['1x1', square(1), [2, 3, 5, 6], 4],
  ['1x1, stride 2', square(1, 2), [1, 5, 4, 3], 2],
];

describe('windowConv', () => {
  for (const [name, form, shape, Co] of forms) {
    for (const band of [2 ** 21, 200, 1]) {
      test(`${name}, bands of ${band}`, () => {
        checkOp({
          forwardOnly: true,
          inputs: {
            x: randomInput([...shape], 1),
            w: randomInput([Co, form.kh, form.kw, shape[3]], 2),
            b: randomInput([Co], 3),
          },
          build: ({ x, w, b }) => [windowConv(x!, w!, b!, form, band)],
          reference: ({ x, w, b }) => [convolved(x!, shape, w!, b!, form)],
        });
      });
    }
  }

  test('refuses what does not fit', () => {
    const wrong = (shape: number[], form: WindowForm) => () =>
      checkOp({
        forwardOnly: true,
        inputs: { x: randomInput(shape, 1), w: randomInput([2, 3, 3, 3], 2), b: randomInput([2], 3) },
        build: ({ x, w, b }) => [windowConv(x!, w!, b!, form)],
      });
    expect(wrong([1, 4, 4, 2], square(3))).toThrow('differ');
    expect(wrong([1, 4, 4, 3], square(5))).toThrow('differ');
    expect(wrong([1, 2, 4, 3], square(3))).toThrow('3 x 3 pixels at least');
  });
});

describe('pools', () => {
  const cases: [string, number, number, number, Shape][] = [
    ['3x3, stride 2', 3, 2, 0, [2, 7, 8, 5]],
    ['3x3 within the image', 3, 1, 1, [2, 4, 3, 9]],
    ['3x3 of one pixel', 3, 1, 1, [1, 1, 1, 2]],
    ['the whole image', 4, 1, 0, [3, 4, 4, 3]],
  ];
  test.each(cases)('%s', (_, k, stride, pad, shape) => {
    checkOp({
      forwardOnly: true,
      inputs: { x: randomInput([...shape], 1, 2, -1) },
      build: ({ x }) => [maxPool(x!, { k, stride, pad }), meanPool(x!, { k, stride, pad })],
      reference: ({ x }) => [
        pooled(x!, shape, square(k, stride, pad), (values) => Math.max(...values)),
        pooled(x!, shape, square(k, stride, pad), mean),
      ],
    });
  });
});

test('ReLU and its gradient, away from zero', () => {
  const x = randomInput([3, 5, 7], 4);
  const away = { ...x, values: Float64Array.from(x.values, (v) => v + Math.sign(v) * 0.01) };
  checkOp({
    inputs: { x: away },
    build: (t) => [relu(t.x!)],
    reference: (v) => [v.x!.map((one) => Math.max(one, 0))],
  });
});

test('several results side by side in one tensor', () => {
  const shape: Shape = [2, 3, 3, 4];
  checkOp({
    forwardOnly: true,
    inputs: { x: randomInput([...shape], 6) },
    build: ({ x }) => {
      const y = traceOf(x!).fresh({ shape: [2, 3, 3, 12], elem: 'act' }, 'y');
      relu(x!, columns(y, 0, 4));
      maxPool(x!, { k: 3, pad: 1 }, columns(y, 4, 8));
      meanPool(x!, { k: 3, pad: 1 }, columns(y, 8, 12));
      return [y];
    },
    reference: ({ x }) => {
      const same = square(3, 1, 1);
      const parts = [
        x!.map((v) => Math.max(v, 0)),
        pooled(x!, shape, same, (values) => Math.max(...values)),
        pooled(x!, shape, same, mean),
      ];
      return [
        Float64Array.from({ length: 18 * 12 }, (_, i) => {
          const [pixel, c] = [Math.floor(i / 12), i % 12];
          return parts[Math.floor(c / 4)]![pixel * 4 + (c % 4)]!;
        }),
      ];
    },
  });
});
