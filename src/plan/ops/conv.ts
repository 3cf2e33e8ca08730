// Ops: windows of an image as rows of a matrix; a convolution as a whole, and its bias. With them,
// convolutions in one of two ways: as products in bands of image rows, so that neither the matrix nor a
// normalised copy of the image is ever there as a whole; or whole, where the backend has a library for op
// `conv`. Forward only.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, reshape, rows, slices, type Tensor } from '../tensor.ts';
import { type Trace, traceOf } from '../trace.ts';
import { applyGroupNorm, type GroupNorm } from './group-norm.ts';
import { gemm } from './linear.ts';

/** Elements of the matrix of one band, at most, where a band has more than one row: 32 MiB of float32. */
const BAND_ELEMENTS = 2 ** 23;
/** Pixels of a block. */
const SPAN = 16;
/** Elements that one block of the bias works on, about. */
const BLOCK_ELEMENTS = 4096;
const FORWARD_ONLY = 'the autoencoder is not trained here';

export const im2col = defineOp({
  name: 'im2col',
  formula:
    'y[(o, w), (i, j, c)] = x[o stride + i - pad, w stride + j - pad, c] of the image up times as large',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([xx], { H = 0, Wo = 0, base = 0, k = 0, rows = 0 }) => {
    const x = need(xx, 'im2col');
    const [held = 0, , C = 0] = x.shape;
    if (x.shape.length !== 3 || base + held > H) refuse('im2col', `needs rows of an image of ${H}`, x);
    return [{ shape: [rows, Wo, k * k * C], elem: 'act' }];
  },
  fields: { pointers: 'act x y', ints: 'C H W Wo base first k stride pad up span ldx ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'im2col');
    const y = need(node.outputs[0], 'im2col');
    const { H = 0, Wo = 0, base = 0, first = 0, rows = 0, k = 0, stride = 1, pad = 0, up = 1 } = node.attrs;
    return {
      pointers: [x, y],
      ints: [cols(x), H, x.shape[1]!, Wo, base, first, k, stride, pad, up, SPAN, x.ld, y.ld],
      blocks: rows * Math.ceil(Wo / SPAN),
      lanes: cols(x),
    };
  },
  backward: FORWARD_ONLY,
  writes: ['set'],
  tolerance: { nmse: 0, why: 'copies' },
  flops: () => 0,
});

/** Padding is the same on all sides: libraries know no other. */
const convolution = defineOp({
  name: 'conv',
  formula: 'y[n, o, p, :] = sum over i, j of w[:, i, j] x[n, o stride + i - pad, p stride + j - pad]',
  inputs: ['x', 'w'],
  outputs: ['y'],
  shape: ([xx, ww], { stride = 1, pad = 0 }) => {
    const x = need(xx, 'conv');
    const w = need(ww, 'conv');
    const [N = 0, H = 0, W = 0, C = 0] = x.shape;
    const [Co = 0, k = 0, kw, Ci] = w.shape;
    const fits = x.shape.length === 4 && w.shape.length === 4 && kw === k && Ci === C;
    if (!fits || !isContiguous(x) || !isContiguous(w)) {
      refuse('conv', 'needs images [N, H, W, C] and weight [Co, k, k, C]', x, w);
    }
    const extent = (n: number) => Math.floor((n + 2 * pad - k) / stride) + 1;
    return [{ shape: [N, extent(H), extent(W), Co], elem: 'act' }];
  },
  fields: { pointers: 'act x w y', ints: 'N H W C Ho Wo Co k stride pad span' },
  launch: (node) => {
    const [x, w, y] = [node.inputs[0], node.inputs[1], node.outputs[0]].map((t) => need(t, 'conv'));
    const [N = 0, Ho = 0, Wo = 0, Co = 0] = y!.shape;
    const { stride = 1, pad = 0 } = node.attrs;
    return {
      pointers: [x!, w!, y!],
      ints: [N, ...x!.shape.slice(1), Ho, Wo, Co, w!.shape[1]!, stride, pad, SPAN],
      blocks: N * Ho * Math.ceil(Wo / SPAN),
      lanes: Co,
    };
  },
  backward: FORWARD_ONLY,
  writes: ['set'],
  tolerance: { nmse: 1e-11, why: 'sums of k k C float32 products; a few thousand' },
  products: 'gemm',
  flops: (node) => {
    const window = need(node.inputs[1], 'conv')
      .shape.slice(1)
      .reduce((a, b) => a * b, 1);
    return 2 * count(need(node.outputs[0], 'conv')) * window;
  },
});

