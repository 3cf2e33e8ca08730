// The command sample a second time: pictures repeated from their file or record, batches that go on after a
// kill with nothing doubled or lost.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodePng, insertPngText, readPngText } from '../../../src/io/png.ts';
import { saveModel } from '../../../src/sample/model-file.ts';
import { bothBackends } from '../op-case.ts';
import { tinyModel } from './tiny-model.ts';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
const folder = mkdtempSync(join(tmpdir(), 'microdiff-again-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (...names: string[]) => join(folder, ...names);
const env = { ...process.env, FORCE_COLOR: '', MICRODIFF_DEVICE: 'cpu' };

function save(name: string, step: number) {
  const { f32 } = bothBackends();
  const { network, weights, recipe } = tinyModel(f32);
  const saved = { backend: f32, parameters: network.parameters, weights: weights.master };
  saveModel(at(name), saved, { recipe, version: '0.0.0', step, data: null });
}

beforeAll(() => save('m.safetensors', 5));

function sample(args: readonly string[], stdin = '') {
  const words = [process.execPath, MAIN, 'sample', '--threads', '1', ...args];
  const { exitCode, stdout, stderr } = Bun.spawnSync(words, { cwd: folder, stdin: Buffer.from(stdin), env });
  return { code: exitCode, records: recordsOf(stdout.toString()), err: stderr.toString() };
}

// biome-ignore lint/suspicious/noExplicitAny: records are checked key by key
const recordsOf = (text: string): any[] =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
const bytes = (path: string) => readFileSync(at(path));

describe('--from', () => {
  const HOW = ['-m', 'm.safetensors', 'a fox', '-n', 'blue', '-s', '7', '--steps', '3', '--cfg-scale', '2.5'];
  const MORE = ['--sampler', 'euler', '--guidance-interval', '0.1,20', '--scale', '2'];

  test('a record repeats its picture to the byte, as the picture itself does', () => {
    const [record] = sample([...HOW, ...MORE, '-o', 'fox.png']).records;
    writeFileSync(at('fox.json'), JSON.stringify(record, null, 2));
    writeFileSync(at('fox.jsonl'), `${JSON.stringify(record)}\n`);
    for (const from of ['fox.png', 'fox.json', 'fox.jsonl']) {
      expect(sample(['--from', from, '-o', 'copy.png'])).toMatchObject({ code: 0, err: '' });
      expect(bytes('copy.png')).toEqual(bytes('fox.png'));
    }
    const flags = ['a cat', '-n', '', '-s', '8', '--steps', '2', '--cfg-scale', '3', '--sampler', 'heun'];
    const other = sample(['--from', 'fox.json', ...flags, '--guidance-interval', '0,9', '--scale', '1']);
    expect(other.records[0]).toMatchObject({
      ...{ prompt: 'a cat', negative_prompt: '', seed: 8, steps: 2, cfg_scale: 3, sampler: 'heun', width: 8 },
      guidance_interval: [0, 9],
    });
  });

  test('a model that is gone, was trained further, another version, another program: that is said', () => {
    const remake = (name: string, change: object) => {
      const png = encodePng({ width: 1, height: 1, channels: 3, data: new Uint8Array(3) });
      const [parameters, exact] = readPngText(at('fox.png')).texts;
      const text = JSON.stringify({ ...JSON.parse(exact!.text), ...change });
      const texts = name === 'foreign.png' ? [parameters!] : [{ keyword: 'microdiff', text }];
      writeFileSync(at(name), insertPngText(png, texts));
      return sample(['--from', name, '-o', 'copy.png']);
    };
    expect(remake('gone.png', { model: 'gone' })).toMatchObject({
      code: 2,
      err: expect.stringContaining('the picture was made with the model gone, which is not here'),
    });
    expect(remake('step.png', { model_step: 4 }).err).toBe(
      'warning: the model was at step 4 when step.png was made, and is at step 5 now\n',
    );
    expect(remake('old.png', { version: 'microdiff 0.0.1' }).err).toContain(
      'old.png was made by microdiff 0.0.1, this is microdiff',
    );
    expect(remake('ddim.png', { sampler: 'DDIM' }).err).toContain(
      'with the sampler DDIM; it is repeated with heun',
    );
    expect(remake('foreign.png', {}).err).toContain('made by another program');
  });

  test.each([
    ['{"index":0,"error":"blank"}', 'the record of a picture that could not be made'],
    ['{"prompt":"a"}\n{"prompt":"b"}\n', 'holds 2 records'],
    ['{"seed":1}', 'the record has no prompt'],
    ['{"prompt":"a","seed":-1}', 'its seed is -1'],
    ['[1]', 'neither a PNG nor a JSON record'],
    ['', 'neither a PNG nor a JSON record'],
  ])('refuses %j', (text, why) => {
    writeFileSync(at('bad.json'), text);
    const { code, err } = sample(['--from', 'bad.json']);
    expect([code, err]).toEqual([1, expect.stringContaining(why)]);
  });
});

describe('--skip-existing', () => {
  const prompts = Array.from({ length: 24 }, (_, i) => (i % 3 === 2 ? 'a fox' : `thing ${i}`));
  const stdin = `${prompts.join('\n')}\n`;
  const args = ['-m', 'm.safetensors', '--steps', '40', '--batch-size', '2'];
  const plain = ({ seconds: _, skipped: __, ...record }: Record<string, unknown>) => record;

  test('after kill -9 the same command makes what is missing, and lists all', async () => {
    const whole = sample([...args, '-o', 'run'], stdin);
    const files = readdirSync(at('run')).sort();
    const first = new Map(files.map((name) => [name, bytes(`run/${name}`)]));
    rmSync(at('run'), { recursive: true });

    const words = [process.execPath, MAIN, 'sample', '--threads', '1', ...args, '-o', 'run'];
    const child = Bun.spawn(words, { cwd: folder, env, stdin: Buffer.from(stdin), stdout: 'pipe' });
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.read();
    child.kill('SIGKILL');
    await child.exited;
    const made = readdirSync(at('run')).filter((name) => name.endsWith('.png'));
    expect(made.length).toBeGreaterThan(1);
    expect(made.length).toBeLessThan(24);
    // As if the kill had come in the middle of a write, by a process that is no more.
    writeFileSync(at(`run/.${files.at(-1)}.4194305-abc.part`), 'half');

    const again = sample([...args, '-o', 'run', '--skip-existing'], stdin);
    expect(again.code).toBe(0);
    expect(again.err).toBe(`${made.length} pictures were there already\n`);
    expect(again.records.map(plain)).toEqual(whole.records.map(plain));
    expect(again.records.filter((r) => r.skipped).map((r) => r.file)).toEqual(
      made.sort().map((n) => `run/${n}`),
    );
    expect(readdirSync(at('run')).sort()).toEqual(files);
    for (const [name, png] of first) expect(bytes(`run/${name}`)).toEqual(png);
  });

  test('what is there is not touched; what is broken or of other settings is made again, with a line', () => {
    const how = ['-m', 'm.safetensors', '--steps', '1', '-o', 'some/%d.png'];
    sample(how, 'one\ntwo\nthree\none two three four five six seven\n');
    const before = [0, 1, 2, 3].map((i) => bytes(`some/${i}.png`));
    const long = new Date('2020-01-01');
    for (const i of [0, 1, 2, 3]) utimesSync(at(`some/${i}.png`), long, long);
    writeFileSync(at('some/0.png'), before[0]!.subarray(0, -20));
    const flipped = Buffer.from(before[1]!);
    flipped[flipped.indexOf('IDAT') + 9]! ^= 1;
    writeFileSync(at('some/1.png'), flipped);
    const lines = 'one\ntwo\nthree\none two three four five six seven\n';
    const dry = sample([...how, '--skip-existing', '--dry-run'], lines);
    expect(dry.records.map((r) => r.skipped ?? false)).toEqual([false, false, true, true]);
    const again = sample([...how, '--skip-existing'], lines);
    expect(again.records.map((r) => r.skipped ?? false)).toEqual([false, false, true, true]);
    expect(again.records[3]).toMatchObject({ truncated: true, seconds: 0, width: 8, file: 'some/3.png' });
    expect(again.err).toContain('some/0.png: the file is damaged or cut off');
    expect(again.err).toContain('some/1.png: the checksum of its IDAT chunk is wrong');
    expect([0, 1, 2, 3].map((i) => bytes(`some/${i}.png`))).toEqual(before);
    expect(statSync(at('some/2.png')).mtime).toEqual(long);

    const other = sample([...how, '--skip-existing', '--seed', '3'], lines);
    expect(other.err).toContain('some/2.png was made with other settings: it is made again\n');
    expect(other.records.every((r) => r.seed === 3 && r.skipped === undefined)).toBe(true);
    expect(bytes('some/2.png')).not.toEqual(before[2]!);
    const bad = sample([...how, '--skip-existing', '--seed', '3'], 'one\n\nthree\n');
    expect(bad.code).toBe(1);
    expect(bad.records.map((r) => r.error ?? r.skipped)).toEqual([true, 'the line is blank', true]);
  });
});
