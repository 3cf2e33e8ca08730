// Op: attention over short sequences, all heads of all images in one launch, with its gradient.
import type { TensorForm } from '../../backend/backend.ts';
import { defineOp, need, type OutputSpec, refuse } from '../op.ts';
import { cols, count, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

/**
 * Queries and keys that a block holds at once. Scratch memory stays in a core's second-level cache and, up to
 * D = 64, within the shared memory of a large GPU: where 128 keys need more than 200 KiB, 64 are taken.
 */
const TILE_QUERIES = 64;
const TILE_KEYS = 128;
const SCRATCH_REALS = 51_200;

interface Sizes {
  readonly D: number;
  readonly P: number;
  readonly tileT: number;
  readonly tileS: number;
}

/** Reals of scratch memory: the tiles that cuda/attention.cu lists. */
const scratchFwd = ({ D, P, tileT, tileS }: Sizes) =>
  D * tileT + 2 * tileS * P + tileS * tileT + tileT * P + 3 * tileT;
const scratchBwd = ({ D, P, tileT, tileS }: Sizes) =>
  3 * tileT * P + 2 * D * tileT + 4 * tileS * P + 2 * tileS * tileT + 2 * tileT;

const flag = (add: boolean | undefined) => (add ? 1 : 0);
/** Next multiple of TILE_PAD in cuda/tile.h. */
const padded = (n: number) => Math.ceil(n / 16) * 16;

function extents(op: string, q: Tensor | null | undefined, k: Tensor | null | undefined, H: number) {
  const Q = need(q, op);
  const K = need(k, op);
  const [N = 1, T = 1] = Q.shape;
  const S = K.shape[1] ?? 1;
  const D = cols(Q) / H;
  const fits = Q.shape.length === 3 && K.shape.length === 3 && K.shape[0] === N && cols(K) === cols(Q);
  if (!fits || !Number.isInteger(D)) refuse(op, `q [N, T, H D] and k [N, S, H D] with H = ${H} differ`, Q, K);
  return { N, T, S, H, D };
}

/** Tiles of one direction, by what it keeps in scratch memory. */
function tiles(T: number, S: number, D: number, scratch: (s: Sizes) => number): Sizes {
  const at = (keys: number) => {
    const [tileT, tileS] = [Math.min(TILE_QUERIES, padded(T)), Math.min(keys, padded(S))];
    return { D, P: padded(D), tileT, tileS };
  };
  return scratch(at(TILE_KEYS)) > SCRATCH_REALS ? at(TILE_KEYS / 2) : at(TILE_KEYS);
}

/** Rows and threads of a block of cuda/attention_mma.cu. */
const MMA = { rows: 64, threads: 128 };

/**
 * The form on tensor cores: for heads of 32 and 64 whose rows lie at multiples of 16 bytes (8 bf16 numbers).
 * Forward: two stages of two tiles in shared memory; backward: 64 numbers of lse and delta with each.
 */
function tensorForm(
  kernel: 'attention_fwd' | 'attention_bwd',
  D: number,
  blocks: number,
  views: readonly (Tensor | null | undefined)[],
): TensorForm | null {
  const fits = views.every((t) => !t || (t.ld % 8 === 0 && t.offset % 8 === 0));
  if (!fits || (D !== 32 && D !== 64)) return null;
  const numbers = kernel === 'attention_bwd' ? 4 * MMA.rows * 4 : 0;
  const scratch = 4 * MMA.rows * D * 2 + numbers;
  return { kernel: `${kernel}_mma${D}`, blocks, threads: MMA.threads, scratch };
}

/** Shape of the sums of dq over tiles of keys; null where one tile holds all keys. */
function workShape(N: number, T: number, S: number, H: number, D: number): OutputSpec {
  const { P, tileS } = tiles(T, S, D, scratchBwd);
  return S > tileS ? { shape: [N, H, T, P], elem: 'real' } : null;
}

const attentionDelta = defineOp({
  name: 'attention_delta',
  formula: 'delta[n, h, t] = dy . y over the columns of head h',
  inputs: ['y', 'dy'],
  outputs: ['delta'],
  shape: ([y], { H = 1 }) => {
    const [N = 1, T = 1] = need(y, 'attention_delta').shape;
    return [{ shape: [N, H, T], elem: 'real' }];
  },
  fields: { pointers: 'act y dy; real delta', ints: 'H T D ldy lddy' },
  launch: (node) => {
    const y = need(node.inputs[0], 'attention_delta');
    const dy = need(node.inputs[1], 'attention_delta');
    const { H = 1 } = node.attrs;
    const D = cols(y) / H;
    return {
      pointers: [y, dy, need(node.outputs[0], 'attention_delta')],
      ints: [H, y.shape[1] ?? 1, D, y.ld, dy.ld],
      blocks: rows(y),
      lanes: D,
    };
  },
  backward: 'only used for gradients',
  writes: ['set'],
  tolerance: { nmse: 1e-11, why: 'a float32 scalar product over D' },
  flops: (node) => 2 * count(need(node.inputs[0], 'attention_delta')),
});

/** Gradient of attentionFwd. One block is one head of one image; no atomics. */
export const attentionBwd = defineOp({
  name: 'attention_bwd',
  formula: 'W = exp(score - lse); dv = W^T dy; dS = W (dy v^T - delta) / sqrt(D); dq = dS k; dk = dS^T q',
  inputs: ['q', 'k', 'v', 'lse', 'dy', 'delta'],
  outputs: ['dq?', 'dk?', 'dv?', 'work?'],
  shape: ([q, k, v], { H = 1 }) => {
    const { N, T, S, D } = extents('attention_bwd', q, k, H);
    const [Q, K, V] = [need(q, 'attention_bwd'), need(k, 'attention_bwd'), need(v, 'attention_bwd')];
    return [
      { shape: Q.shape, elem: Q.storage.elem },
      { shape: K.shape, elem: K.storage.elem },
      { shape: V.shape, elem: V.storage.elem },
      workShape(N, T, S, H, D),
    ];
  },
  fields: {
    pointers: 'act q k v; real lse; act dy; real delta; act dq dk dv; real work',
    ints: 'H T S D ldq ldk ldv lddy lddq lddk lddv tileT tileS add_dq add_dk add_dv',
  },
  launch: (node) => {
    const [q, k, v, , dy] = node.inputs;
    const [dq, dk, dv] = node.outputs;
    const { N, T, S, H, D } = extents('attention_bwd', q, k, node.attrs.H ?? 1);
    const sizes = tiles(T, S, D, scratchBwd);
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [
        ...[H, T, S, D, ...[q, k, v, dy, dq, dk, dv].map((t) => t?.ld ?? 0), sizes.tileT, sizes.tileS],
        ...[0, 1, 2].map((i) => flag(node.accumulate[i])),
      ],
      blocks: N * H,
      scratch: scratchBwd(sizes),
      tensorForm: tensorForm(
        'attention_bwd',
        D,
        N * H * (Math.ceil(S / MMA.rows) + Math.ceil(T / MMA.rows)),
        [q, k, v, dy, dq, dk, dv],
      ),
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'either', 'either', 'set'],
  products: 'attention',
  tolerance: { nmse: 1e-10, why: 'float32 exponentials, sums over keys and queries, one difference of sums' },
  flops: (node) => {
    const { N, T, S, H, D } = extents('attention_bwd', node.inputs[0], node.inputs[1], node.attrs.H ?? 1);
    return 10 * N * H * T * S * D;
  },
});

export const attentionFwd = defineOp({
  name: 'attention_fwd',
  formula: 'y = softmax(q k^T / sqrt(D)) v for each of H heads; lse = log sum exp(score)',
  inputs: ['q', 'k', 'v'],
  outputs: ['y', 'lse'],
  shape: ([q, k, v], { H = 1 }) => {
    const { N, T, S } = extents('attention_fwd', q, k, H);
    const Q = need(q, 'attention_fwd');
    const V = need(v, 'attention_fwd');
    if (V.shape.length !== 3 || V.shape[0] !== N || V.shape[1] !== S || cols(V) !== cols(Q)) {
      refuse('attention_fwd', 'v [N, S, H D] differs', Q, V);
    }
    return [
      { shape: Q.shape, elem: Q.storage.elem },
      { shape: [N, H, T], elem: 'real' },
    ];
  },
  fields: { pointers: 'act q k v y; real lse', ints: 'H T S D ldq ldk ldv ldy tileT tileS' },
  launch: (node) => {
    const [q, k, v] = node.inputs;
    const [y] = node.outputs;
    const { N, T, S, H, D } = extents('attention_fwd', q, k, node.attrs.H ?? 1);
    const sizes = tiles(T, S, D, scratchFwd);
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [H, T, S, D, ...[q, k, v, y].map((t) => t?.ld ?? 0), sizes.tileT, sizes.tileS],
      blocks: N * H * Math.ceil(T / sizes.tileT),
      scratch: scratchFwd(sizes),
      tensorForm: tensorForm('attention_fwd', D, N * H * Math.ceil(T / MMA.rows), [q, k, v, y]),
    };
  },
  backward: (node, b) => {
    const [q = null, k = null, v = null] = node.inputs;
    const [y = null, lse = null] = node.outputs;
    const dy = b.grad(y);
    if (!dy || !q || !k || !v) return;
    if (b.wants(q) && [k, v].some((t) => t.storage === q.storage && t.offset === q.offset)) {
      refuse('attention_fwd', 'no gradient where q is also k or v', q, k, v);
    }
    const [dq, dk, dv] = [b.sink(q), b.sink(k), b.sink(v)];
    if (!dq && !dk && !dv) return;
    const { N, T, S, H, D } = extents('attention_bwd', q, k, node.attrs.H ?? 1);
    const work = dq && workShape(N, T, S, H, D);
    const [delta = null] = b.append(
      attentionDelta,
      [y, dy],
      attentionDelta.shape([y], node.attrs),
      node.attrs,
    );
    b.append(attentionBwd, [q, k, v, lse, dy, delta], [dq, dk, dv, work], node.attrs);
  },
  writes: ['set', 'set'],
  products: 'attention',
  tolerance: { nmse: 1e-11, why: 'float32 exponentials and sums over the keys' },
  flops: (node) => {
    const { N, T, S, H, D } = extents('attention_fwd', node.inputs[0], node.inputs[1], node.attrs.H ?? 1);
    return 4 * N * H * T * S * D;
  },
});