const convBias = defineOp({
  name: 'conv_bias',
  formula: 'y = x + bias',
  inputs: ['x', 'bias'],
  outputs: ['y'],
  shape: ([xx, bb]) => {
    const x = need(xx, 'conv_bias');
    const bias = need(bb, 'conv_bias');
    if (count(bias) !== cols(x) || !isContiguous(x)) refuse('conv_bias', 'bias does not fit', x, bias);
    return [{ shape: x.shape, elem: 'act' }];
  },
  fields: { pointers: 'act x bias y', ints: 'C pixels accumulate span' },
  launch: (node) => {
    const x = need(node.inputs[0], 'conv_bias');
    const span = Math.max(1, Math.floor(BLOCK_ELEMENTS / cols(x)));
    return {
      pointers: [...node.inputs, need(node.outputs[0], 'conv_bias')],
      ints: [cols(x), rows(x), node.accumulate[0] ? 1 : 0, span],
      blocks: Math.ceil(rows(x) / span),
      lanes: cols(x),
    };
  },
  backward: FORWARD_ONLY,
  writes: ['either'],
  inPlace: [[0, 0]],
  tolerance: { nmse: 1e-11, why: 'one or two float32 sums' },
  flops: (node) => 2 * count(need(node.inputs[0], 'conv_bias')),
});

/** How the window moves. `after` is the padding below and to the right, `pad` that above and to the left. */
export interface ConvForm {
  readonly k: number;
  readonly stride: number;
  readonly pad: number;
  readonly after: number;
  /** 2: the image is first enlarged, every pixel four times. */
  readonly up: 1 | 2;
}

/** 3x3, as large as the image. */
export const SAME: ConvForm = { k: 3, stride: 1, pad: 1, after: 1, up: 1 };

/** Rows or columns of the result, of `n` rows or columns. */
export function convExtent(n: number, f: ConvForm): number {
  return Math.floor((n * f.up + f.pad + f.after - f.k) / f.stride) + 1;
}

export interface ConvOptions {
  /** x is normalised on the way in. */
  readonly norm?: GroupNorm | null;
  /** The result is added to this tensor, which is returned. */
  readonly into?: Tensor | null;
  /** Elements of a band's matrix, at most, where a band has more than one row. */
  readonly band?: number;
  /** By op `conv`, where the backend has a library for it, instead of in bands. */
  readonly whole?: boolean;
}

/**
 * Convolution of x [N, H, W, C] with w [Co, k, k, C] and bias [Co] -> [N, Ho, Wo, Co].
 */
export function conv(x: Tensor, w: Tensor, bias: Tensor, form: ConvForm, options: ConvOptions = {}): Tensor {
  const trace = traceOf(x);
  const [N = 0, H = 0, W = 0, C = 0] = x.shape;
  const [Co = 0, k, kw, Ci] = w.shape;
  if (x.shape.length !== 4 || k !== form.k || kw !== k || Ci !== C || !isContiguous(x)) {
    refuse('conv', 'image [N, H, W, C] and weight [Co, k, k, C] differ', x, w);
  }
  const [Ho, Wo] = [convExtent(H, form), convExtent(W, form)];
  if (Ho < 1 || Wo < 1) refuse('conv', 'the image is smaller than the window', x, w);
  const y = options.into ?? null;
  if (y && count(y) !== N * Ho * Wo * Co) refuse('conv', 'adds to another shape', y, w);
  if (options.whole) return convWhole(trace, { x, w, bias, y }, form, options.norm ?? null);
  const to = y ?? trace.fresh({ shape: [N, Ho, Wo, Co], elem: 'act' }, 'conv.y');
  convBands(trace, { x, w, bias, y: to }, form, options);
  return to;
}

interface Operands<Y> {
  readonly x: Tensor;
  readonly w: Tensor;
  readonly bias: Tensor;
  readonly y: Y;
}

