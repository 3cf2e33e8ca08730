// The autoencoder on the stand-in GPU, in both precisions, with convolutions by cuDNN and by im2col: golden
// numbers, strips against all at once, and several pictures in one pass.
import { expect, test } from 'bun:test';
import { relRms } from '../../src/eval/conformance.ts';
import { verifyVae } from '../../src/eval/vae.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { Vae } from '../../src/sample/autoencoder.ts';
import { PictureEncoder } from '../../src/sample/picture-encoder.ts';
import { Strips } from '../../src/sample/strips.ts';
import { readVaeConfigFile } from '../../src/vae/config.ts';
import { randomValues } from '../cpu/op-case.ts';
import { standInGpu } from './gpu.ts';
import { complaints, launches } from './stand-in.ts';

const GOLDENS = new URL('../goldens/vae', import.meta.url).pathname;

test.each([
  ['bf16', 'cudnn'],
  ['bf16', 'im2col'],
  ['fp32', 'cudnn'],
  ['fp32', 'im2col'],
] as const)('%s, convolutions by %s', async (precision, convolutions) => {
  const before = launches('cudnnBackendExecute');
  const backend = await standInGpu({ precision, convolutions });
  const results = [...verifyVae(GOLDENS, { backend })];
  expect(results.filter(({ status }) => status !== 'pass')).toEqual([]);
  expect(results).toHaveLength(5);
  expect(launches('cudnnBackendExecute') > before).toBe(convolutions === 'cudnn');
  expect(backend.libraries.cudnn).toEqual(
    convolutions === 'cudnn' ? expect.stringContaining('libcudnn.so.9 (9.8.0)') : null,
  );

  using weights = Safetensors.open(`${GOLDENS}/b_groups8.weights.safetensors`);
  const vae = Vae.load(backend, readVaeConfigFile(`${GOLDENS}/b_groups8.config.json`), weights);
  const size = { height: 6, width: 5 };
  const latent = randomValues(4 * 30, 9);
  const whole = vae.decode(latent, size);
  const strips = new Strips(vae, size);
  const memory = Math.floor(0.8 * strips.tiling(Number.POSITIVE_INFINITY).bytes);
  expect(strips.tiling(memory).stretches.length).toBeGreaterThan(1);
  // Products of other sizes may be summed in another order by a GPU's library.
  expect(relRms(vae.decode(latent, size, memory), whole)).toBeLessThan(precision === 'bf16' ? 0.02 : 1e-5);
  const pictures = [1, 2].map((seed) => randomValues(3 * 16 * 24, seed));
  const side = { height: 16, width: 24 };
  const encoder = new PictureEncoder(vae, side, 3);
  const one = pictures.flatMap((picture) => [...vae.encode(picture, side)]);
  expect(relRms(encoder.encode(pictures), Float32Array.from(one))).toBeLessThan(
    precision === 'bf16' ? 0.02 : 1e-5,
  );
  encoder.free();
  vae.free();
  backend.close();
  expect(complaints()).toBe(0);
});
