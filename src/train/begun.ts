// What a run was begun with, and what may differ from it where the run goes on.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT, Failure } from '../io/failure.ts';
import { osCode, osFailure } from '../io/oserror.ts';
import { resolveRecipe } from '../recipe/resolve.ts';
import type { Recipe } from '../recipe/schema.ts';
import { evenMicroBatches, keepMicroBatches } from './fit.ts';
import { canShare } from './work.ts';

/** A run as it is asked for now. */
interface GoingOn {
  readonly recipe: Recipe;
  readonly folder: string;
  readonly log: { info(text: string): void; warn(text: string): void };
}

/** The recipe that a run folder was made with; null for a new folder. */
export function recipeOfRun(folder: string): Recipe | null {
  const path = join(folder, 'recipe.toml');
  try {
    return resolveRecipe({ file: { name: path, text: readFileSync(path, 'utf8') } }).recipe;
  } catch (error) {
    if (osCode(error) === 'ENOENT') return null;
    throw osFailure(error, path, 'read');
  }
}

/**
 * In a run that has begun, only keys that change no past number may differ. That includes the lengths of
 * stages, so that a run can be made longer or shorter, and where its pictures lie.
 */
export function refuseOtherRecipe(folder: string, old: Recipe, recipe: Recipe): void {
  const stages = Math.min(old.stage.length, recipe.stage.length);
  const changed = firstDifference(bare(old, stages), bare(recipe, stages));
  if (!changed) return;
  throw new Failure({
    what: folder,
    why: `was trained with another recipe (${changed} differs)`,
    fix: 'Use the recipe of the run, or another folder with -o',
    code: EXIT.usage,
  });
}

/** Pictures may change where they are; in another place they are to be the same, as a run may be moved. */
export function refuseOtherPictures(run: GoingOn, begun: Recipe | null, checkpoint: string): void {
  const placesOf = ({ data }: Recipe) => data.source.map(({ path }) => path).join('\0');
  const told = `the pictures are not those that ${checkpoint} was trained on`;
  if (begun && placesOf(begun) !== placesOf(run.recipe)) {
    const fix = 'Give those of the run, or another folder with -o';
    throw new Failure({ what: run.folder, why: told, fix, code: EXIT.usage });
  }
  run.log.warn(told);
}

/**
 * The recipe as the run goes on with it: passes that were once fitted to the memory stay as they are. Passes
 * may change where they could not be shared out over so many ranks.
 */
export function knownRecipe({ folder, recipe: given, log }: GoingOn, begun: Recipe, ranks: number): Recipe {
  const { fit_micro_batch } = given.train;
  const recipe = fit_micro_batch ? keepMicroBatches(given, begun) : given;
  const { micro_batch } = recipe.train;
  const free = { ...keepMicroBatches(begun, recipe), train: { ...begun.train, micro_batch } };
  refuseOtherRecipe(folder, canShare(begun, ranks) ? begun : free, recipe);
  if (!fit_micro_batch) return recipe;
  const even = evenMicroBatches(recipe, ranks);
  for (const [i, row] of even.stage.entries()) {
    const { micro_batch: old } = recipe.stage[i]!;
    if (old !== row.micro_batch) {
      log.info(`stage ${i + 1}: passes of ${row.micro_batch} images, since ${old} cannot be shared out`);
    }
  }
  return even;
}

/** The first stages of a recipe without the keys that may change between sittings: none changes a bit. */
function bare(recipe: Recipe, stages: number): unknown {
  const { batch_size, micro_batch, seed } = recipe.train;
  const stage = recipe.stage.slice(0, stages).map((row) => ({ ...row, steps: 0, name: '' }));
  // An autoencoder draws previews alone, and so does a text tower that is not within the step.
  const image = { ...recipe.image, vae: '' };
  const text = recipe.text.encoder === 'clip' ? recipe.text : { ...recipe.text, clip: '' };
  const source = recipe.data.source.map((row) => ({ ...row, path: '' }));
  const data = { ...recipe.data, source, workers: 0 };
  return { ...recipe, data, image, text, stage, train: { batch_size, micro_batch, seed }, sample: {} };
}

function firstDifference(a: unknown, b: unknown, key = ''): string | null {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    return a === b ? null : key;
  }
  const [left, right] = [a as Record<string, unknown>, b as Record<string, unknown>];
  for (const name of new Set([...Object.keys(left), ...Object.keys(right)])) {
    const found = firstDifference(left[name], right[name], key ? `${key}.${name}` : name);
    if (found) return found;
  }
  return null;
}
