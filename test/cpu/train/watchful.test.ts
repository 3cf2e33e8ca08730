// What a run looks after beside its steps: the loss on held-out data, steps that are skipped, clocks that
// jump.
import { afterAll, describe, expect, test } from 'bun:test';
import { cpSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { splitSource } from '../../../src/data/held-out.ts';
import { sourceData } from '../../../src/data/loss-data.ts';
import { shapesSource } from '../../../src/data/source.ts';
import { readRecords } from '../../../src/io/jsonl.ts';
import { Safetensors } from '../../../src/io/safetensors.ts';
import { loadModel } from '../../../src/sample/model-file.ts';
import { evalLoss } from '../../../src/sample/loss.ts';
import { freeWeights } from '../../../src/sample/weights.ts';
import { bothBackends } from '../op-case.ts';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());
const { f32 } = bothBackends();

const tiny = (run: string, ...sets: string[]) => [
  ...['train', 'tiny', '-o', run, '--checkpoint-every', '1'],
  ...['train.keep_last=100', 'optimizer.ema=0.9', ...sets].flatMap((key) => ['--set', key]),
];
const VALIDATION = ['data.source.0.count=40', 'data.validation=6', 'train.validate_every=3'];

describe('the loss on held-out data', () => {
  test('is that of the averaged weights on the held-out items', async () => {
    const { code } = await place.run(tiny('held', ...VALIDATION));
    expect(code).toBe(0);
    const lines = place.metrics('held').filter(({ val_loss }) => val_loss !== undefined);
    expect(lines.map(({ step, stage }) => [step, stage])).toEqual([
      [3, 0],
      [6, 0],
      [8, 1],
    ]);
    for (const { step, val_loss, val_levels } of lines) {
      const path = place.at('held', 'checkpoints', `step-0000000${step}`, 'ema.safetensors');
      using file = Safetensors.open(path);
      const model = loadModel(f32, file, 'held');
      const { image, text, train } = model.recipe;
      const shape = { size: image.size, length: text.length, rows: text.vocab_buckets };
      const { held } = splitSource(shapesSource(shape, train.seed, 40), 6);
      const options = { levels: 8, seed: 1, batchSize: 2 };
      const { loss, levels } = evalLoss(f32, model, sourceData(held, shape), options);
      expect(val_loss).toBe(loss);
      expect(val_levels).toEqual(levels.map(({ sigma, loss }) => ({ sigma, loss })));
      freeWeights(model.weights);
    }
  });

  test('is the same after a resume; without it the images of the steps are others', async () => {
    cpSync(place.at('held'), place.at('again'), { recursive: true });
    for (const step of [5, 6, 7, 8]) {
      rmSync(place.at('again', 'checkpoints', `step-0000000${step}`), { recursive: true });
    }
    writeFileSync(place.at('again', 'latest'), 'step-00000004\n');
    expect((await place.run(tiny('again', ...VALIDATION))).err).toContain('goes on from step 4');
    expect(place.metrics('again')).toEqual(place.metrics('held'));
    const [events, ...others] = readdirSync(place.at('again')).filter((name) => name.includes('tfevents'));
    expect(others).toEqual([]);
    const names = place.read('again', events!).match(/val_levels\/[\d.]+/g);
    expect(names?.length).toBe(3 * 8);
    const refused = await place.run(tiny('again', ...VALIDATION, 'data.validation=7'));
    expect([refused.code, refused.err]).toEqual([2, expect.stringContaining('(data.validation differs)')]);
  });

  test('of a source of its own, which is not trained on', async () => {
    const own = ['data.source.1.name=shapes', 'data.source.1.count=9', 'data.source.1.validation=true'];
    const { code } = await place.run(tiny('own', ...own, 'data.validation=4', 'train.validate_every=0'));
    expect(code).toBe(0);
    expect((await place.run(tiny('plain'))).code).toBe(0);
    const steps = (run: string) => place.metrics(run).filter(({ val_loss }) => val_loss === undefined);
    expect(steps('own')).toEqual(steps('plain'));
    expect(place.metrics('own').filter(({ val_loss }) => Number(val_loss) > 0).length).toBe(1);
    const none = await place.run(tiny('none', ...own));
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('data.validation')]);
    const many = await place.run(tiny('many', 'data.source.0.count=6', 'data.validation=6'));
    expect([many.code, many.err]).toEqual([2, expect.stringContaining('6 samples cannot be held out of 6')]);
  });
});

