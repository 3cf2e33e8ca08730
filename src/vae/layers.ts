// The layers of the autoencoder: convolution, resnet, attention. Declared once, traced as often as needed.
import { type ConvForm, conv, SAME } from '../plan/ops/conv.ts';
import { copyInto } from '../plan/ops/copy.ts';
import { type GroupNorm, groupNorm, groupSums, applyGroupNorm } from '../plan/ops/group-norm.ts';
import { gemm, linear } from '../plan/ops/linear.ts';
import { wideAttention } from '../plan/ops/softmax.ts';
import type { Handle, Init, Parameters, Weights } from '../plan/params.ts';
import { cols, reshape, slices, type Tensor } from '../plan/tensor.ts';
import { traceOf } from '../plan/trace.ts';

/** What a forward trace needs to know. */
export interface Context {
  readonly weights: Weights;
  /** G, groups of every norm. */
  readonly groups: number;
  /** Elements of a convolution's band, at most; left out: that of the op. */
  readonly band?: number;
  /** Convolutions as a whole, by a library, instead of in bands. */
  readonly whole?: boolean;
  /** Sees named intermediate values (conformance tests). */
  readonly tap?: (name: string, value: Tensor) => void;
  /**
   * Statistics of a norm over x [N, H, W, C], in place of those of x itself: where x is a strip of the image.
   * Null where they are not known yet.
   */
  readonly statistics?: (norm: Norm, x: Tensor) => Pick<GroupNorm, 'mean' | 'factor'> | null;
}

export const EPS = 1e-6;

const zeros: Init = { kind: 'constant', value: 0 };
const ones: Init = { kind: 'constant', value: 1 };

export const POINT: ConvForm = { k: 1, stride: 1, pad: 0, after: 0, up: 1 };
/** Zeros to the right and below only, then 3x3 with stride 2. */
export const DOWN: ConvForm = { k: 3, stride: 2, pad: 0, after: 1, up: 1 };
/** After enlarging, every pixel four times. */
export const UP: ConvForm = { ...SAME, up: 2 };

export interface Conv {
  /** Kept as [out, k, k, in]; files hold [out, in, k, k]. */
  readonly weight: Handle;
  readonly bias: Handle;
  readonly form: ConvForm;
  readonly inn: number;
  readonly out: number;
}

export function declareConv(p: Parameters, name: string, inn: number, out: number, form: ConvForm): Conv {
  const init: Init = { kind: 'uniform', bound: 1 / Math.sqrt(inn * form.k * form.k) };
  return {
    weight: p.add(`${name}.weight`, [out, form.k, form.k, inn], init),
    bias: p.add(`${name}.bias`, [out], zeros),
    ...{ form, inn, out },
  };
}

/** x [N, H, W, in] -> [N, Ho, Wo, out]; `norm` is applied on the way in, the result added to `into`. */
export function applyConv(
  g: Context,
  layer: Conv,
  x: Tensor,
  options: { norm?: GroupNorm; into?: Tensor } = {},
): Tensor {
  const [w, b] = [g.weights.use(layer.weight), g.weights.use(layer.bias)];
  if (layer.form !== POINT || options.norm)
    return conv(x, w, b, layer.form, { ...options, band: g.band, whole: g.whole });
  const flat = reshape(w, [layer.out, layer.inn]);
  if (!options.into) return linear(x, flat, b);
  traceOf(x).emitInto(gemm, [x, flat, b], [{ tensor: options.into, accumulate: true }], { transB: 1 });
  return options.into;
}

export interface Norm {
  readonly weight: Handle;
  readonly bias: Handle;
  readonly silu: boolean;
}

export function declareNorm(p: Parameters, name: string, C: number, silu: boolean): Norm {
  return { weight: p.add(`${name}.weight`, [C], ones), bias: p.add(`${name}.bias`, [C], zeros), silu };
}

/** The norm with the statistics of x [N, H, W, C], or those that the context knows. */
export function normOf(g: Context, layer: Norm, x: Tensor): GroupNorm {
  const bias = g.weights.use(layer.bias);
  const known = g.statistics?.(layer, x);
  if (known) return { ...known, bias, silu: layer.silu };
  const form = { W: x.shape[2]!, G: g.groups, eps: EPS, silu: layer.silu };
  return groupNorm(groupSums(x), { w: g.weights.use(layer.weight), bias }, form);
}

export interface Resnet {
  readonly norm1: Norm;
  readonly conv1: Conv;
  readonly norm2: Norm;
  readonly conv2: Conv;
  /** 1x1, present where the width changes. */
  readonly shortcut: Conv | null;
}

export function declareResnet(p: Parameters, name: string, inn: number, out: number): Resnet {
  return {
    norm1: declareNorm(p, `${name}.norm1`, inn, true),
    conv1: declareConv(p, `${name}.conv1`, inn, out, SAME),
    norm2: declareNorm(p, `${name}.norm2`, out, true),
    conv2: declareConv(p, `${name}.conv2`, out, out, SAME),
    shortcut: inn === out ? null : declareConv(p, `${name}.conv_shortcut`, inn, out, POINT),
  };
}

/** x [N, H, W, in] -> [N, H, W, out]: (shortcut of) x + conv2(silu(norm2(conv1(silu(norm1(x)))))). Ends x. */
export function resnet(g: Context, layer: Resnet, x: Tensor): Tensor {
  const h = applyConv(g, layer.conv1, x, { norm: normOf(g, layer.norm1, x) });
  const norm = normOf(g, layer.norm2, h);
  const into = layer.shortcut ? applyConv(g, layer.shortcut, x) : owned(g, x);
  return applyConv(g, layer.conv2, h, { norm, into });
}

/** x itself where nothing else will read it, else a copy. */
function owned(g: Context, x: Tensor): Tensor {
  if (!g.tap && x.storage.space === 'arena') return x;
  const copy = traceOf(x).fresh({ shape: x.shape, elem: x.storage.elem }, 'copy');
  copyInto(x, copy);
  return copy;
}

export interface Attention {
  readonly norm: Norm;
  readonly q: Conv;
  readonly k: Conv;
  readonly v: Conv;
  readonly out: Conv;
}

export function declareAttention(p: Parameters, name: string, C: number): Attention {
  const to = (part: string) => declareConv(p, `${name}.${part}`, C, C, POINT);
  const norm = declareNorm(p, `${name}.group_norm`, C, false);
  return { norm, q: to('to_q'), k: to('to_k'), v: to('to_v'), out: to('to_out.0') };
}

/** x [N, H, W, C] -> same: x + out(softmax(q k^T / sqrt(C)) v) over all pixels, one head. Ends x. */
export function attention(g: Context, layer: Attention, x: Tensor): Tensor {
  const norm = normOf(g, layer.norm, x);
  const h = traceOf(x).fresh({ shape: x.shape, elem: 'act' }, 'attention.normed');
  const [N = 0, H = 0, W = 0] = x.shape;
  for (let n = 0; n < N; n++) applyGroupNorm(slices(x, n, n + 1), norm, n, slices(h, n, n + 1));
  const flat = reshape(h, [N, H * W, cols(x)]);
  const y = wideAttention(
    applyConv(g, layer.q, flat),
    applyConv(g, layer.k, flat),
    applyConv(g, layer.v, flat),
  );
  return applyConv(g, layer.out, reshape(y, x.shape), { into: owned(g, x) });
}
