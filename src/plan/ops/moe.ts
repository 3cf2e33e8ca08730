// Ops of expert choice (MicroDiT, Sec. 3.2): route, dispatch tokens to experts, combine; with gradients.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

const flag = (add: boolean | undefined) => (add ? 1 : 0);
const SUM = { nmse: 1e-12, why: 'float32 sums over the experts of a token' };
const COPY = { nmse: 0, why: 'copies' };

export const routeBwd = defineOp({
  name: 'route_bwd',
  formula: 'dlogits = probs (dp - sum over E of dp probs); dp = dprobs + dgate where taken',
  inputs: ['probs', 'slot', 'dprobs?', 'dgate?'],
  outputs: ['dlogits'],
  shape: ([probs]) => [{ shape: need(probs, 'route_bwd').shape, elem: 'real' }],
  fields: {
    pointers: 'real probs; i32 slot; real dprobs dgate dlogits',
    ints: 'T E K lddlogits add_dlogits',
  },
  launch: (node) => {
    const [probs, , , dgate] = node.inputs;
    const [N = 1, T = 1, E = 1] = need(probs, 'route_bwd').shape;
    const dlogits = need(node.outputs[0], 'route_bwd');
    return {
      pointers: [...node.inputs, dlogits],
      ints: [T, E, dgate ? cols(dgate) : 0, dlogits.ld, flag(node.accumulate[0])],
      blocks: N,
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: { nmse: 1e-11, why: 'differences of float32 products of probabilities' },
  flops: (node) => 4 * count(need(node.inputs[0], 'route_bwd')),
});

export const routeFwd = defineOp({
  name: 'route_fwd',
  formula: 'probs = softmax(logits) over E; index = K most probable tokens of each expert; gate; slot',
  inputs: ['logits', 'forced?'],
  outputs: ['probs', 'index', 'gate', 'slot'],
  shape: ([logits, forced], attrs) => {
    const x = need(logits, 'route_fwd');
    const [N = 1, T = 1, E = 1] = x.shape;
    const K = attrs.K ?? 0;
    if (x.shape.length !== 3 || !Number.isInteger(K) || K < 1 || K > T) {
      refuse('route_fwd', `an expert cannot take ${K} tokens of logits [N, T, E]`, x);
    }
    if (forced && (forced.storage.elem !== 'i32' || count(forced) !== N * E * K || !isContiguous(forced))) {
      refuse('route_fwd', 'forced index does not fit [N, E, K] i32', x, forced);
    }
    return [
      { shape: [N, T, E], elem: 'real' },
      { shape: [N, E, K], elem: 'i32' },
      { shape: [N, E, K], elem: 'real' },
      { shape: [N, E, T], elem: 'i32' },
    ];
  },
  fields: {
    pointers: 'real logits; i32 forced; real probs; i32 index; real gate; i32 slot',
    ints: 'T E K ldlogits',
  },
  launch: (node) => {
    const [logits, forced = null] = node.inputs;
    const x = need(logits, 'route_fwd');
    const [N = 1, T = 1, E = 1] = x.shape;
    return {
      pointers: [x, forced, ...node.outputs],
      ints: [T, E, node.attrs.K ?? 0, x.ld],
      blocks: N,
      scratch: 2 * T,
    };
  },
  backward: (node, b) => {
    const [logits = null] = node.inputs;
    const [probs = null, , gate = null, slot = null] = node.outputs;
    const dprobs = b.grad(probs);
    const dgate = b.grad(gate);
    if (!dprobs && !dgate) return;
    const dlogits = b.sink(logits);
    if (dlogits) b.append(routeBwd, [probs, slot, dprobs, dgate], [dlogits]);
  },
  writes: ['set', 'set', 'set', 'set'],
  tolerance: { nmse: 1e-12, why: 'a float32 softmax over E experts; the choice is exact unless logits tie' },
  flops: (node) => {
    const x = need(node.inputs[0], 'route_fwd');
    return count(x) * (20 + 3 * (x.shape[1] ?? 1));
  },
});

/** What routing decides. Tokens are numbered within their image. */
export interface Routing {
  /** [N, T, E] softmax of the logits over the experts. */
  readonly probs: Tensor;
  /** [N, E, K] i32: tokens of an expert, the most probable first; of equal ones the lowest number first. */
  readonly index: Tensor;
  /** [N, E, K] probabilities of those tokens. */
  readonly gate: Tensor;
  /** [N, E, T] i32: place of a token in the expert's list, -1 where it was not taken. */
  readonly slot: Tensor;
}

/**
 * Expert choice: every expert takes its K most probable tokens of each image (MicroDiT, Sec. 3.2).
 * logits [N, T, E] in `real`. The gradient flows from gate through probs to the logits; the choice has none.
 * `forced` [N, E, K] i32 takes the place of the choice (tests).
 */
export function route(logits: Tensor, K: number, forced: Tensor | null = null): Routing {
  const [probs, index, gate, slot] = traceOf(logits).emit(routeFwd, [logits, forced], { K });
  return { probs: probs!, index: index!, gate: gate!, slot: slot! };
}

/** N, T, C, E, K from a tensor of tokens [N, T, C] (or rows N T of C) and a list [N, E, K]. */
function extents(op: string, C: number, list: Tensor, slot: Tensor): number[] {
  const [N = 1, E = 1, K = 1] = list.shape;
  const T = cols(slot);
  if (list.shape.length !== 3 || rows(slot) !== N * E) refuse(op, 'index and slot differ', list, slot);
  return [N, T, C, E, K];
}

function checkRows(op: string, x: Tensor, expected: number, name: string): void {
  if (rows(x) !== expected) refuse(op, `${name} should have ${expected} rows`, x);
}

export const dispatchBwd = defineOp({
  name: 'dispatch_bwd',
  formula: 'dx[n, t] = sum over experts that took the token of dy[e, n K + slot]',
  inputs: ['dy', 'index', 'slot'],
  outputs: ['dx'],
  shape: ([dy, index, slot]) => {
    const D = need(dy, 'dispatch_bwd');
    const [N = 1, T = 1, C = 1] = extents(
      'dispatch_bwd',
      cols(D),
      need(index, 'dispatch_bwd'),
      need(slot, 'dispatch_bwd'),
    );
    return [{ shape: [N, T, C], elem: D.storage.elem }];
  },
  fields: { pointers: 'act dy; i32 slot; act dx', ints: 'N T C E K lddy lddx add_dx' },
  launch: (node) => {
    const dy = need(node.inputs[0], 'dispatch_bwd');
    const slot = need(node.inputs[2], 'dispatch_bwd');
    const dx = need(node.outputs[0], 'dispatch_bwd');
    const sizes = extents('dispatch_bwd', cols(dy), need(node.inputs[1], 'dispatch_bwd'), slot);
    return {
      pointers: [dy, slot, dx],
      ints: [...sizes, dy.ld, dx.ld, flag(node.accumulate[0])],
      blocks: rows(dx),
      lanes: cols(dx),
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: SUM,
  flops: (node) => count(need(node.inputs[0], 'dispatch_bwd')),
});

export const dispatchFwd = defineOp({
  name: 'dispatch_fwd',
  formula: 'y[e, n K + k] = x[n, index[n, e, k]]',
  inputs: ['x', 'index', 'slot'],
  outputs: ['y'],
  shape: ([x, index, slot]) => {
    const X = need(x, 'dispatch_fwd');
    const list = need(index, 'dispatch_fwd');
    const [N = 1, T = 1, C = 1, E = 1, K = 1] = extents(
      'dispatch_fwd',
      cols(X),
      list,
      need(slot, 'dispatch_fwd'),
    );
    checkRows('dispatch_fwd', X, N * T, 'x');
    return [{ shape: [E, N * K, C], elem: X.storage.elem }];
  },
  fields: { pointers: 'act x; i32 index; act y', ints: 'N T C E K ldx ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'dispatch_fwd');
    const index = need(node.inputs[1], 'dispatch_fwd');
    const y = need(node.outputs[0], 'dispatch_fwd');
    const sizes = extents('dispatch_fwd', cols(x), index, need(node.inputs[2], 'dispatch_fwd'));
    return { pointers: [x, index, y], ints: [...sizes, x.ld, y.ld], blocks: rows(y), lanes: cols(y) };
  },
  backward: (node, b) => {
    const [x = null, index = null, slot = null] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    const dx = dy && b.sink(x);
    if (dx) b.append(dispatchBwd, [dy, index, slot], [dx]);
  },
  writes: ['set'],
  cheap: true,
  tolerance: COPY,
  flops: () => 0,
});

/** Rows of the chosen tokens: x [N, T, C], index [N, E, K], slot [N, E, T] -> [E, N K, C], row n K + k. */
export function dispatch(x: Tensor, index: Tensor, slot: Tensor): Tensor {
  return traceOf(x).emit(dispatchFwd, [x, index, slot])[0]!;
}

export const combineBwd = defineOp({
  name: 'combine_bwd',
  formula: 'dye[e, n K + k] = gate dy[n, t]; dgate[n, e, k] = dy[n, t] . ye[e, n K + k]; t = index[n, e, k]',
  inputs: ['ye', 'gate', 'index', 'slot', 'dy'],
  outputs: ['dye?', 'dgate?'],
  shape: ([ye, gate]) => {
    const Y = need(ye, 'combine_bwd');
    return [
      { shape: Y.shape, elem: Y.storage.elem },
      { shape: need(gate, 'combine_bwd').shape, elem: 'real' },
    ];
  },
  fields: {
    pointers: 'act ye; real gate; i32 index; act dy dye; real dgate',
    ints: 'N T C E K ldye lddy lddye add_dye add_dgate',
  },
  launch: (node) => {
    const ye = need(node.inputs[0], 'combine_bwd');
    const gate = need(node.inputs[1], 'combine_bwd');
    const dy = need(node.inputs[4], 'combine_bwd');
    const [dye = null, dgate = null] = node.outputs;
    if (dgate && !isContiguous(dgate)) refuse('combine_bwd', 'the gradient of the gate is strided', dgate);
    return {
      pointers: [ye, gate, node.inputs[2] ?? null, dy, dye, dgate],
      ints: [
        ...extents('combine_bwd', cols(ye), gate, need(node.inputs[3], 'combine_bwd')),
        ...[ye.ld, dy.ld, dye?.ld ?? 0, flag(node.accumulate[0]), flag(node.accumulate[1])],
      ],
      blocks: rows(ye),
      lanes: cols(ye),
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'either'],
  tolerance: { nmse: 1e-11, why: 'a float32 scalar product over C' },
  flops: (node) => 3 * count(need(node.inputs[0], 'combine_bwd')),
});

export const combineFwd = defineOp({
  name: 'combine_fwd',
  formula: 'y[n, t] = sum over experts that took the token of gate[n, e, slot] ye[e, n K + slot]',
  inputs: ['ye', 'gate', 'index', 'slot'],
  outputs: ['y'],
  shape: ([ye, gate, index, slot], attrs) => {
    const Y = need(ye, 'combine_fwd');
    const list = need(index, 'combine_fwd');
    const G = need(gate, 'combine_fwd');
    const [N = 1, T = 1, C = 1, E = 1, K = 1] = extents(
      'combine_fwd',
      cols(Y),
      list,
      need(slot, 'combine_fwd'),
    );
    checkRows('combine_fwd', Y, E * N * K, 'ye');
    if (attrs.T !== T || count(G) !== N * E * K || !isContiguous(G)) {
      refuse('combine_fwd', `gate or T = ${attrs.T} does not fit`, Y, G, slot ?? null);
    }
    return [{ shape: [N, T, C], elem: Y.storage.elem }];
  },
  fields: { pointers: 'act ye; real gate; i32 slot; act y', ints: 'N T C E K ldye ldy' },
  launch: (node) => {
    const [ye, gate, index, slot] = node.inputs;
    const Y = need(ye, 'combine_fwd');
    const y = need(node.outputs[0], 'combine_fwd');
    const S = need(slot, 'combine_fwd');
    return {
      pointers: [Y, gate ?? null, S, y],
      ints: [...extents('combine_fwd', cols(Y), need(index, 'combine_fwd'), S), Y.ld, y.ld],
      blocks: rows(y),
      lanes: cols(y),
    };
  },
  backward: (node, b) => {
    const [ye = null, gate = null, index = null, slot = null] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    if (!dy) return;
    const dye = b.sink(ye);
    const dgate = b.sink(gate);
    if (dye || dgate) b.append(combineBwd, [ye, gate, index, slot, dy], [dye, dgate]);
  },
  writes: ['set'],
  tolerance: SUM,
  flops: (node) => 2 * count(need(node.inputs[0], 'combine_fwd')),
});

/**
 * Sum of what the experts made of each token, weighted: ye [E, N K, C], gate and index [N, E, K],
 * slot [N, E, T] -> [N, T, C]. A token that no expert took is 0.
 */
export function combine(ye: Tensor, gate: Tensor, index: Tensor, slot: Tensor, T: number): Tensor {
  return traceOf(ye).emit(combineFwd, [ye, gate, index, slot], { T })[0]!;
}
