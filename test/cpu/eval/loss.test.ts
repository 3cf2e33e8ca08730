// The loss by noise level: the levels, a network whose loss is known, batches, data of both kinds.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { measureLoss } from '../../../src/cli/eval-loss.ts';
import { latentData, sourceData } from '../../../src/data/loss-data.ts';
import { shapesSource } from '../../../src/data/source.ts';
import type { LossData } from '../../../src/diffusion/loss-data.ts';
import { float32ToF16 } from '../../../src/io/dtype.ts';
import { MdsSet } from '../../../src/io/mds/set.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { evalLoss, lossLevels } from '../../../src/sample/loss.ts';
import { saveModel } from '../../../src/sample/model-file.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { allocWeights, freeWeights } from '../../../src/sample/weights.ts';
import { bothBackends, randomValues } from '../op-case.ts';
import { tinyModel } from '../sample/tiny-model.ts';

const backend = bothBackends().f32;
const model = tinyModel(backend);
const { image, text, diffusion } = model.recipe;
const shape = { size: image.size, length: text.length, rows: text.vocab_buckets };
const shapes = sourceData(shapesSource(shape, 3, 12), shape);
const root = mkdtempSync(join(tmpdir(), 'loss-'));
afterAll(() => {
  freeWeights(model.weights);
  rmSync(root, { recursive: true });
});

const OPTIONS = { levels: 3, seed: 5, batchSize: 4 };

test('levels lie at equal shares of the distribution of training', () => {
  const z = (n: number) =>
    lossLevels(model.recipe, n).map((s) => (Math.log(s) - diffusion.P_mean) / diffusion.P_std);
  expect(z(1)[0]).toBeCloseTo(0, 12);
  // Quartiles of the normal distribution, and the shares 1/6, 5/6.
  expect(z(2)[0]).toBeCloseTo(-0.6744897501960817, 6);
  expect(z(3)[0]).toBeCloseTo(-0.967421566101701, 6);
  expect(z(3)[2]).toBeCloseTo(0.967421566101701, 6);
});

describe('the loss', () => {
  test('of a network that says zero is that of the formula', () => {
    const network = declareNetwork(model.recipe.model, model.recipe.text);
    const weights = allocWeights(backend, network.parameters); // all zero: F = 0, D = c_skip x
    const black: LossData = { ...shapes, image: (_, out, at) => out.fill(0, at, at + shapes.imageSize) };
    const zero = { network, weights, recipe: model.recipe };
    const { levels, loss, count } = evalLoss(backend, zero, black, OPTIONS);
    freeWeights(weights);
    expect(count).toBe(12);
    const s2 = diffusion.sigma_data ** 2;
    for (const { sigma, loss: found, ci95 } of levels) {
      // lambda c_skip^2 sigma^2 |n|^2 = sigma_data^2 / (sigma^2 + sigma_data^2) |n|^2
      const expected = s2 / (sigma ** 2 + s2);
      expect(ci95[0]).toBeLessThan(found);
      expect(Math.abs(found - expected)).toBeLessThan(2 * (ci95[1] - found));
      expect(ci95[1] - found).toBeLessThan(0.1 * expected);
    }
    expect(loss).toBeCloseTo(levels.reduce((sum, level) => sum + level.loss, 0) / 3, 10);
  });

  test('does not depend on batches, but on the seed', () => {
    const one = evalLoss(backend, model, shapes, OPTIONS);
    expect(evalLoss(backend, model, shapes, { ...OPTIONS, batchSize: 5 })).toEqual(one);
    expect(evalLoss(backend, model, shapes, { ...OPTIONS, seed: 6 }).loss).not.toBe(one.loss);
    const fewer = evalLoss(backend, model, shapes, { ...OPTIONS, count: 3 });
    expect(fewer.count).toBe(3);
    expect(fewer.ci95[1] - fewer.ci95[0]).toBeGreaterThan(0);
    expect(() => evalLoss(backend, model, shapes, { ...OPTIONS, count: 1 })).toThrow('fewer than two');
  });
});

describe('shards of latents', () => {
  const config = { ...model.recipe.model, in_channels: 2, input_size: 4, caption_channels: 3 };
  const half = (seed: number, count: number) => {
    const values = Float32Array.from(randomValues(count, seed), (v) => Math.round(v * 64) / 64);
    const bits = new Uint16Array(count);
    float32ToF16(values, bits);
    return { values, bytes: new Uint8Array(bits.buffer) };
  };
  const folder = join(root, 'shards');
  using writer = MdsWriter.open(folder, { latents_32: 'bytes', caption_latents: 'bytes' });
  for (const i of [1, 2]) {
    writer.write({ latents_32: half(i, 32).bytes, caption_latents: half(i + 10, 15).bytes });
  }
  writer.finish();

  test('are read as they were stored', () => {
    using set = MdsSet.open(folder);
    const data = latentData(set, config, folder);
    expect([data.count, data.length, data.captions]).toEqual([2, 5, 'captions']);
    const [x0, caption] = [new Float32Array(40), new Float32Array(15)];
    data.image(1, x0, 8);
    data.caption(0, caption, 0);
    expect(x0.subarray(8)).toEqual(half(2, 32).values);
    expect(caption).toEqual(half(11, 15).values);
  });

  test('measure a model that was trained on latents, without its text tower and autoencoder', async () => {
    const toml = [
      'input_size = 4\nin_channels = 2\ncaption_channels = 3',
      '[image]\nkind = "latents"\nvae = "nowhere"\n[text]\nencoder = "states"\nclip = "nowhere"',
      '[[data.source]]\nname = "mds"\npath = "nowhere"',
    ];
    const { recipe } = tinyModel(backend, 'nano', toml.join('\n'));
    const { parameters } = declareNetwork(recipe.model, null);
    const weights = allocWeights(backend, parameters); // zeros: D = c_skip x
    const path = join(root, 'latents.safetensors');
    const saved = { backend, parameters, weights: weights.master };
    saveModel(path, saved, { recipe, version: '0', step: 7, data: null });
    freeWeights(weights);
    const options = { data: folder, count: undefined, seed: 5, batchSize: 2, warn: () => {} };
    const { result, model: about } = await measureLoss(backend, { path, name: 'x' }, options);
    expect([about.step, result.count]).toEqual([7, 2]);
    expect(result.loss).toBeGreaterThan(0);
  });

  test('of another model are refused', () => {
    using set = MdsSet.open(folder);
    expect(() => latentData(set, { ...config, input_size: 8 }, 'x')).toThrow('has no column latents_64');
    expect(() => latentData(set, { ...config, caption_channels: 4 }, 'x')).toThrow('not of width 4');
    const data = latentData(set, { ...config, in_channels: 4 }, 'x');
    expect(() => data.image(0, new Float32Array(64), 0)).toThrow('latents_32 has 32 numbers, not 64');
  });
});
