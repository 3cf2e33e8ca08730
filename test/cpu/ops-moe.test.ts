// Expert choice: what is chosen (order, ties, NaN), dispatch, combine, gradients with the choice held fixed.
import { geluTanh } from '../../src/plan/ops/act.ts';
import { gate } from '../../src/plan/ops/gate.ts';
import { describe, expect, test } from 'bun:test';
import { expertLinear } from '../../src/plan/ops/linear.ts';
import { combine, dispatch, route } from '../../src/plan/ops/moe.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { columns } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { bothBackends, checkOp, randomInput } from './op-case.ts';

interface Sizes {
  readonly N: number;
  readonly T: number;
  readonly E: number;
  readonly K: number;
}

interface Chosen {
  readonly probs: Float64Array;
  readonly index: Int32Array;
  readonly gate: Float64Array;
  readonly slot: Int32Array;
}

/** The definition: softmax over experts, then a stable sort of the tokens of each expert. */
function choose(logits: Float64Array, { N, T, E, K }: Sizes, forced?: ArrayLike<number>): Chosen {
  const probs = logits.map((_, i) => {
    const row = logits.subarray(i - (i % E), i - (i % E) + E);
    const top = Math.max(...row);
    return Math.exp(logits[i]! - top) / row.reduce((a, b) => a + Math.exp(b - top), 0);
  });
  const index = new Int32Array(N * E * K);
  const gate = new Float64Array(N * E * K);
  const slot = new Int32Array(N * E * T).fill(-1);
  for (let n = 0; n < N; n++) {
    for (let e = 0; e < E; e++) {
      const at = (n * E + e) * K;
      const p = (t: number) => probs[(n * T + t) * E + e]!;
      const order = Array.from({ length: T }, (_, t) => t).sort((a, b) => p(b) - p(a) || a - b);
      for (let k = 0; k < K; k++) {
        const t = forced ? forced[at + k]! : order[k]!;
        index[at + k] = t;
        gate[at + k] = p(t);
        slot[(n * E + e) * T + t] = k;
      }
    }
  }
  return { probs, index, gate, slot };
}

/** K different tokens for each image and expert (T not a multiple of 5), in mixed order. */
function forcedIndex({ N, T, E, K }: Sizes) {
  const values = Array.from({ length: N * E * K }, (_, i) => (5 * (i % K) + 3 * Math.floor(i / K)) % T);
  return { shape: [N, E, K], values, elem: 'i32' as const };
}

describe('route', () => {
  const check = (sizes: Sizes, values?: number[]) => {
    const { N, T, E, K } = sizes;
    const logits = { ...randomInput([N, T, E], 1, 3), elem: 'real' as const };
    checkOp({
      inputs: { logits: values ? { ...logits, values } : logits },
      forwardOnly: true,
      build: (t) => {
        const { probs, index, gate, slot } = route(t.logits!, K);
        return [probs, index, gate, slot];
      },
      reference: (v) => {
        const { probs, index, gate, slot } = choose(v.logits!, sizes);
        return [probs, index, gate, slot];
      },
    });
  };

  test('the most probable tokens, in order', () => {
    check({ N: 3, T: 13, E: 5, K: 4 });
    check({ N: 2, T: 64, E: 8, K: 16 });
    check({ N: 1, T: 7, E: 3, K: 7 });
    check({ N: 2, T: 9, E: 4, K: 1 });
  });

  test('one expert, one token', () => {
    check({ N: 1, T: 1, E: 1, K: 1 });
    check({ N: 1, T: 5, E: 1, K: 3 });
  });

  test('ties go to the lowest token', () => {
    check({ N: 1, T: 20, E: 2, K: 5 }, new Array(40).fill(0.25));
    const pairs = Array.from({ length: 40 }, (_, i) => (i % 2 ? 0 : [2, -1, 2, 0.5][(i / 2) % 4]!));
    check({ N: 1, T: 20, E: 2, K: 7 }, pairs);
  });

  test('NaN logits still select K different tokens', () => {
    const [T, E, K] = [10, 2, 4];
    const t = new Trace();
    const { index, slot } = route(t.input('logits', [1, T, E], 'real'), K);
    t.output('index', index);
    t.output('slot', slot);
    for (const backend of Object.values(bothBackends())) {
      const runner = new Runner(backend, freeze('nan', t, { elemBytes: backend.elemBytes }));
      for (const bad of [new Array(T * E).fill(Number.NaN), [Number.NaN, ...new Array(T * E - 1).fill(0)]]) {
        runner.set('logits', bad);
        runner.run();
        const chosen = runner.get('index');
        for (let e = 0; e < E; e++) {
          const tokens = [...chosen.slice(e * K, (e + 1) * K)];
          expect(new Set(tokens).size).toBe(K);
          expect(tokens.every((token) => token >= 0 && token < T)).toBe(true);
        }
        expect([...runner.get('slot')].filter((s) => s >= 0).length).toBe(E * K);
      }
      runner.free();
    }
  });

  test('gradient through gate and probabilities, the choice held fixed', () => {
    const sizes = { N: 2, T: 7, E: 3, K: 4 };
    const wide = { ...randomInput([2, 7, 5], 2, 2), elem: 'real' as const };
    checkOp({
      inputs: { wide, forced: forcedIndex(sizes) },
      build: ({ wide, forced }) => {
        const { probs, gate } = route(columns(wide!, 1, 4), sizes.K, forced!);
        return [gate, probs];
      },
      reference: ({ wide, forced }) => {
        const logits = wide!.filter((_, i) => i % 5 >= 1 && i % 5 < 4);
        const { gate, probs } = choose(logits, sizes, forced!);
        return [gate, probs];
      },
    });
  });

  test('more tokens than there are is refused', () => {
    const logits = new Trace().input('logits', [1, 4, 2], 'real');
    for (const K of [0, 5, 1.5]) expect(() => route(logits, K)).toThrow(`cannot take ${K} tokens`);
  });
});

