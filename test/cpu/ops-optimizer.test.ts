// The update: gradient norm, clipping, guard, AdamW with EMA, against a float64 transcription of PyTorch's.
import { describe, expect, test } from 'bun:test';
import type { Backend } from '../../src/backend/backend.ts';
import {
  adamw,
  addLoss,
  clipScale,
  SCALAR,
  SCALAR_SIZE,
  STATE,
  STATE_SIZE,
  sumSquares,
} from '../../src/plan/ops/optimizer.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { Trace } from '../../src/plan/trace.ts';
import { bothBackends, nmse, randomValues } from './op-case.ts';

/** More than one block, and not a multiple of any vector. */
const COUNT = 65536 + 1003;
const OPTIONS = { decay: 0.1, lrScale: 0.5, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
const [MAX_NORM, LR, EMA_RATE] = [0.25, 2.4e-4, 0.9975];
const NAMES = ['weight', 'grad', 'm', 'v', 'ema'] as const;
type Name = (typeof NAMES)[number];
type Buffers = Record<Name, Float64Array<ArrayBuffer>>;

/** An update plan over flat buffers, the state in inputs so that the test can set and read everything. */
function updater(backend: Backend, withEma: boolean, maxNorm = MAX_NORM) {
  const t = new Trace();
  const flat = Object.fromEntries(NAMES.map((n) => [n, t.input(n, [COUNT])])) as Record<
    Name,
    ReturnType<Trace['input']>
  >;
  const state = t.input('state', [STATE_SIZE]);
  const scalars = t.input('scalars', [SCALAR_SIZE]);
  addLoss(t.input('loss', [3]), state);
  clipScale(sumSquares(flat.grad), state, maxNorm);
  adamw({ ...flat, ema: withEma ? flat.ema : null }, scalars, state, OPTIONS);
  const runner = new Runner(backend, freeze('update', t, { elemBytes: backend.elemBytes }));
  const scalarValues = new Float64Array(SCALAR_SIZE);
  scalarValues[SCALAR.lr] = LR;
  scalarValues[SCALAR.emaRate] = EMA_RATE;
  runner.set('scalars', scalarValues);
  return runner;
}

function start(): Buffers {
  const weight = Float64Array.from(randomValues(COUNT, 1));
  return {
    weight,
    grad: new Float64Array(COUNT),
    m: new Float64Array(COUNT),
    v: new Float64Array(COUNT),
    ema: weight.slice(),
  };
}

/** torch.nn.utils.clip_grad_norm_, then torch.optim.AdamW (single tensor form), then the EMA. */
function reference(b: Buffers, t: number): number {
  const norm = Math.sqrt(b.grad.reduce((s, g) => s + g * g, 0));
  const clip = Math.min(1, MAX_NORM / (norm + 1e-6));
  const lr = LR * OPTIONS.lrScale;
  const { beta1, beta2 } = OPTIONS;
  for (let i = 0; i < COUNT; i++) {
    const g = b.grad[i]! * clip;
    b.weight[i]! *= 1 - lr * OPTIONS.decay;
    b.m[i] = beta1 * b.m[i]! + (1 - beta1) * g;
    b.v[i] = beta2 * b.v[i]! + (1 - beta2) * g * g;
    const denominator = Math.sqrt(b.v[i]!) / Math.sqrt(1 - beta2 ** t) + OPTIONS.eps;
    b.weight[i]! -= ((lr / (1 - beta1 ** t)) * b.m[i]!) / denominator;
    b.ema[i] = EMA_RATE * b.ema[i]! + (1 - EMA_RATE) * b.weight[i]!;
  }
  return norm;
}

const gradient = (t: number) => randomValues(COUNT, 100 + t).map((g) => g / 64);
const read = (r: Runner, name: string) => Float64Array.from(r.get(name));

describe('AdamW', () => {
  for (const [library, bound] of [
    ['f64', 1e-24],
    ['f32', 1e-12],
  ] as const) {
    test(`five steps with clipping and EMA, ${library}`, () => {
      const runner = updater(bothBackends()[library], true);
      const want = start();
      for (const name of NAMES) runner.set(name, want[name]);
      runner.set('state', new Float64Array(STATE_SIZE));
      for (let t = 1; t <= 5; t++) {
        want.grad.set(gradient(t));
        runner.set('grad', want.grad);
        runner.set('loss', [1, 2, 6]);
        runner.run();
        const norm = reference(want, t);
        const state = read(runner, 'state');
        expect(Math.abs(state[STATE.norm]! / norm - 1)).toBeLessThan(1e-6);
        expect(Math.abs(state[STATE.scale]! * (norm + 1e-6) - MAX_NORM)).toBeLessThan(1e-6);
        expect(state[STATE.t]).toBe(t);
        expect(state[STATE.loss]).toBe(3);
        expect(state[STATE.skip]).toBe(0);
      }
      for (const name of ['weight', 'm', 'v', 'ema'] as const) {
        expect(nmse(read(runner, name), want[name]), name).toBeLessThan(bound);
      }
      expect(read(runner, 'grad').every((g) => g === 0)).toBe(true);
      runner.free();
    });
  }

  test('a small gradient is not scaled; without EMA the buffer stays', () => {
    const runner = updater(bothBackends().f32, false, Number.POSITIVE_INFINITY);
    for (const [name, values] of Object.entries(start())) runner.set(name, values);
    runner.set('state', new Float64Array(STATE_SIZE));
    runner.set('grad', gradient(1));
    runner.set('loss', [0, 0, 0]);
    runner.run();
    expect(runner.get('state')[STATE.scale]).toBe(1);
    expect(read(runner, 'ema')).toEqual(start().ema);
    expect(read(runner, 'weight')).not.toEqual(start().weight);
    runner.free();
  });

  test('a step that is not finite changes nothing but the gradient and the count of skips', () => {
    const runner = updater(bothBackends().f32, true);
    const values = start();
    for (const name of NAMES) runner.set(name, values[name]);
    runner.set('state', new Float64Array(STATE_SIZE));
    const step = (at: number, g: number, loss = 1) => {
      const grad = gradient(1);
      if (at >= 0) grad[at] = g;
      runner.set('grad', grad);
      runner.set('loss', [loss, 1, 1]);
      runner.run();
      return read(runner, 'state');
    };
    expect(step(-1, 0)[STATE.t]).toBe(1);
    const before = NAMES.map((name) => read(runner, name));
    const bad = [
      [COUNT - 1, Number.NaN, 1],
      [0, Number.NEGATIVE_INFINITY, 1],
      [-1, 0, Number.NaN],
    ] as const;
    for (const [i, [at, g, loss]] of bad.entries()) {
      const state = step(at, g, loss);
      expect([state[STATE.skip], state[STATE.t], state[STATE.skipped]]).toEqual([1, 1, i + 1]);
      expect(NAMES.map((name) => read(runner, name))).toEqual(before);
    }
    const after = step(-1, 0);
    expect([after[STATE.skip], after[STATE.t], after[STATE.skipped]]).toEqual([0, 2, 3]);
    expect([after[STATE.loss], after[STATE.lossSum], after[STATE.images]]).toEqual([1, 0, 0]);
    runner.free();
  });
});
