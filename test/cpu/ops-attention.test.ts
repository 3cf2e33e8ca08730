// Attention: values, gradients of q, k and v, odd sizes, views of a common buffer, more than one tile; and
// its causal form.
import { describe, expect, test } from 'bun:test';
import { attention, causalAttention } from '../../src/plan/ops/attention.ts';
import { columns, slices } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { checkOp, randomInput } from './op-case.ts';

interface Sizes {
  readonly N: number;
  readonly T: number;
  readonly S: number;
  readonly H: number;
  readonly D: number;
}

/** softmax(q k^T / sqrt(D)) v by the definition; q, k, v contiguous. */
function softmaxAttention(
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  sizes: Sizes,
  causal = false,
): Float64Array {
  const { N, T, S, H, D } = sizes;
  const C = H * D;
  const y = new Float64Array(N * T * C);
  for (let n = 0; n < N; n++) {
    for (let h = 0; h < H; h++) {
      for (let t = 0; t < T; t++) {
        const score = Array.from({ length: S }, (_, s) => {
          let dot = 0;
          for (let d = 0; d < D; d++)
            dot += q[(n * T + t) * C + h * D + d]! * k[(n * S + s) * C + h * D + d]!;
          return causal && s > t ? Number.NEGATIVE_INFINITY : dot / Math.sqrt(D);
        });
        const top = Math.max(...score);
        const weight = score.map((x) => Math.exp(x - top));
        const sum = weight.reduce((a, b) => a + b, 0);
        for (let s = 0; s < S; s++) {
          for (let d = 0; d < D; d++) {
            y[(n * T + t) * C + h * D + d]! += (weight[s]! / sum) * v[(n * S + s) * C + h * D + d]!;
          }
        }
      }
    }
  }
  return y;
}

const take = (x: Float64Array, width: number, from: number, to: number) =>
  x.filter((_, i) => i % width >= from && i % width < to);

function check(sizes: Sizes, forwardOnly = false, scale = 1): void {
  const { N, T, S, H, D } = sizes;
  checkOp({
    inputs: {
      q: randomInput([N, T, H * D], 1, scale),
      k: randomInput([N, S, H * D], 2, scale),
      v: randomInput([N, S, H * D], 3),
    },
    forwardOnly,
    build: ({ q, k, v }) => [attention(q!, k!, v!, H)],
    reference: ({ q, k, v }) => [softmaxAttention(q!, k!, v!, sizes)],
  });
}

