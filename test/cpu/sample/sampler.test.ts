// Sampling on the processor: a picture depends on its own request alone, to the bit; guidance; saved models.
import { afterAll, describe, expect, spyOn, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Safetensors } from '../../../src/io/safetensors.ts';
import { heun } from '../../../src/diffusion/heun.ts';
import { readTexts } from '../../../src/sample/captions.ts';
import { Denoiser } from '../../../src/sample/denoiser.ts';
import { loadModel, saveModel } from '../../../src/sample/model-file.ts';
import { SampleNoise } from '../../../src/sample/noise.ts';
import { pixelsOf } from '../../../src/sample/pixels.ts';
import {
  levelsOf,
  type PictureRequest,
  Sampler,
  sampleImages,
  type StepView,
} from '../../../src/sample/sampler.ts';
import { writeWeight } from '../../../src/sample/weights.ts';
import { bothBackends } from '../op-case.ts';
import { tinyModel } from './tiny-model.ts';

const { f32, f64 } = bothBackends();
const folder = mkdtempSync(join(tmpdir(), 'microdiff-sampler-'));
afterAll(() => rmSync(folder, { recursive: true }));

const request = (given: Partial<PictureRequest> = {}): PictureRequest => ({
  prompt: 'a red circle',
  negative_prompt: '',
  seed: 1,
  steps: 2,
  cfg_scale: 3,
  ...given,
});

function child(threads: number, batchSize: number): string {
  const args = [join(import.meta.dir, 'sampler-child.ts'), String(threads), String(batchSize)];
  const { stdout, stderr } = Bun.spawnSync([process.execPath, ...args]);
  expect(stderr.toString()).toBe('');
  return stdout.toString();
}

describe('equal bits', () => {
  test('at batch sizes 1 to 8 and 1 to 3 threads, wherever a picture stands in the stream', () => {
    const first = child(1, 1);
    const lines = first.trim().split('\n');
    expect(lines.length).toBe(50);
    // The list holds each request of a setting twice where seeds meet again: places 0 and 9 have equal ones.
    expect(new Set(lines).size).toBeGreaterThan(33);
    for (const [threads, batchSize] of [
      [1, 2],
      [2, 3],
      [3, 5],
      [2, 7],
      [3, 8],
    ] as const) {
      expect(child(threads, batchSize)).toBe(first);
    }
  });

  test('a padded batch gives the pictures of a full one', async () => {
    const model = tinyModel(f32);
    const requests = [request(), request({ seed: 2 }), request({ prompt: 'a blue star' })];
    const full = await sampleImages(f32, model, requests, { batchSize: 3 });
    const padded = new Sampler(f32, model, 8, true);
    expect(await padded.sample(requests)).toEqual(full);
    expect((await padded.sample(requests.slice(1)))[0]).toEqual(full[1]);
    padded.free();
  });
});

