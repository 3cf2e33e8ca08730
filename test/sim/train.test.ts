// A whole small training through the CUDA backend on the stand-ins: the recipe `tiny`, beside the CPU backend
// in float32, and beside itself: with and without graphs, run again, in other orders of threads, resumed.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Backend } from '../../src/backend/backend.ts';
import type { CudaBackend, CudaOptions } from '../../src/backend/cuda/backend.ts';
import { NAMED } from '../../src/recipe/named.ts';
import { resolveRecipe } from '../../src/recipe/resolve.ts';
import { Checkpoints } from '../../src/train/checkpoint.ts';
import type { StepReport } from '../../src/train/trainer.ts';
import { bothBackends } from '../cpu/op-case.ts';
import { standInGpu } from './gpu.ts';
import { complaints, launches, message, set, takeCalls } from './stand-in.ts';
import { bytesOf, relativeRms, steps, tiny, trainerOn, weightsOf } from './train-case.ts';

const RECIPE = tiny();
const { f32: cpu } = bothBackends();

const open: CudaBackend[] = [];
const folder = mkdtempSync(join(tmpdir(), 'microdiff-sim-'));
afterAll(() => {
  for (const gpu of open) gpu.close();
  rmSync(folder, { recursive: true });
});

async function gpuWith(options: CudaOptions): Promise<CudaBackend> {
  const gpu = await standInGpu(options);
  open.push(gpu);
  return gpu;
}

interface Trained {
  readonly reports: StepReport[];
  readonly bytes: Record<string, Uint8Array>;
  readonly weights: Float32Array;
}

/** Trains `count` steps from the initial weights. */
async function trained(backend: Backend, count = 7): Promise<Trained> {
  const trainer = await trainerOn(backend, RECIPE);
  const reports = await steps(trainer, count);
  const result = { reports, bytes: bytesOf(backend, trainer), weights: weightsOf(backend, trainer) };
  trainer.free();
  return result;
}

/** The first training in each mode, which the others repeat in other ways. */
const firsts = new Map<string, Promise<Trained>>();
function first(mode: 'fp32' | 'bf16'): Promise<Trained> {
  const made = firsts.get(mode) ?? gpuWith({ precision: mode }).then((gpu) => trained(gpu));
  firsts.set(mode, made);
  return made;
}

function expectEqualBits(a: Trained, b: Trained): void {
  expect(a.reports).toEqual(b.reports);
  for (const [name, bytes] of Object.entries(a.bytes)) {
    expect(Buffer.compare(bytes, b.bytes[name]!), name).toBe(0);
  }
}

describe('beside the CPU', () => {
  const start = trainerOn(cpu, RECIPE).then((trainer) => weightsOf(cpu, trainer));
  const whole = trained(cpu);

  // loss, norm: largest relative distance in any step. change: root mean square of the distance of what the
  // seven steps changed, relative to that change. float32 differs by the order of sums; in bf16 activations
  // and weights have 8 bits, and Adam's first steps turn the sign of a tiny gradient into a whole step.
  for (const [mode, bounds] of [
    ['fp32', { loss: 2e-6, norm: 2e-6, change: 5e-6 }],
    ['bf16', { loss: 5e-4, norm: 0.02, change: 0.03 }],
  ] as const) {
    test(`${mode}: losses, gradient norms and weights of all steps`, async () => {
      const [want, got] = [await whole, await first(mode)];
      const worst = (key: 'loss' | 'gradNorm') =>
        Math.max(...want.reports.map((each, i) => Math.abs(got.reports[i]![key] / each[key] - 1)));
      expect(got.reports.map(({ skipped, images }) => [skipped, images])).toEqual(
        want.reports.map(({ skipped, images }) => [skipped, images]),
      );
      expect(worst('loss')).toBeLessThan(bounds.loss);
      expect(worst('gradNorm')).toBeLessThan(bounds.norm);
      const before = await start;
      const change = want.weights.map((value, i) => value - before[i]!);
      expect(relativeRms(got.weights, want.weights, change)).toBeLessThan(bounds.change);
    });
  }
});

