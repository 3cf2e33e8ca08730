// Op: windows of an image as rows of a matrix; with it, convolutions as products in bands of image rows, so
// that neither the matrix nor a normalised copy of the image is ever there as a whole. Forward only.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, reshape, slices, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { applyGroupNorm, type GroupNorm } from './group-norm.ts';
import { gemm } from './linear.ts';

/** Elements of the matrix of one band, at most, where a band has more than one row: 32 MiB of float32. */
const BAND_ELEMENTS = 2 ** 23;
/** Pixels of a block. */
const SPAN = 16;

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
  backward: 'the autoencoder is not trained here',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'copies' },
  flops: () => 0,
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
}

/** Rows of one band, and the rows of the image that it may need at once. */
function bandRows(H: number, Wo: number, C: number, form: ConvForm, band: number) {
  const Ho = convExtent(H, form);
  const most = Math.max(1, Math.floor(band / (Wo * form.k * form.k * C)));
  const R = Math.ceil(Ho / Math.ceil(Ho / most));
  const held = Math.min(H, Math.ceil(((R - 1) * form.stride + form.k - 1) / form.up) + 1);
  return { R, held };
}

/**
 * Convolution of x [N, H, W, C] with w [Co, k, k, C] and bias [Co] -> [N, Ho, Wo, Co].
 */
export function conv(
  x: Tensor,
  w: Tensor,
  bias: Tensor,
  form: ConvForm,
  { norm = null, into = null, band = BAND_ELEMENTS }: ConvOptions = {},
): Tensor {
  const trace = traceOf(x);
  const [N = 0, H = 0, W = 0, C = 0] = x.shape;
  const [Co = 0, k, kw, Ci] = w.shape;
  if (x.shape.length !== 4 || k !== form.k || kw !== k || Ci !== C || !isContiguous(x)) {
    refuse('im2col', 'image [N, H, W, C] and weight [Co, k, k, C] differ', x, w);
  }
  const [Ho, Wo] = [convExtent(H, form), convExtent(W, form)];
  if (Ho < 1 || Wo < 1) refuse('im2col', 'the image is smaller than the window', x, w);
  const y = into ?? trace.fresh({ shape: [N, Ho, Wo, Co], elem: 'act' }, 'conv.y');
  if (count(y) !== N * Ho * Wo * Co) refuse('im2col', 'adds to another shape', y, w);

  const { R, held } = bandRows(H, Wo, C, form, band);
  const matrix = trace.fresh({ shape: [R, Wo, k * k * C], elem: 'act' }, 'conv.windows');
  const normed = norm && trace.fresh({ shape: [held, W, C], elem: 'act' }, 'conv.normed');
  const flat = reshape(w, [Co, k * k * C]);
  for (let n = 0; n < N; n++) {
    const image = reshape(slices(x, n, n + 1), [H, W, C]);
    const out = reshape(slices(y, n, n + 1), [Ho, Wo, Co]);
    for (let first = 0; first < Ho; first += R) {
      const rows = Math.min(R, Ho - first);
      const top = first * form.stride - form.pad;
      const base = Math.max(0, Math.floor(top / form.up));
      const end = Math.min(H, Math.floor((top + (rows - 1) * form.stride + k - 1) / form.up) + 1);
      let from = slices(image, base, end);
      if (norm && normed) from = applyGroupNorm(from, norm, n, slices(normed, 0, end - base));
      const { stride, pad, up } = form;
      const windows = slices(matrix, 0, rows);
      trace.emitInto(im2col, [from], [{ tensor: windows, accumulate: false }], {
        ...{ H, Wo, base, first, rows, k, stride, pad, up },
      });
      const to = { tensor: slices(out, first, first + rows), accumulate: into !== null };
      trace.emitInto(gemm, [windows, flat, bias], [to], { transB: 1 });
    }
  }
  return y;
}