describe('attention', () => {
  test('one query, one key, one number', () => {
    // With one key the weight is 1 whatever q and k are: their gradients are 0 but for rounding.
    check({ N: 1, T: 1, S: 1, H: 1, D: 1 }, true);
    check({ N: 2, T: 1, S: 1, H: 3, D: 5 }, true);
  });

  test('odd sizes', () => {
    check({ N: 2, T: 5, S: 7, H: 3, D: 3 }, false, 2);
    check({ N: 1, T: 3, S: 2, H: 1, D: 33 });
    check({ N: 3, T: 1, S: 9, H: 2, D: 1 }, false, 3);
    check({ N: 1, T: 17, S: 19, H: 1, D: 4 }, false, 2);
  });

  test('several tiles of queries and keys', () => {
    check({ N: 1, T: 67, S: 131, H: 1, D: 2 }, false, 3);
    check({ N: 2, T: 130, S: 300, H: 2, D: 17 }, true, 2);
    check({ N: 1, T: 3, S: 67, H: 1, D: 400 }, true);
  });

  test('sizes of the models', () => {
    check({ N: 1, T: 64, S: 77, H: 2, D: 32 }, true, 2);
    check({ N: 1, T: 256, S: 256, H: 1, D: 32 }, true, 2);
  });

  test('columns of one buffer, and gradients that meet there', () => {
    const sizes = { N: 2, T: 6, S: 6, H: 2, D: 5 };
    checkOp({
      inputs: { qkv: randomInput([2, 6, 33], 4, 2) },
      build: ({ qkv }) => {
        const [q, k, v] = [columns(qkv!, 0, 10), columns(qkv!, 10, 20), columns(qkv!, 21, 31)];
        return [attention(q, k, v, 2), attention(q, v, k, 2)];
      },
      reference: ({ qkv }) => {
        const [q, k, v] = [take(qkv!, 33, 0, 10), take(qkv!, 33, 10, 20), take(qkv!, 33, 21, 31)];
        return [softmaxAttention(q, k, v, sizes), softmaxAttention(q, v, k, sizes)];
      },
    });
  });

  test('some of the images, and k and v of one tensor', () => {
    checkOp({
      inputs: { q: randomInput([4, 3, 6], 5, 2), kv: randomInput([4, 5, 6], 6, 2) },
      build: ({ q, kv }) => [attention(slices(q!, 1, 3), slices(kv!, 2, 4), slices(kv!, 2, 4), 2)],
      reference: ({ q, kv }) => {
        const k = kv!.subarray(60, 120);
        return [softmaxAttention(q!.subarray(18, 54), k, k, { N: 2, T: 3, S: 5, H: 2, D: 3 })];
      },
    });
  });

  test('gradients only where they are wanted', () => {
    for (const fixed of [['q'], ['k', 'v'], ['q', 'k'], ['v']]) {
      const input = (name: string, rows: number, seed: number) => ({
        ...randomInput([2, rows, 6], seed, 2),
        fixed: fixed.includes(name),
      });
      checkOp({
        inputs: { q: input('q', 4, 7), k: input('k', 5, 8), v: input('v', 5, 9) },
        build: ({ q, k, v }) => [attention(q!, k!, v!, 3)],
      });
    }
  });

  test('scores far beyond the range of exp', () => {
    check({ N: 1, T: 20, S: 150, H: 1, D: 8 }, true, 200);
  });

  test('shapes that do not fit are refused', () => {
    const t = new Trace();
    const x = (shape: number[]) => t.fresh({ shape, elem: 'act' }, 'x');
    const q = x([2, 3, 8]);
    expect(() => attention(q, x([2, 4, 6]), x([2, 4, 6]), 2)).toThrow('op attention_fwd: q [N, T, H D]');
    expect(() => attention(q, x([2, 5, 8]), x([2, 6, 8]), 2)).toThrow('op attention_fwd: v [N, S, H D]');
    expect(() => attention(q, q, q, 3)).toThrow('H = 3');
  });
});

describe('causal attention', () => {
  const causal = (N: number, T: number, H: number, D: number, scale = 2) => {
    checkOp({
      inputs: {
        q: randomInput([N, T, H * D], 11, scale),
        k: randomInput([N, T, H * D], 12, scale),
        v: randomInput([N, T, H * D], 13),
      },
      forwardOnly: true,
      build: ({ q, k, v }) => [causalAttention(q!, k!, v!, H)],
      reference: ({ q, k, v }) => [softmaxAttention(q!, k!, v!, { N, T, S: T, H, D }, true)],
    });
  };

  test('odd sizes', () => {
    causal(1, 1, 1, 1);
    causal(3, 2, 2, 5);
    causal(2, 17, 3, 3);
  });

  test('of a text, and over several tiles of queries and keys', () => {
    causal(2, 77, 2, 64);
    causal(1, 130, 1, 8);
    causal(1, 300, 2, 17);
    causal(1, 67, 1, 400);
  });

  test('scores far beyond the range of exp', () => causal(1, 150, 1, 8, 200));

  test('columns of one buffer', () => {
    checkOp({
      inputs: { qkv: randomInput([2, 9, 33], 14, 2) },
      forwardOnly: true,
      build: ({ qkv }) => [
        causalAttention(columns(qkv!, 0, 10), columns(qkv!, 10, 20), columns(qkv!, 21, 31), 2),
      ],
      reference: ({ qkv }) => {
        const [q, k, v] = [take(qkv!, 33, 0, 10), take(qkv!, 33, 10, 20), take(qkv!, 33, 21, 31)];
        return [softmaxAttention(q, k, v, { N: 2, T: 9, S: 9, H: 2, D: 5 }, true)];
      },
    });
  });

  test('other numbers of keys are refused', () => {
    const t = new Trace();
    const x = (T: number) => t.fresh({ shape: [2, T, 8], elem: 'act' }, 'x');
    expect(() => causalAttention(x(3), x(4), x(4), 2)).toThrow('as many keys as queries');
  });
});
