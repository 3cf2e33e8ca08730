// From the flags of `train` to a recipe: precedence, length of the run, what --dry-run prints.

import { describe, expect, test } from 'bun:test';
import { COMMON, parseFlags } from '../../../src/cli/flags.ts';
import {
  DATA_FLAG,
  dryRun,
  RECIPE_ARGUMENT,
  RECIPE_FLAGS,
  recipeFromFlags,
} from '../../../src/cli/recipe-flags.ts';

type Values = Parameters<typeof recipeFromFlags>[1];

function resolve(argv: string[], env: Record<string, string> = {}) {
  const { args, values } = parseFlags('train', { ...RECIPE_FLAGS, ...COMMON }, [RECIPE_ARGUMENT], argv);
  return recipeFromFlags(args[0]!, values as unknown as Values, env);
}

describe('recipe flags', () => {
  test('--set beats the environment, a flag of its own beats both', () => {
    const env = { MICRODIFF_TRAIN_SEED: '5', MICRODIFF_TRAIN_CHECKPOINT_EVERY: '7' };
    const { recipe } = resolve(['tiny', '--set', 'train.seed=6', '--checkpoint-every', '2m'], env);
    expect([recipe.train.seed, recipe.train.checkpoint_every]).toEqual([6, '2m']);
    expect(resolve(['tiny'], env).recipe.train.checkpoint_every).toBe(7);
    expect(resolve(['tiny', '--checkpoint-every', '500']).recipe.train.checkpoint_every).toBe(500);
  });

  test('--set changes a source of --data', () => {
    const argv = ['tiny', '--data', import.meta.dir, '--set', 'data.source.0.count=3'];
    const { args, values } = parseFlags(
      'train',
      { ...RECIPE_FLAGS, ...DATA_FLAG, ...COMMON },
      [RECIPE_ARGUMENT],
      argv,
    );
    const { recipe } = recipeFromFlags(args[0]!, values as unknown as Values, {});
    expect(recipe.data.source).toMatchObject([{ name: 'folder', path: import.meta.dir, count: 3 }]);
  });

  test('--steps is the length of the whole run', () => {
    expect(resolve(['tiny', '--steps', '4']).recipe.stage.map((stage) => stage.steps)).toEqual([3, 1]);
    expect(resolve(['tiny', '--steps', '1']).recipe.stage.map((stage) => stage.name)).toEqual(['masked']);
  });

  test('what --dry-run prints', () => {
    expect(JSON.parse(dryRun(resolve(['tiny', '--set', 'optimizer.lr=1e-3'])))).toMatchSnapshot();
  });

  test.each([
    [['tinyy'], 'tinyy: neither a file nor the name of a recipe. Did you mean tiny?'],
    [['tiny', '--checkpoint-every', 'x'], '--checkpoint-every: expected a number of steps or a time'],
    [['tiny', '--set', 'optimizer.lrr=1'], 'Did you mean optimizer.lr?'],
    [['tiny', '--steps', '0'], '--steps: expected a whole number from 1, got "0"'],
  ])('%j is refused', (argv, message) => {
    expect(() => resolve(argv)).toThrow(message);
  });
});
