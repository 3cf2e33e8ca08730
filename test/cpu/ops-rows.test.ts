// Ops that move rows, words and patches: forward, gradients, odd sizes, strided views.
import { describe, expect, test } from 'bun:test';
import { castInto, copyInto } from '../../src/plan/ops/copy.ts';
import { fromHalf } from '../../src/plan/ops/half.ts';
import { patchify, unpatchify } from '../../src/plan/ops/patch.ts';
import {
  addRows,
  appendConstant,
  gatherRows,
  keepSlots,
  meanTokens,
  scaleImages,
} from '../../src/plan/ops/rows.ts';
import { lookupWords } from '../../src/plan/ops/words.ts';
import { f16ToFloat32 } from '../../src/io/dtype.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { columns } from '../../src/plan/tensor.ts';
import { Trace, traceOf } from '../../src/plan/trace.ts';
import { bothBackends, checkOp, type InputSpec, randomInput } from './op-case.ts';

const ints = (shape: number[], values: number[]): InputSpec => ({ shape, values, elem: 'i32' });

const [N, T, C, K] = [2, 5, 7, 3];
const KEPT = [4, 0, 3, 1, 2, 4];
const SLOTS = [1, -1, -1, 2, 0, -1, 0, 1, -1, 2];

describe('kept tokens', () => {
  test('rows by number, in the order of the numbers', () => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 1), ids: ints([N, K], KEPT) },
      build: ({ x, ids }) => [gatherRows(x!, ids!)],
      reference: ({ x }) => [
        KEPT.flatMap((t, k) => {
          const row = Math.floor(k / K) * T + t;
          return [...x!.slice(row * C, (row + 1) * C)];
        }),
      ],
    });
  });

  test('of strided views, added to another gradient', () => {
    checkOp({
      inputs: { x: randomInput([N, T, 2 * C + 1], 2), ids: ints([N, K], KEPT) },
      build: ({ x, ids }) => {
        const [left, right] = [columns(x!, 0, C), columns(x!, C, 2 * C)];
        return [gatherRows(left, ids!), gatherRows(right, ids!), meanTokens(left), gatherRows(left, ids!)];
      },
    });
  });

  test('places of tokens among the kept', () => {
    checkOp({
      forwardOnly: true,
      inputs: { ids: ints([N, K], KEPT) },
      build: ({ ids }) => [keepSlots(ids!, T)],
      reference: () => [SLOTS],
    });
  });

  test('wrong shapes are refused by name', () => {
    const t = new Trace();
    const x = t.input('x', [N, T, C], 'act');
    expect(() => gatherRows(x, t.input('a', [N + 1, K], 'i32'))).toThrow(
      /gather_rows.*\[2, 5, 7\]|list of i32/,
    );
    expect(() => gatherRows(x, t.input('b', [N, T + 1], 'i32'))).toThrow(/gather_rows: more rows/);
    expect(() => addRows(x, t.input('c', [T, C + 1], 'act'))).toThrow(/add_rows: positions do not fit/);
  });
});

describe('per image and per place', () => {
  test('mean over tokens', () => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 3) },
      build: ({ x }) => [meanTokens(x!)],
      reference: ({ x }) => [
        Array.from({ length: N * C }, (_, i) => {
          let sum = 0;
          for (let t = 0; t < T; t++) sum += x![(Math.floor(i / C) * T + t) * C + (i % C)]!;
          return sum / T;
        }),
      ],
    });
  });

  test('positions', () => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 4), pos: { ...randomInput([T, C], 5), fixed: true } },
      build: ({ x, pos }) => [addRows(x!, pos!), meanTokens(x!)],
      reference: ({ x, pos }) => [x!.map((v, i) => v + pos![i % (T * C)]!)],
    });
  });

  test('one factor an image, one of them 0', () => {
    checkOp({
      inputs: {
        y: randomInput([3, T, C], 6),
        keep: { shape: [3], values: [1, 0, 0.5], elem: 'real', fixed: true },
      },
      build: ({ y, keep }) => [scaleImages(y!, keep!), scaleImages(columns(y!, 1, 4), keep!)],
      reference: ({ y }) => [y!.map((v, i) => v * [1, 0, 0.5][Math.floor(i / (T * C))]!)],
    });
  });

  test('a constant row for the second half', () => {
    checkOp({
      forwardOnly: true,
      inputs: { a: randomInput([N, T, C], 7), v: randomInput([C], 8) },
      build: ({ a, v }) => [appendConstant(a!, v!)],
      reference: ({ a, v }) => [[...a!, ...a!.map((_, i) => v![i % C]!)]],
    });
  });
});

