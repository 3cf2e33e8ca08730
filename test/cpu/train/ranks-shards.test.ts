// Several ranks on shards of latents, with all that a run has beside its steps: sets of unequal weight, a
// text tower in the step, held-out samples, previews, passes fitted to the memory, and two sizes; gone on
// with by other numbers of ranks, on either side of the change.
import { afterAll, beforeAll, expect, test } from 'bun:test';
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeTinyParts } from '../sample/tiny-parts.ts';
import { latentRecipe, writeSet } from './latent-sets.ts';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const SETS = ['train.batch_size=8', 'train.keep_last=9', 'train.validate_every=3', 'train.preview_every=4'];
const MORE = ['optimizer.ema=0.9', 'data.validation=3', 'data.source.0.weight=2', 'data.source.1.weight=0.7'];
const train = (run: string, ranks: number, ...sets: string[]) => {
  const keys = [...SETS, ...MORE, ...sets].flatMap((key) => ['--set', key]);
  const env = { XDG_CACHE_HOME: place.at(`caches-${run}`) };
  return place.run(['train', 'clip.toml', '-o', run, '--gpus', `${ranks}`, ...keys], env);
};

/** Losses and validation losses by step, which may differ by the order of sums alone. */
function expectLike(run: string, other: string): void {
  const [a, b] = [run, other].map((name) => place.metrics(name));
  const facts = ({ step, images, stage, val_loss }: Record<string, unknown>) => [
    ...[step, images, stage],
    val_loss !== undefined,
  ];
  expect(a!.map(facts)).toEqual(b!.map(facts));
  const loss = (line: Record<string, unknown>) => Number(line.val_loss ?? line.loss);
  expect(Math.max(...a!.map((line, i) => Math.abs(loss(line) / loss(b![i]!) - 1)))).toBeLessThan(1e-5);
}

/** A copy of a run as it was after a step. */
function backTo(step: number, run: string, copy: string): void {
  cpSync(place.at(run), place.at(copy), { recursive: true });
  const name = `step-0000000${step}`;
  for (const later of readdirSync(place.at(copy, 'checkpoints')).filter((n) => n > name)) {
    rmSync(place.at(copy, 'checkpoints', later), { recursive: true });
  }
  writeFileSync(place.at(copy, 'latest'), `${name}\n`);
}

const passes = (run: string) =>
  [...place.read(run, 'recipe.toml').matchAll(/^micro_batch = (\d+)$/gm)].map(([, n]) => Number(n));

beforeAll(async () => {
  writeTinyParts(place.folder);
  writeSet(place, 'data/a', 23);
  writeSet(place, 'data/b', 40, { compression: 'zstd', sizeLimit: 12_000 });
  writeSet(place, 'data/spoilt', 12, { spoilt: 7 });
  writeFileSync(place.at('clip.toml'), latentRecipe('clip'));
  expect((await train('alone', 1)).code).toBe(0);
});

test('2 ranks, with the passes that fit both, are as one', async () => {
  const { code, out, err } = await train('two', 2, 'train.fit_micro_batch=true');
  expect([code, out]).toEqual([0, 'two\n']);
  expect(err).not.toMatch(/error|warning/);
  expectLike('two', 'alone');
  expect(passes('two')).toEqual([0, 4, 4]);
  const drawn = (run: string) => Object.keys(place.hashes(run, 'previews'));
  expect(drawn('two')).toEqual(drawn('alone'));
});

test.each([
  [4, 4],
  [6, 1],
])('gone on with from step %i by %i ranks', async (step, ranks) => {
  const run = `on-${ranks}`;
  backTo(step, 'two', run);
  const { code, err } = await train(run, ranks, 'train.fit_micro_batch=true');
  expect([code, err]).toEqual([0, expect.stringContaining(`goes on from step ${step} of 8`)]);
  // 4 images cannot be a pass where a rank has 2; what fits stays as it is.
  expect(passes(run)).toEqual(ranks === 4 ? [0, 2, 2] : [0, 4, 4]);
  if (ranks === 4) expect(err).toContain('stage 2: passes of 2 images, since 4 cannot be shared out');
  expectLike(run, 'alone');
});

test('a number that is not finite on one rank: all skip that step, and no other', async () => {
  const sets = ['data.source.0.path=data/spoilt', 'data.validation=0', 'train.preview_every=0'];
  const [one, two] = [await train('spoilt-1', 1, ...sets), await train('spoilt-2', 2, ...sets)];
  expect([one.code, two.code]).toEqual([0, 0]);
  const events = (run: string) => readFileSync(place.at(run, 'events.jsonl'), 'utf8');
  expect(events('spoilt-1')).toContain('"event":"skipped"');
  expect(events('spoilt-2')).toBe(events('spoilt-1'));
  const skipped = (run: string) => place.metrics(run).map((line) => line.skipped);
  expect(skipped('spoilt-2')).toEqual(skipped('spoilt-1'));
});

test('what all ranks are refused for is said once', async () => {
  const { code, err } = await train('alone', 2, 'optimizer.ema=0.5');
  expect(code).toBe(2);
  expect(err).toMatch(/^error: alone: was trained with another recipe \(optimizer\.ema differs\)[^\n]+\n$/);
});
