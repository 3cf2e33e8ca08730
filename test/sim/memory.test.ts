// What `info --memory` counts is what a GPU gives: a small model with its text tower and autoencoder, drawn
// on the stand-in GPU.
import { expect, test } from 'bun:test';
import { resolveRecipe } from '../../src/recipe/resolve.ts';
import { plannedMemory, samplingMemory } from '../../src/sample/memory.ts';
import { DFN5B_TEXT } from '../../src/text/clip-config.ts';
import { readVaeConfigFile } from '../../src/vae/config.ts';
import { standInGpu } from './gpu.ts';

const vae = readVaeConfigFile(new URL('../goldens/vae/b_groups8.config.json', import.meta.url).pathname);
const clip = { ...DFN5B_TEXT, width: 64, heads: 2, layers: 1, hidden: 128 };
const { recipe } = resolveRecipe({
  given: {
    origin: 'test',
    values: {
      model: { preset: 'nano', in_channels: 4, caption_channels: 64 },
      text: { length: 77 },
      sample: { cfg_scale: 5 },
    },
  },
});
const parts = { recipe, clip, vae, batch: 2 };

/** cuBLASLt's, and the least that cuDNN's engines get. */
const WORKSPACES = { cudnn: 33 * 2 ** 20, im2col: 32 * 2 ** 20 };

test.each([
  ['bf16', 'cudnn'],
  ['bf16', 'im2col'],
  ['fp32', 'cudnn'],
] as const)('%s, convolutions by %s', async (precision, convolutions) => {
  const planned = await plannedMemory(parts, precision, convolutions === 'cudnn');
  const backend = await standInGpu({ precision, convolutions });
  const memory = () => backend.memory();
  const drawn = await samplingMemory({ ...backend, memory }, parts);
  const workspaces = memory().peak - planned.peak;
  backend.close();
  expect(workspaces).toBe(WORKSPACES[convolutions]);
  expect(drawn.weights).toEqual(planned.weights);
  expect(drawn.plans.transformer).toBe(planned.plans.transformer);
  expect(drawn.plans.text).toBe(planned.plans.text);
  expect(memory().allocated).toBe(0);
});
