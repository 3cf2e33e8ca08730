// Stopping and going on: whatever ends a run, the same command brings it to the same bits.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import {
  appendFileSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { ended, Place, until } from './program.ts';

const place = new Place();
afterAll(() => place.remove());
const LAST = 'step-00000008';

/** The smallest run: eight steps with averaged weights, 6 masked and 2 not; every checkpoint is kept. */
function tiny(run: string, more: { steps?: number; every?: string; set?: string[] } = {}): string[] {
  const { steps, every = '1', set = [] } = more;
  const sets = ['optimizer.ema=0.9', 'train.keep_last=100', ...set].flatMap((key) => ['--set', key]);
  const length = steps === undefined ? [] : ['--steps', String(steps)];
  return ['train', 'tiny', '-o', run, '--checkpoint-every', every, ...length, ...sets];
}

/** Long enough to be met between two steps. */
const LONG = { steps: 100_000, set: ['train.keep_last=3'] };

beforeAll(async () => {
  const { code, out, err } = await place.run(tiny('whole'));
  expect([code, out, err]).toEqual([0, 'whole\n', expect.stringContaining('8 steps')]);
});

/** Puts a run back to where it was after a step, as a kill at that moment leaves it. */
function cutBack(run: string, step: number): void {
  cpSync(place.at('whole'), place.at(run), { recursive: true });
  const name = (n: number) => `step-${String(n).padStart(8, '0')}`;
  for (let n = step + 1; n <= 8; n++) rmSync(place.at(run, 'checkpoints', name(n)), { recursive: true });
  writeFileSync(place.at(run, 'latest'), `${name(step)}\n`);
  appendFileSync(place.at(run, 'metrics.jsonl'), '{"step":9,"ima'); // torn
}

/** All bits of the last checkpoint but the seconds in state.json. */
function bits(run: string): Record<string, unknown> {
  const { seconds: _, ...state } = JSON.parse(place.read(run, 'checkpoints', LAST, 'state.json'));
  const { 'state.json': __, ...files } = place.hashes(run, 'checkpoints', LAST);
  return { state, files };
}