/** Rows of one band, and the rows of the image that it may need at once. */
function bandRows(H: number, Wo: number, C: number, form: ConvForm, band: number) {
  const Ho = convExtent(H, form);
  const most = Math.max(1, Math.floor(band / (Wo * form.k * form.k * C)));
  const R = Math.ceil(Ho / Math.ceil(Ho / most));
  const held = Math.min(H, Math.ceil(((R - 1) * form.stride + form.k - 1) / form.up) + 1);
  return { R, held };
}

function convBands(
  trace: Trace,
  { x, w, bias, y }: Operands<Tensor>,
  form: ConvForm,
  { norm = null, into = null, band = BAND_ELEMENTS }: ConvOptions,
): void {
  const [N = 0, H = 0, W = 0, C = 0] = x.shape;
  const { k, stride, pad, up } = form;
  const [Co = 0] = w.shape;
  const [Ho, Wo] = [convExtent(H, form), convExtent(W, form)];
  const { R, held } = bandRows(H, Wo, C, form, band);
  const matrix = trace.fresh({ shape: [R, Wo, k * k * C], elem: 'act' }, 'conv.windows');
  const normed = norm && trace.fresh({ shape: [held, W, C], elem: 'act' }, 'conv.normed');
  const flat = reshape(w, [Co, k * k * C]);
  for (let n = 0; n < N; n++) {
    const image = reshape(slices(x, n, n + 1), [H, W, C]);
    const out = reshape(slices(y, n, n + 1), [Ho, Wo, Co]);
    for (let first = 0; first < Ho; first += R) {
      const rows = Math.min(R, Ho - first);
      const top = first * stride - pad;
      const base = Math.max(0, Math.floor(top / up));
      const end = Math.min(H, Math.floor((top + (rows - 1) * stride + k - 1) / up) + 1);
      let from = slices(image, base, end);
      if (norm && normed) from = applyGroupNorm(from, norm, n, slices(normed, 0, end - base));
      const windows = slices(matrix, 0, rows);
      trace.emitInto(im2col, [from], [{ tensor: windows, accumulate: false }], {
        ...{ H, Wo, base, first, rows, k, stride, pad, up },
      });
      const to = { tensor: slices(out, first, first + rows), accumulate: into !== null };
      trace.emitInto(gemm, [windows, flat, bias], [to], { transB: 1 });
    }
  }
}

/** Adds to y where there is one. */
function convWhole(
  trace: Trace,
  { x, w, bias, y }: Operands<Tensor | null>,
  form: ConvForm,
  norm: GroupNorm | null,
): Tensor {
  let from = x;
  if (norm) {
    from = trace.fresh({ shape: x.shape, elem: 'act' }, 'conv.normed');
    for (let n = 0; n < x.shape[0]!; n++) {
      applyGroupNorm(slices(x, n, n + 1), norm, n, slices(from, n, n + 1));
    }
  }
  const even = form.pad === form.after;
  if (form.up > 1 || !even) from = enlarged(trace, from, form, even ? 0 : form.pad, even ? 0 : form.after);
  const [sums] = trace.emit(convolution, [from, w], { stride: form.stride, pad: even ? form.pad : 0 });
  if (!y) return trace.emit(convBias, [sums!, bias])[0]!;
  trace.emitInto(convBias, [sums!, bias], [{ tensor: reshape(y, sums!.shape), accumulate: true }]);
  return y;
}

/** x [N, H, W, C] with every pixel `up` x `up` times, and zeros around: windows of one pixel. */
function enlarged(trace: Trace, x: Tensor, { up }: ConvForm, before: number, after: number): Tensor {
  const [N = 0, H = 0, W = 0, C = 0] = x.shape;
  const [Ho, Wo] = [H, W].map((n) => n * up + before + after) as [number, number];
  const y = trace.fresh({ shape: [N, Ho, Wo, C], elem: 'act' }, 'conv.enlarged');
  for (let n = 0; n < N; n++) {
    const image = reshape(slices(x, n, n + 1), [H, W, C]);
    const tensor = reshape(slices(y, n, n + 1), [Ho, Wo, C]);
    trace.emitInto(im2col, [image], [{ tensor, accumulate: false }], {
      ...{ H, Wo, base: 0, first: 0, rows: Ho, k: 1, stride: 1, pad: before, up },
    });
  }
  return y;
}
