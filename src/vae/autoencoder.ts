// AutoencoderKL of the SDXL family as chains of layers: images [N, H, W, 3] to moments and latents back to
// images. Parameters have diffusers' names.
import { SAME } from '../plan/ops/conv.ts';
import { Parameters } from '../plan/params.ts';
import type { Tensor } from '../plan/tensor.ts';
import type { VaeConfig } from './config.ts';
import {
  type Attention,
  applyConv,
  attention,
  type Context,
  type Conv,
  DOWN,
  declareAttention,
  declareConv,
  declareNorm,
  declareResnet,
  type Norm,
  normOf,
  POINT,
  type Resnet,
  resnet,
  UP,
} from './layers.ts';

/** One step of a chain. `names`: modules that end with it, for taps. */
export type Layer = { readonly names: readonly string[] } & (
  | { readonly kind: 'conv'; readonly conv: Conv }
  | { readonly kind: 'resnet'; readonly resnet: Resnet }
  | { readonly kind: 'attention'; readonly attention: Attention }
  /** norm, silu, conv */
  | { readonly kind: 'head'; readonly norm: Norm; readonly conv: Conv }
);

export interface Autoencoder {
  readonly config: VaeConfig;
  readonly parameters: Parameters;
  readonly encoder: readonly Layer[];
  readonly decoder: readonly Layer[];
}

export function declareAutoencoder(config: VaeConfig): Autoencoder {
  const parameters = new Parameters();
  const encoder = declareEncoder(parameters, config);
  return { config, parameters, encoder, decoder: declareDecoder(parameters, config) };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** A chain under construction. */
class Chain {
  readonly layers: Layer[] = [];

  constructor(
    readonly p: Parameters,
    readonly name: string,
  ) {}

  conv(name: string, inn: number, out: number, form = SAME): void {
    this.layers.push({ kind: 'conv', names: [name], conv: declareConv(this.p, name, inn, out, form) });
  }

  resnet(name: string, inn: number, out: number): void {
    this.layers.push({ kind: 'resnet', names: [name], resnet: declareResnet(this.p, name, inn, out) });
  }

  mid(C: number, attends: boolean): void {
    const name = `${this.name}.mid_block`;
    this.resnet(`${name}.resnets.0`, C, C);
    if (attends) {
      const layer = declareAttention(this.p, `${name}.attentions.0`, C);
      this.layers.push({ kind: 'attention', names: [`${name}.attentions.0`], attention: layer });
    }
    this.resnet(`${name}.resnets.1`, C, C);
    this.end(name);
  }

  head(C: number, out: number): void {
    const norm = declareNorm(this.p, `${this.name}.conv_norm_out`, C, true);
    const conv = declareConv(this.p, `${this.name}.conv_out`, C, out, SAME);
    this.layers.push({ kind: 'head', names: [`${this.name}.conv_out`], norm, conv });
  }

  /** The last layer so far is also the end of a module. */
  end(name: string): void {
    const last = this.layers.pop();
    if (last) this.layers.push({ ...last, names: [...last.names, name] });
  }
}

function declareEncoder(p: Parameters, c: VaeConfig): readonly Layer[] {
  const chain = new Chain(p, 'encoder');
  const widths = c.block_out_channels;
  const last = widths.length - 1;
  chain.conv('encoder.conv_in', c.in_channels, widths[0]!);
  for (const [i, C] of widths.entries()) {
    const name = `encoder.down_blocks.${i}`;
    for (const j of range(c.layers_per_block)) {
      chain.resnet(`${name}.resnets.${j}`, j === 0 ? (widths[i - 1] ?? C) : C, C);
    }
    if (i < last) chain.conv(`${name}.downsamplers.0.conv`, C, C, DOWN);
    chain.end(name);
  }
  chain.mid(widths[last]!, c.mid_block_add_attention);
  const moments = 2 * c.latent_channels;
  chain.head(widths[last]!, moments);
  if (c.use_quant_conv) chain.conv('quant_conv', moments, moments, POINT);
  return chain.layers;
}

function declareDecoder(p: Parameters, c: VaeConfig): readonly Layer[] {
  const chain = new Chain(p, 'decoder');
  const widths = c.block_out_channels.toReversed();
  const last = widths.length - 1;
  if (c.use_post_quant_conv) chain.conv('post_quant_conv', c.latent_channels, c.latent_channels, POINT);
  chain.conv('decoder.conv_in', c.latent_channels, widths[0]!);
  chain.mid(widths[0]!, c.mid_block_add_attention);
  for (const [i, C] of widths.entries()) {
    const name = `decoder.up_blocks.${i}`;
    for (const j of range(c.layers_per_block + 1)) {
      chain.resnet(`${name}.resnets.${j}`, j === 0 ? (widths[i - 1] ?? C) : C, C);
    }
    if (i < last) chain.conv(`${name}.upsamplers.0.conv`, C, C, UP);
    chain.end(name);
  }
  chain.head(widths[last]!, c.out_channels);
  return chain.layers;
}

/** One layer: x [N, H, W, C] -> [N, Ho, Wo, Co]. x may be overwritten. */
export function applyLayer(g: Context, layer: Layer, x: Tensor): Tensor {
  switch (layer.kind) {
    case 'conv':
      return applyConv(g, layer.conv, x);
    case 'resnet':
      return resnet(g, layer.resnet, x);
    case 'attention':
      return attention(g, layer.attention, x);
    case 'head':
      return applyConv(g, layer.conv, x, { norm: normOf(g, layer.norm, x) });
  }
}

/** A chain of layers over pixels x [N, H, W, C]. */
export function applyChain(g: Context, layers: readonly Layer[], x: Tensor): Tensor {
  return layers.reduce((h, layer) => {
    const y = applyLayer(g, layer, h);
    for (const name of layer.names) g.tap?.(name, y);
    return y;
  }, x);
}
