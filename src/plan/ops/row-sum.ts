// Ops: sums over rows, in two halves: partial sums of stretches of rows, then their sum. Bias gradients and
// gradients of weights that are used by every row end here.
import { type Backward, defineOp, need, type Op, type Sink } from '../op.ts';
import { cols, count, rows, type Tensor } from '../tensor.ts';

/** Rows of one partial sum. */
const SPAN = 64;
/** Columns of one block of the first half, and of the second. */
const WIDTH = 256;
const COL_BLOCK = 64;
const TOLERANCE = { nmse: 1e-11, why: 'a float32 sum over rows' };

function partSum(name: string, from: 'act' | 'real'): Op {
  return defineOp({
    name,
    formula: 'y[j, C] = sum of x[rows, C] over the rows j span .. (j + 1) span',
    inputs: ['x'],
    outputs: ['y'],
    shape: ([x]) => [{ shape: [Math.ceil(rows(need(x, name)) / SPAN), cols(need(x, name))], elem: 'real' }],
    fields: { pointers: `${from} x; real y`, ints: 'rows C ldx span width' },
    launch: (node) => {
      const x = need(node.inputs[0], name);
      const y = need(node.outputs[0], name);
      return {
        pointers: [x, y],
        ints: [rows(x), cols(x), x.ld, SPAN, WIDTH],
        blocks: rows(y) * Math.ceil(cols(x) / WIDTH),
        lanes: Math.min(cols(x), WIDTH),
      };
    },
    backward: 'only used for gradients',
    writes: ['set'],
    tolerance: TOLERANCE,
    flops: (node) => count(need(node.inputs[0], name)),
  });
}

const partOf = { act: partSum('part_sum', 'act'), real: partSum('part_sum_real', 'real') };

/** Blocks own columns, so no two blocks write the same element. */
const colSum = defineOp({
  name: 'col_sum',
  formula: 'y[C] = sum over rows of x[rows, C]',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([x]) => [{ shape: [cols(need(x, 'col_sum'))], elem: 'real' }],
  fields: { pointers: 'real x y', ints: 'rows C ldx accumulate' },
  launch: (node) => {
    const x = need(node.inputs[0], 'col_sum');
    return {
      pointers: [x, need(node.outputs[0], 'col_sum')],
      ints: [rows(x), cols(x), x.ld, node.accumulate[0] ? 1 : 0],
      blocks: Math.ceil(cols(x) / COL_BLOCK),
      lanes: COL_BLOCK,
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: TOLERANCE,
  flops: (node) => count(need(node.inputs[0], 'col_sum')),
});

/** sink[C] (+)= sum over the rows of x[.., C], act or real. */
export function sumRows(b: Backward, x: Tensor, sink: Sink): void {
  let partial = x;
  while (partial.storage.elem !== 'real' || rows(partial) > SPAN) {
    const op = partial.storage.elem === 'real' ? partOf.real : partOf.act;
    partial = need(b.append(op, [partial], op.shape([partial], {}))[0], op.name);
  }
  b.append(colSum, [partial], [sink]);
}
