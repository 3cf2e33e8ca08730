// What one update of a stage consists of, from a recipe: numbers of its micro-steps and of its optimizer.
import { EXIT, Failure } from '../io/failure.ts';
import { recipeOfStage } from '../recipe/stages.ts';
import type { ModelConfig, Recipe, Stage } from '../recipe/schema.ts';
import type { Inputs, MicroStep, UpdateOptions } from './step.ts';

export interface StageWork {
  readonly step: MicroStep;
  readonly update: UpdateOptions;
  readonly model: ModelConfig;
}

/** True where any stage of a recipe averages the weights. */
export function averages(recipe: Recipe): boolean {
  return recipe.optimizer.ema > 0 || recipe.stage.some((s) => (s.ema ?? 0) > 0);
}

/** Inputs of the micro-step, by what a recipe learns from. */
export function inputsOf({ image, text }: Pick<Recipe, 'image' | 'text'>): Inputs {
  const captions = { words: 'words', states: 'captions', clip: 'tokens' } as const;
  return { images: image.kind === 'latents' ? 'latents' : 'x0', captions: captions[text.encoder] };
}

/**
 * Micro-batch, passes, mask and optimizer of a stage, for one of so many ranks. Throws a Failure (code 2)
 * where a step's images cannot be shared out evenly.
 */
export function stageWork(recipe: Recipe, stage: Stage, ranks = 1): StageWork {
  const { model, text, diffusion, data, optimizer, train, stage: rows } = recipeOfStage(recipe, stage);
  const batch = train.micro_batch || train.batch_size / ranks;
  const passes = train.batch_size / (batch * ranks);
  if (!Number.isInteger(batch) || !Number.isInteger(passes)) {
    const pass = train.micro_batch ? `passes of ${batch} images (train.micro_batch)` : 'equal parts';
    throw new Failure({
      what: train.batch_tokens > 0 ? 'train.batch_tokens' : 'train.batch_size',
      why: `${train.batch_size} images cannot be shared out over ${ranks} ranks in ${pass}`,
      fix: `Use another number of GPUs, or change ${train.micro_batch ? 'train.micro_batch' : 'it'}`,
      code: EXIT.usage,
    });
  }
  return {
    step: {
      inputs: inputsOf(recipe),
      batch,
      passes,
      ...(ranks > 1 ? { ranks } : {}),
      ...(train.log_gap ? { gaps: true } : {}),
      maskRatio: rows[0]?.mask_ratio ?? 0,
      P_mean: diffusion.P_mean,
      P_std: diffusion.P_std,
      sigmaData: diffusion.sigma_data,
      captionDropout: data.caption_dropout,
      recompute: train.recompute,
      captionLength: text.length,
    },
    update: {
      clipNorm: optimizer.clip_norm,
      weightDecay: optimizer.weight_decay,
      noDecay: optimizer.no_decay,
      beta1: optimizer.beta1,
      beta2: optimizer.beta2,
      eps: optimizer.eps,
      expertLrScale: optimizer.expert_lr_scale,
      ema: averages(recipe),
    },
    model,
  };
}

/** Throws a Failure (code 2) where the steps of a recipe cannot be shared out evenly over so many ranks. */
export function checkShares(recipe: Recipe, ranks: number): void {
  for (const stage of recipe.stage) stageWork(recipe, stage, ranks);
}

/** Whether they can be. */
export function canShare(recipe: Recipe, ranks: number): boolean {
  try {
    checkShares(recipe, ranks);
    return true;
  } catch (error) {
    if (error instanceof Failure) return false;
    throw error;
  }
}
