// The compiled executable on its own: copied to another folder, started there with an empty environment.
// What must hold of it and cannot be seen from the sources: all it needs is inside, and it says in one line
// what is wrong with a temporary folder that its libraries cannot be unpacked to.
import { afterAll, describe, expect, test } from 'bun:test';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { version } from '../../package.json';
import { MdsWriter } from '../../src/io/mds/writer.ts';
import { encodePng } from '../../src/io/png.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff alone ')); // a space in the path is no harm
const program = join(folder, 'microdiff');
copyFileSync('dist/microdiff', program);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Starts the program, or `command` before it, in `folder` with no environment but `env`. */
function run(args: string[], env: Record<string, string> = {}, command: string[] = []) {
  const child = Bun.spawnSync([...command, program, ...args], { cwd: folder, env, stdin: 'ignore' });
  return { code: child.exitCode, out: child.stdout.toString(), err: child.stderr.toString() };
}

describe('alone', () => {
  test('says its version', () => {
    const { code, out, err } = run(['--version']);
    expect(out).toStartWith(`microdiff ${version} `);
    expect([code, err]).toEqual([0, '']);
  });

  test('has help for every command', () => {
    const { out } = run(['--help']);
    const names = [...out.split('COMMANDS')[1]!.matchAll(/^ +([a-z]+) {2}/gm)].map((row) => row[1]!);
    expect(names).toContain('doctor');
    for (const name of names) {
      const help = run([name, '--help']);
      expect([name, help.code, help.err]).toEqual([name, 0, '']);
      expect(help.out).toContain(`microdiff ${name}`);
    }
  });

  test('loads its native library', () => {
    const { code, out } = run(['doctor']);
    expect(out).toMatch(/OpenBLAS/);
    expect(code).toBe(0);
  });

  test('unpacks shards in a Worker', () => {
    const set = join(folder, 'set');
    using writer = MdsWriter.open(set, { caption: 'str', latents_256: 'bytes' }, { compression: 'zstd' });
    for (let i = 0; i < 50; i++) writer.write({ caption: `${i}`, latents_256: new Uint8Array(512).fill(i) });
    writer.finish();
    const env = { XDG_CACHE_HOME: join(folder, 'caches') };
    const { code, out, err } = run(['bench', 'data', set, '--batch', '10', '--repeats', '1', '--json'], env);
    expect([code, err]).toEqual([0, expect.stringContaining('1 repeats')]);
    expect(JSON.parse(out)).toMatchObject({ images: 50, batch: 10, ratio: null });
    expect(readdirSync(join(folder, 'caches', 'microdiff', 'shards'))).toHaveLength(1);
    for (const name of ['set', 'caches']) rmSync(join(folder, name), { recursive: true });
  });

  test('prepares pictures and trains on them, decoded by Workers', () => {
    const photos = join(folder, 'photos');
    mkdirSync(photos);
    for (let i = 0; i < 9; i++) {
      const data = new Uint8Array(8 * 8 * 3).fill(i);
      writeFileSync(join(photos, `${i}.png`), encodePng({ width: 8, height: 8, channels: 3, data }));
      writeFileSync(join(photos, `${i}.txt`), `gray ${i}`);
    }
    const { code, out } = run(['prepare', 'photos', '-o', 'set', '--size', '8', '--workers', '3']);
    expect([code, JSON.parse(out)]).toEqual([
      0,
      { folder: 'set', items: 9, written: 9, samples: 9, dropped: {} },
    ]);
    const steps = ['--steps', '2', '--device', 'cpu'];
    expect(run(['train', 'tiny', '--data', 'set', '-o', 'run', ...steps]).code).toBe(0);
    for (const name of ['set', 'photos', 'run']) rmSync(join(folder, name), { recursive: true });
  });

  test('refuses what it does not know in one line', () => {
    const { code, out, err } = run(['--no-such-flag']);
    expect(err).toMatch(/^error: --no-such-flag: [^\n]+\n$/);
    expect([code, out]).toEqual([2, '']);
  });

  test('takes no settings from the folder it is started in', () => {
    const other = join(folder, 'other');
    mkdirSync(other);
    writeFileSync(join(other, 'bunfig.toml'), 'preload = ["./speak.ts"]\n');
    writeFileSync(join(other, 'speak.ts'), 'process.stdout.write("preloaded");\n');
    writeFileSync(join(other, '.env'), 'NO_SUCH=1\n');
    const child = Bun.spawnSync([program, '--version'], { cwd: other, env: {}, stdin: 'ignore' });
    expect(child.stdout.toString()).toStartWith('microdiff ');
  });

  test('draws', () => {
    const steps = Array.from({ length: 8 }, (_, i) => `{"step":${i + 1},"loss":${1 / (i + 1)}}\n`);
    writeFileSync(join(folder, 'metrics.jsonl'), steps.join(''));
    const { code, out, err } = run(['plot', 'metrics.jsonl', '-o', 'plot.png']);
    expect([code, out, err]).toEqual([0, 'plot.png\n', '']);
    expect(readFileSync(join(folder, 'plot.png')).subarray(1, 4).toString()).toBe('PNG');
  });

  test('trains, and samples from what it trained', () => {
    const train = run(['train', 'tiny', '--steps', '4', '--checkpoint-every', '2', '-o', 'run']);
    expect([train.code, train.out]).toEqual([0, 'run\n']);
    expect(train.err).not.toContain('warning');
    // The first one was written by a Worker.
    const names = ['step-00000002', 'step-00000004'];
    expect(readdirSync(join(folder, 'run', 'checkpoints')).sort()).toEqual(names);
    const sample = run(['sample', '-m', 'run', 'a red apple', '--steps', '2', '-o', 'apple.png']);
    expect([sample.code, sample.err]).toEqual([0, '']);
    expect(JSON.parse(sample.out)).toMatchObject({ prompt: 'a red apple', file: 'apple.png', steps: 2 });
  });

  test.skipIf(!existsSync('weights'))('draws with the model inside it', () => {
    const words = 'a red apple, fluent 3d style';
    const { code, out, err } = run(['sample', words, '--steps', '4', '-o', 'apple.png']);
    expect([code, err]).toEqual([0, '']);
    expect(JSON.parse(out)).toMatchObject({ prompt: words, file: 'apple.png', seed: 0 });
  });

  test.skipIf(!existsSync('weights'))(
    'serves the page and pictures, by an engine that it starts',
    async () => {
      const child = Bun.spawn([program, 'serve', '--port', '0'], {
        cwd: folder,
        env: {},
        stdin: 'ignore',
        stdout: 'pipe',
        stderr: 'pipe',
      });
      const { value } = await child.stdout.getReader().read();
      const url = new TextDecoder().decode(value).trim();
      for (const [path, words] of [
        ['', '<title>microdiff</title>'],
        ['page.js', 'image_generation.completed'],
        ['page.css', '--accent'],
      ] as const) {
        expect(await (await fetch(`${url}${path}`)).text()).toContain(words);
      }
      const response = await fetch(`${url}v1/images/generations`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ prompt: 'a red apple, fluent 3d style', seed: 0, steps: 4 }),
      });
      const { data } = (await response.json()) as { data: { b64_json: string }[] };
      expect(Buffer.from(data[0]!.b64_json, 'base64')).toEqual(readFileSync(join(folder, 'apple.png')));
      child.kill();
      expect(await child.exited).toBe(143);
    },
  );

  test('leaves nothing else behind where it is started', () => {
    const made = ['apple.png', 'metrics.jsonl', 'microdiff', 'other', 'plot.png', 'run'];
    expect(readdirSync(folder).sort()).toEqual(made);
  });
});

