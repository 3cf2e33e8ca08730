// The trainer by itself, on the float32 library: what it learns, how a step may be split, the non-finite
// guard, and checkpoints in the midst of a stage.
import { afterAll, describe, expect, test } from 'bun:test';
import { Failure } from '../../../src/io/failure.ts';
import { STATE, STATE_SIZE } from '../../../src/plan/ops/optimizer.ts';
import { readNumbers } from '../../../src/plan/runner.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import type { Recipe } from '../../../src/recipe/schema.ts';
import { Checkpoints } from '../../../src/train/checkpoint.ts';
import { openData } from '../../../src/train/source.ts';
import { type Batch, type StepReport, Trainer } from '../../../src/train/trainer.ts';
import { bothBackends } from '../op-case.ts';
import { Place } from './program.ts';

const { f32 } = bothBackends();
const place = new Place();
afterAll(() => place.remove());

function recipeWith(...sets: string[]): Recipe {
  const base = [
    'model.preset=nano',
    'data.source.0.name=shapes',
    'schedule.kind=constant',
    'optimizer.ema=0.9',
  ];
  const stages = ['stage.0.steps=6', 'stage.0.mask_ratio=0.5', 'stage.1.steps=400', 'stage.1.mask_ratio=0'];
  return resolveRecipe({ sets: [...base, 'train.batch_size=8', ...stages, ...sets] }).recipe;
}

async function trainerOf(recipe: Recipe, spoil: (batch: Batch, first: number) => void = () => {}) {
  const data = await openData(recipe, () => {});
  const stage = (index: number) => ({
    allocate: (count: number) => data.stage(index).allocate(count),
    async fill(batch: Batch, first: number) {
      await data.stage(index).fill(batch, first);
      spoil(batch, first);
    },
  });
  const trainer = new Trainer(f32, recipe, { stage });
  trainer.initialise();
  return trainer;
}

/** Copies of everything that a step may change but the report's own numbers. */
function snapshot({ buffers }: Trainer): Record<string, Uint8Array> {
  const { weight, ema, m, v, grad } = buffers;
  const regions = { weight, ema: ema!, m, v, grad };
  return Object.fromEntries(
    Object.entries(regions).map(([name, region]) => {
      const bytes = new Uint8Array(region.bytes);
      f32.read(region, 0, bytes);
      return [name, bytes];
    }),
  );
}

function stateOf({ buffers }: Trainer) {
  return readNumbers(f32, buffers.state, 0, 'real', STATE_SIZE);
}

async function run(trainer: Trainer, steps: number): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  while (reports.length < steps) reports.push(await trainer.runStep());
  return reports;
}
const mean = (values: readonly number[]) => values.reduce((sum, x) => sum + x, 0) / values.length;

test('the loss goes down', async () => {
  const trainer = await trainerOf(recipeWith('optimizer.lr=3e-3', 'optimizer.clip_norm=1'));
  const losses = (await run(trainer, 240)).map(({ loss }) => loss);
  expect(mean(losses.slice(-40))).toBeLessThan(0.6 * mean(losses.slice(0, 40)));
  trainer.free();
});

test('a step is the same however it is split: the same draws, sums within float32', async () => {
  const reports: StepReport[][] = [];
  const weights: Float32Array[] = [];
  for (const micro of [0, 4, 2]) {
    const trainer = await trainerOf(recipeWith(`train.micro_batch=${micro}`, 'optimizer.lr=1e-4'));
    reports.push(await run(trainer, 8));
    weights.push(new Float32Array(snapshot(trainer).weight!.buffer));
    trainer.free();
  }
  const [whole, ...split] = reports;
  for (const steps of split) {
    for (const [i, { loss, gradNorm, images }] of steps.entries()) {
      expect(images).toBe(whole![i]!.images);
      expect(Math.abs(loss / whole![i]!.loss - 1)).toBeLessThan(2e-5);
      expect(Math.abs(gradNorm / whole![i]!.gradNorm - 1)).toBeLessThan(1e-3);
    }
  }
  const worst = weights[0]!.reduce((most, w, i) => Math.max(most, Math.abs(w - weights[1]![i]!)), 0);
  expect(worst).toBeLessThan(4e-4); // a few steps of lr 1e-4, where a tiny gradient changes its sign
});

describe('a step whose numbers are not finite', () => {
  const spoilt = (batch: Batch, first: number) => {
    if (first === 8) batch.inputs.x0![5] = Number.NaN;
  };

  test('changes neither weights, averages, moments nor the count of Adam', async () => {
    const trainer = await trainerOf(recipeWith(), spoilt);
    await trainer.runStep();
    const before = snapshot(trainer);
    const bad = await trainer.runStep();
    expect(bad).toMatchObject({ step: 2, images: 16, skipped: true, loss: Number.NaN });
    expect(snapshot(trainer)).toEqual(before);
    const state = stateOf(trainer);
    expect([state[STATE.t], state[STATE.skipped]]).toEqual([1, 1]);
    const good = await trainer.runStep();
    expect([good.skipped, Number.isFinite(good.loss), stateOf(trainer)[STATE.t]]).toEqual([false, true, 2]);
    expect(snapshot(trainer).weight).not.toEqual(before.weight);
    trainer.free();
  });

  test('leaves no trace in the steps after it', async () => {
    const clean = await trainerOf(recipeWith());
    await clean.runStep();
    clean.images += 8; // the images of the step that the other one skips
    const other = await trainerOf(recipeWith(), spoilt);
    await run(other, 2);
    const [a, b] = [await clean.runStep(), await other.runStep()];
    expect([a.loss, a.gradNorm]).toEqual([b.loss, b.gradNorm]);
    expect(snapshot(other)).toEqual(snapshot(clean));
    clean.free();
    other.free();
  });
});

test('checkpoints in the midst of a stage, with split steps, give the same bits', async () => {
  const recipe = recipeWith('train.micro_batch=4');
  const whole = await trainerOf(recipe);
  await run(whole, 7);
  const checkpoints = new Checkpoints(place.folder);
  checkpoints.open();
  const state = { step: 7, images: 56, seconds: 1.5, lossSum: 0.25, lossCount: 1, data: 'hash' };
  checkpoints.save(f32, whole, state, { recipe, version: '0.0.0', data: 'hash' }, recipe.train);
  const later = await trainerOf(recipe);
  expect(checkpoints.load(f32, later, checkpoints.latest!)).toEqual(state);
  expect(await run(later, 3)).toEqual(await run(whole, 3));
  expect(snapshot(later)).toEqual(snapshot(whole));

  const other = await trainerOf(recipeWith('model.dim=48', 'model.patch_mixer_dim=48'));
  expect(() => checkpoints.load(f32, other, checkpoints.latest!)).toThrow(Failure);
  expect(() => checkpoints.load(f32, other, checkpoints.latest!)).toThrow(
    /has shape \[.*, the model needs \[/,
  );
  for (const trainer of [whole, later, other]) trainer.free();
});
