// Ops: LayerNorm with adaLN modulation, gated residuals, and both in one pass, with their gradients.
import { type Backward, defineOp, type Node, need, refuse } from '../op.ts';
import { cols, count, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { colSum } from './linear.ts';

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
  fields: { pointers: 'x w scale shift h mean rstd', ints: 'C T ldx ldh ldmod', reals: 'eps' },
  launch: (node) => {
    const [x, w, scale, shift] = node.inputs;
    const [h, mean, rstd] = node.outputs;
    const X = need(x, 'norm_fwd');
    return {
      pointers: [X, w ?? null, scale ?? null, shift ?? null, h ?? null, mean ?? null, rstd ?? null],
      ints: [cols(X), rowsPerImage(X), X.ld, need(h, 'norm_fwd').ld, (scale ?? shift)?.ld ?? 0],
      reals: [node.attrs.eps ?? 0],
      blocks: rows(X),
    };
  },
  backward: (node, b) => {
    const [x, w, scale, shift] = node.inputs;
    const [h, mean, rstd] = node.outputs;
    const dh = b.grad(h ?? null);
    if (!x || !dh) return;
    const dx = b.sink(x);
    const dscale = b.sink(scale ?? null);
    const dshift = b.sink(shift ?? null);
    const partial = b.wants(w ?? null) ? { shape: [x.shape[0] ?? 1, cols(x)], elem: 'real' as const } : null;
    const outs = b.append(
      normBwd,
      [x, w ?? null, scale ?? null, mean ?? null, rstd ?? null, dh],
      [dx, partial, dscale, dshift],
    );
    weightGradient(b, w ?? null, outs[1] ?? null);
  },
  writes: ['set', 'set', 'set'],
  tolerance: NORM_NMSE,
  flops: (node) => 8 * count(need(node.inputs[0], 'norm_fwd')),
});

/** Adds the per-image partial sums of a norm's weight gradient. */
function weightGradient(b: Backward, w: Tensor | null, partial: Tensor | null): void {
  const dw = b.sink(w);
  if (dw && partial) b.append(colSum, [partial], [dw]);
}

