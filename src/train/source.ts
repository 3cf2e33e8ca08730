// The training images of a recipe as one stream of batches by place.
import { Batches } from '../data/batch.ts';
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import type { EmojiSet } from '../data/emoji/set.ts';
import { openSources } from '../data/source.ts';
import { Failure } from '../io/failure.ts';
import type { Recipe } from '../recipe/schema.ts';

export interface RecipeData {
  readonly batches: Batches;
  /** The embedded pictures, where the recipe uses them. */
  readonly emoji: EmojiSet | null;
}

/** Opens the sources of a recipe and mixes them by weight, in the order of data.seed. */
export async function openData(recipe: Recipe): Promise<RecipeData> {
  const { data, image, text, train } = recipe;
  if (image.channels !== 3) {
    throw new Failure({ what: 'image.channels', why: `pictures have 3, not ${image.channels}`, code: 2 });
  }
  const emoji = data.source.some((s) => s.name === 'emoji') ? await embeddedEmoji() : null;
  const shape = { size: image.size, length: text.length, rows: text.vocab_buckets };
  const opened = () => {
    if (!emoji) throw new Failure({ what: 'emoji', why: 'no source of the recipe uses them' });
    return emoji;
  };
  const sources = openSources(data.source, opened, shape, train.seed);
  const weights = data.source.map((s) => s.weight);
  return { batches: new Batches(sources, weights, shape, data.seed), emoji };
}
