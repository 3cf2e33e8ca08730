// Stages that differ in size, data and optimizer; and what a step learns from: pixels, latents in halves,
// captions as words, as states of a text tower, or as token ids that the tower reads within the step.
import { afterAll, describe, expect, test } from 'bun:test';
import type { Region } from '../../../src/backend/backend.ts';
import { f16ToFloat32, float32ToF16 } from '../../../src/io/dtype.ts';
import { Safetensors } from '../../../src/io/safetensors.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';
import { STATE, STATE_SIZE } from '../../../src/plan/ops/optimizer.ts';
import { words } from '../../../src/plan/ops/random.ts';
import { Parameters } from '../../../src/plan/params.ts';
import { readNumbers, Runner } from '../../../src/plan/runner.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import type { Recipe } from '../../../src/recipe/schema.ts';
import { ClipEncoder } from '../../../src/sample/clip-encoder.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { allocFlat, readParameter, writeParameter } from '../../../src/sample/weights.ts';
import { declareClipText, idPairs } from '../../../src/text/clip.ts';
import { Checkpoints } from '../../../src/train/checkpoint.ts';
import { openData } from '../../../src/train/source.ts';
import { microStepPlan, type MicroStep } from '../../../src/train/step.ts';
import { type StepReport, Trainer } from '../../../src/train/trainer.ts';
import { stageWork } from '../../../src/train/work.ts';
import { bothBackends, randomValues } from '../op-case.ts';
import { Place } from './program.ts';

const { f32 } = bothBackends();
const place = new Place();
afterAll(() => place.remove());

async function run(trainer: Trainer, steps: number): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  while (reports.length < steps) reports.push(await trainer.runStep());
  return reports;
}

async function trainerOf(recipe: Recipe): Promise<Trainer> {
  const trainer = new Trainer(f32, recipe, await openData(recipe, () => {}));
  trainer.initialise();
  return trainer;
}

const bytes = (region: Region) => {
  const copy = new Uint8Array(region.bytes);
  f32.read(region, 0, copy);
  return copy;
};

describe('stages of two sizes', () => {
  const base = ['model.preset=nano', 'data.source.0.name=shapes', 'schedule.kind=constant'];
  const first = ['stage.0.steps=3', 'stage.0.mask_ratio=0.5', 'stage.0.ema=0.9'];
  const second = ['stage.1.steps=3', 'stage.1.input_size=16', 'stage.1.pos_interp_scale=2'];
  const recipe = resolveRecipe({ sets: [...base, 'train.batch_size=4', ...first, ...second] }).recipe;
  const state = (step: number) => ({
    step,
    images: 4 * step,
    seconds: 1,
    lossSum: 0,
    lossCount: 0,
    data: null,
  });

  test('go on with the weights, in positions of their own, and a mask token that moves along', async () => {
    const trainer = await trainerOf(recipe);
    const { maskToken } = trainer.network.dit;
    const token = trainer.network.parameters.at(maskToken);
    f32.write(trainer.buffers.master, 4 * token.base, Float32Array.from(randomValues(token.count, 3)));
    const before = readParameter(f32, trainer.buffers.master, token);
    await run(trainer, 3);
    const trainable = () => bytes(trainer.buffers.m).length;
    const held = trainable();
    await run(trainer, 1);
    const { parameters, dit } = trainer.network;
    expect(parameters.at(dit.posEmbed).shape).toEqual([1, 64, 32]);
    expect(trainable()).toBe(held);
    for (const region of [trainer.buffers.master, trainer.buffers.ema!]) {
      expect(readParameter(f32, region, parameters.at(maskToken))).toEqual(before);
    }
    trainer.free();
  });

  test.each([3, 4])('resumed after step %i give the same bits', async (step) => {
    const whole = await trainerOf(recipe);
    await run(whole, step);
    const checkpoints = new Checkpoints(place.folder);
    checkpoints.open();
    const from = { recipe: whole.modelRecipe, version: '0.0.0', data: null };
    checkpoints.save(f32, whole, state(step), from, recipe.train);
    const later = await trainerOf(recipe);
    checkpoints.load(f32, later, checkpoints.latest!);
    expect(await run(later, 6 - step)).toEqual(await run(whole, 6 - step));
    for (const name of ['master', 'm', 'v', 'ema'] as const) {
      expect(Buffer.compare(bytes(later.buffers[name]!), bytes(whole.buffers[name]!))).toBe(0);
    }
    expect(whole.modelRecipe.model).toMatchObject({ input_size: 16, pos_interp_scale: 2 });
    for (const trainer of [whole, later]) trainer.free();
  });

  test('begin the moments anew where the stage says so', async () => {
    const dropping: Recipe = {
      ...recipe,
      stage: recipe.stage.map((stage, i) => ({ ...stage, optimizer: i === 1 ? 'drop' : 'keep' })),
    };
    const trainers = [await trainerOf(recipe), await trainerOf(dropping)];
    const counts: number[] = [];
    for (const trainer of trainers) {
      await run(trainer, 4);
      counts.push(readNumbers(f32, trainer.buffers.state, 0, 'real', STATE_SIZE)[STATE.t]!);
    }
    expect(counts).toEqual([4, 1]);
    for (const trainer of trainers) trainer.free();
  });

  test('average the weights from the step on that they say', async () => {
    const late: Recipe = { ...recipe, stage: recipe.stage.map((s) => ({ ...s, ema: 0.9, ema_start: 2 })) };
    const trainer = await trainerOf(late);
    const { master, ema } = trainer.buffers;
    await run(trainer, 2);
    expect(Buffer.compare(bytes(ema!), bytes(master))).toBe(0);
    await run(trainer, 1);
    expect(Buffer.compare(bytes(ema!), bytes(master))).not.toBe(0);
    trainer.free();
  });
});

