// Previews: a sheet of pictures from fixed prompts and fixed noise, so that sheets of a run compare.
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { makeFolder, writeWholeFile } from '../io/atomic.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import type { Recipe } from '../recipe/schema.ts';
import { sampleImages } from '../sample/sampler.ts';
import type { RecipeData } from './source.ts';
import type { Trainer } from './trainer.ts';

export interface PreviewOptions {
  readonly backend: Backend;
  readonly recipe: Recipe;
  readonly folder: string;
  readonly trainer: Trainer;
  readonly data: RecipeData;
}

/** Pictures where the recipe names no prompts: captions of the first images of the run. */
const COUNT = 24;

/**
 * Samples with the averaged weights, where there are any, and writes previews/step-N.png; returns its path.
 */
export async function drawPreview(options: PreviewOptions): Promise<string> {
  const { backend, recipe, folder, trainer, data } = options;
  const { preview_prompts } = recipe.train;
  const prompts =
    preview_prompts.length > 0
      ? preview_prompts
      : Array.from({ length: COUNT }, (_, i) => data.batches.captionAt(i));
  const weights = trainer.buffers.ema ?? trainer.buffers.weight;
  const model = { name: folder, network: trainer.network, weights, recipe, step: trainer.step };
  const { steps, cfg_scale } = recipe.sample;
  const requests = prompts.map((prompt, i) => ({ prompt, negative_prompt: '', seed: i, steps, cfg_scale }));
  const pictures = await sampleImages(backend, model, requests, { batchSize: 8 });
  const images = pictures.flatMap(({ pixels }, i) => (pixels ? [{ pixels, caption: prompts[i]! }] : []));
  const { drawSheet } = await withCanvas(() => import('../io/figure/sheet.ts'));
  const path = join(folder, 'previews', `step-${String(trainer.step).padStart(8, '0')}.png`);
  makeFolder(join(folder, 'previews'));
  if (images.length > 0) writeWholeFile(path, drawSheet(images, { title: `step ${trainer.step}` }));
  return path;
}