describe('what a picture depends on', () => {
  const model = tinyModel(f32);
  const data = async (given: Partial<PictureRequest>) => {
    const [picture] = await sampleImages(f32, model, [request(given)]);
    return Buffer.from(picture!.pixels!.data).toString('hex');
  };

  test('prompt, seed, steps, guidance and negative prompt', async () => {
    const plain = await data({});
    expect(await data({})).toBe(plain);
    for (const given of [
      { prompt: 'a blue star' },
      { seed: 2 },
      { seed: 2 ** 40 },
      { steps: 3 },
      { cfg_scale: 2 },
      { cfg_scale: 1 },
      { sampler: 'euler' as const },
      { sampler: 'dpmpp2m' as const },
      { negative_prompt: 'blue' },
    ]) {
      expect(await data(given)).not.toBe(plain);
    }
    expect(await data({ steps: 1 })).toMatch(/^[0-9a-f]+$/);
    expect(await data({ sampler: 'heun' })).toBe(plain);
  });

  test('a negative prompt without words is the empty caption, the long way round', async () => {
    const near = Buffer.from(await data({ negative_prompt: 'the' }), 'hex');
    const plain = Buffer.from(await data({}), 'hex');
    expect(Math.max(...plain.map((v, i) => Math.abs(v - near[i]!)))).toBeLessThanOrEqual(1);
  });

  test('without guidance the negative prompt says nothing', async () => {
    expect(await data({ cfg_scale: 1, negative_prompt: 'blue' })).toBe(await data({ cfg_scale: 1 }));
  });

  test('words beyond what the model reads are cut, and that is told', async () => {
    const six = request({ prompt: 'one two three four five six' });
    const [long, short, negative] = await sampleImages(f32, model, [
      six,
      request({ prompt: 'one two three four five' }),
      request({ negative_prompt: six.prompt }),
    ]);
    expect([long!.truncated, short!.truncated, negative!.truncated]).toEqual([true, false, true]);
    expect(long!.pixels).toEqual(short!.pixels);
  });

  test('noise: unit normal, by seed alone', () => {
    const noise = new SampleNoise(f32, 3, [3, 8, 8]);
    const drawn = Float64Array.from(noise.draw([5, 6, 5]));
    expect(drawn.slice(0, 192)).toEqual(drawn.slice(384));
    expect(drawn.slice(0, 192)).not.toEqual(drawn.slice(192, 384));
    const mean = drawn.reduce((sum, v) => sum + v, 0) / drawn.length;
    const square = drawn.reduce((sum, v) => sum + v * v, 0) / drawn.length;
    expect(Math.abs(mean)).toBeLessThan(0.1);
    expect(Math.abs(square - 1)).toBeLessThan(0.2);
  });
});

describe('a guidance interval', () => {
  const model = tinyModel(f32);
  const draw = async (given: Partial<PictureRequest>) =>
    (await sampleImages(f32, model, [request({ steps: 4, ...given })]))[0]!;
  const levels = levelsOf(model.recipe, 4);
  const negatives = ['', 'blue'];

  test.each(negatives)(
    'around all levels it changes nothing, around none guidance is off (%j)',
    async (n) => {
      const plain = await draw({ negative_prompt: n });
      const all = [levels[3]!, levels[0]!] as const;
      expect(await draw({ negative_prompt: n, guidance_interval: all })).toEqual(plain);
      expect(await draw({ negative_prompt: n, guidance_interval: [0, 1e9] })).toEqual(plain);
      const free = await draw({ cfg_scale: 1 });
      expect(free).not.toEqual(plain);
      expect(await draw({ negative_prompt: n, guidance_interval: [100, 200] })).toEqual(free);
    },
  );

  test.each(negatives)('inside it the guided plan runs, outside the one of half the rows (%j)', async (n) => {
    const interval = [levels[2]!, levels[1]!] as const;
    const make = (guidance: 'none' | 'zero' | 'negative', texts: string[]) => {
      const { network, weights, recipe } = model;
      const sigmaData = recipe.diffusion.sigma_data;
      const denoiser = new Denoiser({ backend: f32, network, weights, sigmaData, batch: 1, guidance });
      denoiser.setCaptions(readTexts(model, texts).values);
      return denoiser;
    };
    const text = request().prompt;
    const guided = n === '' ? make('zero', [text]) : make('negative', [text, n]);
    const free = make('none', [text]);
    const { in_channels, input_size } = model.recipe.model;
    const noise = new SampleNoise(f32, 1, [in_channels, input_size, input_size]).draw([1]);
    const inside = (sigma: number) => sigma === levels[1] || sigma === levels[2];
    const D = (x: Float64Array, sigma: number) => (inside(sigma) ? guided : free).denoise(x, sigma, 3);
    const expected = pixelsOf(heun(D, noise, { levels }), 0, input_size);

    const rows: number[] = [];
    const original = Denoiser.prototype.denoise;
    const spy = spyOn(Denoiser.prototype, 'denoise').mockImplementation(function (
      this: Denoiser,
      ...args: Parameters<typeof original>
    ) {
      rows.push(this.rows);
      return original.apply(this, args);
    });
    const picture = await draw({ negative_prompt: n, guidance_interval: interval });
    spy.mockRestore();
    expect(picture.pixels).toEqual(expected);
    // Heun looks at level 0, at 1 twice, at 2 twice, at 3 twice.
    expect(rows).toEqual([1, 2, 2, 2, 2, 1, 1]);
    expect(picture).not.toEqual(await draw({ negative_prompt: n }));
    expect(picture).not.toEqual(await draw({ cfg_scale: 1 }));
  });
});

