// MicroDiT: embed patches, mix them, drop most of them, and denoise the rest with a transformer that sees
// the caption.
import { geluTanh, add } from '../plan/ops/act.ts';
import { timestepEmbedding } from '../plan/ops/embed.ts';
import { norm } from '../plan/ops/norm.ts';
import { residual } from '../plan/ops/norm.ts';
import { addRows, appendConstant, gatherRows, meanTokens } from '../plan/ops/rows.ts';
import type { Handle, Parameters } from '../plan/params.ts';
import { traceOf } from '../plan/trace.ts';
import { columns, reshape, type Tensor } from '../plan/tensor.ts';
import { type Block, declareBlock, ditBlock } from './block.ts';
import {
  backboneBlocks,
  captionHidden,
  checkConfig,
  mixerBlocks,
  type ModelConfig,
  tokenCount,
  tokensPerExpert,
} from './config.ts';
import {
  applyLinear,
  type Context,
  type CrossAttention,
  crossAttention,
  declareFeedForward,
  declareLinear,
  declareSelfAttention,
  type FeedForward,
  feedForward,
  type Linear,
  type Memory,
  normal,
  ones,
  remember,
  type SelfAttention,
  selfAttention,
  xavier,
  zeros,
} from './layers.ts';
import { sinCosPositions } from './positions.ts';

/** Width of the sinusoids of the noise level. */
const FREQUENCIES = 512;

/** fc1, GELU (tanh form), LayerNorm, fc2. */
interface Mlp {
  readonly fc1: Linear;
  readonly norm: Handle;
  readonly fc2: Linear;
}

/** LayerNorm, then a linear map between the widths of backbone and mixer. */
interface WidthMap {
  readonly norm: Handle;
  readonly linear: Linear;
}

export interface DiT {
  readonly config: ModelConfig;
  readonly posEmbed: Handle;
  readonly maskToken: Handle;
  readonly xEmbedder: Linear;
  readonly tEmbedder: { readonly fc1: Linear; readonly fc2: Linear };
  readonly yEmbedder: Mlp;
  readonly yBlock: {
    readonly norm1: Handle;
    readonly attn: SelfAttention;
    readonly norm2: Handle;
    readonly mlp: FeedForward;
  };
  readonly pooled: Mlp;
  readonly mixer: readonly Block[];
  readonly mapIn: WidthMap | null;
  readonly mapOut: WidthMap | null;
  readonly mapY: WidthMap | null;
  readonly blocks: readonly Block[];
  readonly final: { readonly linear: Linear; readonly adaLN: Linear; readonly norm: Handle };
}

