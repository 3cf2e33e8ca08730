// Every recipe key: kind, default, unit, range, meaning. Validation, help, docs and types come from these
// tables. Names in `model` are the reference constructor's (SonyResearch/micro_diffusion, models/dit.py), so
// that a config of either program reads the same; `masking` and `preset` are ours.

import { SAMPLERS } from '../diffusion/solvers.ts';
import { RECOMPUTE } from '../plan/recompute.ts';
import { bool, choice, type Field, int, interval, LARGEST, real, reals, text, texts } from './field.ts';

const channels = { min: 1, unit: 'channels' } as const;
const steps = { min: 0, unit: 'steps' } as const;
const share = { min: 0, max: 1 } as const;
const seed = { min: 0, max: LARGEST } as const;

const model = {
  preset: text(undefined, 'Row of the preset table that gives every key which nothing else sets'),
  input_size: int(
    32,
    { min: 1, unit: 'pixels' },
    'Side of the square input of the network (pixels or latents)',
  ),
  patch_size: int(2, { min: 1, unit: 'pixels' }, 'Side of a patch; T = (input_size / patch_size)^2 tokens'),
  in_channels: int(4, channels, 'Channels of the input and of the output'),
  dim: int(1152, channels, 'Width C of the backbone'),
  depth: int(28, { min: 1, unit: 'blocks' }, 'Blocks of the backbone'),
  head_dim: int(64, channels, 'Width D of an attention head'),
  multiple_of: int(256, channels, 'Hidden widths are rounded up to a multiple of this'),
  caption_channels: int(1024, channels, 'Width of a caption token'),
  pos_interp_scale: real(1, { min: 1e-6 }, 'Positions are divided by this (1 at 256 px, 2 at 512 px)'),
  norm_eps: real(1e-6, { min: 0 }, 'Epsilon of every LayerNorm'),
  depth_init: bool(true, 'Initial weights of the backbone shrink with depth'),
  qkv_multipliers: reals(
    [1],
    { min: 0 },
    'Attention width over C: one a block, or one an equal run of blocks',
  ),
  ffn_multipliers: reals([4], { min: 0 }, 'Feed-forward width over C: as many as qkv_multipliers'),
  use_patch_mixer: bool(true, 'Patch-mixer blocks before the mask'),
  patch_mixer_depth: int(4, { min: 0, unit: 'blocks' }, 'Blocks of the patch-mixer'),
  patch_mixer_dim: int(512, channels, 'Width of the patch-mixer; maps in and out when it is not dim'),
  patch_mixer_qkv_ratio: real(1, { min: 0 }, 'Attention width over patch_mixer_dim'),
  patch_mixer_mlp_ratio: real(1, { min: 0 }, 'Feed-forward width over patch_mixer_dim'),
  use_bias: bool(true, 'Biases in the linear layers of the blocks'),
  num_experts: int(8, { min: 1, unit: 'experts' }, 'Experts E of a mixture-of-experts block'),
  expert_capacity: real(1, { min: 0 }, 'Experts a token gets on average; each takes capacity * T / E tokens'),
  experts_every_n: int(2, { min: 1, unit: 'blocks' }, 'Every n-th block is a mixture (never the last one)'),
  masking: choice(
    'deferred',
    ['deferred', 'naive', 'none'],
    'Mask after the patch-mixer, before it, or never (then mask_ratio counts as 0)',
  ),
};

const textKeys = {
  encoder: choice(
    'words',
    ['words', 'states', 'clip'],
    'Captions: trained embedding of hashed words, states of a text tower in the data, or the tower itself',
  ),
  clip: text(undefined, 'Text tower of states and clip: a name of `microdiff list`, or a file'),
  vocab_buckets: int(
    4096,
    { min: 1, unit: 'rows' },
    'Rows of the word embedding; words are hashed into them',
  ),
  channels: int(1024, { ...channels, follows: 'model.caption_channels' }, 'Width of a caption token'),
  length: int(77, { min: 1, unit: 'tokens' }, 'Caption length S; longer captions are cut'),
};

