// The training images of a recipe: for each stage a stream of batches by place.
import { existsSync } from 'node:fs';
import type { Rank } from '../backend/backend.ts';
import { Batches } from '../data/batch.ts';
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { type FolderPictures, readFolder } from '../data/folder.ts';
import { splitSource } from '../data/held-out.ts';
import { openSources, type Source } from '../data/source.ts';
import type { LossData } from '../diffusion/loss-data.ts';
import { Failure } from '../io/failure.ts';
import { isRemote } from '../io/remote.ts';
import type { DataSource, Recipe } from '../recipe/schema.ts';
import { recipeOfStage, stageStarts } from '../recipe/stages.ts';
import { PictureBatches, pictureShape, ShardBatches } from './shards.ts';
import { ALONE } from './share.ts';
import type { TrainingData } from './trainer.ts';
import {
  isSplit,
  openShardsHeldOut,
  picturesHeldOut,
  trainingCount,
  trainingRows,
  validationRow,
} from './validation.ts';

export interface RecipeData extends TrainingData {
  /** Hash of the embedded pictures and folders that are trained on; null where all is drawn on the fly. */
  readonly hash: string | null;
  /** The caption of an image of the run, as it is read there in the first stage. */
  captionAt(place: number): string | Promise<string>;
  /** What the validation loss of a stage is taken on; null where there is none. */
  validation(index: number): LossData | null;
  /** Ends what reads files. */
  close(): Promise<void>;
}

/**
 * Opens the sources of a recipe and mixes them by weight, in the order of data.seed; stages of the same
 * sources go on with each other's epochs. `warn` is told which files of a folder are left out. Of several
 * ranks each takes its own images of a batch.
 */
export async function openData(
  recipe: Recipe,
  warn: (text: string) => void,
  rank: Rank = ALONE,
): Promise<RecipeData> {
  const { data, image } = recipe;
  if (image.kind === 'pixels' && image.channels !== 3) {
    throw new Failure({ what: 'image.channels', why: `pictures have 3, not ${image.channels}`, code: 2 });
  }
  for (const { path } of data.source) {
    if (path === undefined || isRemote(path) || existsSync(path)) continue;
    const fix = 'Give the pictures or shards that you have: --data DIR';
    throw new Failure({ what: path, why: 'the recipe learns from this folder, which is not here', fix });
  }
  const emoji = data.source.some((s) => s.name === 'emoji') ? await embeddedEmoji() : null;
  if (data.source.some(({ name }) => name === 'mds')) return openShards(recipe, rank);
  const starts = stageStarts(recipe);
  const stages: Batches[] = [];
  const validation: (LossData | null)[] = [];
  const hashes = new Set<string>(emoji ? [emoji.hash] : []);
  for (const [index, row] of recipe.stage.entries()) {
    const { image } = recipeOfStage(recipe, row);
    const same = firstOfSame(recipe, index);
    const forLoss = validationRow(recipe, index);
    const asBefore = same < index && validationRow(recipe, index - 1) === forLoss;
    if (asBefore && image.size === recipeOfStage(recipe, recipe.stage[index - 1]!).image.size) {
      stages.push(stages[index - 1]!);
      validation.push(validation[index - 1]!);
      continue;
    }
    const rows = trainingRows(recipe, index);
    const folders = new Map<string, FolderPictures>();
    for (const { path } of forLoss?.validation ? [...rows, forLoss] : rows) {
      if (!path || folders.has(path)) continue;
      const folder = await readFolder(path, image.size, warn);
      folders.set(path, folder);
      hashes.add(folder.hash);
    }
    const shape = pictureShape(recipeOfStage(recipe, row));
    const files = {
      emoji: () => emoji ?? unopened('emoji'),
      folder: (path: string) => folders.get(path) ?? unopened(path),
    };
    const held = new Map<DataSource, Source>();
    const sources = openSources(rows, files, shape, recipe.train.seed).map((source, i) => {
      if (!isSplit(recipe, rows[i]!)) return source;
      const parts = splitSource(source, recipe.data.validation);
      held.set(rows[i]!, parts.held);
      return parts.rest;
    });
    if (forLoss?.validation) {
      held.set(forLoss, openSources([forLoss], files, shape, recipe.train.seed)[0]!);
    }
    validation.push(forLoss && (await picturesHeldOut(recipe, forLoss, shape, held.get(forLoss) ?? null)));
    const weights = rows.map((s) => s.weight ?? 1);
    stages.push(new Batches(sources, weights, shape, data.seed, starts[same]!.image, rank));
  }
  const [first, ...others] = hashes;
  const hash =
    others.length > 0 ? new Bun.SHA256().update([...hashes].join(' ')).digest('hex') : (first ?? null);
  const captionAt = (place: number) => stages[0]!.captionAt(place);
  return {
    stage: (index) => stages[index]!,
    validation: (index) => validation[index]!,
    captionAt,
    hash,
    close: async () => {},
  };
}

/** Shards of latents or pictures: for each size and choice of sets a stream. */
async function openShards(recipe: Recipe, rank: Rank): Promise<RecipeData> {
  const starts = stageStarts(recipe);
  const stages: (ShardBatches | PictureBatches)[] = [];
  const Kind = recipe.image.kind === 'latents' ? ShardBatches : PictureBatches;
  for (const [index, row] of recipe.stage.entries()) {
    const ofStage = recipeOfStage(recipe, row);
    const same = firstOfSame(recipe, index);
    const before = recipe.stage[index - 1];
    if (before && same < index && ofStage.image.size === recipeOfStage(recipe, before).image.size) {
      stages.push(stages[index - 1]!);
      continue;
    }
    const sets = trainingRows(recipe, index).map((source) => {
      const { path = '', weight } = source;
      return { path, weight, count: trainingCount(recipe, source) };
    });
    stages.push(await Kind.open(ofStage, sets, starts[same]!.image, rank));
  }
  const streams = [...new Set(stages)];
  const heldOut = await openShardsHeldOut(recipe);
  return {
    stage: (index) => stages[index]!,
    validation: (index) => heldOut.data[index]!,
    captionAt: (place) => stages[0]!.captionAt(place),
    hash: new Bun.SHA256().update(streams.map(({ stream }) => stream.hash).join(' ')).digest('hex'),
    async close() {
      heldOut.close();
      await Promise.all(streams.map((batches) => batches.close()));
    },
  };
}

/** The first of the stages up to this one that all use the same sources. */
function firstOfSame(recipe: Recipe, index: number): number {
  const used = (i: number) => trainingRows(recipe, i).map((source) => recipe.data.source.indexOf(source));
  let first = index;
  while (first > 0 && used(first - 1).join() === used(index).join()) first--;
  return first;
}

function unopened(what: string): never {
  throw new Failure({ what, why: 'no source of the recipe uses it' });
}
