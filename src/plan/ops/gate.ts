// Op: the gate of a router, in float32 on every backend (in bf16 logits tie and selections drift).
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { sumRows } from './row-sum.ts';

/** Rows of one block of the backward kernel, and of one partial sum of dw. */
const SPAN = 128;

function extents(x: Tensor, w: Tensor, op: string) {
  const [E = 1, C = 1] = w.shape;
  if (w.shape.length !== 2 || C !== cols(x) || w.storage.elem !== 'real' || !isContiguous(w)) {
    refuse(op, 'x [.., C] and w [E, C] real do not fit', x, w);
  }
  return { E, C };
}

const gateBwd = defineOp({
  name: 'gate_bwd',
  formula: 'dx = dlogits w; dw[j] = dlogits^T x over the j-th stretch of rows',
  inputs: ['x', 'w', 'dlogits'],
  outputs: ['dx?', 'dw?'],
  shape: ([x, w]) => {
    const X = need(x, 'gate_bwd');
    const { E, C } = extents(X, need(w, 'gate_bwd'), 'gate_bwd');
    return [
      { shape: X.shape, elem: 'act' },
      { shape: [Math.ceil(rows(X) / SPAN), E * C], elem: 'real' },
    ];
  },
  fields: {
    pointers: 'act x; real w dlogits; act dx; real dw',
    ints: 'rows C E span ldx lddlogits lddx add_dx',
  },
  launch: (node) => {
    const [x, w, dlogits] = node.inputs.map((t) => need(t, 'gate_bwd'));
    const [dx = null, dw = null] = node.outputs;
    const { E, C } = extents(x!, w!, 'gate_bwd');
    return {
      pointers: [x!, w!, dlogits!, dx, dw],
      ints: [rows(x!), C, E, SPAN, x!.ld, dlogits!.ld, dx?.ld ?? 0, node.accumulate[0] ? 1 : 0],
      blocks: Math.ceil(rows(x!) / SPAN),
      scratch: SPAN * E + C,
      lanes: C,
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'set'],
  tolerance: { nmse: 1e-11, why: 'float32 sums over experts and rows' },
  flops: (node) => 4 * rows(need(node.inputs[0], 'gate_bwd')) * count(need(node.inputs[1], 'gate_bwd')),
});

const gateFwd = defineOp({
  name: 'gate_fwd',
  formula: 'logits[row, E] = x[row, C] w[E, C]^T',
  inputs: ['x', 'w'],
  outputs: ['logits'],
  shape: ([x, w]) => {
    const X = need(x, 'gate_fwd');
    const { E } = extents(X, need(w, 'gate_fwd'), 'gate_fwd');
    return [{ shape: [...X.shape.slice(0, -1), E], elem: 'real' }];
  },
  fields: { pointers: 'act x; real w logits', ints: 'C E ldx' },
  launch: (node) => {
    const x = need(node.inputs[0], 'gate_fwd');
    const w = need(node.inputs[1], 'gate_fwd');
    const { E, C } = extents(x, w, 'gate_fwd');
    return {
      pointers: [x, w, need(node.outputs[0], 'gate_fwd')],
      ints: [C, E, x.ld],
      blocks: rows(x),
      lanes: C,
    };
  },
  backward: (node, b) => {
    const [x = null, w = null] = node.inputs;
    const dlogits = b.grad(node.outputs[0] ?? null);
    if (!dlogits || !x || !w) return;
    const dx = b.sink(x);
    const dw = b.sink(w);
    if (!dx && !dw) return;
    const partial = dw && (gateBwd.shape([x, w, dlogits], {})[1] ?? null);
    const made = b.append(gateBwd, [x, w, dlogits], [dx, partial])[1];
    if (dw && made) sumRows(b, made, { ...dw, tensor: { ...dw.tensor, shape: [count(w)], ld: count(w) } });
  },
  writes: ['set'],
  tolerance: { nmse: 1e-11, why: 'a float32 scalar product over C' },
  flops: (node) => 2 * rows(need(node.inputs[0], 'gate_fwd')) * count(need(node.inputs[1], 'gate_fwd')),
});

/** Logits of E experts: x [.., C], w [E, C] in float32 -> [.., E] in float32. */
export function gate(x: Tensor, w: Tensor): Tensor {
  return traceOf(x).emit(gateFwd, [x, w])[0]!;
}