const image = {
  kind: choice(
    'pixels',
    ['pixels', 'latents'],
    'What the network sees: pixels scaled to [-1, 1], or scaled latents of an autoencoder, kept in the data',
  ),
  vae: text(undefined, 'Autoencoder of the latents: a name of `microdiff list`, or a file'),
  size: int(32, { min: 1, unit: 'pixels', follows: 'model.input_size' }, 'Side of a picture'),
  channels: int(4, { ...channels, follows: 'model.in_channels' }, 'Channels of a picture (3 = RGB)'),
};

const diffusion = {
  P_mean: real(-0.6, {}, 'Mean of ln(sigma) in training (EDM, Table 1)'),
  P_std: real(1.2, { min: 0 }, 'Standard deviation of ln(sigma) in training (EDM, Table 1)'),
  sigma_data: real(0.9, { min: 1e-6 }, 'Standard deviation of the data (EDM, Table 1)'),
  sigma_min: real(0.002, { min: 1e-9 }, 'Smallest noise level of sampling'),
  sigma_max: real(80, { min: 1e-9 }, 'Largest noise level of sampling'),
  rho: real(7, { min: 1e-6 }, 'Curvature of the noise levels in sampling (EDM, Eq. 5)'),
};

const data = {
  caption_dropout: real(0.1, share, 'Share of captions that are zeroed, for guidance'),
  seed: int(0, seed, 'Seed of the order of the pictures'),
  validation: int(
    0,
    { min: 0, max: 2 ** 24, unit: 'samples' },
    'Held out of the first source (emoji: those that are held out anyway) for the validation loss; 0 = none',
  ),
  window: int(64, { min: 1, unit: 'shards' }, 'Shards of a set that are shuffled together'),
  workers: int(
    0,
    { min: 0, max: 64 },
    'Threads that read shards; they change nothing (0: as many as are good here)',
  ),
};

const source = {
  name: choice(
    'emoji',
    ['emoji', 'shapes', 'folder', 'mds'],
    'Embedded emoji, shapes drawn on the fly with exact captions, a folder of pictures, or shards',
  ),
  path: text(
    undefined,
    'Folder of pictures, each with its caption in a .txt of the same name; or folder or address of shards',
  ),
  weight: real(
    undefined,
    { min: 0 },
    'Share of the batch relative to other sources (left out: 1; for shards the number of their samples)',
  ),
  subset: choice(undefined, ['subset', 'quickstart'], 'Named part of the emoji (all of them when left out)'),
  styles: texts(undefined, 'Drawing styles to use (all of them when left out)'),
  count: int(undefined, { min: 1, unit: 'pictures' }, 'Use the first so many pictures only'),
  stages: reals(undefined, { min: 1 }, 'Numbers of the stages that use it, from 1 (all when left out)'),
  validation: bool(false, 'Not trained on: its first data.validation samples are for the validation loss'),
};

const optimizer = {
  lr: real(2.4e-4, { min: 0 }, 'Peak learning rate of AdamW'),
  beta1: real(0.9, { min: 0, max: 0.999999 }, 'Decay of the mean of the gradient'),
  beta2: real(0.999, { min: 0, max: 0.99999999 }, 'Decay of the mean square of the gradient'),
  eps: real(1e-8, { min: 0 }, 'Added to the root of the mean square'),
  weight_decay: real(0.1, { min: 0 }, 'Decoupled weight decay, times the learning rate'),
  no_decay: texts(
    [],
    'Kinds of parameters without weight decay: norm, bias, embedding (none as the reference)',
  ),
  clip_norm: real(0.25, { min: 0 }, 'Largest global norm of the gradient (0 = no clipping)'),
  expert_lr_scale: real(1, { min: 0 }, 'Learning rate of expert weights, relative to lr'),
  ema: real(0, { min: 0, max: 0.9999999 }, 'Decay of the averaged weights per step (0 = off)'),
};

