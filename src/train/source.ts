// The training images of a recipe as one stream of batches by place.
import { Batches } from '../data/batch.ts';
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { type FolderPictures, readFolder } from '../data/folder.ts';
import { openSources } from '../data/source.ts';
import { Failure } from '../io/failure.ts';
import type { Recipe } from '../recipe/schema.ts';

export interface RecipeData {
  readonly batches: Batches;
  /** Hash of the embedded pictures and folders that are trained on; null where all is drawn on the fly. */
  readonly hash: string | null;
}

/**
 * Opens the sources of a recipe and mixes them by weight, in the order of data.seed. `warn` is told which
 * files
 * of a folder are left out.
 */
export async function openData(recipe: Recipe, warn: (text: string) => void): Promise<RecipeData> {
  const { data, image, text, train } = recipe;
  if (image.channels !== 3) {
    throw new Failure({ what: 'image.channels', why: `pictures have 3, not ${image.channels}`, code: 2 });
  }
  const emoji = data.source.some((s) => s.name === 'emoji') ? await embeddedEmoji() : null;
  const folders = new Map<string, FolderPictures>();
  for (const { path } of data.source) {
    if (path && !folders.has(path)) folders.set(path, await readFolder(path, image.size, warn));
  }
  const shape = { size: image.size, length: text.length, rows: text.vocab_buckets };
  const files = {
    emoji: () => emoji ?? unopened('emoji'),
    folder: (path: string) => folders.get(path) ?? unopened(path),
  };
  const sources = openSources(data.source, files, shape, train.seed);
  const weights = data.source.map((s) => s.weight);
  const hashes = [...(emoji ? [emoji.hash] : []), ...[...folders.values()].map((folder) => folder.hash)];
  const hash =
    hashes.length > 1 ? new Bun.SHA256().update(hashes.join(' ')).digest('hex') : (hashes[0] ?? null);
  return { batches: new Batches(sources, weights, shape, data.seed), hash };
}

function unopened(what: string): never {
  throw new Failure({ what, why: 'no source of the recipe uses it' });
}
