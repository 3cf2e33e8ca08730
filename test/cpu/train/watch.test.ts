// watch: a run seen from another process, to its end, and through a kill and a resume.
import { afterAll, describe, expect, test } from 'bun:test';
import { appendFileSync, existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { type Seen, sparkline, WatchedRun } from '../../../src/cli/watched.ts';
import { ended, Place, until } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const train = (run: string, steps: number) => [
  ...['train', 'tiny', '-o', run, '--steps', String(steps), '--checkpoint-every', '0'],
  ...['--set', 'train.preview_every=0', '--set', 'data.source.0.count=50', '--set', 'data.validation=4'],
  ...['--set', 'train.validate_every=20'],
];
const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;
const watch = (...args: string[]) =>
  Bun.spawn([process.execPath, MAIN, 'watch', ...args], {
    ...{ cwd: place.folder, stdin: 'ignore', stdout: 'pipe', stderr: 'pipe' },
  });

test('follows a run to its end, and ends with it', async () => {
  const trainer = place.start(train('run', 400));
  await until(trainer, () => existsSync(place.at('run', 'metrics.jsonl')));
  const child = watch('run', '--json', '--every', '0.05s');
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect([child.exitCode, err]).toEqual([0, '']);
  expect((await ended(trainer)).code).toBe(0);
  const looks: Seen[] = out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(looks.length).toBeGreaterThan(2);
  const steps = looks.map(({ step }) => step);
  expect(steps).toEqual(steps.toSorted((a, b) => a - b));
  const { loss, ...last } = looks.at(-1)!;
  expect(last).toMatchObject({ run: 'run', step: 400, total: 400, stage: 'unmasked', finished: true });
  expect(place.metrics('run').some((line) => line.loss === loss)).toBe(true);
  expect(looks.some(({ running, seconds_left }) => running && Number(seconds_left) > 0)).toBe(true);
  const { code, out: after } = await place.run(train('run', 400));
  expect([code, after]).toEqual([0, 'run\n']);
  const done = watch('run');
  expect(await done.stdout.text()).toMatch(
    /^step 400\/400 {2}loss [\d.]+ {2}val [\d.]+ {2}lr .* {2}finished\n$/,
  );
});

test('a run that nobody trains is shown once; what is no run is refused', async () => {
  const child = place.start(train('cut', 100_000));
  await until(
    child,
    () => existsSync(place.at('cut', 'metrics.jsonl')) && place.read('cut', 'metrics.jsonl') !== '',
  );
  child.kill('SIGKILL');
  await child.exited;
  const shown = watch('cut');
  expect(await shown.stdout.text()).toMatch(/^step \d+\/100000 .* {2}not running\n$/);
  const lost = watch('nowhere');
  expect([await lost.stderr.text(), await lost.exited]).toEqual([
    'error: nowhere: not a run folder: it has no recipe.toml. Name the folder that train writes\n',
    2,
  ]);
});

describe('what is read', () => {
  const folder = () => {
    mkdirSync(place.at('made'), { recursive: true });
    writeFileSync(place.at('made', 'recipe.toml'), '[[stage]]\nsteps = 100\n');
    writeFileSync(place.at('made', 'metrics.jsonl'), '');
    return place.at('made');
  };
  const line = (step: number) => `{"step":${step},"loss":${1 / step},"seconds":${2 * step},"stage":0}\n`;

  test('lines as they come, a torn one when it is whole, and anew after a resume', () => {
    const run = new WatchedRun(folder());
    const metrics = place.at('made', 'metrics.jsonl');
    expect(run.look()).toMatchObject({ step: 0, total: 100, loss: null, running: false });
    appendFileSync(metrics, line(1) + line(2) + line(3).slice(0, 9));
    expect(run.look()).toMatchObject({ step: 2, loss: 0.5 });
    appendFileSync(metrics, line(3).slice(9));
    expect(run.look()).toMatchObject({ step: 3, stage: '1' });
    appendFileSync(metrics, '{"step":3,"val_loss":0.25}\n');
    expect(run.look()).toMatchObject({ step: 3, val_loss: 0.25, val_step: 3 });
    truncateSync(metrics, line(1).length);
    expect(run.look()).toMatchObject({ step: 1, val_loss: null });
    expect(run.losses).toEqual([1]);
  });

  test('a row of blocks', () => {
    expect(sparkline([8, 4, 2, 1, 1], 5)).toBe('█▄▂▁▁');
    expect(sparkline([0, 2, 4, 6], 2)).toBe('▁█');
    expect([sparkline([3, 3], 9), sparkline([], 5)]).toEqual(['▁▁', '']);
  });
});
