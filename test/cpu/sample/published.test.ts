// Published weights by the command: a bare transformer with a text tower and an autoencoder in files of their
// own, all small and made up; and what it says when a part is missing or of another model.
import { afterAll, beforeAll, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readPngText } from '../../../src/io/png.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';
import { type Parameter, Parameters } from '../../../src/plan/params.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { CLIP_VOCABULARY } from '../../../src/text/bpe.ts';
import { declareClipText } from '../../../src/text/clip.ts';
import { clipTextConfig } from '../../../src/text/clip-config.ts';
import { declareAutoencoder } from '../../../src/vae/autoencoder.ts';
import { readVaeConfig } from '../../../src/vae/config.ts';
import { fileShape } from '../../../src/vae/names.ts';
import { randomValues } from '../op-case.ts';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
const folder = mkdtempSync(join(tmpdir(), 'microdiff-published-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

/** Writes made-up values; vectors lie around 1. */
function write(
  name: string,
  list: readonly Parameter[],
  shapeOf = (p: Parameter) => p.shape,
  broken = false,
): void {
  const tensors = list.map((p) => {
    const values = broken
      ? new Float64Array(p.count).fill(Number.NaN)
      : randomValues(p.count, p.index + 1).map((v) => (p.shape.length > 1 ? 0.2 * v : 1 + 0.1 * v));
    return { name: p.name, dtype: 'F32' as const, shape: shapeOf(p), data: Float32Array.from(values) };
  });
  writeSafetensors(at(name), tensors);
}

beforeAll(() => {
  const sizes = { in_channels: 4, input_size: 8, caption_channels: 8 };
  const values = { model: { preset: 'nano', ...sizes } };
  const { recipe } = resolveRecipe({ given: { origin: 'test', values } });
  const { list } = declareNetwork(recipe.model, null).parameters;
  write('dit.safetensors', list);
  write('short.safetensors', list.slice(0, -1));
  write('other.safetensors', list, (p) => (p === list[5] ? [...p.shape, 1] : p.shape));

  const clip = {
    embed_dim: 8,
    text_cfg: { context_length: 77, vocab_size: CLIP_VOCABULARY, width: 8, heads: 2, layers: 1 },
  };
  writeFileSync(at('clip.config.json'), JSON.stringify(clip));
  const parameters = new Parameters();
  declareClipText(parameters, clipTextConfig(clip, 'test'), false);
  write('clip.safetensors', parameters.list);

  const wide = { ...clip, text_cfg: { ...clip.text_cfg, width: 16 } };
  writeFileSync(at('wide.config.json'), JSON.stringify(wide));
  const wider = new Parameters();
  declareClipText(wider, clipTextConfig(wide, 'test'), false);
  write('wide.safetensors', wider.list);

  for (const [name, latent_channels, out_channels] of [
    ['vae', 4, 3],
    ['vae16', 16, 3],
    ['gray', 4, 1],
    ['nan', 4, 3],
  ] as const) {
    const vae = {
      out_channels,
      ...{ block_out_channels: [8, 16], norm_num_groups: 4, latent_channels },
      scaling_factor: 0.13025,
    };
    writeFileSync(at(`${name}.config.json`), JSON.stringify(vae));
    const model = declareAutoencoder(readVaeConfig(vae, 'test'));
    write(`${name}.safetensors`, model.parameters.list, (p) => [...fileShape(p)], name === 'nan');
  }
});

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
