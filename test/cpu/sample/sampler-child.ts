// Run by sampler.test.ts with a number of threads, a batch size and a preset: prints a hash of every picture
// of one list of requests, in its order.
import { cpuBackend } from '../../../src/backend/cpu.ts';
import { sampleImages } from '../../../src/sample/sampler.ts';
import { tinyModel } from './tiny-model.ts';

const [threads, batchSize, preset = 'nano'] = process.argv.slice(2);
const backend = await cpuBackend(Number(threads));
const settings = [
  { steps: 3, cfg_scale: 3, negative_prompt: '' },
  { steps: 3, cfg_scale: 3, negative_prompt: '', sampler: 'dpmpp2m' as const },
  { steps: 3, cfg_scale: 3, negative_prompt: '', guidance_interval: [0.1, 10] as const },
  { steps: 2, cfg_scale: 2, negative_prompt: 'a blue square' },
  { steps: 2, cfg_scale: 1, negative_prompt: '' },
];
const prompts = ['a red circle', 'green star, noto', '', 'a cat, fluent 3d style', 'a red circle'];
const requests = settings.flatMap((setting) =>
  [...prompts, ...prompts].map((prompt, i) => ({ ...setting, prompt, seed: i % 3 })),
);
const pictures = await sampleImages(backend, tinyModel(backend, preset), requests, {
  batchSize: Number(batchSize),
});
for (const { pixels } of pictures) console.log(Bun.hash(pixels?.data ?? '').toString(16));