describe('words', () => {
  const [V, S, W] = [5, 4, 67];
  const IDS = [0, 1, 2, -1, 4, 4, -1, 3, 2, 0, -1, -1, 2, 2, 0, 4];
  const word = (table: Float64Array, i: number) => {
    const [row, c] = [Math.floor(i / W), i % W];
    const [a, b] = [IDS[2 * row]!, IDS[2 * row + 1]!];
    return a < 0 ? null : table[a * W + c]! + (b < 0 ? 0 : table[b * W + c]!);
  };

  test('two rows of the table a word, and its place', () => {
    checkOp({
      inputs: { table: randomInput([V, W], 9), ids: ints([N, S, 2], IDS), pos: randomInput([S, W], 10) },
      build: ({ table, ids, pos }) => [lookupWords(table!, ids!, pos!)],
      reference: ({ table, pos }) => [
        Array.from({ length: N * S * W }, (_, i) => {
          const v = word(table!, i);
          return v === null ? 0 : v + pos![i % (S * W)]!;
        }),
      ],
    });
  });

  test('without places, the table used twice', () => {
    checkOp({
      inputs: { table: randomInput([V, W], 11), ids: ints([N, S, 2], IDS) },
      build: ({ table, ids }) => [lookupWords(table!, ids!, null), lookupWords(table!, ids!, null)],
      reference: ({ table }) => {
        const y = Array.from({ length: N * S * W }, (_, i) => word(table!, i) ?? 0);
        return [y, y];
      },
    });
  });
});

describe('patches', () => {
  const [Ch, S, p] = [3, 6, 2];
  const G = S / p;
  /** Offset in an image of the patch element (channel, row, column) of patch t. */
  const pixel = (n: number, t: number, c: number, i: number, j: number) =>
    ((n * Ch + c) * S + Math.floor(t / G) * p + i) * S + (t % G) * p + j;

  test('tokens in the order of a convolution', () => {
    const scale = [0.5, 2];
    checkOp({
      forwardOnly: true,
      inputs: {
        x: { ...randomInput([N, Ch, S, S], 12), elem: 'real' },
        scale: { shape: [N], values: scale, elem: 'real' },
      },
      build: ({ x, scale }) => [patchify(x!, p, scale!), patchify(x!, 3)],
      reference: ({ x }) => {
        const y: number[] = [];
        for (let n = 0; n < N; n++)
          for (let t = 0; t < G * G; t++)
            for (let c = 0; c < Ch; c++)
              for (let i = 0; i < p; i++)
                for (let j = 0; j < p; j++) y.push(x![pixel(n, t, c, i, j)]! * scale[n]!);
        return [y];
      },
    });
  });

  test('of images that are not square, there and back', () => {
    const [H, W] = [6, 9];
    checkOp({
      forwardOnly: true,
      inputs: { x: { ...randomInput([N, Ch, H, W], 16), elem: 'real' } },
      build: ({ x }) => [patchify(x!, 3), unpatchify(patchify(x!, 3), null, null, Ch, 3, H, W)],
      reference: ({ x }) => {
        const at = (n: number, c: number, h: number, w: number) => x![((n * Ch + c) * H + h) * W + w]!;
        const tokens: number[] = [];
        for (let n = 0; n < N; n++)
          for (let h = 0; h < H; h += 3)
            for (let w = 0; w < W; w += 3)
              for (let c = 0; c < Ch; c++)
                for (let e = 0; e < 9; e++) tokens.push(at(n, c, h + Math.floor(e / 3), w + (e % 3)));
        // Tokens come in the order (channel, row, column) and are taken as (row, column, channel).
        const back = Float64Array.from({ length: N * Ch * H * W }, (_, k) => {
          const [w, h, c, n] = [
            k % W,
            Math.floor(k / W) % H,
            Math.floor(k / W / H) % Ch,
            Math.floor(k / W / H / Ch),
          ];
          const t = Math.floor(h / 3) * (W / 3) + Math.floor(w / 3);
          return tokens[(n * 6 + t) * 9 * Ch + ((h % 3) * 3 + (w % 3)) * Ch + c]!;
        });
        return [Float64Array.from(tokens), back];
      },
    });
  });

  const image = (token: (n: number, t: number, e: number) => number) => {
    const y = new Float64Array(N * Ch * S * S);
    for (let n = 0; n < N; n++)
      for (let t = 0; t < G * G; t++)
        for (let e = 0; e < p * p * Ch; e++) {
          const [c, j, i] = [e % Ch, Math.floor(e / Ch) % p, Math.floor(e / Ch / p)];
          y[pixel(n, t, c, i, j)] = token(n, t, e);
        }
    return y;
  };
  const P = p * p * Ch;

  test('images of all tokens, of a strided view', () => {
    checkOp({
      forwardOnly: true,
      inputs: { tokens: randomInput([N, G * G, P + 2], 13) },
      build: ({ tokens }) => [unpatchify(columns(tokens!, 1, P + 1), null, null, Ch, p, S)],
      reference: ({ tokens }) => [image((n, t, e) => tokens![(n * G * G + t) * (P + 2) + 1 + e]!)],
    });
  });

  test('images of kept tokens show the mask token elsewhere', () => {
    const ids = [8, 1, 4, 0, 7, 2];
    const slot = (n: number, t: number) => ids.slice(n * 3, n * 3 + 3).indexOf(t);
    const inputs = {
      tokens: randomInput([N, 3, P], 14),
      ids: ints([N, 3], ids),
      mask: randomInput([P], 15),
    };
    checkOp({
      forwardOnly: true,
      inputs,
      build: ({ tokens, ids, mask }) => {
        const slots = keepSlots(ids!, G * G);
        return [unpatchify(tokens!, slots, mask!, Ch, p, S), unpatchify(tokens!, slots, null, Ch, p, S)];
      },
      reference: ({ tokens, mask }) => {
        const shown = (hidden: (e: number) => number) =>
          image((n, t, e) => (slot(n, t) < 0 ? hidden(e) : tokens![(n * 3 + slot(n, t)) * P + e]!));
        return [shown((e) => mask![e]!), shown(() => 0)];
      },
    });
  });
});

