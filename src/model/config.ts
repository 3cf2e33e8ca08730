// What a MicroDiT is built from: the reference constructor's arguments, and the widths that follow from them.
import { Failure } from '../io/failure.ts';

/** Names and meaning as in the reference's `DiT.__init__`; `masking` is ours. */
export interface ModelConfig {
  /** Height and width of the latent or pixel image. */
  readonly input_size: number;
  readonly patch_size: number;
  readonly in_channels: number;
  readonly dim: number;
  readonly depth: number;
  readonly head_dim: number;
  readonly multiple_of: number;
  readonly caption_channels: number;
  readonly pos_interp_scale: number;
  readonly norm_eps: number;
  readonly depth_init: boolean;
  readonly qkv_multipliers: readonly number[];
  readonly ffn_multipliers: readonly number[];
  readonly use_patch_mixer: boolean;
  readonly patch_mixer_depth: number;
  readonly patch_mixer_dim: number;
  readonly patch_mixer_qkv_ratio: number;
  readonly patch_mixer_mlp_ratio: number;
  readonly use_bias: boolean;
  readonly num_experts: number;
  readonly expert_capacity: number;
  readonly experts_every_n: number;
  /** deferred: drop patches after the mixer; naive: before it; none: keep all. */
  readonly masking?: 'deferred' | 'naive' | 'none';
}

/** Widths of one block. */
export interface BlockConfig {
  readonly dim: number;
  readonly headDim: number;
  /** Width of q, k and v in self-attention. */
  readonly qkvDim: number;
  /** Hidden width F of the feed-forward part. */
  readonly hidden: number;
  readonly experts: number;
  /** Standard deviation of the weights that end a residual branch. */
  readonly initStd: number;
}

/** T, the number of patches. */
export function tokenCount(config: ModelConfig): number {
  return (config.input_size / config.patch_size) ** 2;
}

/**
 * Patches kept under a mask ratio: the reference's int(T (1 - r)) for its own ratios, else rounded, since
 * that formula loses a token to float error for some ratios.
 */
export function keptTokens(tokens: number, maskRatio: number): number {
  const exact = [0, 0.5, 0.75].includes(maskRatio);
  const kept = exact ? Math.trunc(tokens * (1 - maskRatio)) : Math.round(tokens * (1 - maskRatio));
  if (kept < 1 || kept > tokens) {
    throw new Failure({ what: 'mask_ratio', why: `${maskRatio} of ${tokens} patches leaves ${kept}` });
  }
  return kept;
}

/** K, the tokens that each expert takes of T. */
export function tokensPerExpert(config: ModelConfig, tokens: number): number {
  const K = Math.trunc((config.expert_capacity * tokens) / config.num_experts);
  if (K < 1 || K > tokens) {
    throw new Failure({
      what: 'expert_capacity',
      why: `${config.expert_capacity} with ${config.num_experts} experts gives each ${K} of ${tokens} tokens`,
    });
  }
  return K;
}

/** Widths of the patch-mixer's blocks. */
export function mixerBlocks(config: ModelConfig): BlockConfig[] {
  if (!config.use_patch_mixer) return [];
  return Array.from({ length: config.patch_mixer_depth }, (_, i) => ({
    dim: config.patch_mixer_dim,
    headDim: config.head_dim,
    qkvDim: qkvWidth(config.patch_mixer_dim, config.patch_mixer_qkv_ratio, config.head_dim),
    experts: i >= 1 && hasExperts(i, config) ? config.num_experts : 0,
    hidden: hiddenWidth(
      Math.trunc(config.patch_mixer_dim * config.patch_mixer_mlp_ratio),
      i >= 1 && hasExperts(i, config),
      config.multiple_of,
    ),
    initStd: 0.02 / Math.sqrt(2 * config.depth),
  }));
}

/**
 * Widths of the backbone's blocks: layer-wise scaling by the two multiplier lists; no experts in the last.
 */
export function backboneBlocks(config: ModelConfig): BlockConfig[] {
  const { depth, dim } = config;
  const qkv = perBlock(config.qkv_multipliers, depth, 'qkv_multipliers');
  const ffn = perBlock(config.ffn_multipliers, depth, 'ffn_multipliers');
  if (config.qkv_multipliers.length !== config.ffn_multipliers.length) {
    throw new Failure({ what: 'model', why: 'qkv_multipliers and ffn_multipliers differ in length' });
  }
  return Array.from({ length: depth }, (_, i) => {
    const experts = i < depth - 1 && hasExperts(i, config);
    return {
      dim,
      headDim: config.head_dim,
      qkvDim: qkvWidth(dim, qkv[i]!, config.head_dim),
      experts: experts ? config.num_experts : 0,
      hidden: hiddenWidth(Math.trunc(dim * ffn[i]!), experts, config.multiple_of),
      initStd: 0.02 / Math.sqrt(2 * (config.depth_init ? i + 1 : depth)),
    };
  });
}

/** Hidden width of the dense feed-forward part of the caption block. */
export function captionHidden(config: ModelConfig): number {
  return hiddenWidth(config.dim * 4, false, config.multiple_of);
}

/** Says what is wrong with a configuration, if anything. */
export function checkConfig(config: ModelConfig): void {
  const bad = (what: string, why: string): never => {
    throw new Failure({ what: `model.${what}`, why });
  };
  const counts = [
    'input_size',
    'patch_size',
    'in_channels',
    'dim',
    'depth',
    'head_dim',
    'multiple_of',
  ] as const;
  for (const key of [...counts, 'caption_channels', 'num_experts', 'experts_every_n'] as const) {
    if (!Number.isInteger(config[key]) || config[key] < 1)
      bad(key, `${config[key]} is not a positive whole number`);
  }
  if (config.input_size % config.patch_size) bad('input_size', `is not a multiple of patch_size`);
  if (config.dim % config.head_dim)
    bad('dim', `${config.dim} is not a multiple of head_dim ${config.head_dim}`);
  if (config.dim % 4) bad('dim', `${config.dim} is not a multiple of 4, which positions need`);
  if (config.use_patch_mixer && config.patch_mixer_dim % config.head_dim) {
    bad('patch_mixer_dim', `${config.patch_mixer_dim} is not a multiple of head_dim ${config.head_dim}`);
  }
}

function hasExperts(i: number, config: ModelConfig): boolean {
  return (i + 1) % config.experts_every_n === 0;
}

function qkvWidth(dim: number, ratio: number, headDim: number): number {
  return ratio === 1 ? dim : roundUp(Math.trunc(dim * ratio), headDim * 2);
}

/** SwiGLU takes two thirds of the width, since it has three matrices; experts take all of it. */
function hiddenWidth(width: number, experts: boolean, multipleOf: number): number {
  return roundUp(experts ? width : Math.trunc((2 * width) / 3), multipleOf);
}

function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}

/** A multiplier for each block; a shorter list is spread over equal parts of the depth. */
function perBlock(list: readonly number[], depth: number, key: string): readonly number[] {
  if (depth % list.length) {
    throw new Failure({ what: `model.${key}`, why: `${list.length} values do not divide depth ${depth}` });
  }
  return Array.from({ length: depth }, (_, i) => list[Math.floor((i * list.length) / depth)]!);
}
