// Training on shards of latents, by the command: states of a text tower or token ids in the data, two sizes
// in two stages, previews through tower and autoencoder, a stop and a resume, and pictures from what came
// out.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { mkdirSync, writeFileSync } from 'node:fs';
import { writeTinyParts } from '../sample/tiny-parts.ts';
import { latentRecipe, writeSet } from './latent-sets.ts';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

beforeAll(() => {
  writeTinyParts(place.folder);
  writeSet(place, 'data/a', 23);
  writeSet(place, 'data/b', 9);
  for (const encoder of ['states', 'clip'] as const) {
    writeFileSync(place.at(`${encoder}.toml`), latentRecipe(encoder));
  }
});

describe.each(['states', 'clip'] as const)('captions as %s', (encoder) => {
  const [all, split] = [`${encoder}-whole`, `${encoder}-parts`];
  const train = (run: string, ...more: string[]) => ['train', `${encoder}.toml`, '-o', run, ...more];

  test('a run through both sizes, stopped and gone on with, is the run in one go', async () => {
    const whole = await place.run(train(all));
    expect([whole.code, whole.out]).toEqual([0, `${all}\n`]);
    expect(place.metrics(all).map(({ stage }) => stage)).toEqual([0, 0, 0, 0, 0, 1, 1, 1]);
    // The lengths of stages may change: the first six steps, then the rest.
    const sets = ['--set', 'stage.1.steps=1'];
    expect((await place.run(train(split, ...sets))).code).toBe(0);
    expect((await place.run(train(split))).code).toBe(0);
    expect(place.metrics(split)).toEqual(place.metrics(all));
    const [a, b] = [all, split].map((run) => place.hashes(run, 'checkpoints/step-00000008'));
    expect(a!['model.safetensors']).toBe(b!['model.safetensors']!);
    expect(a!['optimizer.safetensors']).toBe(b!['optimizer.safetensors']!);
  });

  test('the last samples of the first set are held out for the validation loss', async () => {
    const sets = ['data.validation=3', 'train.validate_every=4', 'train.preview_every=0'];
    const run = `${encoder}-held`;
    expect((await place.run(train(run, ...sets.flatMap((key) => ['--set', key])))).code).toBe(0);
    const lines = place.metrics(run).filter(({ val_loss }) => val_loss !== undefined);
    expect(lines.map(({ step }) => step)).toEqual([4, 8]);
    for (const { val_loss } of lines) expect(val_loss).toBeGreaterThan(0);
    // 20 samples of the set are left to train on: those of the run with so many of them.
    const fewer = train(`${encoder}-fewer`, '--set', 'data.source.0.count=20');
    expect((await place.run(fewer)).code).toBe(0);
    const steps = place.metrics(run).filter(({ val_loss }) => val_loss === undefined);
    expect(steps).toEqual(place.metrics(`${encoder}-fewer`));
  });

  test('previews and pictures go through tower and autoencoder', async () => {
    expect(Object.keys(place.hashes(all, 'previews'))).toEqual(['step-00000008.png']);
    const drawn = await place.run(['sample', '-m', all, 'a fox', '--steps', '2', '-o', 'fox.png']);
    expect(drawn.code).toBe(0);
    expect(JSON.parse(drawn.out)).toMatchObject({ width: 32, height: 32, model: all });
  });
});

test('states in 8 bits are the halves that they stand for, in training and in the losses', async () => {
  const made = [];
  for (const q8 of ['packed', 'unpacked'] as const) {
    writeSet(place, `${q8}/a`, 23, { q8, sizeLimit: 2 ** 20 }); // one shard: the same order
    writeSet(place, `${q8}/b`, 9, { q8, sizeLimit: 2 ** 20 });
    const sets = ['data.validation=3', 'train.preview_every=0'].flatMap((key) => ['--set', key]);
    const { code } = await place.run(['train', 'states.toml', '--data', q8, '-o', `run-${q8}`, ...sets]);
    const loss = await place.run(['eval', 'loss', '-m', `run-${q8}`, '--data', `${q8}/b`, '--json']);
    expect([code, loss.code]).toEqual([0, 0]);
    made.push({ metrics: place.metrics(`run-${q8}`), loss: JSON.parse(loss.out).loss });
  }
  expect(made[0]!.metrics.length).toBeGreaterThan(8);
  expect(made[0]).toEqual(made[1]!);
});

describe('what cannot be trained on', () => {
  test('a set without the column, a folder without shards, pictures for latents', async () => {
    const wide = await place.run(['train', 'states.toml', '-o', 'r', '--set', 'model.input_size=12']);
    expect([wide.code, wide.err]).toEqual([2, expect.stringContaining('latents_96')]);
    mkdirSync(place.at('nothing'));
    const none = await place.run(['train', 'states.toml', '-o', 'r', '--data', 'nothing']);
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('Give shards of latents')]);
    const pixels = await place.run(['train', 'tiny', '-o', 'r', '--data', 'data']);
    expect([pixels.code, pixels.err]).toEqual([2, expect.stringContaining('shards hold latents')]);
  });

  test('token ids without the tower that reads them', async () => {
    const lost = await place.run(['train', 'clip.toml', '-o', 'r', '--set', 'text.clip=gone.safetensors']);
    expect([lost.code, lost.err]).toEqual([1, expect.stringContaining('gone.safetensors')]);
  });
});
