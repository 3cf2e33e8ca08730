// The recipes inside the executable, and the look-up of a recipe by name or by file.

import { existsSync, readFileSync } from 'node:fs';
import emoji from '../../recipes/emoji.toml' with { type: 'text' };
import microBudget from '../../recipes/micro-budget.toml' with { type: 'text' };
import microBudget16 from '../../recipes/micro-budget-16ch.toml' with { type: 'text' };
import microBudgetParity from '../../recipes/micro-budget-parity.toml' with { type: 'text' };
import quickstart from '../../recipes/quickstart.toml' with { type: 'text' };
import tiny from '../../recipes/tiny.toml' with { type: 'text' };
import { EXIT, Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';
import { nearest } from './nearest.ts';

/** Embedded recipes by name, as TOML. */
export const NAMED: Readonly<Record<string, string>> = {
  quickstart,
  emoji,
  tiny,
  'micro-budget': microBudget,
  'micro-budget-parity': microBudgetParity,
  'micro-budget-16ch': microBudget16,
};

/**
 * The recipe of that name, else the file of that name; throws a Failure with the nearest name when there is
 * neither.
 */
export function findRecipe(nameOrFile: string): { name: string; text: string } {
  if (Object.hasOwn(NAMED, nameOrFile)) return { name: `${nameOrFile}.toml`, text: NAMED[nameOrFile]! };
  if (!existsSync(nameOrFile)) {
    const near = nearest(nameOrFile, Object.keys(NAMED));
    throw new Failure({
      what: nameOrFile,
      why: 'neither a file nor the name of a recipe',
      fix: near ? `Did you mean ${near}?` : `Recipes by name: ${Object.keys(NAMED).join(', ')}`,
      code: EXIT.usage,
    });
  }
  try {
    return { name: nameOrFile, text: readFileSync(nameOrFile, 'utf8') };
  } catch (error) {
    throw osFailure(error, nameOrFile, 'read');
  }
}
