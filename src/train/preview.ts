// Previews: a sheet of pictures from fixed prompts and fixed noise, so that sheets of a run compare.
import { computeWeights } from '../sample/weights.ts';
import { join } from 'node:path';
import type { Backend, Region } from '../backend/backend.ts';
import { makeFolder, writeWholeFile } from '../io/atomic.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { LoadedParts } from '../sample/published.ts';
import { sampleImages } from '../sample/sampler.ts';
import type { RecipeData } from './source.ts';
import type { Trainer } from './trainer.ts';

export interface PreviewOptions {
  readonly backend: Backend;
  readonly recipe: Recipe;
  readonly folder: string;
  readonly trainer: Trainer;
  /** Averaged weights to draw with, all of them; null: the weights themselves. */
  readonly ema: Region | null;
  readonly data: RecipeData;
  /** Text tower and autoencoder, where the network works on latents. */
  readonly parts?: LoadedParts;
  /** A stop that is asked for comes first: the preview is dropped. */
  readonly interrupt: { readonly stopRequested: boolean };
}

/** Pictures where the recipe names no prompts. */
const COUNT = 24;

/** The prompts of the recipe, else captions of the first images of the run. */
export async function previewPrompts(recipe: Recipe, data: RecipeData): Promise<readonly string[]> {
  const { preview_prompts } = recipe.train;
  if (preview_prompts.length > 0) return preview_prompts;
  return Promise.all(Array.from({ length: COUNT }, (_, i) => data.captionAt(i)));
}

/** The drawing of sheets, with the library that it needs. */
export const loadDrawing = () => withCanvas(() => import('../io/figure/sheet.ts'));

export function previewPath(folder: string, step: number): string {
  return join(folder, 'previews', `step-${String(step).padStart(8, '0')}.png`);
}

/** Samples with the averaged weights, where there are any, and writes previews/step-N.png; returns it. */
export async function drawPreview(options: PreviewOptions): Promise<Uint8Array | null> {
  const { backend, recipe, folder, trainer, data, interrupt, ema } = options;
  const prompts = await previewPrompts(recipe, data);
  const { weight, master } = trainer.buffers;
  const { parameters } = trainer.network;
  const weights = ema ? computeWeights(backend, parameters, ema) : { weight, master };
  const { network, step, modelRecipe } = trainer;
  const model = { name: folder, network, weights, recipe: modelRecipe, step, ...(options.parts ?? {}) };
  const { steps, cfg_scale } = recipe.sample;
  const requests = prompts.map((prompt, i) => ({ prompt, negative_prompt: '', seed: i, steps, cfg_scale }));
  const pictures = await sampleImages(backend, model, requests, { batchSize: 8, interrupt });
  if (ema && weights.weight !== ema) weights.weight.free();
  if (pictures.length < requests.length) return null;
  const images = pictures.flatMap(({ pixels }, i) => (pixels ? [{ pixels, caption: prompts[i]! }] : []));
  const { drawSheet } = await loadDrawing();
  makeFolder(join(folder, 'previews'));
  if (images.length === 0) return null;
  const sheet = drawSheet(images, { title: `step ${trainer.step}` });
  writeWholeFile(previewPath(folder, trainer.step), sheet);
  return sheet;
}