test('a stage with held-out data of its own has its loss on that', async () => {
  const row = (i: number, seed: string) => [
    `data.source.${i}.name=${seed}`,
    `data.source.${i}.validation=true`,
  ];
  const own = [...row(1, 'shapes'), 'data.source.1.stages=1', ...row(2, 'emoji'), 'data.source.2.stages=2'];
  const still = ['optimizer.lr=0', 'data.validation=4', 'train.validate_every=6'];
  expect((await place.run(tiny('by-stage', ...own, ...still))).code).toBe(0);
  const losses = place.metrics('by-stage').flatMap(({ val_loss }) => val_loss ?? []);
  expect(losses.length).toBe(2);
  expect(losses[0]).not.toBe(losses[1]); // of weights that stay as they are
});

describe('steps whose numbers are not finite', () => {
  const wild = ['optimizer.lr=1e30', 'optimizer.clip_norm=0', 'schedule.kind=constant'];
  const skipped = (run: string) =>
    readRecords(place.at(run, 'events.jsonl')).filter((e) => e.event === 'skipped');

  test('stop: the first one ends the run with exit code 4, and a checkpoint before it is kept', async () => {
    const { code, err } = await place.run(tiny('stop', ...wild, 'train.non_finite=stop'));
    expect(code).toBe(4);
    const latest = place.read('stop', 'latest').trim();
    expect(err).toMatch(/error: step (\d+): had a loss or gradient that is not finite\. /);
    expect(err).toContain(`checkpoint ${latest} is kept`);
    const [only, ...others] = skipped('stop');
    expect(others).toEqual([]);
    const step = Number(only!.step);
    expect(only).toMatchObject({ loss: 'NaN', places: [4 * step - 4, 4 * step - 1] });
    expect(latest).toBe(`step-0000000${step - 1}`);
  });

  test('skip: so many in a row end it, each counted and a line of events.jsonl', async () => {
    const { code, err } = await place.run(tiny('skip', ...wild, 'train.skip_limit=3'));
    expect([code, err]).toEqual([4, expect.stringContaining('3 steps in a row had a loss or gradient')]);
    expect(skipped('skip').length).toBe(3);
    const counts = place.metrics('skip').map(({ skipped }) => skipped);
    expect(counts.slice(-2)).toEqual([1, 2]);
    expect(counts[0]).toBe(0);
  });
});

test('fitted passes are kept in the run, whatever is free later', async () => {
  const args = (steps: number) => [...tiny('fitted', 'train.fit_micro_batch=true'), '--steps', String(steps)];
  expect((await place.run(args(2))).code).toBe(0);
  const kept = place.read('fitted', 'recipe.toml');
  expect(kept.match(/^micro_batch = [1-9]/gm)).toEqual(['micro_batch = 4']);
  // As a machine with less memory had chosen.
  writeFileSync(place.at('fitted', 'recipe.toml'), kept.replace(/^micro_batch = 4$/gm, 'micro_batch = 2'));
  const more = await place.run(args(4));
  expect([more.code, more.err]).toEqual([0, expect.stringContaining('goes on from step 2 of 4')]);
  const passes = place.read('fitted', 'recipe.toml').match(/^micro_batch = [1-9]/gm);
  expect(passes).toEqual(['micro_batch = 2', 'micro_batch = 4']);
});

test('a clock that jumps back and forth moves no interval and no number', async () => {
  writeFileSync(
    place.at('jumps.ts'),
    `const real = Date.now.bind(Date); let calls = 0;
     Date.now = () => real() + (calls++ % 2 ? 1 : -1) * 86_400_000;`,
  );
  const env = { BUN_OPTIONS: `--preload=${place.at('jumps.ts')}` };
  const sets = ['train.checkpoint_every=1h', 'train.preview_every=1h', 'train.validate_every=1h'];
  const args = ['train', 'tiny', '-o', 'jumps', ...sets.flatMap((key) => ['--set', key])];
  expect((await place.run(args, env)).code).toBe(0);
  expect(readdirSync(place.at('jumps', 'checkpoints'))).toEqual(['step-00000008']);
  expect(readdirSync(place.at('jumps', 'previews'))).toEqual(['step-00000008.png']);
  const seconds = readRecords(place.at('jumps', 'metrics.jsonl')).map((line) => Number(line.seconds));
  expect(seconds).toEqual(seconds.toSorted((a, b) => a - b));
  expect(seconds.at(-1)).toBeLessThan(3600);
});
