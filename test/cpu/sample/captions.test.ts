// Sampling with a text encoder beside the network: a CLIP tower's states take the place of the word table.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Safetensors } from '../../../src/io/safetensors.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';
import { Parameters } from '../../../src/plan/params.ts';
import { readTexts } from '../../../src/sample/captions.ts';
import { ClipEncoder } from '../../../src/sample/clip-encoder.ts';
import type { Model } from '../../../src/sample/model-file.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { type PictureRequest, Sampler } from '../../../src/sample/sampler.ts';
import { allocWeights, writeWeight } from '../../../src/sample/weights.ts';
import { declareClipText } from '../../../src/text/clip.ts';
import type { ClipTextConfig } from '../../../src/text/clip-config.ts';
import { bothBackends, randomValues } from '../op-case.ts';
import { tinyModel } from './tiny-model.ts';

const { f32 } = bothBackends();
const folder = mkdtempSync(join(tmpdir(), 'captions-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A tower of random weights whose states have D channels. */
function encoderOf(D: number): ClipEncoder {
  const config: ClipTextConfig = {
    ...{ vocab: 49_408, context: 12, width: D, heads: 2, layers: 1, hidden: D, quickGelu: true, embed: D },
  };
  const p = new Parameters();
  declareClipText(p, config);
  const path = join(folder, `${D}.safetensors`);
  writeSafetensors(
    path,
    p.list.map(({ name, shape, count, index }) => ({
      name,
      dtype: 'F32' as const,
      shape,
      data: () => [Float32Array.from(randomValues(count, index + 1))],
    })),
  );
  using file = Safetensors.open(path);
  return ClipEncoder.load(f32, config, file, { batch: 2 });
}

/** The tiny model without its word table. */
function wordless(encoder: (channels: number) => ClipEncoder | null): Model {
  const { recipe } = tinyModel(f32);
  const network = declareNetwork(recipe.model, null);
  const weights = allocWeights(f32, network.parameters);
  for (const p of network.parameters.list) {
    const values = randomValues(p.count, p.index + 1).map((v) =>
      p.shape.length > 1 ? 0.3 * v : 1 + 0.2 * v,
    );
    writeWeight(f32, weights, p, p.init.kind === 'values' ? p.init.values() : values);
  }
  const captions = encoder(recipe.model.caption_channels);
  return { name: 'wordless', network, weights, recipe, step: 0, ...(captions ? { captions } : {}) };
}

const request = (prompt: string, given: Partial<PictureRequest> = {}): PictureRequest => ({
  ...{ prompt, negative_prompt: '', seed: 1, steps: 2, cfg_scale: 3 },
  ...given,
});

describe('a CLIP tower beside the network', () => {
  const model = wordless(encoderOf);

  test('the caption decides, equal ones give equal bits wherever they stand', async () => {
    const sampler = new Sampler(f32, model, 4);
    const [cat, dog, again] = await sampler.sample([request('a cat'), request('a dog'), request('a cat')]);
    expect(cat!.pixels).not.toBeNull();
    expect(again).toEqual(cat!);
    expect(dog!.pixels).not.toEqual(cat!.pixels);
    expect((await sampler.sample([request('a dog')]))[0]).toEqual(dog!);
    expect((await sampler.sample([request('A  Dog ')]))[0]).toEqual(dog!);
    sampler.free();
  });

  test('negative prompts, no guidance, captions that are cut', async () => {
    const sampler = new Sampler(f32, model, 2);
    const of = async (given: Partial<PictureRequest>, prompt = 'a cat') =>
      (await sampler.sample([request(prompt, given)]))[0]!;
    const [plain, against, free] = [
      await of({}),
      await of({ negative_prompt: 'blue' }),
      await of({ cfg_scale: 1 }),
    ];
    expect(against.pixels).not.toEqual(plain.pixels);
    expect(free.pixels).not.toEqual(plain.pixels);
    expect([plain.truncated, against.truncated]).toEqual([false, false]);
    const long = 'one two three four five six seven eight nine ten eleven';
    expect((await of({}, long)).truncated).toBe(true);
    expect((await of({ negative_prompt: long })).truncated).toBe(true);
    sampler.free();
  });
});

test('no encoder, or one of another width, is a failure that names the model', () => {
  expect(() =>
    readTexts(
      wordless(() => null),
      ['x'],
    ),
  ).toThrow('wordless: has no text encoder');
  const other = wordless((D) => encoderOf(D + 2));
  expect(() => readTexts(other, ['x'])).toThrow('its text encoder writes');
});
