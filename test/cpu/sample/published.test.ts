// Published weights by the command: a bare transformer with a text tower and an autoencoder in files of their
// own, all small and made up; and what it says when a part is missing or of another model.
import { afterAll, beforeAll, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readPngText } from '../../../src/io/png.ts';
import { writeTinyParts } from './tiny-parts.ts';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
const folder = mkdtempSync(join(tmpdir(), 'microdiff-published-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

beforeAll(() => writeTinyParts(folder));

function sample(args: readonly string[], model = 'dit.safetensors') {
  const words = [MAIN, 'sample', '--device', 'cpu', '--steps', '2', '-m', model, ...args];
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, ...words], { cwd: folder });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}
const PARTS = ['--clip', 'clip.safetensors', '--vae', 'vae.safetensors'];

test('prompts through the text tower and the autoencoder to a picture of twice the latent', () => {
  const { code, out } = sample([...PARTS, 'a fox', 'a rocket', 'a fox']);
  expect(code).toBe(0);
  const records = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(records.map(({ width, height, cfg_scale }) => [width, height, cfg_scale])).toEqual(
    Array.from({ length: 3 }, () => [16, 16, 5]),
  );
  const [fox, rocket, again] = records.map(({ file }) => readBytes(file));
  expect(readPngText(at(records[0].file)).width).toBe(16);
  expect(again).toEqual(fox!);
  expect(rocket).not.toEqual(fox!);

  // From the picture or its record alone: the parts are named in both.
  writeFileSync(at('fox.json'), JSON.stringify(records[0]));
  for (const from of [records[0].file, 'fox.json']) {
    const words = [process.execPath, MAIN, 'sample', '--device', 'cpu', '--from', from, '-o', 'copy.png'];
    expect(Bun.spawnSync(words, { cwd: folder }).exitCode).toBe(0);
    expect(readFileSync(at('copy.png'))).toEqual(readFileSync(at(records[0].file)));
  }
});

/** The compressed picture of a PNG, without its texts. */
function readBytes(file: string): string {
  const bytes = readFileSync(at(file));
  return bytes.subarray(bytes.indexOf('IDAT')).toString('hex');
}

test('a part that is missing, and parts of another model, are refused in one line', () => {
  for (const [args, code, words, model] of [
    [['a fox'], 2, '--clip FILE --vae FILE'],
    [['--clip', 'clip.safetensors', 'a fox'], 2, 'it needs the text tower and the autoencoder'],
    [['--clip', 'clip.safetensors', '--vae', 'vae16.safetensors', 'a fox'], 1, 'latents of 16 channels'],
    [['--clip', 'vae.safetensors', '--vae', 'vae.safetensors', 'a fox'], 1, 'vae.config.json: text_cfg'],
    [['--clip', 'none.bin', '--vae', 'vae.safetensors', 'a fox'], 1, 'none.bin'],
    [[...PARTS, 'a fox'], 1, 'is no MicroDiT (CLIP text tower)', 'clip.safetensors'],
    [[...PARTS, 'a fox'], 1, 'tensor final_layer.norm_final.weight is missing', 'short.safetensors'],
    [[...PARTS, 'a fox'], 1, 'has shape [32, 1], the model needs [32]', 'other.safetensors'],
    [
      ['--clip', 'wide.safetensors', '--vae', 'vae.safetensors', 'a fox'],
      1,
      'wide.safetensors: has states of 16 channels, dit.safetensors reads 8',
    ],
    [['--clip', 'clip.safetensors', '--vae', 'gray.safetensors', 'a fox'], 1, 'only RGB can be drawn'],
  ] as const) {
    const ended = sample(args, model);
    expect([ended.code, ended.out]).toEqual([code, '']);
    expect(ended.err.trim().split('\n')).toHaveLength(1);
    expect(ended.err).toContain(words);
  }
});

test('a picture that decodes to no numbers is an error of its own: the others are tried', () => {
  const parts = ['--clip', 'clip.safetensors', '--vae', 'nan.safetensors'];
  const { code, out, err } = sample([...parts, '-o', 'nothing', 'a fox', 'a rocket']);
  expect(code).toBe(1);
  const errors = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).error);
  expect(errors).toEqual(Array(2).fill(expect.stringContaining('not finite')));
  expect(err).toContain('2 of 2 pictures could not be made');
  expect(readdirSync(at('nothing'))).toEqual([]);
});