describe('beside itself, to the bit', () => {
  for (const [mode, order] of [
    ['fp32', 'reverse'],
    ['bf16', 'random'],
  ] as const) {
    test(`${mode}: without graphs`, async () => {
      expectEqualBits(await trained(await gpuWith({ precision: mode, graph: false })), await first(mode));
    });

    test(`${mode}: blocks, threads and free graph nodes in ${order} order`, async () => {
      set('SIM_ORDER', order);
      expectEqualBits(await trained(await gpuWith({ precision: mode })), await first(mode));
      set('SIM_ORDER', 'forward');
    });
  }

  test('saved and resumed in the midst of the second stage', async () => {
    const gpu = await gpuWith({ precision: 'bf16' });
    const begun = await trainerOn(gpu, RECIPE);
    const reports = await steps(begun, 5);
    const checkpoints = new Checkpoints(folder);
    checkpoints.open();
    const state = { step: 5, images: 20, seconds: 1, lossSum: 0, lossCount: 0, data: 'hash' };
    checkpoints.save(gpu, begun, state, { recipe: RECIPE, version: '0.0.0', data: 'hash' }, RECIPE.train);
    begun.free();
    const other = await gpuWith({ precision: 'bf16' });
    const resumed = await trainerOn(other, RECIPE);
    checkpoints.load(other, resumed, checkpoints.latest!);
    reports.push(...(await steps(resumed, 2)));
    const bytes = bytesOf(other, resumed);
    expectEqualBits({ reports, bytes, weights: new Float32Array() }, await first('bf16'));
    resumed.free();
  });

  test('whatever a run leaves in the arena', async () => {
    const gpu = await gpuWith({ precision: 'bf16' });
    const poisoning: Backend = {
      ...gpu,
      load(program, regions) {
        const loaded = gpu.load(program, regions);
        const poison = () => {
          if (regions.arena) gpu.fill(regions.arena, 0xff);
        };
        const run = () => {
          poison();
          loaded.run();
        };
        return { run, runTimed: () => loaded.runTimed() };
      },
    };
    expectEqualBits(await trained(poisoning), await first('bf16'));
  });
});

test('other block sizes stay within the bounds of bf16', async () => {
  const want = await first('bf16');
  for (const threads of [32, 1024]) {
    const got = await trained(await gpuWith({ precision: 'bf16', threads }), 2);
    for (const [i, { loss }] of got.reports.entries()) {
      expect(Math.abs(loss / want.reports[i]!.loss - 1)).toBeLessThan(5e-4);
    }
  }
});

test('heads of 32: attention on tensor cores, beside the CPU and beside its plain form', async () => {
  const sets = ['model.dim=64', 'model.patch_mixer_dim=32', 'model.head_dim=32'];
  const recipe = resolveRecipe({ file: { name: 'tiny.toml', text: NAMED.tiny! }, sets }).recipe;
  const kernels = ['attention_fwd_mma32', 'attention_bwd_mma32', 'attention_bwd'] as const;
  const lossesOf = async (backend: Backend) => {
    const trainer = await trainerOn(backend, recipe);
    const before = kernels.map(launches);
    const losses = (await steps(trainer, 2)).map(({ loss }) => loss);
    trainer.free();
    return { losses, launched: kernels.map((name, i) => launches(name) - before[i]!) };
  };
  const want = await lossesOf(cpu);
  const tensor = await lossesOf(await gpuWith({ precision: 'bf16' }));
  const plain = await lossesOf(await gpuWith({ precision: 'bf16', tensorForms: false }));
  expect(tensor.launched).toEqual([expect.any(Number), plain.launched[2]!, 0]);
  expect(tensor.launched[0]).toBeGreaterThan(10);
  expect(plain.launched.slice(0, 2)).toEqual([0, 0]);
  for (const [i, loss] of want.losses.entries()) {
    expect(Math.abs(tensor.losses[i]! / loss - 1)).toBeLessThan(5e-4);
    expect(Math.abs(plain.losses[i]! / loss - 1)).toBeLessThan(5e-4);
  }
});

test('a step asks the driver for two graphs, its inputs and its report, and for nothing else', async () => {
  const trainer = await trainerOn(await gpuWith({ precision: 'bf16' }), RECIPE);
  await steps(trainer, 2); // the first queues launches, the second records them
  for (let i = 0; i < 2; i++) {
    takeCalls();
    await trainer.runStep();
    expect(takeCalls()).toEqual({
      cuGraphLaunch: 2,
      cuMemcpyHtoDAsync_v2: 4, // images, words, places; learning rate
      cuStreamSynchronize: 1,
      cuMemcpyDtoH_v2: 1,
    });
  }
  trainer.free();
});

test('nothing was complained of', () => {
  expect([complaints(), message()]).toEqual([0, '']);
});
