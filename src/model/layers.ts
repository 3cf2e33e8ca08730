// The layers of a DiT: linear, attention, SwiGLU, expert-choice MoE. Declared once, traced as often as
// needed.
import { geluErf, swiglu } from '../plan/ops/act.ts';
import { attention } from '../plan/ops/attention.ts';
import { gate as gateLogits } from '../plan/ops/gate.ts';
import { expertLinear, linear } from '../plan/ops/linear.ts';
import { combine, dispatch, route } from '../plan/ops/moe.ts';
import { norm } from '../plan/ops/norm.ts';
import type { Handle, Init, Parameters, Weights } from '../plan/params.ts';
import { columns, product, reshape, rows, type Tensor } from '../plan/tensor.ts';

/** What a forward trace needs to know. */
export interface Context {
  readonly weights: Weights;
  readonly eps: number;
  /** Rows of one image never depend on other images, to the bit (sampling). */
  readonly exactRows: boolean;
  /** Sees named intermediate values (conformance tests). */
  readonly tap?: (name: string, value: Tensor) => void;
  /** Gives the tokens of each expert, [N, E, K] i32, in place of the router's choice (conformance tests). */
  readonly forced?: (name: string, shape: readonly number[]) => Tensor;
}

export interface Linear {
  readonly weight: Handle;
  readonly bias: Handle | null;
}

export const zeros: Init = { kind: 'constant', value: 0 };
export const ones: Init = { kind: 'constant', value: 1 };
export const normal = (std: number): Init => ({ kind: 'normal', std });

/** torch.nn.init.xavier_uniform_ of a [out, in] matrix. */
export const xavier = (out: number, inn: number): Init => ({
  kind: 'uniform',
  bound: Math.sqrt(6 / (out + inn)),
});

export function declareLinear(
  p: Parameters,
  name: string,
  inn: number,
  out: number,
  bias: boolean,
  init: Init,
): Linear {
  return {
    weight: p.add(`${name}.weight`, [out, inn], init),
    bias: bias ? p.add(`${name}.bias`, [out], zeros, { kind: 'bias' }) : null,
  };
}

/** x [N, .., K] -> [N, .., out] */
export function applyLinear(g: Context, layer: Linear, x: Tensor): Tensor {
  const w = g.weights.use(layer.weight);
  const flat = reshape(w, [w.shape[0]!, product(w.shape.slice(1))]);
  return linear(x, flat, g.weights.maybe(layer.bias), g.exactRows ? rows(x) / x.shape[0]! : 0);
}

/** LayerNorm without weight over the full width of q or k. */
function qkNorm(g: Context, x: Tensor): Tensor {
  return norm(x, null, g.eps);
}

export interface SelfAttention {
  readonly qkv: Linear;
  readonly proj: Linear;
  readonly heads: number;
}

export function declareSelfAttention(
  p: Parameters,
  name: string,
  c: { dim: number; qkvDim: number; headDim: number; bias: boolean; projInit: Init },
): SelfAttention {
  return {
    qkv: declareLinear(p, `${name}.qkv`, c.dim, 3 * c.qkvDim, c.bias, normal(0.02)),
    proj: declareLinear(p, `${name}.proj`, c.qkvDim, c.dim, c.bias, c.projInit),
    heads: c.qkvDim / c.headDim,
  };
}

/** x [N, T, C] -> [N, T, C] */
export function selfAttention(g: Context, layer: SelfAttention, x: Tensor): Tensor {
  const qkv = applyLinear(g, layer.qkv, x);
  const H = qkv.shape.at(-1)! / 3;
  const q = qkNorm(g, columns(qkv, 0, H));
  const k = qkNorm(g, columns(qkv, H, 2 * H));
  const v = columns(qkv, 2 * H, 3 * H);
  return applyLinear(g, layer.proj, attention(q, k, v, layer.heads));
}

export interface CrossAttention {
  readonly q: Linear;
  readonly kv: Linear;
  readonly proj: Linear;
  readonly heads: number;
}