describe('going on from any step', () => {
  // 6: the next step is the first of another stage; 7: in the midst of it.
  test.each([1, 4, 6, 7])('from step %d it ends in the same bits', async (step) => {
    const run = `cut${step}`;
    cutBack(run, step);
    const { code, err } = await place.run(tiny(run));
    expect(err).toContain(`goes on from step ${step} of 8`);
    expect(code).toBe(0);
    expect(Object.keys(bits(run).files as object)).toEqual([
      'ema.safetensors',
      'model.safetensors',
      'optimizer.safetensors',
    ]);
    expect(bits(run)).toEqual(bits('whole'));
    expect(place.metrics(run)).toEqual(place.metrics('whole'));
    expect(place.read(run, 'recipe.toml')).toBe(place.read('whole', 'recipe.toml'));
  });

  test('metrics hold each step once', () => {
    expect(place.metrics('whole').map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(place.metrics('whole').map(({ stage }) => stage)).toEqual([0, 0, 0, 0, 0, 0, 1, 1]);
  });

  test('a finished run says so and changes nothing', async () => {
    const before = place.hashes('whole');
    const { code, out, err } = await place.run(tiny('whole'));
    expect([code, out]).toEqual([0, 'whole\n']);
    expect(err).toContain('whole is finished: 8 of 8 steps are done');
    expect(place.hashes('whole')).toEqual(before);
  });

  test('a run may be made longer', async () => {
    cutBack('longer', 8);
    const { code } = await place.run(tiny('longer', { steps: 12 }));
    expect(code).toBe(0);
    expect(place.metrics('longer').map(({ step }) => step)).toEqual(
      Array.from({ length: 12 }, (_, i) => i + 1),
    );
  });

  test('a program killed before it could write `latest` goes on from the newest checkpoint', async () => {
    cutBack('nameless', 4);
    rmSync(place.at('nameless', 'latest'));
    const { err } = await place.run(tiny('nameless'));
    expect(err).toContain('goes on from step 4 of 8');
    expect(bits('nameless')).toEqual(bits('whole'));
  });

  test.each(['garbage', 'step-00000001'])(
    'nor does a `latest` that names nothing (%s) stop it',
    async (name) => {
      cutBack('misnamed', 4);
      rmSync(place.at('misnamed', 'checkpoints', 'step-00000001'), { recursive: true });
      writeFileSync(place.at('misnamed', 'latest'), `${name}\n`);
      const { err } = await place.run(tiny('misnamed', { steps: 4 }));
      expect(err).toMatch(
        /^warning: .*(the one before|step-00000004) is taken\nmisnamed is finished: 4 of 4/,
      );
      rmSync(place.at('misnamed'), { recursive: true });
    },
  );

  test('stages of other batches are made longer behind it; one that averages is added', async () => {
    const lengths = (first: number, ...set: string[]) =>
      [`stage.0.steps=${first}`, 'stage.0.batch_size=8', ...set].flatMap((key) => ['--set', key]);
    const args = ['train', 'tiny', '-o', 'lengths'];
    expect(await place.run([...args, ...lengths(2)])).toMatchObject({ code: 0 });
    const more = ['stage.2.steps=2', 'stage.2.ema=0.9', 'stage.2.optimizer=keep'];
    const { code, err } = await place.run([...args, ...lengths(5, ...more)]);
    expect([code, err]).toEqual([0, expect.stringContaining('goes on from step 4 of 9')]);
    const images = place.metrics('lengths').map((line) => line.images);
    expect(images).toEqual([8, 16, 20, 24, 40, 44, 48, 52, 56]);
    expect(existsSync(place.at('lengths', 'checkpoints', 'step-00000009', 'ema.safetensors'))).toBe(true);
  });

  test('without checkpoints it begins again', async () => {
    cutBack('anew', 1);
    rmSync(place.at('anew', 'checkpoints'), { recursive: true });
    rmSync(place.at('anew', 'latest'));
    expect((await place.run(tiny('anew'))).code).toBe(0);
    expect(bits('anew')).toEqual(bits('whole'));
    expect(place.metrics('anew')).toEqual(place.metrics('whole'));
  });
});

describe('signals', () => {
  const saved = (run: string) => existsSync(place.at(run, 'latest'));
  const parts = (run: string) => readdirSync(place.at(run, 'checkpoints')).filter((n) => n.startsWith('.'));

  test('kill -9 between two steps leaves a run that goes on to the same bits', async () => {
    const forty = { ...LONG, steps: 40 };
    const child = place.start(tiny('killed', forty));
    await until(child, () => saved('killed'));
    child.kill('SIGKILL');
    await child.exited;
    const { code, err } = await place.run(tiny('killed', forty));
    expect([code, err]).toEqual([0, expect.stringMatching(/goes on from step \d+ of 40/)]);
    const { code: straight } = await place.run(tiny('straight', forty));
    expect(straight).toBe(0);
    const last = (run: string) => place.hashes(run, 'checkpoints', 'step-00000040');
    const { 'state.json': _, ...left } = last('killed');
    const { 'state.json': __, ...right } = last('straight');
    expect(left).toEqual(right);
    expect(place.metrics('killed')).toEqual(place.metrics('straight'));
    expect(parts('killed')).toEqual([]);
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 143],
  ] as const)('%s saves first and ends with %d', async (signal, expected) => {
    const run = `by-${signal}`;
    const child = place.start(tiny(run, { ...LONG, every: '0' }));
    await until(
      child,
      () => existsSync(place.at(run, 'metrics.jsonl')) && place.read(run, 'metrics.jsonl') !== '',
    );
    child.kill(signal);
    const { code, err } = await ended(child);
    expect(err).toContain(`warning: ${signal}: saving, then stopping`);
    expect(code).toBe(expected);
    const { step } = JSON.parse(
      place.read(run, 'checkpoints', place.read(run, 'latest').trim(), 'state.json'),
    );
    expect(step).toBeGreaterThan(0);
    expect(place.metrics(run).at(-1)).toMatchObject({ step });
    expect(parts(run)).toEqual([]);
  });

  test('checkpoints by the clock', async () => {
    const child = place.start(tiny('clock', { ...LONG, every: '0.5s' }));
    await until(child, () => saved('clock'));
    child.kill('SIGKILL');
    await child.exited;
    const { seconds } = JSON.parse(
      place.read('clock', 'checkpoints', place.read('clock', 'latest').trim(), 'state.json'),
    );
    expect(seconds).toBeGreaterThan(0.5);
  });

  test('a second signal ends at once', async () => {
    const child = place.start(tiny('twice', LONG));
    await until(child, () => saved('twice'));
    child.kill('SIGINT');
    child.kill('SIGTERM');
    const { code } = await ended(child);
    expect([130, 143]).toContain(code);
    // What is there is whole all the same.
    const { err } = await place.run(tiny('twice', { steps: 3 }));
    expect(err).toMatch(/goes on from|is finished/);
  });
});

/** Turns the bits of a byte in the midst of a file. */
function turnByte(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 255;
  writeFileSync(path, bytes);
}

describe('two runs in one folder', () => {
  test('the second is refused with the number of the first; a killed one leaves no lock', async () => {
    const first = place.start(tiny('shared', LONG));
    await until(first, () => existsSync(place.at('shared', 'checkpoints', 'step-00000003')));
    const { code, out, err } = await place.run(tiny('shared', LONG));
    expect([code, out]).toEqual([1, '']);
    expect(err).toBe(
      `error: shared: process ${first.pid} is at work in this folder.` +
        ' Wait for its end, or choose another folder with -o\n',
    );
    first.kill('SIGKILL');
    await first.exited;
    const again = await place.run(tiny('shared', { ...LONG, steps: 2 }));
    expect([again.code, again.err]).toEqual([
      1,
      expect.stringMatching(/steps are done, and the recipe has 2/),
    ]);
  });
});