test('rows are copied to a place, again and again where it has more of them', () => {
  checkOp({
    forwardOnly: true,
    inputs: { x: randomInput([2, 2 * C], 16) },
    build: ({ x }) => {
      const to = traceOf(x!).fresh({ shape: [6, C], elem: 'act' }, 'place');
      copyInto(columns(x!, C, 2 * C), to);
      return [to];
    },
    reference: ({ x }) => [
      Float64Array.from({ length: 6 * C }, (_, i) => x![(Math.floor(i / C) % 2) * 2 * C + C + (i % C)]!),
    ],
  });
});

test('casting keeps the numbers, over more than one block', () => {
  const count = 16384 + 5;
  checkOp({
    inputs: { x: { ...randomInput([count], 5), elem: 'real' } },
    forwardOnly: true,
    build: ({ x }) => {
      const y = traceOf(x!).fresh({ shape: [count], elem: 'act' }, 'y');
      castInto(x!, y);
      return [y];
    },
    reference: ({ x }) => [x!],
  });
});

describe('halves of data files', () => {
  // Every finite half: zeros, denormal numbers, both signs; over more than one block.
  const bits = Array.from({ length: 65536 }, (_, i) => i).filter((h) => (h & 0x7c00) !== 0x7c00);
  const words = Int32Array.from({ length: bits.length / 2 }, (_, i) => {
    return bits[2 * i]! | (bits[2 * i + 1]! << 16);
  });
  const values = new Float32Array(bits.length);
  f16ToFloat32(Uint16Array.from(bits), values);

  test('are the numbers that they stand for, in each kind', () => {
    for (const elem of ['act', 'real'] as const) {
      checkOp({
        inputs: { x: ints([words.length], [...words]) },
        forwardOnly: true,
        build: ({ x }) => [fromHalf(x!, [2, words.length], elem)],
        reference: () => [Float64Array.from(values)],
      });
    }
  });

  test('that are no finite number stay what they are', () => {
    const { f32 } = bothBackends();
    const trace = new Trace();
    trace.output('y', fromHalf(trace.input('x', [3], 'i32'), [6], 'real'));
    const runner = new Runner(f32, freeze('halves', trace, f32));
    runner.set('x', Int32Array.of(0x7e007c01, 0x3c00fe00, 0x7c00fc00 | 0));
    runner.run();
    expect([...runner.get('y')]).toEqual([Number.NaN, Number.NaN, Number.NaN, 1, -Infinity, Infinity]);
    runner.free();
  });

  test('that do not make up the shape are refused', () => {
    const x = new Trace().input('x', [3], 'i32');
    expect(() => fromHalf(x, [7], 'act')).toThrow('words do not hold [7]');
  });
});
