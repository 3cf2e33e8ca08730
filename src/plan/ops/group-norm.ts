// Ops: GroupNorm over images [N, H, W, C], in three steps: sums of image rows, statistics of images, and the
// normalised image. Forward only.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, reshape, rows, slices, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

const WHY = 'the autoencoder is not trained here';
/** Elements that one block works on, about. */
const BLOCK_ELEMENTS = 4096;

const groupRows = defineOp({
  name: 'group_rows',
  formula: 'sums[row] = mean and sum of (x - mean)^2 over the W pixels of an image row, for each channel',
  inputs: ['x'],
  outputs: ['sums'],
  shape: ([xx]) => {
    const x = need(xx, 'group_rows');
    if (x.shape.length !== 4) refuse('group_rows', 'needs images [N, H, W, C]', x);
    const [N = 0, H = 0, , C = 0] = x.shape;
    return [{ shape: [N, H, 2 * C], elem: 'real' }];
  },
  fields: { pointers: 'act x; real sums', ints: 'C W ldx' },
  launch: (node) => {
    const x = need(node.inputs[0], 'group_rows');
    const [N = 0, H = 0, W = 0, C = 0] = x.shape;
    return {
      pointers: [x, need(node.outputs[0], 'group_rows')],
      ints: [C, W, x.ld],
      blocks: N * H,
      lanes: C,
    };
  },
  backward: WHY,
  writes: ['set'],
  tolerance: { nmse: 1e-11, why: 'float32 sums over the pixels of a row' },
  flops: (node) => 4 * count(need(node.inputs[0], 'group_rows')),
});

const groupMerge = defineOp({
  name: 'group_merge',
  formula: 'mean[n, c] and factor[n, c] = w / sqrt(var + eps) over the rows and channels of a group',
  inputs: ['sums', 'w'],
  outputs: ['mean', 'factor'],
  shape: ([s, ww], { G = 0 }) => {
    const sums = need(s, 'group_merge');
    const w = need(ww, 'group_merge');
    const C = cols(sums) / 2;
    if (sums.shape.length !== 3 || count(w) !== C || !Number.isInteger(C / G) || !isContiguous(sums)) {
      refuse('group_merge', `needs sums [N, H, 2 C] and w [C] of ${G} groups`, sums, w);
    }
    const shape = [sums.shape[0] ?? 0, C];
    return [
      { shape, elem: 'real' },
      { shape, elem: 'real' },
    ];
  },
  fields: { pointers: 'real sums; act w; real mean factor', ints: 'C H W G', reals: 'eps' },
  launch: (node) => {
    const sums = need(node.inputs[0], 'group_merge');
    const [N = 0, H = 0] = sums.shape;
    const { W = 0, G = 0, eps = 0 } = node.attrs;
    return {
      pointers: [sums, node.inputs[1] ?? null, ...node.outputs],
      ints: [cols(sums) / 2, H, W, G],
      reals: [eps],
      blocks: N * G,
      lanes: H,
    };
  },
  backward: WHY,
  writes: ['set', 'set'],
  tolerance: { nmse: 1e-11, why: 'float32 sums over rows and channels' },
  flops: (node) => 5 * count(need(node.inputs[0], 'group_merge')),
});

const groupApply = defineOp({
  name: 'group_apply',
  formula: 'y = (x - mean) factor + bias, then y sigmoid(y) where silu is 1',
  inputs: ['x', 'mean', 'factor', 'bias'],
  outputs: ['y'],
  shape: ([xx, ...vectors]) => {
    const x = need(xx, 'group_apply');
    for (const v of vectors) {
      if (count(need(v, 'group_apply')) !== cols(x)) refuse('group_apply', 'statistics differ', x, v ?? null);
    }
    return [{ shape: x.shape, elem: 'act' }];
  },
  fields: { pointers: 'act x; real mean factor; act bias y', ints: 'C pixels silu span ldx ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'group_apply');
    const y = need(node.outputs[0], 'group_apply');
    const span = Math.max(1, Math.floor(BLOCK_ELEMENTS / cols(x)));
    return {
      pointers: [...node.inputs, y],
      ints: [cols(x), rows(x), node.attrs.silu ?? 0, span, x.ld, y.ld],
      blocks: Math.ceil(rows(x) / span),
      lanes: cols(x),
    };
  },
  backward: WHY,
  writes: ['set'],
  inPlace: [[0, 0]],
  tolerance: { nmse: 1e-11, why: 'one float32 function of one number' },
  flops: (node) => 12 * count(need(node.inputs[0], 'group_apply')),
});

/** A normalisation whose statistics are known: mean and factor [N, C] real, bias [C]. */
export interface GroupNorm {
  readonly mean: Tensor;
  readonly factor: Tensor;
  readonly bias: Tensor;
  readonly silu: boolean;
}

/** Sums of each row of images [N, H, W, C] -> [N, H, 2 C] real: means and squares of each channel. */
export function groupSums(x: Tensor): Tensor {
  return traceOf(x).emit(groupRows, [x])[0]!;
}

/** Statistics of images of `W` columns from their rows' sums [N, H, 2 C]; w, bias [C], G groups. */
export function groupNorm(
  sums: Tensor,
  { w, bias }: { w: Tensor; bias: Tensor },
  { W, G, eps, silu }: { W: number; G: number; eps: number; silu: boolean },
): GroupNorm {
  const [mean, factor] = traceOf(sums).emit(groupMerge, [sums, w], { W, G, eps });
  return { mean: mean!, factor: factor!, bias, silu };
}

/** Normalises x, pixels of image n, [.., C] into `to` of the same shape. */
export function applyGroupNorm(x: Tensor, norm: GroupNorm, n: number, to: Tensor): Tensor {
  const of = (t: Tensor) => reshape(slices(t, n, n + 1), [cols(x)]);
  const { mean, factor, bias, silu } = norm;
  const operands = [x, of(mean), of(factor), bias];
  traceOf(x).emitInto(groupApply, operands, [{ tensor: to, accumulate: false }], { silu: silu ? 1 : 0 });
  return to;
}
