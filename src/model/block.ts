// One DiT block: self-attention and feed-forward under adaLN, cross-attention to the caption between them.
import { norm, residual } from '../plan/ops/norm.ts';
import { residualNorm } from '../plan/ops/residual-norm.ts';
import type { Handle, Parameters } from '../plan/params.ts';
import { columns, type Tensor } from '../plan/tensor.ts';
import { traceOf } from '../plan/trace.ts';
import type { BlockConfig } from './config.ts';
import {
  applyLinear,
  type Context,
  type CrossAttention,
  declareCrossAttention,
  declareExperts,
  declareFeedForward,
  declareLinear,
  declareSelfAttention,
  type Experts,
  type FeedForward,
  feedForward,
  type Linear,
  normal,
  ones,
  type SelfAttention,
  selfAttention,
  zeros,
} from './layers.ts';

export interface Block {
  readonly name: string;
  readonly dim: number;
  readonly norm1: Handle;
  readonly attn: SelfAttention;
  readonly cross: CrossAttention;
  readonly norm2: Handle;
  readonly norm3: Handle;
  readonly mlp: FeedForward | Experts;
  readonly adaLN: Linear;
}

/** `condDim` is the width of the conditioning vector, the backbone's dim also in the mixer. */
export function declareBlock(
  p: Parameters,
  name: string,
  c: BlockConfig,
  condDim: number,
  bias: boolean,
): Block {
  const out = normal(c.initStd);
  const { dim, qkvDim, headDim, hidden, experts } = c;
  return {
    name,
    dim,
    norm1: p.add(`${name}.norm1.weight`, [dim], ones, { kind: 'norm' }),
    attn: declareSelfAttention(p, `${name}.attn`, { dim, qkvDim, headDim, bias, projInit: out }),
    cross: declareCrossAttention(p, `${name}.cross_attn`, { dim, headDim, bias, projInit: out }),
    norm2: p.add(`${name}.norm2.weight`, [dim], ones, { kind: 'norm' }),
    norm3: p.add(`${name}.norm3.weight`, [dim], ones, { kind: 'norm' }),
    mlp: experts
      ? declareExperts(p, `${name}.mlp`, { dim, hidden, experts, outInit: out })
      : declareFeedForward(p, `${name}.mlp`, { dim, hidden, bias, init: out, outInit: out }),
    adaLN: declareLinear(p, `${name}.adaLN_modulation.1`, condDim, 6 * dim, true, zeros),
  };
}

/**
 * x [N, T, C], c [N, D] (GELU of the conditioning vector); `lookAt` is the cross-attention to the caption;
 * K gives the tokens per expert.
 *   x += gate_msa * attn(modulate(norm1(x)))
 *   x += cross_attn(norm2(x), y)
 *   x += gate_mlp * mlp(modulate(norm3(x)))
 */
export function ditBlock(
  g: Context,
  b: Block,
  x: Tensor,
  c: Tensor,
  lookAt: (h: Tensor) => Tensor,
  K: (tokens: number) => number,
): Tensor {
  const w = (handle: Handle) => g.weights.use(handle);
  const modulation = applyLinear(g, b.adaLN, c);
  const chunk = (i: number) => columns(modulation, i * b.dim, (i + 1) * b.dim);
  const [shiftMsa, scaleMsa, gateMsa, shiftMlp, scaleMlp, gateMlp] = [0, 1, 2, 3, 4, 5].map(chunk) as Six;

  const h1 = norm(x, w(b.norm1), g.eps, scaleMsa, shiftMsa);
  const attn = selfAttention(g, b.attn, h1);
  const [x1, h2] = residualNorm(x, gateMsa, attn, w(b.norm2), g.eps);
  const cross = lookAt(h2);
  const [x2, h3] = residualNorm(x1, null, cross, w(b.norm3), g.eps, scaleMlp, shiftMlp);
  const mlp = feedForward(g, b.mlp, h3, K, `${b.name}.mlp`);
  const x3 = residual(x2, gateMlp, mlp);
  traceOf(x3).keep(x3);
  g.tap?.(`${b.name}.attn`, attn);
  g.tap?.(`${b.name}.cross_attn`, cross);
  g.tap?.(`${b.name}.mlp`, mlp);
  g.tap?.(`${b.name}.out`, x3);
  return x3;
}

type Six = [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