/** Gradient of normFwd. One block is one image; dw is left as a partial sum per image. */
export const normBwd = defineOp({
  name: 'norm_bwd',
  formula:
    'g = dh w (1 + scale); dx = rstd (g - mean(g) - xhat mean(g xhat)); dw, dscale, dshift: sums over rows',
  inputs: ['x', 'w?', 'scale?', 'mean', 'rstd', 'dh'],
  outputs: ['dx?', 'dw?', 'dscale?', 'dshift?'],
  shape: ([x, w]) => {
    const X = need(x, 'norm_bwd');
    const image = { shape: [X.shape[0] ?? 1, cols(X)], elem: 'act' as const };
    return [
      { shape: X.shape, elem: X.storage.elem },
      w ? { shape: image.shape, elem: 'real' } : null,
      image,
      image,
    ];
  },
  fields: {
    pointers: 'x w scale mean rstd dh dx dw dscale dshift',
    ints: 'C T ldx ldmod lddh lddx lddmod add_dx add_dmod',
  },
  launch: (node) => {
    const [x, w, scale, mean, rstd, dh] = node.inputs;
    const [dx, dw, dscale, dshift] = node.outputs;
    const X = need(x, 'norm_bwd');
    const mod = modulationSink('norm_bwd', node, 2, 3);
    return {
      pointers: [X, w, scale, mean, rstd, dh, dx, dw, dscale, dshift].map((t) => t ?? null),
      ints: [
        ...[cols(X), rowsPerImage(X), X.ld, scale?.ld ?? 0, need(dh, 'norm_bwd').ld, dx?.ld ?? 0, mod.ld],
        ...[node.accumulate[0] ? 1 : 0, mod.add],
      ],
      blocks: X.shape[0] ?? 1,
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'set', 'either', 'either'],
  inPlace: [[0, 5]],
  tolerance: NORM_NMSE,
  flops: (node) => 16 * count(need(node.inputs[0], 'norm_bwd')),
});

/** Gradients of one modulation lie side by side in one buffer and are all set or all added. */
function modulationSink(op: string, node: Node, ...which: number[]): { ld: number; add: number } {
  const sinks = which.filter((i) => node.outputs[i]);
  const lds = new Set(sinks.map((i) => node.outputs[i]?.ld));
  const adds = new Set(sinks.map((i) => (node.accumulate[i] ? 1 : 0)));
  if (lds.size > 1 || adds.size > 1) {
    refuse(op, 'gradients of the modulation differ in layout', ...sinks.map((i) => node.outputs[i] ?? null));
  }
  return { ld: [...lds][0] ?? 0, add: [...adds][0] ?? 0 };
}

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
  fields: { pointers: 'x a gate y', ints: 'C T ldx lda ldy ldmod' },
  launch: (node) => {
    const [x, a, gate] = node.inputs;
    const X = need(x, 'residual_fwd');
    const A = need(a, 'residual_fwd');
    const Y = need(node.outputs[0], 'residual_fwd');
    return {
      pointers: [X, A, gate ?? null, Y],
      ints: [cols(X), rowsPerImage(X), X.ld, A.ld, Y.ld, gate?.ld ?? 0],
      blocks: rows(X),
    };
  },
  backward: (node, b) => {
    const [x, a, gate] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    if (!dy || !x || !a) return;
    const da = b.sink(a);
    const dgate = b.sink(gate ?? null);
    const dx = b.sink(x);
    b.append(residualBwd, [a, gate ?? null, dy], [dx, da, dgate]);
  },
  writes: ['set'],
  inPlace: [
    [0, 1],
    [0, 0],
  ],
  tolerance: { nmse: 1e-13, why: 'one product and one sum' },
  flops: (node) => 2 * count(need(node.inputs[0], 'residual_fwd')),
});

/** Gradient of residualFwd. One block is one image. */
export const residualBwd = defineOp({
  name: 'residual_bwd',
  formula: 'dx = dy; da = gate[n] dy; dgate[n] = sum over rows of dy a',
  inputs: ['a', 'gate?', 'dy'],
  outputs: ['dx?', 'da?', 'dgate?'],
  shape: ([a]) => {
    const A = need(a, 'residual_bwd');
    const same = { shape: A.shape, elem: A.storage.elem };
    return [same, same, { shape: [A.shape[0] ?? 1, cols(A)], elem: 'act' }];
  },
  fields: {
    pointers: 'a gate dy dx da dgate',
    ints: 'C T lda ldmod lddy lddx ldda lddmod add_dx add_da add_dgate',
  },
  launch: (node) => {
    const [a, gate, dy] = node.inputs;
    const [dx, da, dgate] = node.outputs;
    const A = need(a, 'residual_bwd');
    return {
      pointers: [A, gate, dy, dx, da, dgate].map((t) => t ?? null),
      ints: [
        ...[cols(A), rowsPerImage(A), A.ld, gate?.ld ?? 0, need(dy, 'residual_bwd').ld],
        ...[dx?.ld ?? 0, da?.ld ?? 0, dgate?.ld ?? 0, ...[0, 1, 2].map((i) => (node.accumulate[i] ? 1 : 0))],
      ],
      blocks: A.shape[0] ?? 1,
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'either', 'either'],
  inPlace: [[0, 2]],
  tolerance: { nmse: 1e-12, why: 'a float32 sum over the rows of an image' },
  flops: (node) => 4 * count(need(node.inputs[0], 'residual_bwd')),
});

/** x [N, .., C] + gate [N, C] * a [N, .., C]; without a gate the plain sum. */
export function residual(x: Tensor, gate: Tensor | null, a: Tensor): Tensor {
  return traceOf(x).emit(residualFwd, [x, a, gate])[0]!;
}