export function declareCrossAttention(
  p: Parameters,
  name: string,
  c: { dim: number; headDim: number; bias: boolean; projInit: Init },
): CrossAttention {
  return {
    q: declareLinear(p, `${name}.q_linear`, c.dim, c.dim, c.bias, normal(0.02)),
    kv: declareLinear(p, `${name}.kv_linear`, c.dim, 2 * c.dim, c.bias, normal(0.02)),
    proj: declareLinear(p, `${name}.proj`, c.dim, c.dim, c.bias, c.projInit),
    heads: c.dim / c.headDim,
  };
}

/** Keys (normalised) and values of a caption for one cross-attention, each [N, S, C]. */
export interface Memory {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** y [N, S, C] -> keys and values. They do not depend on the noise level: one pass per prompt is enough. */
export function remember(g: Context, layer: CrossAttention, y: Tensor): Memory {
  const kv = applyLinear(g, layer.kv, y);
  const C = kv.shape.at(-1)! / 2;
  return { k: qkNorm(g, columns(kv, 0, C)), v: columns(kv, C, 2 * C) };
}

/** x [N, T, C], memory of S caption tokens -> [N, T, C] */
export function crossAttention(g: Context, layer: CrossAttention, x: Tensor, memory: Memory): Tensor {
  const q = qkNorm(g, applyLinear(g, layer.q, x));
  return applyLinear(g, layer.proj, attention(q, memory.k, memory.v, layer.heads));
}

export interface FeedForward {
  readonly kind: 'dense';
  readonly w1: Linear;
  readonly w2: Linear;
  readonly w3: Linear;
}

export function declareFeedForward(
  p: Parameters,
  name: string,
  c: { dim: number; hidden: number; bias: boolean; init: Init; outInit: Init },
): FeedForward {
  return {
    kind: 'dense',
    w1: declareLinear(p, `${name}.w1`, c.dim, c.hidden, c.bias, normal(0.02)),
    w2: declareLinear(p, `${name}.w2`, c.dim, c.hidden, c.bias, c.init),
    w3: declareLinear(p, `${name}.w3`, c.hidden, c.dim, c.bias, c.outInit),
  };
}

export interface Experts {
  readonly kind: 'experts';
  readonly w1: Handle;
  readonly w2: Handle;
  readonly gate: Handle;
}

export function declareExperts(
  p: Parameters,
  name: string,
  c: { dim: number; hidden: number; experts: number; outInit: Init },
): Experts {
  return {
    kind: 'experts',
    w1: p.add(`${name}.w1`, [c.experts, c.dim, c.hidden], normal(0.02), { expert: true }),
    w2: p.add(`${name}.w2`, [c.experts, c.hidden, c.dim], c.outInit, { expert: true }),
    gate: p.add(`${name}.gate.weight`, [c.experts, c.dim], normal(0.02), { master: true }),
  };
}

/**
 * x [N, T, C] -> [N, T, C]. Dense: w3(silu(w1 x) * w2 x). Experts: each takes its K most probable tokens
 * ("expert choice"), GELU in the exact form.
 */
export function feedForward(
  g: Context,
  layer: FeedForward | Experts,
  x: Tensor,
  K: (tokens: number) => number,
  name: string,
): Tensor {
  if (layer.kind === 'dense') {
    return applyLinear(g, layer.w3, swiglu(applyLinear(g, layer.w1, x), applyLinear(g, layer.w2, x)));
  }
  const T = x.shape[1]!;
  g.tap?.(`${name}_in`, x);
  const logits = gateLogits(x, g.weights.use(layer.gate));
  const forced = g.forced?.(name, [x.shape[0]!, logits.shape.at(-1)!, K(T)]) ?? null;
  const { probs, index, gate, slot } = route(logits, K(T), forced);
  g.tap?.(`${name}.gate_probs`, probs);
  g.tap?.(`${name}.topk_indices`, index);
  g.tap?.(`${name}.topk_values`, gate);
  const imageRows = g.exactRows ? K(T) : 0;
  const taken = dispatch(x, index, slot);
  const hidden = geluErf(expertLinear(taken, g.weights.use(layer.w1), imageRows));
  const out = expertLinear(hidden, g.weights.use(layer.w2), imageRows);
  return combine(out, gate, index, slot, T);
}