describe('the gate', () => {
  const check = (N: number, T: number, C: number, E: number) => {
    checkOp({
      inputs: { x: randomInput([N, T, C], 1), w: { ...randomInput([E, C], 2), elem: 'real' } },
      build: ({ x, w }) => [gate(x!, w!)],
      reference: ({ x, w }) => [
        Float64Array.from({ length: N * T * E }, (_, i) => {
          const [row, e] = [Math.floor(i / E), i % E];
          let sum = 0;
          for (let c = 0; c < C; c++) sum += x![row * C + c]! * w![e * C + c]!;
          return sum;
        }),
      ],
    });
  };

  test('one logit for each token and expert', () => {
    check(2, 5, 7, 3);
    check(1, 1, 1, 1);
    check(3, 50, 16, 8); // rows of two blocks, the second one shorter
  });

  test('columns of a wider buffer, read by others as well', () => {
    checkOp({
      inputs: { wide: randomInput([2, 3, 9], 3), w: { ...randomInput([4, 5], 4), elem: 'real' } },
      build: ({ wide, w }) => {
        const x = columns(wide!, 2, 7);
        return [gate(x, w!), geluTanh(x)];
      },
    });
  });

  test('operands that do not fit are refused', () => {
    const t = new Trace();
    const x = t.input('x', [2, 3], 'act');
    expect(() => gate(x, t.input('w', [4, 5], 'real'))).toThrow('op gate_fwd: x [.., C] and w [E, C] real');
    expect(() => gate(x, t.input('a', [4, 3], 'act'))).toThrow('op gate_fwd: x [.., C] and w [E, C] real');
  });
});

describe('experts', () => {
  // 6 places for 7 tokens: at least one token of each image is left out.
  const sizes = { N: 2, T: 7, E: 3, K: 2 };
  const { N, T, E, K } = sizes;
  const C = 5;
  const logits = { ...randomInput([N, T, E], 3, 2), elem: 'real' as const };

  test('dispatch copies rows, its gradient sums them', () => {
    checkOp({
      inputs: {
        x: randomInput([N, T, 2 * C + 1], 4),
        logits: { ...logits, fixed: true },
        forced: forcedIndex(sizes),
      },
      build: ({ x, logits, forced }) => {
        const { index, slot } = route(logits!, K, forced!);
        return [dispatch(columns(x!, 1, 1 + C), index, slot), dispatch(columns(x!, 1, 1 + C), index, slot)];
      },
      reference: ({ x, forced }) => {
        const y = Float64Array.from({ length: E * N * K * C }, (_, i) => {
          const [c, k, n, e] = [
            i % C,
            Math.floor(i / C) % K,
            Math.floor(i / C / K) % N,
            Math.floor(i / C / K / N),
          ];
          return x![(n * T + forced![(n * E + e) * K + k]!) * (2 * C + 1) + 1 + c]!;
        });
        return [y, y];
      },
    });
  });

  test('combine weighs and sums; a token that nobody took is 0', () => {
    checkOp({
      inputs: { ye: randomInput([E, N * K, C], 5), logits, forced: forcedIndex(sizes) },
      build: ({ ye, logits, forced }) => {
        const { gate, index, slot } = route(logits!, K, forced!);
        return [combine(ye!, gate, index, slot, T)];
      },
      reference: ({ ye, logits, forced }) => {
        const { gate, index } = choose(logits!, sizes, forced!);
        const y = new Float64Array(N * T * C);
        for (let row = 0; row < N * E * K; row++) {
          const [k, e, n] = [row % K, Math.floor(row / K) % E, Math.floor(row / K / E)];
          for (let c = 0; c < C; c++) {
            y[(n * T + index[row]!) * C + c]! += gate[row]! * ye![((e * N + n) * K + k) * C + c]!;
          }
        }
        return [y];
      },
    });
  });

  test('the whole layer: route, dispatch, expert product, combine', () => {
    checkOp({
      inputs: {
        x: randomInput([N, T, C], 6),
        w: randomInput([E, C, C], 7),
        logits,
        forced: forcedIndex(sizes),
      },
      build: ({ x, w, logits, forced }) => {
        const { gate, index, slot } = route(logits!, K, forced!);
        const ye = expertLinear(dispatch(x!, index, slot), w!);
        return [combine(ye, gate, index, slot, T)];
      },
    });
  });

  test('lists that do not fit are refused', () => {
    const t = new Trace();
    const { gate, index, slot } = route(t.input('logits', [N, T, E], 'real'), K);
    const x = t.input('x', [N, T + 1, C]);
    expect(() => dispatch(x, index, slot)).toThrow('x should have 14 rows');
    expect(() => combine(t.input('ye', [E, N * K, C]), gate, index, slot, T + 1)).toThrow('T = 8');
  });
});
