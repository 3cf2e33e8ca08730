// Checkpoints written beside training: the bytes of the moment they were asked for, one after the other, and
// runs that are killed, stopped or out of space while one is being written.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../../../src/io/failure.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { Beside } from '../../../src/train/beside.ts';
import { Checkpoints, type Saved } from '../../../src/train/checkpoint.ts';
import { Saving } from '../../../src/train/saving.ts';
import { openData } from '../../../src/train/source.ts';
import { Trainer } from '../../../src/train/trainer.ts';
import { bothBackends } from '../op-case.ts';
import { ended, Place, until } from './program.ts';

const { f32 } = bothBackends();
const place = new Place();
afterAll(() => place.remove());

const silent = () => {};

async function trainerOf() {
  const sets = ['model.preset=nano', 'data.source.0.name=shapes', 'optimizer.ema=0.9', 'stage.0.steps=9'];
  const { recipe } = resolveRecipe({ sets: [...sets, 'train.batch_size=2', 'train.keep_last=9'] });
  const trainer = new Trainer(f32, recipe, await openData(recipe, silent));
  trainer.initialise();
  await trainer.runStep();
  const saved = (): Saved => {
    const { step, images } = trainer;
    const state = { step, images, seconds: 1, lossSum: 0, lossCount: 0, data: null };
    return [f32, trainer, state, { recipe, version: '0.0.0', data: null }, recipe.train];
  };
  return { trainer, saved };
}

function folderOf(name: string): Checkpoints {
  const checkpoints = new Checkpoints(place.at(name));
  checkpoints.open();
  return checkpoints;
}

describe('the copy', () => {
  test('holds the state as it was, whatever training does meanwhile', async () => {
    const { trainer, saved } = await trainerOf();
    using freed = { beside: new Beside(silent), [Symbol.dispose]: () => freed.beside.free() };
    const [direct, beside] = [folderOf('direct'), folderOf('beside')];
    for (let step = 1; step < 4; step++) {
      direct.save(...saved());
      const written = beside.saveBeside(freed.beside, ...saved());
      expect(existsSync(place.at('beside', 'checkpoints', `step-0000000${step}`))).toBe(false);
      await trainer.runStep(); // the same thread: the Worker cannot have been heard before
      await written;
    }
    expect(place.hashes('beside')).toEqual(place.hashes('direct'));
    expect(Object.keys(place.hashes('beside'))).toHaveLength(3 * 4 + 1);
  });

  test('is not taken where memory is short: said once, and written at once', async () => {
    const { trainer, saved } = await trainerOf();
    const said: string[] = [];
    const beside = new Beside(
      (text) => void said.push(text),
      () => 1e6,
    );
    const checkpoints = folderOf('short');
    for (const step of [1, 2]) {
      void checkpoints.saveBeside(beside, ...saved());
      expect(checkpoints.latest).toBe(`step-0000000${step}`);
      await trainer.runStep();
    }
    expect(said).toEqual([
      'training waits for its checkpoints: a copy of the state needs 0.00191 GB of memory, ' +
        'and 0.000800 GB may be taken',
    ]);
  });

  test('one that cannot be written is warned of, and does not count; the next one does', async () => {
    const { trainer, saved } = await trainerOf();
    const said: string[] = [];
    const checkpoints = folderOf('refused');
    const saving = new Saving(checkpoints, (text) => void said.push(text), 0, true);
    const inTheWay = place.at('refused', 'latest'); // a folder, which no file replaces
    mkdirSync(join(inTheWay, 'x'), { recursive: true });
    saving.begin(saved());
    await saving.written();
    expect([saving.saved, said]).toEqual([0, [expect.stringMatching(/^no checkpoint of step 1: .*latest/)]]);
    expect(() => saving.now(saved())).toThrow(Failure);
    const [before] = readdirSync(inTheWay);
    expect(before).toBe('x');
    await trainer.runStep();
    Bun.spawnSync(['rm', '-r', inTheWay]);
    saving.begin(saved());
    expect(saving.saved).toBe(0);
    await saving.written();
    expect([saving.saved, saving.latest]).toEqual([2, 'step-00000002']);
    await saving.close();
  });
});

