// Ops against numbers of the reference implementation (test/goldens/microdit): sinusoids, noise levels,
// patches with mask tokens, noising, masked loss, and one step of clipping and AdamW over all parameters.
import { describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { Safetensors } from '../../src/io/safetensors.ts';
import { addNoise, edmCoefficients, edmLoss } from '../../src/plan/ops/edm.ts';
import { timestepEmbedding } from '../../src/plan/ops/embed.ts';
import {
  adamw,
  clipScale,
  SCALAR_SIZE,
  STATE,
  STATE_SIZE,
  sumSquares,
} from '../../src/plan/ops/optimizer.ts';
import { unpatchify } from '../../src/plan/ops/patch.ts';
import { keepSlots } from '../../src/plan/ops/rows.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { product, type Tensor } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { bothBackends } from './op-case.ts';

const path = (part: string) => new URL(`../goldens/microdit/nano_bias.${part}`, import.meta.url).pathname;
const open = (part: string) => Safetensors.open(path(`${part}.safetensors`));
const read = (part: string, key: string) => {
  using file = open(part);
  return file.readFloat64(key) as Float64Array<ArrayBuffer>;
};
const info = JSON.parse(readFileSync(path('info.json'), 'utf8'));
const [SD, p, S, Ch, N, T] = [info.sigma_data as number, 2, 8, 4, 3, 16];

type Inputs = Record<string, readonly [shape: number[], values: ArrayLike<number>, elem?: 'i32' | 'act']>;

/** Runs a traced function on the float32 library. */
function run(inputs: Inputs, build: (t: Record<string, Tensor>) => Tensor[]): Float64Array[] {
  const t = new Trace();
  const tensors = Object.entries(inputs).map(([k, [shape, , elem]]) => [k, t.input(k, shape, elem)] as const);
  const outputs = build(Object.fromEntries(tensors));
  for (const [i, y] of outputs.entries()) t.output(`y${i}`, y);
  const { f32 } = bothBackends();
  const runner = new Runner(f32, freeze('golden', t, { elemBytes: f32.elemBytes }));
  for (const [k, [, values]] of Object.entries(inputs)) runner.set(k, values);
  runner.run();
  const results = outputs.map((_, i) => Float64Array.from(runner.get(`y${i}`)));
  runner.free();
  return results;
}

/** max |a - b| / max |b| */
function relMax(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  const largest = Array.from(b, Math.abs).reduce((x, y) => Math.max(x, y));
  return Array.from(b, (v, i) => Math.abs(a[i]! - v)).reduce((x, y) => Math.max(x, y)) / largest;
}

describe('golden numbers', () => {
  test('timestep sinusoids and c_noise', () => {
    const [y, cNoise] = run(
      { t: [[N], read('forward', 't')], sigma: [[N], read('forward', 'sigma')] },
      ({ t, sigma }) => [timestepEmbedding(t!, 512), edmCoefficients(sigma!, SD).cNoise],
    );
    expect(relMax(y!, read('activations', 't_freq'))).toBeLessThan(1e-7);
    expect(relMax(cNoise!, read('forward', 'c_noise'))).toBeLessThan(1e-6);
  });

  test('kept tokens as images, mask tokens elsewhere', () => {
    const [y] = run(
      {
        tokens: [[N, 4, p * p * Ch], read('activations', 'final_tokens'), 'act'],
        ids: [[N, 4], read('forward', 'ids_keep'), 'i32'],
        mask: [[p * p * Ch], read('weights', 'mask_token'), 'act'],
      },
      ({ tokens, ids, mask }) => [unpatchify(tokens!, keepSlots(ids!, T), mask!, Ch, p, S)],
    );
    expect(y).toEqual(read('forward', 'out_mask75'));
  });

  for (const [name, K] of [
    ['mask75', 4],
    ['mask0', 16],
  ] as const) {
    test(`noising and loss, ${name}`, () => {
      const [x0, noise, sigma, noisy] = ['x0', 'noise', 'sigma', 'x_noisy'].map((key) => read('train', key));
      const D = read('train', `D_x_${name}`);
      const ids = name === 'mask0' ? null : read('train', 'ids_keep');
      // The network's output is not in the file: it follows from the denoised image.
      const F = Float64Array.from({ length: N * K * p * p * Ch }, (_, at) => {
        const [n, k] = [Math.floor(at / (K * p * p * Ch)), Math.floor(at / (p * p * Ch)) % K];
        const t = ids ? ids[n * K + k]! : k;
        const [c, j, i] = [at % Ch, Math.floor(at / Ch) % p, Math.floor(at / Ch / p) % p];
        const pixel = ((n * Ch + c) * S + Math.floor(t / (S / p)) * p + i) * S + (t % (S / p)) * p + j;
        const [s, q] = [sigma![n]!, sigma![n]! ** 2 + SD ** 2];
        return ((D[pixel]! - (SD ** 2 / q) * noisy![pixel]!) * Math.sqrt(q)) / (s * SD);
      });
      const shape = [N, Ch, S, S];
      const inputs: Inputs = {
        F: [[N, K, p * p * Ch], F, 'act'],
        x0: [shape, x0!],
        noise: [shape, noise!],
        sigma: [[N], sigma!],
      };
      const [got, loss] = run(ids ? { ...inputs, ids: [[N, K], ids, 'i32'] } : inputs, (t) => {
        const xn = addNoise(t.x0!, t.noise!, t.sigma!);
        return [xn, edmLoss(t.F!, t.x0!, xn, t.sigma!, t.ids ?? null, SD, p)];
      });
      expect(relMax(got!, noisy!)).toBeLessThan(1e-6);
      expect(relMax(loss!, read('train', `per_sample_loss_${name}`))).toBeLessThan(1e-5);
    });
  }
});

test('one step of clipping and AdamW over all parameters', () => {
  using weights = open('weights');
  using grads = open('grads_mask75');
  using after = open('step1_mask75');
  const names = [...grads.tensors.keys()];
  const flat = (file: Safetensors) => names.flatMap((name) => [...file.readFloat64(name)]);
  const count = names.reduce((sum, name) => sum + product(grads.entry(name).shape), 0);
  expect(count).toBe(info.parameters);

  const t = new Trace();
  const [weight, grad, m, v] = ['weight', 'grad', 'm', 'v'].map((name) => t.input(name, [count]));
  const [scalars, state] = [t.input('scalars', [SCALAR_SIZE]), t.input('state', [STATE_SIZE])];
  const { hyper } = info;
  clipScale(sumSquares(grad!), state, hyper.clip_norm);
  adamw({ weight: weight!, grad: grad!, m: m!, v: v! }, scalars, state, {
    decay: hyper.weight_decay,
    beta1: hyper.betas[0],
    beta2: hyper.betas[1],
    eps: hyper.eps,
  });
  const { f32 } = bothBackends();
  const runner = new Runner(f32, freeze('update', t, { elemBytes: f32.elemBytes }));
  runner.set('weight', flat(weights));
  runner.set('grad', flat(grads));
  for (const name of ['m', 'v']) runner.set(name, new Float64Array(count));
  runner.set('state', new Float64Array(STATE_SIZE));
  runner.set('scalars', [hyper.lr, 0]);
  runner.run();

  const norm = info.train.mask75.grad_norm_before_clip_at_step[0];
  expect(Math.abs(runner.get('state')[STATE.norm]! / norm - 1)).toBeLessThan(1e-6);
  const want = flat(after);
  const errors = Array.from(runner.get('weight'), (w, i) => Math.abs(w - want[i]!)).sort((a, b) => a - b);
  expect(errors[Math.floor(0.999 * count)]).toBeLessThan(2e-7);
  expect(errors[count - 1]).toBeLessThan(1e-6);
  runner.free();
});
