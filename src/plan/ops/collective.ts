// Ops of several processes together: every rank runs them in the same order, and none goes on before all have
// come. They work in place, on a flat buffer that is cut into one stretch of equal length for each rank.
import type { Rank } from '../../backend/backend.ts';
import { defineOp, need, type Op, refuse } from '../op.ts';
import { count, isContiguous, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

const SAME = {
  inputs: [],
  outputs: ['x'],
  shape: () => [null],
  backward: 'exchanges what is made already',
  writes: ['set'],
} satisfies Partial<Op>;
const MOVES = { nmse: 0, why: 'moves numbers' };
const SUMS = { nmse: 1e-12, why: 'a sum over ranks' };

/** x in one stretch, and the length of a rank's part of it. */
function parts(op: string, x: Tensor | null | undefined, ranks: number): { x: Tensor; length: number } {
  const whole = need(x, op);
  if (!isContiguous(whole) || count(whole) % ranks) refuse(op, `is cut into ${ranks} parts`, whole);
  return { x: whole, length: count(whole) / ranks };
}

const allReduceOp = defineOp({
  ...SAME,
  name: 'all_reduce',
  formula: 'x = sum over ranks of x',
  fields: { pointers: 'real x', ints: 'count' },
  launch: (node) => {
    const { x, length } = parts('all_reduce', node.outputs[0], 1);
    return { pointers: [x], ints: [length], blocks: 1 };
  },
  tolerance: SUMS,
  flops: (node) => count(need(node.outputs[0], 'all_reduce')),
});

/** A launch over all of x, of which one rank has or gets the result. */
const fromRoot =
  (op: string): Op['launch'] =>
  ({ outputs, attrs }) => {
    const { x, length } = parts(op, outputs[0], 1);
    return { pointers: [x], ints: [length, attrs.root ?? 0], blocks: 1 };
  };

/** A launch over the parts of all ranks. */
const inParts =
  (op: string): Op['launch'] =>
  ({ outputs, attrs }) => {
    const { rank = 0, ranks = 1 } = attrs;
    const { x, length } = parts(op, outputs[0], ranks);
    return { pointers: [x], ints: [length, rank, ranks], blocks: 1 };
  };

const reduceOp = defineOp({
  ...SAME,
  name: 'reduce',
  formula: 'x = sum over ranks of x on rank root; elsewhere x stays',
  fields: { pointers: 'real x', ints: 'count root' },
  launch: fromRoot('reduce'),
  beside: true,
  tolerance: SUMS,
  flops: (node) => count(need(node.outputs[0], 'reduce')),
});

const allGatherOp = defineOp({
  ...SAME,
  name: 'all_gather',
  formula: 'x[r] = x[r] of rank r, x [ranks, count]',
  fields: { pointers: 'any x', ints: 'count rank ranks' },
  launch: inParts('all_gather'),
  tolerance: MOVES,
  flops: () => 0,
});

const broadcastOp = defineOp({
  ...SAME,
  name: 'broadcast',
  formula: 'x = x of rank root',
  fields: { pointers: 'any x', ints: 'count root' },
  launch: fromRoot('broadcast'),
  tolerance: MOVES,
  flops: () => 0,
});

const inPlace = (op: Op, tensor: Tensor, attrs: Readonly<Record<string, number>> = {}) =>
  void traceOf(tensor).emitInto(op, [], [{ tensor, accumulate: false }], attrs);

/** x real becomes its sum over all ranks. */
export const allReduce = (x: Tensor) => inPlace(allReduceOp, x);

/**
 * x real of rank `root` becomes its sum over all ranks, while the ops that follow go on: none of them may
 * touch x.
 */
export const reduce = (x: Tensor, root: number) => inPlace(reduceOp, x, { root });

/** Every part of x becomes what the rank has that it belongs to. */
export const allGather = (x: Tensor, { rank, ranks }: Rank) => inPlace(allGatherOp, x, { rank, ranks });

/** x becomes what rank `root` has. */
export const broadcast = (x: Tensor, root: number) => inPlace(broadcastOp, x, { root });