test('checkpoints of every so many steps are kept for ever', async () => {
  const set = ['train.keep_last=1', 'train.keep_every=3'];
  expect((await place.run(tiny('kept', { every: '0', set }))).code).toBe(0);
  expect(readdirSync(place.at('kept', 'checkpoints')).sort()).toEqual([
    'step-00000003',
    'step-00000006',
    LAST,
  ]);
});

describe('what does not fit', () => {
  test('another recipe is refused, with the key', async () => {
    const { code, out, err } = await place.run(tiny('whole', { set: ['optimizer.lr=1e-3'] }));
    expect([code, out]).toEqual([2, '']);
    expect(err).toBe(
      'error: whole: was trained with another recipe (optimizer.lr differs).' +
        ' Use the recipe of the run, or another folder with -o\n',
    );
    const stage = await place.run(tiny('whole', { set: ['stage.1.mask_ratio=0.25'] }));
    expect([stage.code, stage.err]).toEqual([2, expect.stringContaining('(stage.1.mask_ratio differs)')]);
    const passes = await place.run(tiny('whole', { set: ['train.micro_batch=2'] }));
    expect([passes.code, passes.err]).toEqual([2, expect.stringContaining('(train.micro_batch differs)')]);
  });

  test('names of stages, and what previews are drawn with, may change', async () => {
    cutBack('renamed', 8);
    const set = ['stage.0.name=first', 'image.vae=a.safetensors', 'text.clip=b.safetensors'];
    expect(await place.run(tiny('renamed', { set }))).toMatchObject({ code: 0, out: 'renamed\n' });
  });

  // Cut, a byte turned, missing: each is told before anything is loaded, and the one before is whole.
  test.each([
    [
      'model.safetensors',
      'has \\d+ bytes, not \\d+',
      (path: string) => truncateSync(path, Bun.file(path).size - 9),
    ],
    ['ema.safetensors', 'was changed since it was written', turnByte],
    ['optimizer.safetensors', 'is missing', (path: string) => rmSync(path)],
    ['state.json', '.+', (path: string) => writeFileSync(path, '{"ver')],
    ['state.json', 'does not say how many steps', (path: string) => writeFileSync(path, '{"version":1}')],
    ['state.json', 'does not say how many steps', (path: string) => writeFileSync(path, 'null')],
    [
      'state.json',
      'was changed since it was written',
      (path: string) =>
        writeFileSync(path, readFileSync(path, 'utf8').replace('"images": 20', '"images": 21')),
    ],
  ] as const)(
    'a damaged %s (%s): the run goes on from the checkpoint before',
    async (file, words, damage) => {
      const run = 'damaged';
      cutBack(run, 5);
      damage(place.at(run, 'checkpoints', 'step-00000005', file));
      const { code, out, err } = await place.run(tiny(run));
      expect([code, out]).toEqual([0, `${run}\n`]);
      const at = `${run}/checkpoints/step-00000005`;
      expect(err).toMatch(
        new RegExp(
          `^warning: ${at}: this checkpoint cannot be used \\(${at}/${file}: ${words}.*\\)` +
            ': the one before is taken\n' +
            'goes on from step 4 of 8',
        ),
      );
      expect(bits(run)).toEqual(bits('whole'));
      expect(place.metrics(run)).toEqual(place.metrics('whole'));
      rmSync(place.at(run), { recursive: true });
    },
  );

  test('no whole checkpoint, or one of a newer microdiff: refused, and all stays as it is', async () => {
    cutBack('lost', 2);
    const state = (step: number) => place.at('lost', 'checkpoints', `step-0000000${step}`, 'state.json');
    writeFileSync(state(2), '{"version":2,"step":2,"images":8}');
    const newer = await place.run(tiny('lost'));
    expect([newer.code, newer.out]).toEqual([1, '']);
    expect(newer.err).toMatch(
      /^error: lost\/checkpoints\/step-00000002\/state.json: was written by a newer microdiff[^\n]*\n$/,
    );
    writeFileSync(state(2), '');
    writeFileSync(state(1), '');
    const before = place.hashes('lost', 'checkpoints');
    const none = await place.run(tiny('lost'));
    expect([none.code, none.out]).toEqual([1, '']);
    expect(none.err).toMatch(
      /^warning: .*step-00000002: .*\nerror: .*step-00000001: .* Begin anew in another folder \(-o\)\n$/,
    );
    expect(place.hashes('lost', 'checkpoints')).toEqual(before);
  });

  test('a broken line of metrics.jsonl is named', async () => {
    cutBack('lines', 5);
    writeFileSync(place.at('lines', 'metrics.jsonl'), '{"step":1}\n{"st\n{"step":3}\n');
    const { code, err } = await place.run(tiny('lines'));
    expect([code, err]).toEqual([
      1,
      expect.stringContaining('lines/metrics.jsonl: line 2 is not a JSON record'),
    ]);
  });
});