// A namespace of its own, so that nothing stays mounted. Without the right to make one, the tests are
// skipped.
const NAMESPACE = ['unshare', '--mount', '--map-root-user'];
const canMount = Bun.spawnSync([...NAMESPACE, 'true'], { stdin: 'ignore', stderr: 'ignore' }).success;

/** The command before the program that mounts a tmpfs with `options` at `place`. */
function mounted(options: string, place: string): string[] {
  mkdirSync(place, { recursive: true });
  const script = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"';
  return [...NAMESPACE, '/bin/sh', '-c', script, 'sh', options, place];
}

describe('a temporary folder', () => {
  const place = join(tmpdir(), `microdiff-tmp-${process.pid}`);
  afterAll(() => rmSync(place, { recursive: true, force: true }));

  const env = { TMPDIR: place, PATH: '/usr/bin:/bin:/usr/sbin:/sbin' };

  /** `doctor` names the folder and the remedy; commands that load a library say so in one line. */
  function expectRemedy(folderEnv: Record<string, string>, command: string[]): void {
    const doctor = run(['doctor'], folderEnv, command);
    expect(doctor.out).toContain('device     none can be used');
    expect(doctor.out).toContain(`Set TMPDIR to another folder`);
    expect([doctor.code, doctor.err]).toEqual([3, '']);
    for (const args of [
      ['plot', 'metrics.jsonl', '-o', 'none.png'],
      ['train', 'emoji', '--steps', '1', '-o', 'none'],
    ]) {
      const { code, out, err } = run(args, folderEnv, command);
      expect(err).toMatch(/^error: [^\n]+\n$/);
      expect(err).toContain(place);
      expect(err).toContain('Set TMPDIR to');
      expect([code, out]).toEqual([3, '']);
    }
    expect(readdirSync(folder).filter((name) => name.startsWith('none'))).toEqual([]);
  }

  test('that is not there', () => {
    expectRemedy({ TMPDIR: `${place}/none` }, []);
  });
  test.skipIf(!canMount)('that is read-only', () => {
    expectRemedy(env, mounted('ro', place));
  });
  test.skipIf(!canMount)('that is noexec', () => {
    expectRemedy(env, mounted('noexec', place));
  });
  test.skipIf(!canMount)('that is full', () => {
    expectRemedy(env, mounted('size=64k', place));
  });
});
