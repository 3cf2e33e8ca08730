// Caption fidelity: pairs of the emoji set are asked for in words, and a sample counts when, among the
// pictures of all pairs asked for, its own is the nearest by mean squared pixel error.
import type { Backend } from '../backend/backend.ts';
import { promptOf } from '../data/emoji/captions.ts';
import type { EmojiSet } from '../data/emoji/set.ts';
import { heldOutBeside } from '../data/emoji/subset.ts';
import { Permutation } from '../data/order.ts';
import { selectEmoji } from '../data/source.ts';
import { Failure } from '../io/failure.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { Model } from '../sample/model-file.ts';
import { type Picture, sampleImages } from '../sample/sampler.ts';

export interface FidelityOptions {
  /** Pairs that are asked for; fewer where there are not as many. */
  readonly count: number;
  readonly steps: number;
  readonly cfg_scale: number;
  /** Noise of the first sample; those after count on. */
  readonly seed: number;
  readonly batchSize: number;
  readonly onPicture?: (done: number, total: number) => void;
}

/** The share of samples that are nearest to their own picture, and of how many; null of none. */
export interface Share {
  readonly top1: number | null;
  readonly count: number;
}

export interface Fidelity extends Share {
  /** The same for pairs that were held out, of things that were learnt in another style. */
  readonly held_out: Share;
}

/** Draws the pairs, always the same ones. */
const DRAW_SEED = 0;

/** Whether a recipe trains on emoji. */
export function learnsEmoji(recipe: Recipe): boolean {
  return recipe.data.source.some(({ name, weight }) => name === 'emoji' && weight !== 0);
}

/** Pairs (indices in the set) that a recipe trains on; of the quick-start list where it takes all emoji. */
export function trainedPairs(set: EmojiSet, recipe: Recipe): number[] {
  const sources = recipe.data.source.filter(({ name, weight }) => name === 'emoji' && weight !== 0);
  if (sources.length === 0) {
    throw new Failure({
      what: 'fidelity',
      why: 'the model was not trained on emoji',
      fix: 'Use a model whose recipe has a [[data.source]] with name = "emoji"',
    });
  }
  const listed = sources.map((source, i) =>
    selectEmoji(set, { ...source, subset: source.subset ?? 'subset' }, `data.source.${i}`),
  );
  return [...new Set(listed.flat())];
}

/** `count` of the pairs in a fixed random order, or all of them. */
export function drawPairs(pairs: readonly number[], count: number): number[] {
  if (pairs.length === 0) return [];
  const order = new Permutation(pairs.length, DRAW_SEED, 0);
  return Array.from({ length: Math.min(count, pairs.length) }, (_, i) => pairs[order.at(i)]!);
}

/** Samples with a model and counts. The model's pictures are those of `set` at their size. */
export async function fidelity(
  backend: Backend,
  model: Model,
  set: EmojiSet,
  options: FidelityOptions,
): Promise<Fidelity> {
  const trained = trainedPairs(set, model.recipe);
  const asked = drawPairs(trained, options.count);
  const unseen = drawPairs(heldOutBeside(set, trained), options.count);
  const size = model.recipe.model.input_size;
  const [askedImages, unseenImages] = [asked, unseen].map((some) => some.map((i) => set.image(i, size)));
  const { steps, cfg_scale, seed, batchSize, onPicture } = options;
  const pairs = [...asked, ...unseen];
  const requests = pairs.map((pair, i) => ({
    prompt: promptOf(set.pairs[pair]!),
    negative_prompt: '',
    seed: seed + i,
    steps,
    cfg_scale,
  }));
  const pictures = await sampleImages(backend, model, requests, {
    batchSize,
    onPicture: (done) => onPicture?.(done, pairs.length),
  });
  return {
    ...shareOf(pictures.slice(0, asked.length), askedImages!),
    held_out: shareOf(pictures.slice(asked.length), unseenImages!),
  };
}

/** How many samples are nearest to the picture in their own place. */
export function shareOf(samples: readonly Picture[], pictures: readonly Uint8Array[]): Share {
  const hits = samples.filter((sample, i) => nearest(sample, pictures) === i).length;
  return { top1: samples.length > 0 ? hits / samples.length : null, count: samples.length };
}

/** The nearest of RGB pictures by mean squared error, the first of equal ones; -1 for a broken sample. */
function nearest({ pixels }: Picture, pictures: readonly Uint8Array[]): number {
  if (!pixels) return -1;
  const errors = pictures.map((picture) => {
    let sum = 0;
    for (let i = 0; i < picture.length; i++) sum += (picture[i]! - pixels.data[i]!) ** 2;
    return sum;
  });
  return errors.indexOf(Math.min(...errors));
}
