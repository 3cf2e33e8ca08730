// What a user can do wrong around training, and disks that are full: one clear line, the right exit code, and
// nothing lost or half-written.
import { afterAll, describe, expect, test } from 'bun:test';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

/** One line on stderr, nothing on stdout, no run folder. */
async function expectRefusal(args: string[], code: number, ...words: string[]): Promise<void> {
  const made = await place.run([...args, '-o', 'none']);
  expect([made.code, made.out]).toEqual([code, '']);
  expect(made.err).toMatch(/^error: [^\n]+\n$/);
  for (const word of words) expect(made.err).toContain(word);
  expect(existsSync(place.at('none'))).toBe(false);
}

describe('refused before anything is written', () => {
  test('an unknown flag', () =>
    expectRefusal(['train', 'tiny', '--stepz', '4'], 2, '--stepz', 'mean --steps?'));
  test('a misspelt recipe key', async () => {
    writeFileSync(place.at('slip.toml'), '[model]\npreset = "nano"\n[optimiser]\nlr = 1e-3\n');
    await expectRefusal(['train', 'slip.toml'], 2, 'optimiser in slip.toml', 'Did you mean optimizer?');
  });
  test('a value of the wrong type', async () => {
    writeFileSync(place.at('type.toml'), '[model]\npreset = "nano"\n[train]\nbatch_size = "many"\n');
    await expectRefusal(['train', 'type.toml'], 2, 'train.batch_size in type.toml', '"many"');
  });
  test('a broken file', async () => {
    writeFileSync(place.at('broken.toml'), '[model\npreset = 4');
    await expectRefusal(['train', 'broken.toml'], 2, 'broken.toml');
  });
  test('a folder without pictures', async () => {
    mkdirSync(place.at('empty'), { recursive: true });
    const why = 'empty: has no picture that can be trained on (0 files of pictures).';
    await expectRefusal(['train', 'tiny', '--data', 'empty'], 2, why, 'photo.jpg and photo.txt');
  });
  test('a folder that is not there', async () => {
    await expectRefusal(
      ['train', 'tiny', '--data', 'nowhere'],
      1,
      'nowhere: cannot read: no such file or folder.',
    );
  });
});

test.each([
  ['file/run', 'a part of the path is a file'],
  ['/proc/run', 'cannot make this folder'],
])('a run folder that cannot be made: %s', async (folder, words) => {
  writeFileSync(place.at('file'), '');
  const { code, out, err } = await place.run(['train', 'tiny', '-o', folder]);
  expect([code, out]).toEqual([1, '']);
  expect(err).toMatch(/^error: [^\n]+\n$/);
  expect(err).toContain(words);
});

test('a loss that stays non-finite: exit 4, and the checkpoint before is kept', async () => {
  const sets = [
    'optimizer.lr=1e30',
    'optimizer.clip_norm=0',
    'schedule.kind=warmup-constant',
    'schedule.warmup_steps=0',
  ];
  const flags = sets.flatMap((key) => ['--set', key]);
  const args = ['train', 'tiny', '--steps', '40', '--checkpoint-every', '1', ...flags, '-o', 'wild'];
  const { code, out, err } = await place.run(args);
  expect([code, out]).toEqual([4, '']);
  const lines = err.trimEnd().split('\n');
  expect(lines.filter((line) => /^warning: step \d+ was skipped: loss /.test(line)).length).toBe(5);
  const latest = place.read('wild', 'latest').trim();
  expect(lines.at(-1)).toMatch(
    /^error: step \d+: 5 steps in a row had a loss or gradient that is not finite\. /,
  );
  expect(lines.at(-1)).toEndWith(`with a lower optimizer.lr; checkpoint ${latest} is kept`);
  const files = ['model.safetensors', 'optimizer.safetensors', 'state.json'];
  expect(readdirSync(place.at('wild', 'checkpoints', latest)).sort()).toEqual(files);
  const { step } = JSON.parse(place.read('wild', 'checkpoints', latest, 'state.json'));
  expect(lines.find((line) => line.startsWith('warning:'))).toStartWith(
    `warning: step ${step + 1} was skipped`,
  );
  expect(place.metrics('wild').at(-1)).toMatchObject({ loss: 'NaN' });
});

