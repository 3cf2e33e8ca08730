// Ops: images between planes [N, C, H, W], as files and the host keep them, and pixels [N, H, W, C].
import { defineOp, need, refuse } from '../op.ts';
import { cols, isContiguous, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

const planesToRows = defineOp({
  name: 'planes_to_rows',
  formula: 'y[n, h, w, c] = x[n, c, h, w]',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([xx]) => {
    const x = need(xx, 'planes_to_rows');
    const [N = 0, C = 0, H = 0, W = 0] = x.shape;
    if (x.shape.length !== 4 || !isContiguous(x)) refuse('planes_to_rows', 'needs images [N, C, H, W]', x);
    return [{ shape: [N, H, W, C], elem: 'act' }];
  },
  fields: { pointers: 'real x; act y', ints: 'C H W ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'planes_to_rows');
    const y = need(node.outputs[0], 'planes_to_rows');
    const [N = 0, C = 0, H = 0, W = 0] = x.shape;
    return { pointers: [x, y], ints: [C, H, W, y.ld], blocks: N * H, lanes: W };
  },
  backward: 'images are data',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'copies' },
  flops: () => 0,
});

const rowsToPlanes = defineOp({
  name: 'rows_to_planes',
  formula: 'y[n, c, h, w] = x[n, h, w, c]',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([xx]) => {
    const x = need(xx, 'rows_to_planes');
    const [N = 0, H = 0, W = 0, C = 0] = x.shape;
    if (x.shape.length !== 4) refuse('rows_to_planes', 'needs images [N, H, W, C]', x);
    return [{ shape: [N, C, H, W], elem: 'real' }];
  },
  fields: { pointers: 'act x; real y', ints: 'C H W ldx' },
  launch: (node) => {
    const x = need(node.inputs[0], 'rows_to_planes');
    const y = need(node.outputs[0], 'rows_to_planes');
    const [N = 0, H = 0, W = 0] = x.shape;
    return { pointers: [x, y], ints: [cols(x), H, W, x.ld], blocks: N * H, lanes: W };
  },
  backward: 'images are data',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'copies' },
  flops: () => 0,
});

/** Images x [N, C, H, W] real as pixels [N, H, W, C]. */
export function pixelRows(x: Tensor): Tensor {
  return traceOf(x).emit(planesToRows, [x])[0]!;
}

/** Pixels x [N, H, W, C] as images [N, C, H, W] real. */
export function imagePlanes(x: Tensor): Tensor {
  return traceOf(x).emit(rowsToPlanes, [x])[0]!;
}
