// Flags of the commands that take a recipe, and the way from them to a resolved one.

import { encodeRecord } from '../io/jsonl.ts';
import { int, interval, text } from '../recipe/field.ts';
import { checkTrainable } from '../recipe/check.ts';
import { findRecipe } from '../recipe/named.ts';
import { type Resolved, resolveRecipe } from '../recipe/resolve.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { withTotalSteps } from '../recipe/stages.ts';
import { type Argument, flag, type FlagValues, manyFlag, SHARED } from './flags.ts';

export const RECIPE_ARGUMENT: Argument = {
  name: 'recipe',
  meaning: 'Recipe: a name (quickstart, emoji, tiny) or a file',
  required: true,
};

export const RECIPE_FLAGS = {
  set: manyFlag(text(undefined, 'Sets a recipe key, as in --set optimizer.lr=1e-3'), { hint: 'KEY=VALUE' }),
  steps: flag(int(undefined, { min: 1, unit: 'steps' }, 'Length of the whole run; stages keep their shares')),
  'checkpoint-every': flag(interval(undefined, 'Steps or time between checkpoints, as in 500 or 10m'), {
    hint: 'N|TIME',
  }),
  'dry-run': SHARED['dry-run'],
};

/** The flag of commands that can train on pictures of the user's. */
export const DATA_FLAG = {
  data: manyFlag(text(undefined, 'Trains on the pictures of this folder, each with its caption in a .txt'), {
    hint: 'DIR',
  }),
};

type Values = FlagValues<typeof RECIPE_FLAGS> & Partial<FlagValues<typeof DATA_FLAG>>;

/** The recipe of that name or file with --set, the environment and the flags applied, ready for training. */
export function recipeFromFlags(
  nameOrFile: string,
  values: Values,
  env: Readonly<NodeJS.ProcessEnv>,
): Resolved {
  const every = values['checkpoint-every'];
  const flags: { origin: string; values: RecipeInput }[] = [];
  if (every !== undefined) {
    flags.push({ origin: '--checkpoint-every', values: { train: { checkpoint_every: every } } });
  }
  if (values.data?.length) {
    const source = values.data.map((path) => ({ name: 'folder' as const, path }));
    flags.push({ origin: '--data', values: { data: { source } } });
  }
  const file = findRecipe(nameOrFile);
  const { recipe, origins } = resolveRecipe({
    file,
    env,
    sets: values.set,
    flags,
  });
  checkTrainable(recipe, file.name);
  return { recipe: values.steps === undefined ? recipe : withTotalSteps(recipe, values.steps), origins };
}

/** What --dry-run prints: the resolved recipe, and where each value that is no default came from. */
export function dryRun({ recipe, origins }: Resolved): string {
  return `${encodeRecord({ recipe, origins: Object.fromEntries(origins) })}\n`;
}
