// The validation loss: held-out data of a recipe, and the loss on it at fixed noise levels, without masks and
// with the noise of its own place for each image, so that values of a run and of runs compare.
import type { Backend, Region } from '../backend/backend.ts';
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { heldOutBeside } from '../data/emoji/subset.ts';
import { firstOf, tooMany } from '../data/held-out.ts';
import { latentData, pictureData, sourceData } from '../data/loss-data.ts';
import { emojiSource, type Source, selectEmoji, type SourceShape } from '../data/source.ts';
import type { LossData } from '../diffusion/loss-data.ts';
import { MdsIndex } from '../io/mds/index.ts';
import { MdsSet } from '../io/mds/set.ts';
import type { DataSource, Recipe } from '../recipe/schema.ts';
import { recipeOfStage } from '../recipe/stages.ts';
import type { CaptionTower } from '../sample/clip-encoder.ts';
import { lossSteps } from '../sample/loss.ts';
import type { Network } from '../sample/network.ts';
import { computeWeights } from '../sample/weights.ts';
import { pictureShape } from './shards.ts';

/** Noise levels, at equal shares of those that the recipe trains at (not of those of a stage). */
const LEVELS = 8;
/** Of the noise: the same whatever a run's own seed is. */
const SEED = 1;
/** Images of one pass at most. */
const BATCH = 32;

/** The rows of a recipe that a stage learns from. */
export function trainingRows({ data, stage }: Recipe, index: number): DataSource[] {
  const used = ({ stages, validation }: DataSource) =>
    !validation && (stage.length === 0 || (stages?.includes(index + 1) ?? true));
  return data.source.filter(used);
}

/** The row whose samples a stage's validation loss is taken on; null where there is no such loss. */
export function validationRow(recipe: Recipe, index: number): DataSource | null {
  if (recipe.data.validation === 0) return null;
  const own = recipe.data.source.find(
    ({ stages, validation }) => validation && (stages?.includes(index + 1) ?? true),
  );
  return own ?? trainingRows(recipe, index).find(({ weight }) => weight !== 0) ?? null;
}

/** Whether samples of a row are taken away from training. Emoji have a part that never is in training. */
export function isSplit(recipe: Recipe, row: DataSource): boolean {
  const named = recipe.stage.some((_, index) => validationRow(recipe, index) === row);
  return named && !row.validation && row.name !== 'emoji';
}

/** Pictures and captions for the validation loss, out of the held-out part of a row or a row of its own. */
export async function picturesHeldOut(
  recipe: Recipe,
  row: DataSource,
  shape: SourceShape,
  held: Source | null,
): Promise<LossData> {
  const { validation: count } = recipe.data;
  const name = `held-out ${row.path ?? row.name}`;
  if (row.name !== 'emoji' || row.validation) return sourceData(firstOf(held!, count), shape, name);
  const set = await embeddedEmoji();
  const unseen = heldOutBeside(set, selectEmoji(set, row, 'data.source'));
  return sourceData(emojiSource(set, unseen.slice(0, count), shape), shape, name);
}

/** Samples of a set of shards that training may read: all, or the first ones where the last are held out. */
export function trainingCount(recipe: Recipe, row: DataSource): number | undefined {
  if (!isSplit(recipe, row)) return row.count;
  const all = samplesOf(row);
  if (recipe.data.validation >= all) throw tooMany(row.path ?? '', recipe.data.validation, all);
  return all - recipe.data.validation;
}

const samplesOf = ({ path = '', count }: DataSource) => count ?? MdsIndex.read(path).count;

/** Samples of a set for the validation loss of a stage: latents, or pictures, which are decoded here. */
export async function shardsHeldOut(recipe: Recipe, row: DataSource, set: MdsSet): Promise<LossData> {
  const { path = '' } = row;
  const all = samplesOf(row);
  const count = Math.min(all, recipe.data.validation);
  const part = { first: row.validation ? 0 : all - count, count };
  const name = `held-out ${path}`;
  if (recipe.image.kind === 'pixels') return pictureData(set, pictureShape(recipe), name, part);
  return latentData(set, recipe.model, name, { ...part, tokens: recipe.text.encoder === 'clip' });
}

/** For each stage the data of its validation loss. */
export async function openShardsHeldOut(
  recipe: Recipe,
): Promise<{ readonly data: readonly (LossData | null)[]; close(): void }> {
  const sets = new Map<string, MdsSet>();
  const data: (LossData | null)[] = [];
  for (const [index, stage] of recipe.stage.entries()) {
    const row = validationRow(recipe, index);
    if (!row) {
      data.push(null);
      continue;
    }
    const { path = '' } = row;
    const set = sets.get(path) ?? MdsSet.open(path);
    sets.set(path, set);
    data.push(await shardsHeldOut(recipeOfStage(recipe, stage), row, set));
  }
  return { data, close: () => sets.forEach((set) => void set.close()) };
}

export interface ValidationLoss {
  readonly loss: number;
  readonly levels: readonly { readonly sigma: number; readonly loss: number }[];
}

export interface ValidationOptions {
  readonly backend: Backend;
  readonly recipe: Recipe;
  readonly network: Network;
  /** Flat float32 buffer of the weights, or of their averages. */
  readonly weights: Region;
  readonly tower: CaptionTower | null;
  /** A stop that is asked for comes first. */
  readonly interrupt: { readonly stopRequested: boolean };
}

/** Null where a stop was asked for. */
export async function validationLoss(
  { backend, recipe, network, weights: master, tower, interrupt }: ValidationOptions,
  data: LossData,
): Promise<ValidationLoss | null> {
  const weights = computeWeights(backend, network.parameters, master);
  const batchSize = Math.min(BATCH, data.count);
  const steps = lossSteps(backend, { network, weights, recipe, tower }, data, {
    ...{ levels: LEVELS, seed: SEED, batchSize },
  });
  try {
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done) {
        const levels = step.value.levels.map(({ sigma, loss }) => ({ sigma, loss }));
        return { loss: step.value.loss, levels };
      }
      await new Promise((resolve) => setImmediate(resolve));
      if (interrupt.stopRequested) return null;
    }
  } finally {
    steps.return(undefined as never);
    if (weights.weight !== master) weights.weight.free();
  }
}
