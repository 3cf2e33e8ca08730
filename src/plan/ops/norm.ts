// Ops: LayerNorm with adaLN modulation, gated residuals, and both in one pass, with their gradients.
import { type Backward, defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { sumRows } from './row-sum.ts';

const NORM_NMSE = { nmse: 1e-11, why: 'float32 sums over one row, then a few products' };

/** Rows that share one modulation: all of an image. */
function rowsPerImage(x: Tensor): number {
  return rows(x) / (x.shape[0] ?? 1);
}

function checkModulation(op: string, x: Tensor, w: Tensor | null, ...perImage: (Tensor | null)[]): void {
  if (w && count(w) !== cols(x)) refuse(op, 'weight does not fit', x, w);
  for (const m of perImage) {
    if (m && (cols(m) !== cols(x) || rows(m) !== x.shape[0])) refuse(op, 'modulation does not fit', x, m);
  }
  const strides = perImage.filter((m) => m !== null).map((m) => m.ld);
  if (new Set(strides).size > 1) refuse(op, 'modulations are views of different buffers', x, ...perImage);
}

/** h = (x - mean) rstd w (1 + scale[n]) + shift[n], over the last axis. eps as in nn.LayerNorm. */
export const normFwd = defineOp({
  name: 'norm_fwd',
  formula: 'h = (x - mean) * rstd * w * (1 + scale[n]) + shift[n]',
  inputs: ['x', 'w?', 'scale?', 'shift?'],
  outputs: ['h', 'mean', 'rstd'],
  shape: ([xx, w, scale, shift]) => {
    const x = need(xx, 'norm_fwd');
    checkModulation('norm_fwd', x, w ?? null, scale ?? null, shift ?? null);
    return [
      { shape: x.shape, elem: x.storage.elem },
      { shape: [rows(x)], elem: 'real' },
      { shape: [rows(x)], elem: 'real' },
    ];
  },
  fields: { pointers: 'act x w scale shift h; real mean rstd', ints: 'C T ldx ldh ldmod', reals: 'eps' },
  launch: (node) => {
    const [x, w, scale, shift] = node.inputs;
    const [h, mean, rstd] = node.outputs;
    const X = need(x, 'norm_fwd');
    return {
      pointers: [X, w ?? null, scale ?? null, shift ?? null, h ?? null, mean ?? null, rstd ?? null],
      ints: [cols(X), rowsPerImage(X), X.ld, need(h, 'norm_fwd').ld, (scale ?? shift)?.ld ?? 0],
      reals: [node.attrs.eps ?? 0],
      blocks: rows(X),
      lanes: cols(X),
    };
  },
  backward: (node, b) => {
    const [x, w, scale, shift] = node.inputs;
    const [h, mean, rstd] = node.outputs;
    const dh = b.grad(h ?? null);
    if (!x || !dh) return;
    const dx = b.sink(x);
    const sums = partialSums(x);
    const outs = b.append(
      normBwd,
      [x, w ?? null, scale ?? null, mean ?? null, rstd ?? null, dh],
      [dx, ...[w, scale, shift].map((t) => (b.wants(t ?? null) ? sums : null))],
    );
    sumColumns(b, w ?? null, outs[1] ?? null);
    sumSlices(b, x, [
      [scale ?? null, outs[2] ?? null],
      [shift ?? null, outs[3] ?? null],
    ]);
  },
  writes: ['set', 'set', 'set'],
  cheap: true,
  tolerance: NORM_NMSE,
  flops: (node) => 8 * count(need(node.inputs[0], 'norm_fwd')),
});

/** Rows of one block of a backward kernel, at most. */
const SLICE_ROWS = 32;

/** How an image's rows are cut: `slices` of `span` rows, the last one perhaps shorter. By shapes alone. */
export function cutRows(x: Tensor): { span: number; slices: number } {
  const T = rowsPerImage(x);
  const span = Math.ceil(T / Math.ceil(T / SLICE_ROWS));
  return { span, slices: Math.ceil(T / span) };
}

/** Shape of partial sums over the rows of x: one row a slice. */
export function partialSums(x: Tensor): { shape: number[]; elem: 'real' } {
  return { shape: [(x.shape[0] ?? 1) * cutRows(x).slices, cols(x)], elem: 'real' };
}

/** Adds up the partial sums of a norm's weight gradient. */
export function sumColumns(b: Backward, w: Tensor | null, partial: Tensor | null): void {
  const dw = partial && b.sink(w, 'real');
  if (dw) sumRows(b, partial, dw);
}

/** Adds up partial sums into the gradients of vectors per image (scale, shift, gate). */
export function sumSlices(
  b: Backward,
  x: Tensor,
  pairs: readonly (readonly [Tensor | null, Tensor | null])[],
): void {
  for (const [vector, partial] of pairs) {
    const to = partial && b.sink(vector);
    if (to) b.append(sliceSum, [partial], [to], { slices: cutRows(x).slices });
  }
}

/** The second half of sums over an image's rows. One block is one image. */
const sliceSum = defineOp({
  name: 'slice_sum',
  formula: 'y[n, C] = sum over s of partial[n slices + s, C]',
  inputs: ['partial'],
  outputs: ['y'],
  shape: ([p], { slices = 1 }) => {
    const partial = need(p, 'slice_sum');
    if (rows(partial) % slices || !isContiguous(partial)) {
      refuse('slice_sum', `cannot be cut into ${slices}`, partial);
    }
    return [{ shape: [rows(partial) / slices, cols(partial)], elem: 'act' }];
  },
  fields: { pointers: 'real partial; act y', ints: 'C slices ldy add_y' },
  launch: (node) => {
    const partial = need(node.inputs[0], 'slice_sum');
    const y = need(node.outputs[0], 'slice_sum');
    const { slices = 1 } = node.attrs;
    return {
      pointers: [partial, y],
      ints: [cols(partial), slices, y.ld, node.accumulate[0] ? 1 : 0],
      blocks: rows(partial) / slices,
      lanes: cols(partial),
      scratch: cols(partial),
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: { nmse: 1e-12, why: 'a float32 sum over the slices of an image' },
  flops: (node) => count(need(node.inputs[0], 'slice_sum')),
});

/** Gradient of normFwd. One block is one slice of an image; sums over rows are left as partial sums. */
export const normBwd = defineOp({
  name: 'norm_bwd',
  formula:
    'g = dh w (1 + scale); dx = rstd (g - mean(g) - xhat mean(g xhat)); dw, dscale, dshift: sums over rows',
  inputs: ['x', 'w?', 'scale?', 'mean', 'rstd', 'dh'],
  outputs: ['dx?', 'dw?', 'dscale?', 'dshift?'],
  shape: ([x]) => {
    const X = need(x, 'norm_bwd');
    const sums = partialSums(X);
    return [{ shape: X.shape, elem: X.storage.elem }, sums, sums, sums];
  },
  fields: {
    pointers: 'act x w scale; real mean rstd; act dh dx; real dw dscale dshift',
    ints: 'C T span ldx ldmod lddh lddx add_dx',
  },
  launch: (node) => {
    const [x, , scale, , , dh] = node.inputs;
    const [dx] = node.outputs;
    const X = need(x, 'norm_bwd');
    const { span, slices } = cutRows(X);
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [
        ...[cols(X), rowsPerImage(X), span, X.ld, scale?.ld ?? 0, need(dh, 'norm_bwd').ld, dx?.ld ?? 0],
        node.accumulate[0] ? 1 : 0,
      ],
      blocks: (X.shape[0] ?? 1) * slices,
      scratch: 3 * cols(X),
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'set', 'set', 'set'],
  inPlace: [[0, 5]],
  tolerance: NORM_NMSE,
  flops: (node) => 16 * count(need(node.inputs[0], 'norm_bwd')),
});

/** LayerNorm of x [N, .., C]; w [C], scale and shift [N, C] are optional. */
export function norm(
  x: Tensor,
  w: Tensor | null,
  eps: number,
  scale: Tensor | null = null,
  shift: Tensor | null = null,
): Tensor {
  return traceOf(x).emit(normFwd, [x, w, scale, shift], { eps })[0]!;
}

/** y = x + gate[n] a. */
export const residualFwd = defineOp({
  name: 'residual_fwd',
  formula: 'y = x + gate[n] * a',
  inputs: ['x', 'a', 'gate?'],
  outputs: ['y'],
  shape: ([x, a, gate]) => {
    const X = need(x, 'residual_fwd');
    const A = need(a, 'residual_fwd');
    if (rows(X) !== rows(A) || cols(X) !== cols(A)) refuse('residual_fwd', 'branches differ', X, A);
    checkModulation('residual_fwd', X, null, gate ?? null);
    return [{ shape: X.shape, elem: X.storage.elem }];
  },
  fields: { pointers: 'act x a gate y', ints: 'C T ldx lda ldy ldmod' },
  launch: (node) => {
    const [x, a, gate] = node.inputs;
    const X = need(x, 'residual_fwd');
    const A = need(a, 'residual_fwd');
    const Y = need(node.outputs[0], 'residual_fwd');
    return {
      pointers: [X, A, gate ?? null, Y],
      ints: [cols(X), rowsPerImage(X), X.ld, A.ld, Y.ld, gate?.ld ?? 0],
      blocks: rows(X),
      lanes: cols(X),
    };
  },
  backward: (node, b) => {
    const [x, a, gate] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    if (!dy || !x || !a) return;
    const da = b.sink(a);
    const dx = b.sink(x);
    const sums = b.wants(gate ?? null) ? partialSums(a) : null;
    const outs = b.append(residualBwd, [a, gate ?? null, dy], [dx, da, sums]);
    sumSlices(b, a, [[gate ?? null, outs[2] ?? null]]);
  },
  writes: ['set'],
  inPlace: [
    [0, 1],
    [0, 0],
  ],
  cheap: true,
  tolerance: { nmse: 1e-13, why: 'one product and one sum' },
  flops: (node) => 2 * count(need(node.inputs[0], 'residual_fwd')),
});

/** Gradient of residualFwd. One block is one slice of an image. */
export const residualBwd = defineOp({
  name: 'residual_bwd',
  formula: 'dx = dy; da = gate[n] dy; dgate[n] = sum over rows of dy a',
  inputs: ['a', 'gate?', 'dy'],
  outputs: ['dx?', 'da?', 'dgate?'],
  shape: ([a]) => {
    const A = need(a, 'residual_bwd');
    const same = { shape: A.shape, elem: A.storage.elem };
    return [same, same, partialSums(A)];
  },
  fields: {
    pointers: 'act a gate dy dx da; real dgate',
    ints: 'C T span lda ldmod lddy lddx ldda add_dx add_da',
  },
  launch: (node) => {
    const [a, gate, dy] = node.inputs;
    const [dx, da] = node.outputs;
    const A = need(a, 'residual_bwd');
    const { span, slices } = cutRows(A);
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [
        ...[cols(A), rowsPerImage(A), span, A.ld, gate?.ld ?? 0, need(dy, 'residual_bwd').ld],
        ...[dx?.ld ?? 0, da?.ld ?? 0, ...[0, 1].map((i) => (node.accumulate[i] ? 1 : 0))],
      ],
      blocks: (A.shape[0] ?? 1) * slices,
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'either', 'set'],
  inPlace: [[0, 2]],
  tolerance: { nmse: 1e-12, why: 'a float32 sum over the rows of an image' },
  flops: (node) => 4 * count(need(node.inputs[0], 'residual_bwd')),
});

/** x [N, .., C] + gate [N, C] * a [N, .., C]; without a gate the plain sum. */
export function residual(x: Tensor, gate: Tensor | null, a: Tensor): Tensor {
  return traceOf(x).emit(residualFwd, [x, a, gate])[0]!;
}
