// Ops: copy rows to a place outside the arena, where a later plan finds them; round float32 to act.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

export const copyRows = defineOp({
  name: 'copy_rows',
  formula: 'y[row, C] = x[row mod rows(x), C]',
  inputs: ['x'],
  outputs: ['y'],
  shape: () => [null],
  fields: { pointers: 'act x y', ints: 'C rows ldx ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'copy_rows');
    const y = need(node.outputs[0], 'copy_rows');
    if (cols(x) !== cols(y) || rows(y) % rows(x)) refuse('copy_rows', 'shapes differ', x, y);
    return { pointers: [x, y], ints: [cols(x), rows(x), x.ld, y.ld], blocks: rows(y), lanes: cols(y) };
  },
  backward: 'only used in forward plans',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'moves numbers' },
  flops: () => 0,
  bytes: (node, elemBytes) => 2 * count(node.outputs[0]!) * elemBytes[node.outputs[0]!.storage.elem],
});

/** Copies x into `to`, again and again where `to` has more rows. */
export function copyInto(x: Tensor, to: Tensor): void {
  traceOf(x).emitInto(copyRows, [x], [{ tensor: to, accumulate: false }]);
}

const castOp = defineOp({
  name: 'cast',
  formula: 'y = x, rounded to act',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([x]) => [{ shape: need(x, 'cast').shape, elem: 'act' }],
  fields: { pointers: 'real x; act y', ints: 'count span' },
  launch: (node) => {
    const x = need(node.inputs[0], 'cast');
    const y = need(node.outputs[0], 'cast');
    if (!isContiguous(x) || !isContiguous(y)) refuse('cast', 'works in one stretch', x, y);
    return { pointers: [x, y], ints: [count(x), SPAN], blocks: Math.ceil(count(x) / SPAN) };
  },
  backward: 'only used between plans',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'float32 keeps every bit' },
  flops: () => 0,
});

const SPAN = 16384;

/** Rounds float32 numbers to the compute type: x real to `to` act, of one length. */
export function castInto(x: Tensor, to: Tensor): void {
  traceOf(x).emitInto(castOp, [x], [{ tensor: to, accumulate: false }]);
}
