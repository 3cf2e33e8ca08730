// Flags that say what to measure or to print a plan of: a model by preset, or a recipe; and what they mean.

import { int, real, text } from '../recipe/field.ts';
import { findRecipe } from '../recipe/named.ts';
import { presetRows } from '../recipe/presets.ts';
import { resolveRecipe } from '../recipe/resolve.ts';
import type { Recipe, Stage } from '../recipe/schema.ts';
import { declareNetwork, type Network, networkOf } from '../sample/network.ts';
import { flag, type FlagValues, manyFlag, usage } from './flags.ts';

export const WORKLOAD_FLAGS = {
  preset: flag(text(undefined, 'Model by name (MicroDiT_Tiny_2 when there is no recipe)'), { hint: 'NAME' }),
  recipe: flag(text(undefined, 'Recipe by name or file: its model and its first stage'), {
    hint: 'NAME|FILE',
  }),
  latent: flag(int(undefined, { min: 1, unit: 'pixels' }, 'Side of the input (default: as the model says)')),
  mask: flag(real(undefined, { min: 0, max: 0.99 }, 'Share of masked tokens')),
  batch: flag(int(undefined, { min: 1, unit: 'images' }, 'Images in a step')),
  set: manyFlag(text(undefined, 'Sets a recipe key, as in --set model.depth=4'), { hint: 'KEY=VALUE' }),
};

export type WorkloadValues = FlagValues<typeof WORKLOAD_FLAGS>;

export interface FoundWorkload {
  readonly name: string;
  readonly recipe: Recipe;
  readonly stage: Stage;
  readonly network: Network;
}

/**
 * A recipe's first stage, or one made for a preset; mask and batch of the flags, else of the recipe, else the
 * given ones. Where a preset names no text encoder, captions are embeddings.
 */
export function findWorkload(
  values: WorkloadValues,
  fallback: { mask: number; batch: number },
  env: Readonly<NodeJS.ProcessEnv>,
): FoundWorkload {
  if (values.preset !== undefined && values.recipe !== undefined) {
    throw usage('--preset', 'given together with --recipe', 'Give one of them');
  }
  const preset = values.preset ?? 'MicroDiT_Tiny_2';
  const file = values.recipe === undefined ? undefined : findRecipe(values.recipe);
  const made = { model: { preset }, stage: [{ mask_ratio: fallback.mask, batch_size: fallback.batch }] };
  const size = values.latent === undefined ? [] : [`model.input_size=${values.latent}`];
  const { recipe } = resolveRecipe({
    ...(file ? { file } : { given: { origin: '--preset', values: made } }),
    env,
    sets: [...size, ...values.set],
  });
  const [first] = recipe.stage;
  if (!first) throw usage(file?.name ?? preset, 'has no stage', 'Add a [[stage]] to the recipe');
  const stage = {
    ...first,
    mask_ratio: values.mask ?? first.mask_ratio,
    batch_size: values.batch ?? first.batch_size,
  };
  const withWords = file !== undefined || presetRows[preset]?.text !== undefined;
  const network = withWords ? networkOf(recipe) : declareNetwork(recipe.model, null);
  return { name: file ? values.recipe! : preset, recipe, stage, network };
}
