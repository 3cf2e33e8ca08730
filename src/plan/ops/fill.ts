// Op: fill activations with one value.
import { defineOp, need, refuse } from '../op.ts';
import { count, isContiguous, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { constantOp } from './random.ts';

export const fill = defineOp({
  name: 'fill',
  formula: 'y = value',
  inputs: [],
  outputs: ['y'],
  shape: () => [null],
  fields: { pointers: 'act y', ints: 'count span', reals: 'value' },
  launch: (node) => {
    const y = need(node.outputs[0], 'fill');
    if (!isContiguous(y)) refuse('fill', 'is written in one stretch', y);
    return {
      pointers: [y],
      ints: [count(y), SPAN],
      reals: [node.attrs.value ?? 0],
      blocks: Math.ceil(count(y) / SPAN),
    };
  },
  backward: 'it reads nothing',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'stores one value' },
  flops: () => 0,
});

const SPAN = 16384;

/** Writes zeros into memory of either kind. */
export function zero(tensor: Tensor): void {
  const op = tensor.storage.elem === 'act' ? fill : constantOp;
  traceOf(tensor).emitInto(op, [], [{ tensor, accumulate: false }], { value: 0 });
}