describe('what can be seen of a batch on its way', () => {
  const sampler = new Sampler(f32, tinyModel(f32), 2);
  const requests = [request({ steps: 3 }), request({ steps: 3, seed: 2 })];

  test('an estimate after each step; watching changes no bit; the last is the picture itself', async () => {
    const seen: unknown[] = [];
    const estimates: unknown[] = [];
    const onStep = ({ step, steps, estimate }: StepView) => {
      seen.push([step, steps]);
      estimates.push(estimate(1));
    };
    const pictures = await sampler.sample(requests, { onStep });
    expect(seen).toEqual([1, 2, 3].map((step) => [step, 3]));
    expect(pictures).toEqual(await sampler.sample(requests));
    // The step to level 0 is x = D but for rounding.
    expect(estimates[2]).toEqual(pictures[1]!.pixels);
    expect(estimates[0]).not.toEqual(estimates[2]);
    expect(estimates[0]).toMatchObject({ width: 8, height: 8 });
  });

  test('a batch that nobody waits for ends between two steps', async () => {
    const stop = new AbortController();
    let steps = 0;
    const onStep = () => {
      steps++;
      stop.abort(new Error('gone'));
    };
    await expect(sampler.sample(requests, { onStep, signal: stop.signal })).rejects.toThrow('gone');
    expect(steps).toBe(1);
  });
});

test('numbers that are not finite give no picture, and only there', async () => {
  const model = tinyModel(f32);
  const table = model.network.parameters.find('text_embedder.weight')!;
  const broken = new Float32Array(table.count);
  broken.fill(Number.NaN, 12 * 6); // all rows but those of the style words
  writeWeight(f32, model.weights, table, broken);
  const [good, bad] = await sampleImages(f32, model, [request({ prompt: 'noto' }), request()]);
  expect(good!.pixels).not.toBeNull();
  expect(bad!.pixels).toBeNull();
});

test('a saved model gives the same pictures; in BF16 nearly', async () => {
  const model = tinyModel(f32);
  const saved = { backend: f32, parameters: model.network.parameters, weights: model.weights.master };
  const from = { recipe: model.recipe, version: '0.0.0', step: 7, data: null };
  const load = (dtype: 'F32' | 'BF16', backend = f32) => {
    const path = join(folder, `${dtype}.safetensors`);
    saveModel(path, { ...saved, dtype }, from);
    using file = Safetensors.open(path);
    return loadModel(backend, file, dtype);
  };
  const pictures = await sampleImages(f32, model, [request()]);
  const again = load('F32');
  expect(again.recipe).toEqual(model.recipe);
  expect(again.step).toBe(7);
  expect(await sampleImages(f32, again, [request()])).toEqual(pictures);
  const far = (other: typeof pictures) => {
    const [a, b] = [[...pictures[0]!.pixels!.data], other[0]!.pixels!.data];
    return a.reduce((sum, v, i) => sum + Math.abs(v - b[i]!), 0) / a.length;
  };
  expect(far(await sampleImages(f32, load('BF16'), [request()]))).toBeLessThan(8);
  expect(far(await sampleImages(f64, load('F32', f64), [request()]))).toBeLessThan(0.1);
});