const SCHEDULES = ['constant', 'warmup-constant', 'warmup-cosine'] as const;

const schedule = {
  kind: choice('warmup-cosine', SCHEDULES, 'Course of the learning rate within a stage'),
  warmup_steps: int(0, steps, 'Linear rise from 0'),
  alpha_f: real(0.33, share, 'Learning rate at the end of the cosine, relative to lr'),
  lagged: bool(false, 'One step late, as the trainer of the reference (batches 0 and 1 with the same rate)'),
};

const train = {
  batch_size: int(64, { min: 1, unit: 'images' }, 'Pictures in a step'),
  batch_tokens: int(
    0,
    { min: 0, unit: 'tokens' },
    'Patches that the backbone sees in a step, in place of batch_size (0 = batch_size)',
  ),
  micro_batch: int(
    0,
    { min: 0, unit: 'images' },
    'Pictures in one pass; a step adds up passes (0 = batch_size)',
  ),
  fit_micro_batch: bool(
    false,
    'Gives each stage the largest passes that fit the free memory where the run begins; kept in the run',
  ),
  recompute: choice(
    'none',
    RECOMPUTE,
    'Forward results that gradients make again rather than keep: less memory, more work, equal bits',
  ),
  seed: int(0, seed, 'Seed of weights, noise, masks and caption dropout'),
  checkpoint_every: interval('5m', 'Steps or time between checkpoints (0 = only at the end)'),
  async_checkpoints: bool(
    true,
    'Train on while a checkpoint is written, out of a copy of the state in memory (where that is free)',
  ),
  validate_every: interval(500, 'Steps or time between validation losses (0 = only at the end)'),
  preview_every: interval('1m', 'Steps or time between previews (0 = only at the end)'),
  preview_prompts: texts([], 'Captions of the previews (none: captions of the first pictures)'),
  log_every: int(10, { min: 1, unit: 'steps' }, 'Steps between two lines of metrics.jsonl'),
  keep_last: int(2, { min: 1, unit: 'checkpoints' }, 'Checkpoints that are kept, the newest'),
  keep_every: int(0, steps, 'Steps between checkpoints that are kept for ever (0 = none)'),
  non_finite: choice(
    'skip',
    ['skip', 'stop'],
    'A step whose loss or gradient is not finite changes nothing: go on with the next, or stop (exit code 4)',
  ),
  skip_limit: int(5, { min: 1, unit: 'steps' }, 'Skipped steps in a row after which the run stops'),
  log_gap: bool(false, 'Also log how close routing came to another choice (topk_gap; slows steps down)'),
  tensorboard: bool(true, 'Also write the metrics and previews as event files of TensorBoard'),
};

const sample = {
  steps: int(30, { min: 1, max: 10000, unit: 'steps' }, 'Steps of the sampler'),
  cfg_scale: real(5, {}, 'Classifier-free guidance (1 = off)'),
  sampler: choice(
    'heun',
    SAMPLERS,
    'Solver: Heun (EDM, Algorithm 1 without churn), Euler or DPM-Solver++(2M)',
  ),
};

