// CLIP's text tower: the goldens in float32 and float64, a tower of other sizes with either GELU against code
// by the definition, equal bits wherever a text stands, files and configs that do not fit, breakage noticed.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Backend } from '../../src/backend/backend.ts';
import { verifyClipText } from '../../src/eval/clip-text.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { writeSafetensors } from '../../src/io/safetensors_write.ts';
import { Parameters } from '../../src/plan/params.ts';
import { ClipEncoder } from '../../src/sample/clip-encoder.ts';
import { declareClipText } from '../../src/text/clip.ts';
import { type ClipTextConfig, clipTextConfig, DFN5B_TEXT } from '../../src/text/clip-config.ts';
import { bothBackends, randomValues } from './op-case.ts';

const GOLDENS = new URL('../goldens/clip-text', import.meta.url).pathname;
const root = mkdtempSync(join(tmpdir(), 'clip-'));
afterAll(() => rmSync(root, { recursive: true }));

const results = (backend: Backend) => [...verifyClipText(GOLDENS, backend)];

describe('goldens', () => {
  for (const kind of ['f32', 'f64'] as const) {
    test(kind, () => {
      const groups = results(bothBackends()[kind]);
      expect(groups.length).toBe(3);
      for (const group of groups) expect(group).toMatchObject({ status: 'pass' });
    });
  }

  const broken: readonly (readonly [string, string, string])[] = [
    ['the other GELU', 'gelu_quick_fwd', 'gelu_erf_fwd'],
    ['attention without its mask', 'attention_causal_fwd', 'attention_fwd'],
  ];
  test.each(broken)('%s is noticed', (_, from, to) => {
    const { f32 } = bothBackends();
    const load: Backend['load'] = (program, regions) =>
      f32.load(
        { ...program, launches: program.launches.map((l) => (l.kernel === from ? { ...l, kernel: to } : l)) },
        regions,
      );
    const wrong: Backend = Object.assign(Object.create(f32), { load });
    expect(results(wrong).filter(({ status }) => status === 'fail').length).toBe(3);
  });
});

const SMALL: ClipTextConfig = {
  ...{ vocab: 20, context: 7, width: 12, heads: 3, layers: 2, hidden: 20, quickGelu: false, embed: 5 },
};

type Values = Map<string, { shape: readonly number[]; values: Float64Array }>;

function randomWeights(config: ClipTextConfig): Values {
  const p = new Parameters();
  declareClipText(p, config, true);
  return new Map(
    p.list.map(({ name, shape, count, index }) => {
      const shift = /ln_.*weight$/.test(name) ? 1 : 0;
      return [name, { shape, values: randomValues(count, index + 3).map((v) => Math.fround(v / 2 + shift)) }];
    }),
  );
}

let files = 0;
function written(weights: Values, prefix = ''): Safetensors {
  const path = join(root, `${files++}.safetensors`);
  const tensors = [...weights].map(([name, { shape, values }]) => ({
    name: prefix + name,
    dtype: 'F32' as const,
    shape,
    data: () => [Float32Array.from(values)],
  }));
  writeSafetensors(path, [
    ...tensors,
    { name: 'visual.proj', dtype: 'F32', shape: [2], data: () => [Float32Array.of(1, 2)] },
  ]);
  return Safetensors.open(path);
}

