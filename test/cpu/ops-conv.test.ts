// Convolutions in bands and whole, GroupNorm, wide attention and planes against plain loops in float64: odd
// sizes, strides, one-sided padding, enlargement, normalisation on the way in.
import { describe, expect, test } from 'bun:test';
import { type ConvForm, type ConvOptions, conv, convExtent, SAME } from '../../src/plan/ops/conv.ts';
import { applyGroupNorm, groupNorm, groupSums } from '../../src/plan/ops/group-norm.ts';
import { imagePlanes, pixelRows } from '../../src/plan/ops/planes.ts';
import { wideAttention } from '../../src/plan/ops/softmax.ts';
import { product, type Tensor } from '../../src/plan/tensor.ts';
import { traceOf } from '../../src/plan/trace.ts';
import { checkOp, type InputSpec, randomInput } from './op-case.ts';

type Values = Record<string, Float64Array>;

const DOWN: ConvForm = { k: 3, stride: 2, pad: 0, after: 1, up: 1 };
const UP: ConvForm = { ...SAME, up: 2 };
const EPS = 1e-6;

/** The definition: a sum over the window and the channels, zeros outside. */
function convolved(x: Float64Array, shape: readonly number[], w: Float64Array, b: Float64Array, f: ConvForm) {
  const [N, H, W, C] = shape as [number, number, number, number];
  const [Co, Ho, Wo] = [b.length, convExtent(H, f), convExtent(W, f)];
  const y = new Float64Array(N * Ho * Wo * Co);
  for (let at = 0; at < y.length; at++) {
    const [o, p, r, n] = [
      at % Co,
      Math.floor(at / Co) % Wo,
      Math.floor(at / Co / Wo) % Ho,
      Math.floor(at / Co / Wo / Ho),
    ];
    y[at] = b[o]!;
    for (let i = 0; i < f.k; i++) {
      for (let j = 0; j < f.k; j++) {
        const v = Math.floor((r * f.stride + i - f.pad) / f.up);
        const u = Math.floor((p * f.stride + j - f.pad) / f.up);
        if (v < 0 || v >= H || u < 0 || u >= W) continue;
        for (let c = 0; c < C; c++) {
          y[at]! += x[((n * H + v) * W + u) * C + c]! * w[((o * f.k + i) * f.k + j) * C + c]!;
        }
      }
    }
  }
  return y;
}

function normalised(
  x: Float64Array,
  shape: readonly number[],
  { w, bias }: Values,
  G: number,
  silu: boolean,
) {
  const [, H, W, C] = shape as [number, number, number, number];
  const D = C / G;
  const group = (i: number) => Math.floor(i / (H * W * C)) * G + Math.floor((i % C) / D);
  const [sum, squares] = [new Map<number, number>(), new Map<number, number>()];
  const add = (to: Map<number, number>, g: number, v: number) => to.set(g, (to.get(g) ?? 0) + v);
  x.forEach((v, i) => {
    add(sum, group(i), v / (H * W * D));
  });
  x.forEach((v, i) => {
    add(squares, group(i), (v - sum.get(group(i))!) ** 2 / (H * W * D));
  });
  return x.map((v, i) => {
    const y =
      ((v - sum.get(group(i))!) / Math.sqrt(squares.get(group(i))! + EPS)) * w![i % C]! + bias![i % C]!;
    return silu ? y / (1 + Math.exp(-y)) : y;
  });
}

/** Random inputs of a convolution. */
function inputs(shape: number[], Co: number, k = 3): Record<string, InputSpec> {
  const C = shape[3]!;
  return {
    x: randomInput(shape, 1),
    w: randomInput([Co, k, k, C], 2),
    b: randomInput([Co], 3),
  };
}

const forms: [string, ConvForm, number[], number][] = [
  ['3x3', SAME, [1, 5, 7, 3], 4],
  ['3x3 of two images', SAME, [2, 4, 3, 5], 2],
  ['3x3 of one pixel', SAME, [1, 1, 1, 2], 3],
  ['stride 2, padded below and to the right', DOWN, [1, 8, 6, 3], 5],
  ['stride 2 of odd sizes', DOWN, [1, 7, 5, 2], 3],
  ['after enlarging', UP, [1, 4, 3, 3], 2],
  ['wider than a block', SAME, [1, 2, 37, 2], 3],
];

/** Bands of so many elements, or a library's op. */
const ways: [string, ConvOptions][] = [
  ['one band', { band: 2 ** 23 }],
  ['bands of 150', { band: 150 }],
  ['bands of a row', { band: 1 }],
  ['whole', { whole: true }],
];

