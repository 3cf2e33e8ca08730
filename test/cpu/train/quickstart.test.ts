// The quick start from outside, with the smallest model: its length, its sheet, stopping and going on.
import { afterAll, expect, test } from 'bun:test';
import { existsSync } from 'node:fs';
import { ended, Place, until } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const SETS = [
  'model.preset=nano',
  'train.batch_size=4',
  'sample.steps=2',
  'train.preview_prompts=a fox,a robot',
];
const quick = (run: string, ...more: string[]) => [
  'quickstart',
  ...SETS.flatMap((key) => ['--set', key]),
  ...more,
  '-o',
  run,
];
const stepsOf = (run: string) =>
  [...place.read(run, 'recipe.toml').matchAll(/^steps = (\d+)$/gm)].map((m) => Number(m[1]));

test('--steps: a run of that length and a sheet, whose path is all of stdout', async () => {
  const { code, out, err } = await place.run(quick('two', '--steps', '2'));
  expect([code, out]).toEqual([0, 'two/samples.png\n']);
  expect(err).not.toContain('this machine trains');
  expect(place.metrics('two').at(-1)).toMatchObject({ step: 2 });
  const sheet = await Bun.file(place.at('two', 'samples.png')).bytes();
  expect(new TextDecoder().decode(sheet.subarray(1, 4))).toBe('PNG');

  const again = await place.run(quick('two', '--steps', '2'));
  expect([again.code, again.out]).toEqual([0, 'two/samples.png\n']);
  expect(again.err).toContain('two is finished: 2 of 2 steps are done');
  expect(await Bun.file(place.at('two', 'samples.png')).bytes()).toEqual(sheet);
});

test('the speed of the machine sets the steps, which going on keeps', async () => {
  const child = place.start(quick('timed', '--minutes', '0.02', '--checkpoint-every', '20'));
  await until(child, () => existsSync(place.at('timed', 'latest')));
  child.kill('SIGTERM');
  const { code, out, err } = await ended(child);
  expect([code, out]).toEqual([143, '']);
  const [, total] = /this machine trains .* images\/s unmasked: (\d+) steps in 0.02 minutes/.exec(err) ?? [];
  const steps = stepsOf('timed').slice(-2);
  expect(steps.reduce((a, b) => a + b)).toBe(Number(total));
  expect(steps[0]! / Number(total)).toBeCloseTo(0.35, 1);
  expect(existsSync(place.at('timed', 'samples.png'))).toBe(false);

  const more = await place.run(quick('timed', '--checkpoint-every', '1m'));
  expect(more.err).toContain(`of ${total} in timed`);
  expect([more.code, more.out]).toEqual([0, 'timed/samples.png\n']);
  expect(place.metrics('timed').at(-1)).toMatchObject({ step: Number(total) });
});
