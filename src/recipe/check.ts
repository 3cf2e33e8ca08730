// Checks that need several keys at once: sizes that must divide, lists that must match, keys that must agree.

import { EXIT, Failure } from '../io/failure.ts';
import { backboneBlocks, keptTokens, mixerBlocks, tokenCount, tokensPerExpert } from '../model/config.ts';
import type { Recipe } from './schema.ts';
import { recipeOfStage } from './stages.ts';

type Origin = (key: string) => string;

/** Throws a Failure that names the keys which do not go together, and where the first of them was set. */
export function checkRecipe(recipe: Recipe, origin: Origin): void {
  const refuse = (key: string, why: string, fix: string) => {
    throw new Failure({ what: `${key} in ${origin(key)}`, why, fix, code: EXIT.usage });
  };
  const { model, text, image, diffusion } = recipe;

  if (model.input_size % model.patch_size !== 0) {
    refuse(
      'model.input_size',
      `${model.input_size} is no multiple of model.patch_size ${model.patch_size}`,
      'Change one of them',
    );
  }
  for (const key of ['dim', 'patch_mixer_dim'] as const) {
    if (key === 'patch_mixer_dim' && !model.use_patch_mixer) continue;
    if (model[key] % model.head_dim !== 0) {
      refuse(
        `model.${key}`,
        `${model[key]} is no multiple of model.head_dim ${model.head_dim}`,
        'Change one of them',
      );
    }
  }
  if (model.dim % 4 !== 0) {
    refuse(
      'model.dim',
      `${model.dim} is no multiple of 4, as sin-cos positions need`,
      'Choose a multiple of 4',
    );
  }
  const lists = model.qkv_multipliers.length;
  if (model.ffn_multipliers.length !== lists) {
    refuse(
      'model.ffn_multipliers',
      `${model.ffn_multipliers.length} numbers, but model.qkv_multipliers has ${lists}`,
      'Give both the same length',
    );
  }
  if (model.depth % lists !== 0) {
    refuse(
      'model.qkv_multipliers',
      `${lists} numbers cannot be shared out over model.depth ${model.depth}`,
      'Give one number a block, or a number that divides the depth',
    );
  }
  if (model.masking === 'deferred' && !model.use_patch_mixer && recipe.stage.some((s) => s.mask_ratio > 0)) {
    refuse(
      'model.masking',
      'deferred masking needs the patch-mixer, and model.use_patch_mixer is false',
      'Say model.masking = "naive"',
    );
  }
  agree('text.channels', text.channels, 'model.caption_channels', model.caption_channels);
  agree('image.size', image.size, 'model.input_size', model.input_size);
  agree('image.channels', image.channels, 'model.in_channels', model.in_channels);
  if (diffusion.sigma_min >= diffusion.sigma_max) {
    refuse('diffusion.sigma_min', `${diffusion.sigma_min} is not below sigma_max`, 'Choose a smaller one');
  }
  const unknown = recipe.optimizer.no_decay.find((kind) => !['norm', 'bias', 'embedding'].includes(kind));
  if (unknown !== undefined) {
    refuse('optimizer.no_decay', `${unknown} is no kind of parameter`, 'Use some of norm, bias, embedding');
  }
  const { batch_size, batch_tokens, micro_batch } = recipe.train;
  if (micro_batch > 0 && batch_tokens === 0 && batch_size % micro_batch !== 0) {
    refuse(
      'train.micro_batch',
      `${micro_batch} does not divide train.batch_size ${batch_size}`,
      'Choose a divisor, or 0',
    );
  }
  for (const [i, stage] of recipe.stage.entries()) {
    const [batch, pass] = [stage.batch_size ?? batch_size, stage.micro_batch ?? micro_batch];
    if (pass > 0 && batch % pass !== 0) {
      refuse(
        `stage.${i}.batch_size`,
        `${batch} is no multiple of ${stage.micro_batch ? 'its ' : 'train.'}micro_batch ${pass}`,
        'Choose a multiple',
      );
    }
  }
  for (const [i, { input_size }] of recipe.stage.entries()) {
    if (input_size !== undefined && input_size % model.patch_size !== 0) {
      refuse(
        `stage.${i}.input_size`,
        `${input_size} is no multiple of model.patch_size ${model.patch_size}`,
        'Change one of them',
      );
    }
  }
  // A stage that cannot be would else be told of when those before it are done.
  for (const [i, row] of recipe.stage.entries()) {
    const { model: own, stage } = recipeOfStage(recipe, row);
    try {
      const all = tokenCount(own);
      const kept = keptTokens(all, stage[0]!.mask_ratio);
      const routed = (blocks: readonly { experts: number }[]) => blocks.some(({ experts }) => experts > 0);
      if (routed(mixerBlocks(own))) tokensPerExpert(own, own.masking === 'naive' ? kept : all);
      if (routed(backboneBlocks(own))) tokensPerExpert(own, kept);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      refuse(`stage.${i}.mask_ratio`, error.message, 'Mask less, or give experts more');
    }
  }
  for (const [i, { name, path, stages }] of recipe.data.source.entries()) {
    const key = `data.source.${i}`;
    const files = name === 'folder' || name === 'mds';
    if (files && !path) refuse(`${key}.path`, 'missing', 'Name the folder');
    if (!files && path)
      refuse(`${key}.path`, `${name} have no folder`, 'Leave it out, or name another source');
    const latents = image.kind === 'latents' || text.encoder !== 'words';
    if (latents && name !== 'mds') {
      const kinds = `image.kind is ${image.kind} and text.encoder ${text.encoder}`;
      const fix = 'Give shards of latents (name = "mds"); microdiff prepare --vae --clip makes them';
      refuse(`${key}.name`, `${name} has pictures and words, but ${kinds}`, fix);
    }
    if (name !== 'mds' && recipe.data.source.some((other) => other.name === 'mds')) {
      const fix = 'Make shards of its pictures, too: microdiff prepare';
      refuse(`${key}.name`, `${name} is not mixed with shards`, fix);
    }
    const wrong = stages?.find((n) => !Number.isInteger(n) || n > Math.max(1, recipe.stage.length));
    if (wrong !== undefined) refuse(`${key}.stages`, `there is no stage ${wrong}`, 'Count from 1');
  }
  if (recipe.data.source.some(({ validation }) => validation) && recipe.data.validation === 0) {
    refuse('data.validation', '0, but a source is for validation', 'Say how many samples of it are used');
  }
  if ((image.kind === 'latents') !== (text.encoder !== 'words')) {
    refuse(
      'text.encoder',
      `${text.encoder} does not go with image.kind ${image.kind}`,
      'Latents go with states or clip, pixels with words',
    );
  }
  for (const i of recipe.stage.keys()) {
    const used = recipe.data.source.filter((row) => !row.validation && (row.stages?.includes(i + 1) ?? true));
    if (recipe.data.source.length > 0 && used.length === 0) {
      refuse(`stage.${i}`, 'no data.source is for this stage', 'Add its number to the stages of one');
    }
  }
  if (recipe.data.source.length > 0 && recipe.data.source.every(({ weight }) => weight === 0)) {
    refuse('data.source.0.weight', 'every source has weight 0', 'Give one of them a weight above 0');
  }

  function agree(key: string, value: number, other: string, otherValue: number): void {
    if (value !== otherValue) refuse(key, `${value}, but ${other} is ${otherValue}`, 'They must be equal');
  }
}

/**
 * What training needs beyond a model: at least one stage and one source. Throws a Failure that says how to
 * add it.
 */
export function checkTrainable(recipe: Recipe, name: string): void {
  if (recipe.stage.length === 0) {
    throw new Failure({
      what: name,
      why: 'has no [[stage]]',
      fix: 'Add [[stage]] with steps and mask_ratio',
      code: EXIT.usage,
    });
  }
  if (recipe.data.source.length === 0) {
    throw new Failure({
      what: name,
      why: 'has no [[data.source]]',
      fix: 'Add [[data.source]] with name = "emoji"',
      code: EXIT.usage,
    });
  }
}