describe('inputs of a step', () => {
  const N = 3;
  const model = { preset: 'nano', in_channels: 4, caption_channels: 16 };
  const clip = {
    vocab: 50,
    context: 7,
    width: 16,
    heads: 2,
    hidden: 32,
    layers: 2,
    embed: 8,
    quickGelu: true,
  };
  const values = { model, text: { length: 7 }, stage: [{ mask_ratio: 0.5, batch_size: N }] };
  const { recipe } = resolveRecipe({ given: { origin: 'test', values } });
  const numbers = stageWork(recipe, recipe.stage[0]!).step;
  const pixels = N * 4 * 8 * 8;
  const halves = new Uint16Array(pixels);
  float32ToF16(Float32Array.from(randomValues(pixels, 5)), halves);
  const images = new Float32Array(pixels);
  f16ToFloat32(halves, images);

  function losses(step: MicroStep, inputs: Record<string, ArrayLike<number>>, tower: ClipEncoder | null) {
    const network = declareNetwork(recipe.model, step.inputs.captions === 'words' ? recipe.text : null);
    const weight = allocFlat(f32, network.parameters, 'all');
    // Not the initial weights, whose zeros would hide the captions.
    for (const p of network.parameters.list) {
      writeParameter(
        f32,
        weight,
        p,
        randomValues(p.count, p.index).map((x) => 0.2 * x),
      );
    }
    const grad = allocFlat(f32, network.parameters, 'trainable');
    const regions = { weight, master: weight, grad, state: f32.alloc(64), ...tower?.caption.regions };
    const plan = microStepPlan(network, step, f32.elemBytes, tower?.caption ?? null);
    const runner = new Runner(f32, plan, regions);
    const places = [0, 0, 1, 0, 2, 0];
    for (const [name, numbers] of Object.entries({ ...inputs, places, seed: words(7) }))
      runner.set(name, numbers);
    runner.run();
    const result = [...runner.get('loss')];
    runner.free();
    for (const region of [weight, grad, regions.state]) region.free();
    return result;
  }

  test('latents in halves are the images that they stand for', () => {
    const words = Int32Array.from({ length: N * 7 * 2 }, (_, i) => i % 9);
    const latents = { ...numbers, inputs: { images: 'latents', captions: 'words' } } as const;
    const want = losses(
      { ...numbers, inputs: { images: 'x0', captions: 'words' } },
      { x0: images, words },
      null,
    );
    expect(losses(latents, { latents: new Int32Array(halves.buffer), words }, null)).toEqual(want);
    expect(want.every((loss) => loss > 0)).toBe(true);
  });

  test('the tower within the step gives the captions that it gives by itself', () => {
    const parameters = new Parameters();
    declareClipText(parameters, clip);
    const path = `${place.folder}/clip.safetensors`;
    const tensors = parameters.list.map(({ name, shape, count }, i) => {
      const data = () => [Float32Array.from(randomValues(count, 100 + i), (x) => 0.3 * x)];
      return { name, dtype: 'F32' as const, shape, data };
    });
    writeSafetensors(path, tensors);
    using file = Safetensors.open(path);
    const tower = ClipEncoder.load(f32, clip, file);
    const tokens = Int32Array.from({ length: N * 7 }, (_, i) => (i * 11) % 50);
    const states = tower.states(tokens);
    const captions = new Uint16Array(states.length);
    float32ToF16(states, captions);
    const latents = new Int32Array(halves.buffer);
    const step = (kind: 'captions' | 'tokens') => ({
      ...numbers,
      captionLength: 7,
      inputs: { images: 'latents', captions: kind } as const,
    });
    const kept = losses(step('captions'), { latents, captions: new Int32Array(captions.buffer) }, null);
    const within = losses(step('tokens'), { latents, tokens: idPairs(tokens) }, tower);
    for (const [i, loss] of within.entries()) expect(Math.abs(loss / kept[i]! - 1)).toBeLessThan(1e-5);
    const others = losses(step('tokens'), { latents, tokens: idPairs(tokens.toReversed()) }, tower);
    expect(Math.max(...others.map((loss, i) => Math.abs(loss / within[i]! - 1)))).toBeGreaterThan(1e-4);
    tower.free();
  });
});
