// Networks of many shapes: the forward pass against a plain one, float32 against float64, gradients against
// finite differences, the sampler's shortcuts against the long way.
import { describe, expect, test } from 'bun:test';
import { relMax } from '../../src/eval/conformance.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { type NetworkCase, NetworkRun } from './network-case.ts';
import { bothBackends, randomValues } from './op-case.ts';

const BASE: ModelConfig = {
  input_size: 8,
  patch_size: 2,
  in_channels: 4,
  dim: 24,
  depth: 2,
  head_dim: 6,
  multiple_of: 8,
  caption_channels: 10,
  pos_interp_scale: 1,
  norm_eps: 1e-6,
  depth_init: true,
  qkv_multipliers: [0.5, 1],
  ffn_multipliers: [0.5, 4],
  use_patch_mixer: true,
  patch_mixer_depth: 2,
  patch_mixer_dim: 18,
  patch_mixer_qkv_ratio: 1,
  patch_mixer_mlp_ratio: 4,
  use_bias: false,
  num_experts: 4,
  expert_capacity: 2,
  experts_every_n: 2,
};

const one = { depth: 1, qkv_multipliers: [1], ffn_multipliers: [4] };

/** What is special about a shape, and how it differs from the base. */
const SHAPES: Record<string, { config?: Partial<ModelConfig>; N?: number; S?: number; K?: number | null }> = {
  'odd head size, biases': { config: { dim: 20, head_dim: 5, patch_mixer_dim: 15, use_bias: true }, K: 5 },
  'one block, one expert, patches of one pixel': {
    config: { ...one, input_size: 5, patch_size: 1, in_channels: 3, num_experts: 1, expert_capacity: 1 },
    K: 7,
  },
  'patches of 4, 16 channels, one token an expert': {
    config: { input_size: 16, patch_size: 4, in_channels: 16, num_experts: 5, expert_capacity: 1.3 },
    K: 4,
    N: 2,
  },
  'mixer as wide as the backbone': { config: { patch_mixer_dim: 24, use_bias: true }, K: 4 },
  'no mixer, naive masking': { config: { use_patch_mixer: false, masking: 'naive' }, K: 6 },
  'no mixer, no mask': { config: { use_patch_mixer: false }, K: null },
  'mixer without blocks': { config: { patch_mixer_depth: 0 }, K: 4 },
  'naive masking before the mixer': { config: { masking: 'naive' }, K: 5 },
  'every block with experts': { config: { experts_every_n: 1, num_experts: 3, expert_capacity: 1.9 }, K: 8 },
  'one token, one caption token, one image': {
    config: { input_size: 2, num_experts: 1, expert_capacity: 1 },
    ...{ N: 1, S: 1, K: null },
  },
  'one kept token': { config: { num_experts: 1, expert_capacity: 1 }, K: 1, N: 5 },
  'heads of one channel': { config: { dim: 8, head_dim: 1, patch_mixer_dim: 7, multiple_of: 1 }, K: 4 },
  'heads of 17, hidden widths of 7': {
    config: { dim: 68, head_dim: 17, patch_mixer_dim: 34, multiple_of: 7, caption_channels: 13 },
    ...{ N: 1, S: 3, K: 9 },
  },
  'shared multipliers, narrower mixer': {
    config: {
      ...{ depth: 4, qkv_multipliers: [0.4, 1], ffn_multipliers: [1, 3], pos_interp_scale: 2 },
      ...{ patch_mixer_depth: 3, patch_mixer_qkv_ratio: 0.5, patch_mixer_mlp_ratio: 1.5 },
    },
    K: null,
  },
  'many tokens, long captions, wide heads': {
    config: { ...one, input_size: 24, dim: 80, head_dim: 80, patch_mixer_dim: 80, norm_eps: 1e-5 },
    ...{ N: 1, S: 77, K: 100 },
  },
  'a mask that keeps all': { K: 16 },
};

const cases: [string, NetworkCase][] = Object.entries(SHAPES).map(
  ([name, { config, N = 3, S = 7, K = null }], i) => [
    name,
    { config: { ...BASE, ...config }, N, S, K, seed: i + 1 },
  ],
);

/** The bounds of the golden README for float32. */
const OUTPUTS = 1e-5;
const GRADIENTS = 3e-5;
/** Gradients that are zero in exact numbers (a softmax over one token) are rounding noise of this size. */
const NOTHING = 1e-8;

const l2 = (values: Float64Array) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));

describe.each(cases)('%s', (_, c) => {
  test('the plain model', () => {
    const run = new NetworkRun(bothBackends().f64, c);
    expect(relMax(run.forward().out, run.plain())).toBeLessThan(1e-10);
    run.free();
  });

  test('float32 against float64', () => {
    const { f32, f64 } = bothBackends();
    const [single, exact] = [new NetworkRun(f32, c), new NetworkRun(f64, c)];
    const [a, b] = [single.forward(), exact.forward()];
    expect([...a.routes]).toEqual([...b.routes]);
    expect(relMax(a.out, b.out)).toBeLessThan(OUTPUTS);
    const [t32, t64] = [single.training(), exact.training()];
    const loss = t64.loss();
    expect(Math.abs(t32.loss() / loss - 1)).toBeLessThan(OUTPUTS);
    for (const p of single.network.parameters.list.filter((p) => !p.tags.frozen)) {
      const [ours, theirs] = [t32.gradient(p), t64.gradient(p)];
      const difference = l2(ours.map((v, i) => v - theirs[i]!));
      expect(difference, p.name).toBeLessThan(GRADIENTS * l2(theirs) + NOTHING);
    }
    for (const run of [single, exact, t32, t64]) run.free();
  });

  test('gradients against finite differences', () => {
    const run = new NetworkRun(bothBackends().f64, c);
    const training = run.training();
    training.loss();
    const parameters = run.network.parameters.list.filter((p) => !p.tags.frozen);
    const gradients = parameters.map((p) => training.gradient(p));
    const step = 1e-6;
    for (const [i, p] of parameters.entries()) {
      const values = run.read(p);
      const direction = randomValues(p.count, 500 + i);
      const at = (s: number) => {
        run.write(
          p,
          values.map((v, j) => v + s * direction[j]!),
        );
        return training.loss();
      };
      const slope = (at(step) - at(-step)) / (2 * step);
      run.write(p, values);
      const gradient = gradients[i]!;
      const expected = gradient.reduce((sum, g, j) => sum + g * direction[j]!, 0);
      expect(Math.abs(slope - expected), p.name).toBeLessThan(1e-6 * l2(gradient) + 1e-8);
    }
    training.free();
    run.free();
  });

  test('guidance with captions read once, zeroed ones as constants, against plain sampling', () => {
    const { f32, f64 } = bothBackends();
    const [single, exact] = [new NetworkRun(f32, c), new NetworkRun(f64, c)];
    const plain = exact.denoise('plain');
    for (const saving of ['zero', 'negative'] as const) {
      expect(relMax(exact.denoise(saving), plain)).toBeLessThan(1e-12);
      expect(relMax(single.denoise(saving), plain)).toBeLessThan(OUTPUTS);
    }
    expect(relMax(single.denoise('plain'), plain)).toBeLessThan(OUTPUTS);
    single.free();
    exact.free();
  });
});
