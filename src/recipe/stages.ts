// Stages of a run: what a stage changes in its recipe, and how a run is made longer or shorter as a whole.

import { keptTokens, tokenCount } from '../model/config.ts';
import type { Recipe, Stage } from './schema.ts';

/** The recipe as it holds in one stage: the stage's keys put in the place of those they stand for. */
export function recipeOfStage(recipe: Recipe, stage: Stage): Recipe {
  const { model, image, diffusion, data, optimizer, schedule, train } = recipe;
  const input_size = stage.input_size ?? model.input_size;
  return {
    ...recipe,
    model: { ...model, input_size, pos_interp_scale: stage.pos_interp_scale ?? model.pos_interp_scale },
    image: { ...image, size: input_size },
    diffusion: {
      ...diffusion,
      P_mean: stage.P_mean ?? diffusion.P_mean,
      P_std: stage.P_std ?? diffusion.P_std,
    },
    data: { ...data, caption_dropout: stage.caption_dropout ?? data.caption_dropout },
    optimizer: {
      ...optimizer,
      lr: stage.lr ?? optimizer.lr,
      clip_norm: stage.clip_norm ?? optimizer.clip_norm,
      ema: stage.ema ?? optimizer.ema,
    },
    schedule: {
      ...schedule,
      kind: stage.schedule ?? schedule.kind,
      warmup_steps: stage.warmup_steps ?? schedule.warmup_steps,
      alpha_f: stage.alpha_f ?? schedule.alpha_f,
    },
    train: {
      ...train,
      batch_size: stage.batch_size ?? train.batch_size,
      micro_batch: stage.micro_batch ?? train.micro_batch,
    },
    stage: [{ ...stage, mask_ratio: model.masking === 'none' ? 0 : stage.mask_ratio }],
  };
}

/** The recipe with a token budget turned into images of each stage that has no batch size of its own. */
export function withTokenBudget(recipe: Recipe): Recipe {
  const { batch_tokens } = recipe.train;
  if (batch_tokens === 0) return recipe;
  const stage = recipe.stage.map((row) => {
    if (row.batch_size !== undefined) return row;
    const { model, train, stage: rows } = recipeOfStage(recipe, row);
    const pass = Math.max(1, train.micro_batch);
    const seen = keptTokens(tokenCount(model), rows[0]!.mask_ratio);
    return { ...row, batch_size: pass * Math.max(1, Math.round(batch_tokens / seen / pass)) };
  });
  return { ...recipe, stage };
}

/** All steps of a recipe. */
export function totalSteps(recipe: Recipe): number {
  return recipe.stage.reduce((sum, stage) => sum + stage.steps, 0);
}

/**
 * The stages with `total` steps in all, shared out in the old proportions; stages left with none drop out,
 * and sources that name stages follow their new numbers.
 */
export function withTotalSteps(recipe: Recipe, total: number): Recipe {
  const before = totalSteps(recipe);
  let old = 0;
  let given = 0;
  const stage = recipe.stage.map((row) => {
    old += row.steps;
    const until = Math.round((old / before) * total);
    const share = until - given;
    given = until;
    return { ...row, steps: share };
  });
  const numbers = stage.flatMap(({ steps }, i) => (steps > 0 ? [i + 1] : []));
  const source = recipe.data.source.flatMap((row) => {
    const stages = row.stages?.flatMap((number) => numbers.indexOf(number) + 1 || []);
    return stages?.length === 0 ? [] : [{ ...row, stages }];
  });
  return { ...recipe, data: { ...recipe.data, source }, stage: stage.filter((row) => row.steps > 0) };
}

/** What is worth a warning: stages that end before their warm-up does, which `--steps` leaves as it is. */
export function shortStages(recipe: Recipe): string[] {
  return recipe.stage.flatMap((row, i) => {
    const { kind, warmup_steps } = recipeOfStage(recipe, row).schedule;
    if (!kind.startsWith('warmup') || warmup_steps <= row.steps) return [];
    const fix = `--set stage.${i}.warmup_steps=${Math.ceil(row.steps / 100)} shortens it`;
    return [`stage ${i + 1}: its ${row.steps} steps end within the warm-up of ${warmup_steps}; ${fix}`];
  });
}

/** Where each stage begins: steps and images of all stages before it. */
export function stageStarts(recipe: Recipe): { readonly step: number; readonly image: number }[] {
  let step = 0;
  let image = 0;
  return recipe.stage.map((stage) => {
    const start = { step, image };
    step += stage.steps;
    image += stage.steps * (stage.batch_size ?? recipe.train.batch_size);
    return start;
  });
}

/** Images of the first so many steps. */
export function imagesOfSteps(recipe: Recipe, steps: number): number {
  const starts = stageStarts(recipe);
  const index = starts.findLastIndex(({ step }) => step <= steps);
  const { step, image } = starts[index]!;
  return image + (steps - step) * (recipe.stage[index]!.batch_size ?? recipe.train.batch_size);
}

/** The stage that does the step after `step` done ones; null when all are done. */
export function stageAt(recipe: Recipe, step: number): { index: number; stage: Stage; done: number } | null {
  const starts = stageStarts(recipe);
  const index = starts.findIndex((start, i) => step < start.step + recipe.stage[i]!.steps);
  const stage = recipe.stage[index];
  return stage ? { index, stage, done: step - starts[index]!.step } : null;
}