/** erf by its series. */
function erf(x: number): number {
  let [term, sum] = [x, x];
  for (let n = 1; n < 200; n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** States [S][C] of one text, by the definition. */
function plainStates(config: ClipTextConfig, weights: Values, ids: readonly number[]): number[][] {
  const { width: C, heads: H, layers } = config;
  const w = (name: string) => weights.get(name)!.values;
  const affine = (name: string, x: number[], mark = '.') => {
    const [bias, weight] = [w(`${name}${mark}bias`), w(`${name}${mark}weight`)];
    return Array.from(bias, (b, i) => x.reduce((sum, v, k) => sum + v * weight[i * x.length + k]!, b));
  };
  const layerNorm = (name: string, x: number[]) => {
    const mean = x.reduce((a, b) => a + b) / C;
    const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / C;
    return x.map((v, c) => {
      return ((v - mean) / Math.sqrt(variance + 1e-5)) * w(`${name}.weight`)[c]! + w(`${name}.bias`)[c]!;
    });
  };
  const gelu = (x: number) =>
    config.quickGelu ? x / (1 + Math.exp(-1.702 * x)) : 0.5 * x * (1 + erf(x / Math.SQRT2));
  const plus = (a: number[], b: number[]) => a.map((v, i) => v + b[i]!);

  let x = ids.map((id, s) => {
    return Array.from({ length: C }, (_, c) => {
      return w('token_embedding.weight')[id * C + c]! + w('positional_embedding')[s * C + c]!;
    });
  });
  for (let i = 0; i < layers; i++) {
    const at = `transformer.resblocks.${i}`;
    const qkv = x.map((row) => affine(`${at}.attn.in_proj`, layerNorm(`${at}.ln_1`, row), '_'));
    const attended = x.map((_, t) => {
      const y = new Array<number>(C).fill(0);
      const D = C / H;
      for (let h = 0; h < H; h++) {
        const weight = x.slice(0, t + 1).map((_, s) => {
          let dot = 0;
          for (let d = 0; d < D; d++) dot += qkv[t]![h * D + d]! * qkv[s]![C + h * D + d]!;
          return Math.exp(dot / Math.sqrt(D));
        });
        const sum = weight.reduce((a, b) => a + b);
        for (const [s, e] of weight.entries()) {
          for (let d = 0; d < D; d++) y[h * D + d]! += (e / sum) * qkv[s]![2 * C + h * D + d]!;
        }
      }
      return affine(`${at}.attn.out_proj`, y);
    });
    x = x.map((row, t) => plus(row, attended[t]!));
    x = x.map((row) => {
      const hidden = affine(`${at}.mlp.c_fc`, layerNorm(`${at}.ln_2`, row)).map(gelu);
      return plus(row, affine(`${at}.mlp.c_proj`, hidden));
    });
  }
  return x.map((row) => layerNorm('ln_final', row));
}

describe('a tower of other sizes', () => {
  const weights = randomWeights(SMALL);
  const ids = Int32Array.from([18, 3, 4, 19, 0, 0, 0, 18, 19, 0, 0, 0, 0, 0, 18, 1, 2, 3, 4, 5, 19]);

  for (const quickGelu of [false, true]) {
    test(quickGelu ? 'quick GELU' : 'exact GELU', () => {
      const config = { ...SMALL, quickGelu };
      using file = written(weights);
      const encoder = ClipEncoder.load(bothBackends().f64, config, file, { batch: 2, pooled: true });
      const states = encoder.states(ids);
      for (let n = 0; n < 3; n++) {
        const expected = plainStates(config, weights, [...ids.subarray(n * 7, n * 7 + 7)]).flat();
        for (const [i, v] of expected.entries()) expect(states[n * 84 + i]).toBeCloseTo(v, 5);
      }
      const projection = weights.get('text_projection')!.values;
      const pooled = encoder.pooled(ids);
      for (const [n, end] of [3, 1, 6].entries()) {
        for (let e = 0; e < 5; e++) {
          let sum = 0;
          for (let c = 0; c < 12; c++) sum += states[n * 84 + end * 12 + c]! * projection[c * 5 + e]!;
          expect(pooled[n * 5 + e]).toBeCloseTo(sum, 5);
        }
      }
      encoder.free();
    });
  }

  test('a text has the same bits alone, beside others, and under a prefix of names', () => {
    const { f32 } = bothBackends();
    const load = (batch: number, prefix = '') => {
      using file = written(weights, prefix);
      return ClipEncoder.load(f32, SMALL, file, { batch });
    };
    const [one, two, many] = [load(1), load(2, 'text.'), load(8)];
    const states = one.states(ids);
    expect(two.states(ids)).toEqual(states);
    expect(many.states(ids)).toEqual(states);
    expect(many.states(ids.subarray(7, 14))).toEqual(states.subarray(84, 168));
    for (const encoder of [one, two, many]) encoder.free();
  });

  test('what is missing or of another shape is named', () => {
    const { f32 } = bothBackends();
    const load = (change: (w: Values) => void, config = SMALL) => {
      const changed = new Map(weights);
      change(changed);
      using file = written(changed);
      return () => ClipEncoder.load(f32, config, file);
    };
    expect(load((w) => w.delete('ln_final.bias'))).toThrow('tensor ln_final.bias is missing');
    expect(load(() => {}, { ...SMALL, width: 15 })).toThrow(
      'positional_embedding has shape [7, 12], not [7, 15]',
    );
    expect(load(() => {}, { ...SMALL, layers: 3 })).toThrow('resblocks.2.ln_1.weight is missing');
  });

  test('ids outside of the vocabulary, and prompts without a fitting one, are refused', () => {
    using file = written(weights);
    const encoder = ClipEncoder.load(bothBackends().f32, SMALL, file);
    for (const id of [-1, 20]) {
      expect(() => encoder.states(Int32Array.of(18, id, 19, 0, 0, 0, 0))).toThrow(`token ${id}: is not in`);
    }
    expect(() => encoder.encode(['a cat'])).toThrow('has a vocabulary of 20');
    encoder.free();
  });
});

test('prompts: equal ones once, truncation told, states of their tokens', () => {
  const config = { ...SMALL, vocab: 49_408, width: 6, hidden: 8, context: 9 };
  using file = written(randomWeights(config));
  const encoder = ClipEncoder.load(bothBackends().f32, config, file, { batch: 2 });
  const { states, truncated } = encoder.encode(['a red cat', 'a b c d e f g h', 'a red cat']);
  expect(truncated).toEqual([false, true, false]);
  expect([encoder.length, encoder.channels, states.length]).toEqual([9, 6, 3 * 54]);
  const [first, third] = [states.subarray(0, 54), states.subarray(108)];
  expect(first).toEqual(third);
  expect(first).toEqual(encoder.states(Int32Array.of(49406, 320, 736, 2368, 49407, 0, 0, 0, 0)));
  encoder.free();
});

describe('configs', () => {
  const text_cfg = { context_length: 77, vocab_size: 49408, width: 1024, heads: 16, layers: 24 };

  test('of the published encoder, bare or inside open_clip_config.json', () => {
    const model_cfg = { embed_dim: 1024, quick_gelu: true, vision_cfg: {}, text_cfg };
    expect(clipTextConfig(model_cfg, 'x')).toEqual(DFN5B_TEXT);
    expect(clipTextConfig({ model_cfg, preprocess_cfg: {} }, 'x')).toEqual(DFN5B_TEXT);
    expect(clipTextConfig({ embed_dim: 512, text_cfg: {} }, 'x')).toMatchObject({
      ...{ width: 512, heads: 8, layers: 12, hidden: 2048, vocab: 49408, context: 77, quickGelu: false },
    });
  });

  test.each([
    [[], 'must be a JSON object'],
    [{ embed_dim: 1 }, 'text_cfg: is missing'],
    [{ text_cfg }, 'embed_dim: is missing'],
    [{ embed_dim: 4, text_cfg: { ...text_cfg, heads: 7 } }, '7 do not divide width 1024'],
    [{ embed_dim: 4, text_cfg: { ...text_cfg, layers: 2.5 } }, 'layers: must be a whole number'],
    [{ embed_dim: 4, text_cfg: { ...text_cfg, layers: 1e6 } }, 'text_cfg.layers: more than 1000'],
    [{ embed_dim: 4, text_cfg: { ...text_cfg, width: 1e9 } }, 'width: must be a number'],
    [
      { embed_dim: 4, text_cfg: { hf_model_name: 'roberta' } },
      'text_cfg.hf_model_name: "roberta" is not known',
    ],
    [{ embed_dim: 4, text_cfg: { pool_type: 'last' } }, 'text_cfg.pool_type'],
    [{ embed_dim: 4, quick_gelu: 1, text_cfg }, 'quick_gelu: must be true or false'],
  ])('refused: %j', (config, why) => expect(() => clipTextConfig(config, 'x')).toThrow(why));
});