/** Declares all parameters under the reference's names, in the reference's order, with its initialisation. */
export function declareDiT(p: Parameters, config: ModelConfig): DiT {
  checkConfig(config);
  const { dim, patch_size, in_channels, use_bias: bias } = config;
  const mixDim = config.patch_mixer_dim;
  const grid = config.input_size / patch_size;
  const pixels = patch_size ** 2 * in_channels;
  const declareMlp = (name: string, inn: number): Mlp => ({
    fc1: declareLinear(p, `${name}.fc1`, inn, dim, true, normal(0.02)),
    norm: p.add(`${name}.norm.weight`, [dim], ones, { kind: 'norm' }),
    fc2: declareLinear(p, `${name}.fc2`, dim, dim, true, normal(0.02)),
  });
  const declareMap = (name: string, inn: number, out: number): WidthMap | null =>
    config.use_patch_mixer && mixDim !== dim
      ? {
          norm: p.add(`${name}.0.weight`, [inn], ones, { kind: 'norm' }),
          linear: declareLinear(p, `${name}.1`, inn, out, bias, xavier(out, inn)),
        }
      : null;

  const positions = () => sinCosPositions(dim, grid, config.pos_interp_scale, grid);
  const posEmbed = p.add(
    'pos_embed',
    [1, tokenCount(config), dim],
    { kind: 'values', values: positions },
    FROZEN,
  );
  const maskToken = p.add('mask_token', [1, 1, pixels], zeros, FROZEN);
  const xEmbedder = {
    weight: p.add('x_embedder.proj.weight', [dim, in_channels, patch_size, patch_size], xavier(dim, pixels)),
    bias: p.add(
      'x_embedder.proj.bias',
      [dim],
      { kind: 'uniform', bound: 1 / Math.sqrt(pixels) },
      { kind: 'bias' },
    ),
  };
  const tEmbedder = {
    fc1: declareLinear(p, 't_embedder.mlp.0', FREQUENCIES, dim, true, normal(0.02)),
    fc2: declareLinear(p, 't_embedder.mlp.2', dim, dim, true, normal(0.02)),
  };
  const yEmbedder = declareMlp('y_embedder.y_proj', config.caption_channels);
  const yBlock = {
    norm1: p.add('y_emb_preprocess.norm1.weight', [dim], ones, { kind: 'norm' }),
    attn: declareSelfAttention(p, 'y_emb_preprocess.attn', {
      dim,
      qkvDim: dim,
      headDim: config.head_dim,
      bias,
      projInit: zeros,
    }),
    norm2: p.add('y_emb_preprocess.norm2.weight', [dim], ones, { kind: 'norm' }),
    mlp: declareFeedForward(p, 'y_emb_preprocess.mlp', {
      dim,
      hidden: captionHidden(config),
      bias,
      init: normal(0.02),
      outInit: zeros,
    }),
  };
  const pooled = declareMlp('pooled_y_emb_process', dim);
  const mixer = mixerBlocks(config).map((c, i) => declareBlock(p, `patch_mixer.${i}`, c, dim, bias));
  const mapIn = declareMap('patch_mixer_map_xin', dim, mixDim);
  const mapOut = declareMap('patch_mixer_map_xout', mixDim, dim);
  const mapY = declareMap('patch_mixer_map_y', dim, mixDim);
  const blocks = backboneBlocks(config).map((c, i) => declareBlock(p, `blocks.${i}`, c, dim, bias));
  const final = {
    linear: declareLinear(p, 'final_layer.linear', dim, pixels, true, zeros),
    adaLN: declareLinear(p, 'final_layer.adaLN_modulation.1', dim, 2 * dim, true, zeros),
    norm: p.add('final_layer.norm_final.weight', [dim], ones, { kind: 'norm' }),
  };
  return {
    ...{ config, posEmbed, maskToken, xEmbedder, tEmbedder, yEmbedder, yBlock, pooled },
    ...{ mixer, mapIn, mapOut, mapY, blocks, final },
  };
}

const FROZEN = { frozen: true, decay: false };

/** The caption as the blocks see it: tokens for the backbone and the mixer, and one pooled vector. */
export interface Caption {
  /** [N, S, D] */
  readonly tokens: Tensor;
  /** [N, S, Dm] */
  readonly mixerTokens: Tensor;
  /** [N, D] */
  readonly pooled: Tensor;
}

/** y [N, S, caption_channels]: projection, one self-attention block, mean-pooled vector. */
export function embedCaption(g: Context, m: DiT, y: Tensor): Caption {
  const w = (h: Handle) => g.weights.use(h);
  const embedded = applyMlp(g, m.yEmbedder, y);
  g.tap?.('y_embedder', embedded);
  const attn = selfAttention(g, m.yBlock.attn, norm(embedded, w(m.yBlock.norm1), g.eps));
  const x = residual(embedded, null, attn);
  const mlp = feedForward(
    g,
    m.yBlock.mlp,
    norm(x, w(m.yBlock.norm2), g.eps),
    () => 0,
    'y_emb_preprocess.mlp',
  );
  const tokens = residual(x, null, mlp);
  g.tap?.('y_emb_preprocess', tokens);
  const pooled = applyMlp(g, m.pooled, meanTokens(tokens));
  g.tap?.('pooled', pooled);
  const mixerTokens = applyMap(g, m.mapY, tokens);
  if (m.mixer.length) g.tap?.('mixer_y', mixerTokens);
  traceOf(y).keep(tokens, mixerTokens, pooled);
  return { tokens, mixerTokens, pooled };
}

/** How the blocks look at the caption; `null` half rows see a zeroed caption (see `guidedView`). */
export type CaptionView = (layer: CrossAttention, x: Tensor, block: Block) => Tensor;

/** Keys and values are computed where a block needs them: training, and plain forward passes. */
export function directView(g: Context, m: DiT, caption: Caption): CaptionView {
  const mixer = new Set(m.mixer);
  return (layer, x, block) =>
    crossAttention(g, layer, x, remember(g, layer, mixer.has(block) ? caption.mixerTokens : caption.tokens));
}

/** Keys and values computed before, once per prompt. */
export function rememberedView(g: Context, memory: ReadonlyMap<Block, Memory>): CaptionView {
  return (layer, x, block) => crossAttention(g, layer, x, memory.get(block)!);
}