/** Large enough that a checkpoint takes longer to write than a step. */
const WIDE = ['model.dim=128', 'model.patch_mixer_dim=128', 'train.batch_size=1'];
const train = (run: string, steps: number) => {
  const sets = [...WIDE, `stage.0.steps=${steps - 1}`, 'stage.1.steps=1'].flatMap((set) => ['--set', set]);
  const quiet = ['--set', 'train.preview_every=0', '--set', 'data.validation=0'];
  return ['train', 'tiny', '-o', run, ...sets, ...quiet, '--checkpoint-every', '1'];
};
const LAST = 8;

/** The checkpoint that is being written, at the second one or later. */
function underWay(run: string): string | undefined {
  if (!existsSync(place.at(run, 'latest'))) return undefined;
  return readdirSync(place.at(run, 'checkpoints')).find((name) => name.endsWith('.part'));
}

describe('a run', () => {
  beforeAll(async () => {
    const { code, err } = await place.run(train('whole', LAST));
    expect([code, err]).toEqual([0, expect.not.stringContaining('warning')]);
  });

  test('killed while it writes one: that one is lost, and all ends in the same bits', async () => {
    let caught = 0;
    for (let round = 0; round < 20 && caught < 2; round++) {
      const child = place.start(train('killed', LAST));
      while (child.exitCode === null && !underWay('killed')) await Bun.sleep(0);
      child.kill('SIGKILL');
      await child.exited;
      const part = underWay('killed');
      const kept = place.read('killed', 'latest').trim();
      const state = JSON.parse(place.read('killed', 'checkpoints', kept, 'state.json'));
      expect(state).toMatchObject({ step: Number(kept.slice(-8)) });
      if (!part) continue;
      caught++;
      expect(Number(part.slice(6, 14))).toBe(state.step + 1);
    }
    expect(caught).toBeGreaterThan(0);
    const { code, err } = await place.run(train('killed', LAST));
    expect([code, err]).toEqual([0, expect.stringContaining('goes on from step')]);
    const { 'state.json': _, ...left } = place.hashes('killed', 'checkpoints', `step-0000000${LAST}`);
    const { 'state.json': __, ...right } = place.hashes('whole', 'checkpoints', `step-0000000${LAST}`);
    expect(left).toEqual(right);
    expect(place.metrics('killed')).toEqual(place.metrics('whole'));
    expect(readdirSync(place.at('killed', 'checkpoints'))).toHaveLength(2);
  });

  test('stopped while it writes one: that one is finished, then the one of the last step', async () => {
    const child = place.start(train('stopped', 10_000));
    await until(child, () => underWay('stopped') !== undefined);
    child.kill('SIGTERM');
    const { code, err } = await ended(child);
    expect([code, err]).toEqual([143, expect.stringContaining('saving, then stopping')]);
    const [before, latest] = readdirSync(place.at('stopped', 'checkpoints')).sort();
    expect(place.read('stopped', 'latest')).toBe(`${latest}\n`);
    const step = Number(latest!.slice(-8));
    expect(before).toBe(`step-${String(step - 1).padStart(8, '0')}`);
    expect(place.metrics('stopped').at(-1)).toMatchObject({ step });
  });

  test('that waits for each one writes the same weights', async () => {
    const { code } = await place.run([...train('waits', LAST), '--set', 'train.async_checkpoints=false']);
    expect(code).toBe(0);
    const optimizer = (run: string) =>
      readFileSync(place.at(run, 'checkpoints', `step-0000000${LAST}`, 'optimizer.safetensors'));
    expect(optimizer('waits').equals(optimizer('whole'))).toBe(true);
  });
});