export const attentionCausalFwd = defineOp({
  ...attentionFwd,
  name: 'attention_causal_fwd',
  formula: 'y[t] = softmax over s <= t of (q[t] k[s] / sqrt(D)), times v, for each of H heads',
  shape: (inputs, attrs) => {
    const { T, S } = extents('attention_causal_fwd', inputs[0], inputs[1], attrs.H ?? 1);
    const [q = null, k = null] = inputs;
    if (T !== S) refuse('attention_causal_fwd', 'as many keys as queries are needed', q, k);
    return attentionFwd.shape(inputs, attrs);
  },
  launch: (node) => ({ ...attentionFwd.launch(node), tensorForm: null }),
  backward: 'text towers are never trained',
  flops: (node) => attentionFwd.flops(node) / 2,
});

/**
 * softmax(q k^T / sqrt(D)) v for each head: q [N, T, H D], k and v [N, S, H D], `heads` = H -> [N, T, H D].
 * Each operand may be columns of a wider buffer. Where gradients are wanted, q is another view than k and v.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, heads: number): Tensor {
  return traceOf(q).emit(attentionFwd, [q, k, v], { H: heads })[0]!;
}

/**
 * The same over one sequence, where place t sees places 0..t: q, k, v [N, T, H D] -> [N, T, H D]; it
 * has no gradient.
 */
export function causalAttention(q: Tensor, k: Tensor, v: Tensor, heads: number): Tensor {
  return traceOf(q).emit(attentionCausalFwd, [q, k, v], { H: heads })[0]!;
}