/**
 * The first half of the rows sees its caption, the second half a zeroed one. There all S tokens are equal, so
 * that whatever the softmax weighs, the result is one constant vector per block (`constants`, [C]): exact,
 * and cheaper.
 */
export function guidedView(
  g: Context,
  memory: ReadonlyMap<Block, Memory>,
  constants: ReadonlyMap<Block, Tensor>,
): CaptionView {
  return (layer, x, block) => {
    const [N = 0, ...rest] = x.shape;
    const half: Tensor = { ...x, shape: [N / 2, ...rest] };
    return appendConstant(crossAttention(g, layer, half, memory.get(block)!), constants.get(block)!);
  };
}

/**
 * What `guidedView` puts in place of attention to a zeroed caption: proj(v), from a caption of S = 1. [1,
 * C]
 */
export function zeroCaptionConstant(g: Context, layer: CrossAttention, y: Tensor): Tensor {
  const kv = applyLinear(g, layer.kv, y);
  const C = kv.shape.at(-1)! / 2;
  return reshape(applyLinear(g, layer.proj, columns(kv, C, 2 * C)), [1, C]);
}

/**
 * The network F. patches [N, T, C p p] (channel, row, column), cNoise [N], pooled [N, D]; `ids` [N, K] are
 * the patches to keep, or null for all; `positions` [T, D] those of another grid than the trained one.
 * Returns tokens [N, K, p p C] (row, column, channel).
 */
export function denoiseTokens(
  g: Context,
  m: DiT,
  patches: Tensor,
  cNoise: Tensor,
  pooled: Tensor,
  view: CaptionView,
  ids: Tensor | null,
  positions: Tensor | null = null,
): Tensor {
  const { config } = m;
  const w = (h: Handle) => g.weights.use(h);
  const K = (tokens: number) => tokensPerExpert(config, tokens);
  const run = (block: Block, x: Tensor) => ditBlock(g, block, x, c, (h) => view(block.cross, h, block), K);
  const masked = (x: Tensor) => {
    const kept = ids ? gatherRows(x, ids) : x;
    if (ids) g.tap?.('masked_tokens', kept);
    return kept;
  };

  const cond = add(embedNoise(g, m, cNoise), pooled);
  g.tap?.('cond', cond);
  const c = geluTanh(cond);
  traceOf(c).keep(c); // every block reads it
  const own = () => reshape(w(m.posEmbed), w(m.posEmbed).shape.slice(1));
  let x = addRows(applyLinear(g, m.xEmbedder, patches), positions ?? own());
  g.tap?.('x_embed_pos', x);

  if (config.masking === 'naive') x = masked(x);
  if (config.use_patch_mixer) {
    x = applyMap(g, m.mapIn, x);
    g.tap?.('mixer_xin', x);
    for (const block of m.mixer) x = run(block, x);
  }
  if (config.masking !== 'naive') x = masked(x);
  if (config.use_patch_mixer) {
    x = applyMap(g, m.mapOut, x);
    g.tap?.('mixer_xout', x);
  }
  for (const block of m.blocks) x = run(block, x);

  const modulation = applyLinear(g, m.final.adaLN, c);
  const D = config.dim;
  const h = norm(x, w(m.final.norm), g.eps, columns(modulation, D, 2 * D), columns(modulation, 0, D));
  const out = applyLinear(g, m.final.linear, h);
  g.tap?.('final_tokens', out);
  return out;
}

/** cNoise [N] -> [N, D] */
function embedNoise(g: Context, m: DiT, cNoise: Tensor): Tensor {
  const frequencies = timestepEmbedding(cNoise, FREQUENCIES);
  g.tap?.('t_freq', frequencies);
  const t = applyLinear(g, m.tEmbedder.fc2, geluTanh(applyLinear(g, m.tEmbedder.fc1, frequencies)));
  g.tap?.('t_embedder', t);
  return t;
}

function applyMlp(g: Context, mlp: Mlp, x: Tensor): Tensor {
  const h = norm(geluTanh(applyLinear(g, mlp.fc1, x)), g.weights.use(mlp.norm), g.eps);
  return applyLinear(g, mlp.fc2, h);
}

/** Identity where mixer and backbone are equally wide. */
function applyMap(g: Context, map: WidthMap | null, x: Tensor): Tensor {
  return map ? applyLinear(g, map.linear, norm(x, g.weights.use(map.norm), g.eps)) : x;
}
