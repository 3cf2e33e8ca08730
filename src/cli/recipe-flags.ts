// Flags of the commands that take a recipe, and the way from them to a resolved one.

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { int, interval, text } from '../recipe/field.ts';
import { checkTrainable } from '../recipe/check.ts';
import { findRecipe } from '../recipe/named.ts';
import { type Resolved, resolveRecipe } from '../recipe/resolve.ts';
import type { DataSource, RecipeInput } from '../recipe/schema.ts';
import { withTotalSteps } from '../recipe/stages.ts';
import { type Argument, flag, type FlagValues, manyFlag, SHARED } from './flags.ts';

export const RECIPE_ARGUMENT: Argument = {
  name: 'recipe',
  meaning: 'Recipe: a name (quickstart, emoji, tiny, micro-budget) or a file',
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
  data: manyFlag(
    text(
      undefined,
      'Trains on the pictures of this folder, each with its caption in a .txt, or on its shards',
    ),
    {
      hint: 'DIR',
    },
  ),
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
  const source = values.data?.flatMap(sourcesIn) ?? [];
  const file = findRecipe(nameOrFile);
  const { recipe, origins } = resolveRecipe({
    file,
    env,
    ...(source.length > 0 && { data: { origin: '--data', values: { data: { source } } } }),
    sets: values.set,
    flags,
  });
  checkTrainable(recipe, file.name);
  return { recipe: values.steps === undefined ? recipe : withTotalSteps(recipe, values.steps), origins };
}

/** What a path of --data means: shards where there is an index of them or in folders below, else pictures. */
function sourcesIn(path: string): Partial<DataSource>[] {
  if (/^[a-z][a-z0-9+]*:\/\//.test(path) || existsSync(join(path, 'index.json')))
    return [{ name: 'mds', path }];
  if (!existsSync(path)) {
    throw new Failure({ what: path, why: 'cannot read: no such file or folder', fix: 'Check the path' });
  }
  const below = statSync(path).isDirectory() ? readdirSync(path).sort() : [];
  const sets = below.filter((name) => existsSync(join(path, name, 'index.json')));
  if (sets.length > 0) return sets.map((name) => ({ name: 'mds', path: join(path, name) }));
  return [{ name: 'folder', path }];
}

/** What --dry-run prints: the resolved recipe, and where each value that is no default came from. */
export function dryRun({ recipe, origins }: Resolved): string {
  return `${encodeRecord({ recipe, origins: Object.fromEntries(origins) })}\n`;
}
