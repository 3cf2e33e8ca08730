// CLIP's image tower, a vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) under OpenCLIP's
// names:
// patches and a class token, ln_pre, blocks as the text tower's without a mask, ln_post of the class token,
// projection into the space of the texts.
import { attention } from '../plan/ops/attention.ts';
import { copyInto } from '../plan/ops/copy.ts';
import { gemm } from '../plan/ops/linear.ts';
import type { Handle, Parameters } from '../plan/params.ts';
import { reshape, type Tensor } from '../plan/tensor.ts';
import { traceOf } from '../plan/trace.ts';
import {
  type Affine,
  applyBlocks,
  type ClipContext,
  declaring,
  layerNorm,
  poolClip,
  type ResBlock,
} from './clip.ts';

export interface ClipVisualConfig {
  /** Side of the images, and of a patch. */
  readonly side: number;
  readonly patch: number;
  /** C */
  readonly width: number;
  readonly heads: number;
  readonly layers: number;
  /** F, width of the layer between. */
  readonly hidden: number;
  readonly quickGelu: boolean;
  readonly embed: number;
}

/** DFN5B-CLIP-ViT-H-14-378. */
export const DFN5B_VISUAL: ClipVisualConfig = {
  ...{ side: 378, patch: 14, width: 1280, heads: 16, layers: 32, hidden: 5120, quickGelu: true, embed: 1024 },
};

export interface ClipVisual {
  readonly config: ClipVisualConfig;
  /** [C, 3 p p]; files hold [C, 3, p, p]. */
  readonly patches: Handle;
  /** [T + 1, C], the class token's embedding added to the first row. */
  readonly positions: Handle;
  readonly lnPre: Affine;
  readonly blocks: readonly ResBlock[];
  readonly lnPost: Affine;
  /** [C, embed] */
  readonly projection: Handle;
}

/** Patches of an image, T, and numbers of one of them. */
export function patchesOf({ side, patch }: ClipVisualConfig): { count: number; size: number } {
  return { count: Math.floor(side / patch) ** 2, size: 3 * patch * patch };
}

/** Name of the class token in files, whose values stand in the first row of the positions here. */
export const CLASS_EMBEDDING = 'visual.class_embedding';

export function declareClipVisual(p: Parameters, config: ClipVisualConfig): ClipVisual {
  const { width: C, hidden: F, layers, embed } = config;
  const { count, size } = patchesOf(config);
  const { add, affine, block } = declaring(p, 'visual.');
  return {
    config,
    patches: add('conv1.weight', [C, size]),
    positions: add('positional_embedding', [count + 1, C]),
    lnPre: affine('ln_pre', [C]),
    blocks: Array.from({ length: layers }, (_, i) => block(i, C, F)),
    lnPost: affine('ln_post', [C]),
    projection: add('proj', [C, embed]),
  };
}

/**
 * Patches [N, T + 1, 3 p p], each channel by channel, the first row of an image zero -> [N, embed], not
 * normalised. `first`: zeros [N, 1] i32.
 */
export function encodeClipImages(g: ClipContext, tower: ClipVisual, images: Tensor, first: Tensor): Tensor {
  const trace = traceOf(images);
  const { config, blocks, lnPost } = tower;
  const [N = 0, T = 0] = images.shape;
  const C = config.width;
  const embedded = trace.fresh({ shape: [N, T, C], elem: 'act' }, 'clip.embedded');
  copyInto(g.weights.use(tower.positions), reshape(embedded, [N * T, C]));
  trace.emitInto(
    gemm,
    [images, g.weights.use(tower.patches), null],
    [{ tensor: embedded, accumulate: true }],
    { transB: 1 },
  );
  const stack = { blocks, last: lnPost, heads: config.heads, quickGelu: config.quickGelu, attend: attention };
  const states = applyBlocks(g, stack, layerNorm(g, embedded, tower.lnPre));
  return poolClip(g, tower.projection, states, first);
}