const stage = {
  name: text(undefined, 'Name in the log'),
  steps: int(1000, { min: 1, unit: 'steps' }, 'Length of the stage'),
  mask_ratio: real(0, { min: 0, max: 0.99 }, 'Share of the tokens that the backbone does not see'),
  input_size: int(undefined, { min: 1, unit: 'pixels' }, 'Instead of model.input_size'),
  optimizer: choice(
    'keep',
    ['keep', 'drop'],
    'What the stage before left of the moments of the gradient: kept, or begun anew',
  ),
  batch_size: int(undefined, { min: 1, unit: 'images' }, 'Instead of train.batch_size'),
  micro_batch: int(undefined, { min: 1, unit: 'images' }, 'Instead of train.micro_batch'),
  lr: real(undefined, { min: 0 }, 'Instead of optimizer.lr'),
  clip_norm: real(undefined, { min: 0 }, 'Instead of optimizer.clip_norm'),
  ema: real(undefined, { min: 0, max: 0.9999999 }, 'Instead of optimizer.ema'),
  ema_start: int(0, steps, 'Steps of the stage before the averaged weights begin to differ from the others'),
  schedule: choice(undefined, SCHEDULES, 'Instead of schedule.kind'),
  warmup_steps: int(undefined, steps, 'Instead of schedule.warmup_steps'),
  alpha_f: real(undefined, share, 'Instead of schedule.alpha_f'),
  P_mean: real(undefined, {}, 'Instead of diffusion.P_mean'),
  P_std: real(undefined, { min: 0 }, 'Instead of diffusion.P_std'),
  pos_interp_scale: real(undefined, { min: 1e-6 }, 'Instead of model.pos_interp_scale'),
  caption_dropout: real(undefined, share, 'Instead of data.caption_dropout'),
};

/** Tables that occur once: `[model]`, `[text]`, ... */
export const TABLES = { model, text: textKeys, image, diffusion, data, optimizer, schedule, train, sample };
/** Tables that occur any number of times, by dotted name: `[[data.source]]`, `[[stage]]`. */
export const LISTS = { 'data.source': source, stage };

export type Table = Readonly<Record<string, Field>>;
type Values<T> = { -readonly [K in keyof T]: T[K] extends Field<infer V> ? V : never };

export type ModelConfig = Values<typeof model>;
export type TextConfig = Values<typeof textKeys>;
export type ImageConfig = Values<typeof image>;
export type DiffusionConfig = Values<typeof diffusion>;
export type DataSource = Values<typeof source>;
export type DataConfig = Values<typeof data> & { source: DataSource[] };
export type OptimizerConfig = Values<typeof optimizer>;
export type ScheduleConfig = Values<typeof schedule>;
export type TrainConfig = Values<typeof train>;
export type SampleConfig = Values<typeof sample>;
export type Stage = Values<typeof stage>;

/** A resolved recipe: every key has a value that its row allows. */
export interface Recipe {
  model: ModelConfig;
  text: TextConfig;
  image: ImageConfig;
  diffusion: DiffusionConfig;
  data: DataConfig;
  optimizer: OptimizerConfig;
  schedule: ScheduleConfig;
  train: TrainConfig;
  sample: SampleConfig;
  stage: Stage[];
}

/** A recipe as it is written: any part of it, values not yet checked. */
export type RecipeInput = {
  [S in keyof Recipe]?: Recipe[S] extends unknown[] ? Partial<Stage>[] : PartialTable<Recipe[S]>;
};
type PartialTable<T> = { [K in keyof T]?: T[K] extends DataSource[] ? Partial<DataSource>[] : T[K] };

const tableRows: Readonly<Record<string, Table>> = TABLES;
const listRows: Readonly<Record<string, Table>> = LISTS;

/** The row of a dotted key such as `optimizer.lr` or `stage.1.steps`; undefined for an unknown one. */
export function findField(key: string): Field | undefined {
  const parts = key.split('.');
  const name = parts.at(-1)!;
  const last = parts.slice(0, -1);
  const rows = /^\d+$/.test(last.at(-1) ?? '')
    ? listRows[last.slice(0, -1).join('.')]
    : tableRows[last.join('.')];
  return rows && Object.hasOwn(rows, name) ? rows[name] : undefined;
}

/** Every dotted key, in the order of the tables; keys of lists with entry 0. */
export function allKeys(): string[] {
  const once = Object.entries(tableRows).flatMap(([table, rows]) =>
    Object.keys(rows).map((k) => `${table}.${k}`),
  );
  const many = Object.entries(listRows).flatMap(([list, rows]) =>
    Object.keys(rows).map((k) => `${list}.0.${k}`),
  );
  return [...once, ...many];
}