describe('conv', () => {
  for (const [name, form, shape, Co] of forms) {
    for (const [way, options] of ways) {
      test(`${name}, ${way}`, () => {
        checkOp({
          forwardOnly: true,
          inputs: inputs(shape, Co),
          build: ({ x, w, b }) => [conv(x!, w!, b!, form, options)],
          reference: ({ x, w, b }) => [convolved(x!, shape, w!, b!, form)],
        });
      });
    }
  }

  test.each(ways)('normalised on the way in and added to what is there, %s', (_, options) => {
    const shape = [2, 5, 4, 6];
    const first = { ...SAME, k: 1, pad: 0, after: 0 };
    const norms = {
      gw: randomInput([6], 4, 0.3, 1),
      gb: randomInput([6], 5),
      u: randomInput([3, 1, 1, 6], 6),
    };
    checkOp({
      forwardOnly: true,
      inputs: { ...inputs(shape, 3), ...norms },
      build: ({ x, w, b, gw, gb, u }) => {
        const norm = groupNorm(groupSums(x!), { w: gw!, bias: gb! }, { W: 4, G: 3, eps: EPS, silu: true });
        return [conv(x!, w!, b!, SAME, { ...options, norm, into: conv(x!, u!, b!, first, options) })];
      },
      reference: ({ x, w, b, gw, gb, u }) => {
        const y = normalised(x!, shape, { w: gw!, bias: gb! }, 3, true);
        const there = convolved(x!, shape, u!, b!, first);
        return [convolved(y, shape, w!, b!, SAME).map((v, i) => v + there[i]!)];
      },
    });
  });

  test('refuses what does not fit', () => {
    const wrong = (shape: number[], form: ConvForm) => () =>
      checkOp({
        forwardOnly: true,
        inputs: { x: randomInput(shape, 1), w: randomInput([2, 3, 3, 3], 2), b: randomInput([2], 3) },
        build: ({ x, w, b }) => [conv(x!, w!, b!, form)],
      });
    expect(wrong([1, 4, 4, 2], SAME)).toThrow('differ');
    expect(wrong([1, 1, 1, 3], { ...DOWN, after: 0 })).toThrow('smaller than the window');
  });
});

describe('GroupNorm', () => {
  const cases: [number[], number, boolean][] = [
    [[1, 3, 5, 4], 4, false],
    [[2, 4, 3, 6], 2, true],
    [[1, 1, 1, 8], 2, false],
    [[1, 6, 2, 33], 1, true],
  ];
  test.each(cases)('%j in %d groups', (shape, G, silu) => {
    const [, , W, C] = shape as [number, number, number, number];
    checkOp({
      forwardOnly: true,
      inputs: { x: randomInput(shape, 7, 2, 0.7), w: randomInput([C], 8, 0.3, 1), bias: randomInput([C], 9) },
      build: ({ x, w, bias }) => {
        const norm = groupNorm(groupSums(x!), { w: w!, bias: bias! }, { W, G, eps: EPS, silu });
        const y = traceOf(x!).fresh({ shape, elem: 'act' }, 'y');
        for (let n = 0; n < shape[0]!; n++) {
          const one = (t: Tensor) => ({
            ...t,
            offset: t.offset + (n * product(shape)) / shape[0]!,
            shape: [1, ...shape.slice(1)],
          });
          applyGroupNorm(one(x!), norm, n, one(y));
        }
        return [y];
      },
      reference: (v) => [normalised(v.x!, shape, v, G, silu)],
    });
  });
});

describe('wide attention', () => {
  test.each([
    [1, 7, 5, 2 ** 22],
    [2, 5, 9, 12],
    [1, 1, 3, 1],
  ])('%d images of %d tokens of width %d, bands of %d scores', (N, T, C, band) => {
    checkOp({
      forwardOnly: true,
      inputs: {
        q: randomInput([N, T, C], 1, 2),
        k: randomInput([N, T, C], 2, 2),
        v: randomInput([N, T, C], 3),
      },
      build: ({ q, k, v }) => [wideAttention(q!, k!, v!, band)],
      reference: ({ q, k, v }) => {
        const y = new Float64Array(N * T * C);
        for (let row = 0; row < N * T; row++) {
          const first = row - (row % T);
          const dots = Array.from({ length: T }, (_, s) => {
            let dot = 0;
            for (let c = 0; c < C; c++) dot += q![row * C + c]! * k![(first + s) * C + c]!;
            return Math.exp(dot / Math.sqrt(C));
          });
          const sum = dots.reduce((a, b) => a + b, 0);
          dots.forEach((e, s) => {
            for (let c = 0; c < C; c++) y[row * C + c]! += (e / sum) * v![(first + s) * C + c]!;
          });
        }
        return [y];
      },
    });
  });
});

test('planes to pixels and back', () => {
  const [N, C, H, W] = [2, 3, 4, 5];
  checkOp({
    forwardOnly: true,
    inputs: { x: { ...randomInput([N, C, H, W], 1), elem: 'real' } },
    build: ({ x }) => {
      const pixels = pixelRows(x!);
      return [pixels, imagePlanes(pixels)];
    },
    reference: ({ x }) => {
      const at = (i: number) => {
        const [c, w, h, n] = [
          i % C,
          Math.floor(i / C) % W,
          Math.floor(i / C / W) % H,
          Math.floor(i / C / W / H),
        ];
        return x![((n * C + c) * H + h) * W + w]!;
      };
      return [x!.map((_, i) => at(i)), x!];
    },
  });
});
