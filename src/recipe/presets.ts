// The preset table: named models. A preset is the lowest layer of a recipe, right above the schema's
// defaults.

import type { RecipeInput } from './schema.ts';

/** `count` evenly spaced numbers from `first` to `last`, with the roundings of np.linspace. */
export function linspace(first: number, last: number, count: number): number[] {
  const step = (last - first) / (count - 1);
  return Array.from({ length: count }, (_, i) => (i === count - 1 ? last : i * step + first));
}

/** Layer-wise scaling (MicroDiT, Sec. 3.2): widths rise linearly from the first block to the last. */
function widths(depth: number) {
  return { depth, qkv_multipliers: linspace(0.5, 1, depth), ffn_multipliers: linspace(0.5, 4, depth) };
}

/** What the reference's two model functions fix (models/dit.py, MicroDiT_Tiny_2 and MicroDiT_XL_2). */
const reference = {
  input_size: 32,
  patch_size: 2,
  in_channels: 4,
  multiple_of: 256,
  caption_channels: 1024,
  pos_interp_scale: 1,
  norm_eps: 1e-6,
  depth_init: true,
  use_patch_mixer: true,
  patch_mixer_qkv_ratio: 1,
  patch_mixer_mlp_ratio: 4,
  use_bias: false,
  num_experts: 8,
  expert_capacity: 2,
  experts_every_n: 2,
};

const small = { ...reference, in_channels: 3, num_experts: 4 };

export const PRESETS = {
  // 1,165,442,320 parameters
  MicroDiT_XL_2: {
    model: {
      ...reference,
      ...widths(28),
      dim: 1024,
      head_dim: 64,
      patch_mixer_depth: 6,
      patch_mixer_dim: 768,
    },
  },
  // 200,692,752 parameters
  MicroDiT_Tiny_2: {
    model: {
      ...reference,
      ...widths(16),
      dim: 512,
      head_dim: 32,
      patch_mixer_depth: 4,
      patch_mixer_dim: 512,
    },
  },
  // 32 px pictures in 64 tokens, for minutes on a CPU
  emoji_small: {
    model: {
      ...small,
      ...widths(6),
      patch_size: 4,
      dim: 128,
      head_dim: 32,
      multiple_of: 32,
      caption_channels: 64,
      patch_mixer_depth: 2,
      patch_mixer_dim: 128,
    },
    text: { encoder: 'words', vocab_buckets: 3072, length: 16 },
    image: { kind: 'pixels' },
    diffusion: { sigma_data: 0.5 },
  },
  // 16 tokens, for tests
  nano: {
    model: {
      ...small,
      ...widths(2),
      input_size: 8,
      dim: 32,
      head_dim: 8,
      multiple_of: 8,
      caption_channels: 12,
      patch_mixer_depth: 2,
      patch_mixer_dim: 24,
    },
    text: { encoder: 'words', vocab_buckets: 64, length: 5 },
    image: { kind: 'pixels' },
    diffusion: { sigma_data: 0.5 },
  },
} satisfies Record<string, RecipeInput>;

export type PresetName = keyof typeof PRESETS;

/** The rows of the table by name, for look-ups with a name that may be wrong. */
export const presetRows: Readonly<Record<string, RecipeInput>> = PRESETS;
