// Ops: half-precision numbers as data files hold them, two in a word, to numbers to compute with.
import type { Elem } from '../../backend/backend.ts';
import { defineOp, need, type Op, refuse } from '../op.ts';
import { count, isContiguous, product, reshape, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

/** Words of one block. */
const SPAN = 8192;

function unpack(name: string, elem: Exclude<Elem, 'i32'>): Op {
  return defineOp({
    name,
    formula: 'y[2 i] = low half of x[i], y[2 i + 1] = high half of x[i]',
    inputs: ['x'],
    outputs: ['y'],
    shape: ([xx]) => {
      const x = need(xx, name);
      if (x.storage.elem !== 'i32' || !isContiguous(x)) refuse(name, 'needs words in one stretch', x);
      return [{ shape: [2 * count(x)], elem }];
    },
    fields: { pointers: `i32 x; ${elem} y`, ints: 'count span' },
    launch: (node) => {
      const words = count(need(node.inputs[0], name));
      const blocks = Math.ceil(words / SPAN);
      return { pointers: [...node.inputs, ...node.outputs], ints: [words, SPAN], blocks };
    },
    backward: 'data has no gradient',
    writes: ['set'],
    cheap: true,
    tolerance: { nmse: 0, why: 'every half is a float32; bfloat16 rounds it' },
    flops: () => 0,
  });
}

const toAct = unpack('half_to_act', 'act');
const toReal = unpack('half_to_real', 'real');

/** x: words i32 that hold the halves of `shape`, of an even number of elements, as the data file has them. */
export function fromHalf(x: Tensor, shape: readonly number[], elem: Exclude<Elem, 'i32'>): Tensor {
  if (product(shape) !== 2 * count(x)) refuse('from half', `words do not hold [${shape.join(', ')}]`, x);
  const y = traceOf(x).emit(elem === 'act' ? toAct : toReal, [x])[0]!;
  return reshape(y, shape);
}