test('no room in the midst of writing: the run goes on, and its last whole checkpoint stays', async () => {
  const sets = ['--set', 'train.keep_last=9', '--checkpoint-every', '1'];
  expect((await place.run(['train', 'tiny', '-o', 'small', '--steps', '3', ...sets])).code).toBe(0);
  // No file may grow past 200 blocks of 1 KiB: metrics fit, weights do not.
  const main = join(import.meta.dir, '../../../src/cli/main.ts');
  const line = `ulimit -f 200; exec '${process.execPath}' '${main}' train tiny -o small --threads 1 "$@"`;
  const made = Bun.spawnSync(['/bin/bash', '-c', line, 'train', '--steps', '6', ...sets], {
    cwd: place.folder,
    env: { ...process.env, FORCE_COLOR: '', MICRODIFF_DEVICE: 'cpu' },
  });
  const err = made.stderr.toString();
  expect(made.exitCode).toBe(1);
  for (const step of [4, 5])
    expect(err).toContain(`warning: no checkpoint of step ${step}: small/checkpoints/`);
  expect(err).toMatch(/error: .*the file grew past the size allowed/);
  const names = [1, 2, 3].map((step) => `step-0000000${step}`);
  expect(readdirSync(place.at('small', 'checkpoints')).sort()).toEqual(names);
  expect(place.metrics('small').map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  const again = await place.run(['train', 'tiny', '-o', 'small', '--steps', '6', ...sets]);
  expect([again.code, again.err]).toEqual([0, expect.stringContaining('goes on from step 3 of 6')]);
});

// A namespace of its own, so that nothing stays mounted. Without the right to make one, the tests are
// skipped.
const NAMESPACE = ['unshare', '--mount', '--map-root-user'];
const canMount = Bun.spawnSync([...NAMESPACE, 'true'], { stdin: 'ignore', stderr: 'ignore' }).success;
if (!canMount) console.warn('skipped: full and read-only disks (no right to mount one here)');

/** Runs a shell script with a tmpfs of these options mounted at `disk`; `train` starts the program. */
function onDisk(options: string, script: string) {
  mkdirSync(place.at('disk'), { recursive: true });
  const main = join(import.meta.dir, '../../../src/cli/main.ts');
  const train = `train() { '${process.execPath}' '${main}' train tiny --threads 1 --device cpu "$@"; }`;
  const { stdout, stderr } = Bun.spawnSync(
    [...NAMESPACE, '/bin/sh', '-c', `mount -t tmpfs -o ${options} none disk && ${train} && ${script}`],
    { cwd: place.folder, stdin: 'ignore' },
  );
  return { out: stdout.toString(), err: stderr.toString() };
}

describe.skipIf(!canMount)('disks', () => {
  test('full: the run ends with a line, and goes on from its checkpoint when there is room', () => {
    const { out, err } = onDisk(
      'size=5m',
      `train --steps 6 --checkpoint-every 1 -o disk/run; echo "code $?"; ls -A disk/run/checkpoints;
       mount -o remount,size=20m disk; train --steps 6 --checkpoint-every 1 -o disk/run; echo "code $?"`,
    );
    const [first, rest] = out.split('code 1\n');
    expect(first).toBe('');
    expect(rest).toMatch(/^step-0000000\d\n(step-\d+\n)*disk\/run\ncode 0\n$/);
    expect(err).toMatch(
      /error: disk\/run\/checkpoints: a checkpoint needs [\d.]+ MB and the disk has [\d.]+ MB left\./,
    );
    expect(err).toMatch(/goes on from step \d of 6/);
  });

  test('too small for a line of metrics: named, and nothing half-written', () => {
    const script = `head -c 4000000 /dev/zero > disk/fill; train -o disk/run; echo "code $?"; ls -A disk/run`;
    const { out, err } = onDisk('size=3900k', script);
    expect(out).toMatch(/^code 1\n/);
    expect(err).toContain('the disk is full');
    expect(out).not.toContain('.part');
  });

  test('read-only', () => {
    const { out, err } = onDisk('ro', 'train -o disk/run; echo "code $?"; ls -A disk');
    expect(out).toBe('code 1\n');
    expect(err).toBe(
      'error: disk/run: cannot make this folder: the file system is read-only. Choose another folder\n',
    );
  });
});
