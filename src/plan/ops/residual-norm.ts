// Op: gated residual, LayerNorm and modulation in one pass over the row, with its gradient.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { fill } from './fill.ts';
import { cutRows, partialSums, sumColumns, sumSlices } from './norm.ts';

const flag = (add: boolean | undefined) => (add ? 1 : 0);

export const residualNormFwd = defineOp({
  name: 'residual_norm_fwd',
  formula: 'y = x + gate[n] * a; h = norm(y) * w * (1 + scale[n]) + shift[n]',
  inputs: ['x', 'a', 'gate?', 'w?', 'scale?', 'shift?'],
  outputs: ['y', 'h', 'mean', 'rstd'],
  shape: ([x, a, gate, w, scale, shift]) => {
    const X = need(x, 'residual_norm_fwd');
    const A = need(a, 'residual_norm_fwd');
    if (rows(X) !== rows(A) || cols(X) !== cols(A)) refuse('residual_norm_fwd', 'branches differ', X, A);
    if (w && count(w) !== cols(X)) refuse('residual_norm_fwd', 'weight does not fit', X, w);
    for (const m of [gate, scale, shift]) {
      if (m && (cols(m) !== cols(X) || rows(m) !== X.shape[0])) {
        refuse('residual_norm_fwd', 'modulation does not fit', X, m);
      }
    }
    const same = { shape: X.shape, elem: X.storage.elem };
    const stat = { shape: [rows(X)], elem: 'real' as const };
    return [same, same, stat, stat];
  },
  fields: {
    pointers: 'act x a gate w scale shift y h; real mean rstd',
    ints: 'C T ldx lda ldgate ldmod ldy ldh',
    reals: 'eps',
  },
  launch: (node) => {
    const [x, a, , , scale, shift] = node.inputs;
    const [y, h] = node.outputs;
    const X = need(x, 'residual_norm_fwd');
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [
        ...[cols(X), rows(X) / (X.shape[0] ?? 1), X.ld, need(a, 'residual_norm_fwd').ld],
        ...[node.inputs[2]?.ld ?? 0, (scale ?? shift)?.ld ?? 0],
        ...[need(y, 'residual_norm_fwd').ld, need(h, 'residual_norm_fwd').ld],
      ],
      reals: [node.attrs.eps ?? 0],
      blocks: rows(X),
      lanes: cols(X),
    };
  },
  backward: (node, b) => {
    const [x = null, a = null, gate = null, w = null, scale = null, shift = null] = node.inputs;
    const [y = null, h = null, mean = null, rstd = null] = node.outputs;
    const dy = b.grad(y);
    if (!x || !y) return;
    const zero = { shape: y.shape, elem: y.storage.elem };
    // Where only y is used, the norm has the gradient 0.
    const dh = b.grad(h) ?? b.append(fill, [], [zero], { value: 0 })[0] ?? null;
    const da = b.sink(a);
    const dx = b.sink(x);
    const sums = partialSums(y);
    const outs = b.append(
      residualNormBwd,
      [y, a, gate, w, scale, mean, rstd, dh, dy],
      [dx, da, ...[gate, w, scale, shift].map((t) => (b.wants(t) ? sums : null))],
    );
    sumColumns(b, w, outs[3] ?? null);
    sumSlices(b, y, [
      [gate, outs[2] ?? null],
      [scale, outs[4] ?? null],
      [shift, outs[5] ?? null],
    ]);
  },
  writes: ['set', 'set', 'set', 'set'],
  cheap: true,
  tolerance: { nmse: 1e-11, why: 'float32 sums over one row, then a few products' },
  flops: (node) => 10 * count(need(node.inputs[0], 'residual_norm_fwd')),
});

/** Gradient of residualNormFwd. One block is one slice of an image; sums over rows are partial sums. */
export const residualNormBwd = defineOp({
  name: 'residual_norm_bwd',
  formula:
    'dx = dy + norm gradient of dh; da = gate[n] dx; dgate[n] = sum over rows of dx a; dw, dscale, dshift',
  inputs: ['y', 'a', 'gate?', 'w?', 'scale?', 'mean', 'rstd', 'dh', 'dy?'],
  outputs: ['dx?', 'da?', 'dgate?', 'dw?', 'dscale?', 'dshift?'],
  shape: ([y]) => {
    const Y = need(y, 'residual_norm_bwd');
    const same = { shape: Y.shape, elem: Y.storage.elem };
    const sums = partialSums(Y);
    return [same, same, sums, sums, sums, sums];
  },
  fields: {
    pointers: 'act y a gate w scale; real mean rstd; act dh dy dx da; real dgate dw dscale dshift',
    ints: 'C T span ldy lda ldgate ldmod lddh lddy lddx ldda add_dx add_da',
  },
  launch: (node) => {
    const [y, a, gate, , scale, , , dh, dy] = node.inputs;
    const [dx, da] = node.outputs;
    const Y = need(y, 'residual_norm_bwd');
    const { span, slices } = cutRows(Y);
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [
        ...[cols(Y), rows(Y) / (Y.shape[0] ?? 1), span, Y.ld, need(a, 'residual_norm_bwd').ld],
        ...[gate?.ld ?? 0, scale?.ld ?? 0, need(dh, 'residual_norm_bwd').ld, dy?.ld ?? 0],
        ...[dx?.ld ?? 0, da?.ld ?? 0, flag(node.accumulate[0]), flag(node.accumulate[1])],
      ],
      blocks: (Y.shape[0] ?? 1) * slices,
      scratch: 5 * cols(Y),
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'either', 'set', 'set', 'set', 'set'],
  inPlace: [[0, 8]],
  tolerance: { nmse: 1e-11, why: 'float32 sums over one row and over the rows of an image' },
  flops: (node) => 22 * count(need(node.inputs[0], 'residual_norm_bwd')),
});

/**
 * One pass: y = x + gate a, and h = LayerNorm(y) w (1 + scale) + shift.
 * x, a [N, .., C]; gate, scale, shift [N, C] or null; w [C] or null. Returns [y, h].
 */
export function residualNorm(
  x: Tensor,
  gate: Tensor | null,
  a: Tensor,
  w: Tensor | null,
  eps: number,
  scale: Tensor | null = null,
  shift: Tensor | null = null,
): [Tensor, Tensor] {
  const [y, h] = traceOf(x).emit(residualNormFwd, [x, a, gate, w, scale, shift], { eps });
  return [y!, h!];
}
