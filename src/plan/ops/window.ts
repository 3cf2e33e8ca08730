// Ops: windows that move over images: as rows of a matrix, with which convolutions of any window are
// products, several images at once; the largest number and the mean of each. Forward only.
import { defineOp, type Node, need, type Op, refuse } from '../op.ts';
import { cols, count, isContiguous, reshape, rows, slices, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { gemm, linear } from './linear.ts';

/** Elements of the matrix of one band, at most: 8 MiB of float32, which caches hold in part. */
const BAND_ELEMENTS = 2 ** 21;
/** Rows of the matrix that one block makes. */
const SPAN = 16;
const FORWARD_ONLY = 'networks that measure are not trained here';

/** A window of kh x kw pixels; `padH` rows of zeros above and below, `padW` columns beside. */
export interface WindowForm {
  readonly kh: number;
  readonly kw: number;
  readonly stride: number;
  readonly padH: number;
  readonly padW: number;
}

/** k x k pixels, padded alike on all sides. */
export function square(k: number, stride = 1, pad = 0): WindowForm {
  return { kh: k, kw: k, stride, padH: pad, padW: pad };
}

/** Height and width of the result for an image [N, H, W, C]; too small an image is a Failure. */
function extents(op: string, x: Tensor, { kh, kw, stride, padH, padW }: WindowForm): [number, number] {
  const [, H = 0, W = 0] = x.shape;
  const [Ho, Wo] = [(H + 2 * padH - kh) / stride, (W + 2 * padW - kw) / stride];
  const bad = x.shape.length !== 4 || !isContiguous(x) || Ho < 0 || Wo < 0 || padH >= kh || padW >= kw;
  if (bad) refuse(op, `needs images [N, H, W, C] of ${kh} x ${kw} pixels at least`, x);
  return [Math.floor(Ho) + 1, Math.floor(Wo) + 1];
}

const windows = defineOp({
  name: 'windows',
  formula: 'y[(n, o, p), (i, j, c)] = x[n, o stride + i - padH, p stride + j - padW, c]',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([xx], { kh = 1, kw = 1, rows = 0 }) => [
    { shape: [rows, kh * kw * cols(need(xx, 'windows'))], elem: 'act' },
  ],
  fields: { pointers: 'act x y', ints: 'C H W Ho Wo kh kw stride padH padW first rows span ldy' },
  launch: (node) => {
    const [x, y] = [need(node.inputs[0], 'windows'), need(node.outputs[0], 'windows')];
    const { kh = 1, kw = 1, stride = 1, padH = 0, padW = 0, first = 0 } = node.attrs;
    const [Ho, Wo] = extents('windows', x, { kh, kw, stride, padH, padW });
    const [, H = 0, W = 0, C = 0] = x.shape;
    return {
      pointers: [x, y],
      ints: [C, H, W, Ho, Wo, kh, kw, stride, padH, padW, first, rows(y), SPAN, y.ld],
      blocks: Math.ceil(rows(y) / SPAN),
      lanes: kw * C,
    };
  },
  backward: FORWARD_ONLY,
  writes: ['set'],
  tolerance: { nmse: 0, why: 'copies' },
  flops: () => 0,
});

/**
 * Convolution of images x [N, H, W, C] with w [Co, kh, kw, C] and bias [Co] -> [N, Ho, Wo, Co]. `band`:
 * elements of a band's matrix, at most, where a band has more than one row.
 */
export function windowConv(
  x: Tensor,
  w: Tensor,
  bias: Tensor,
  form: WindowForm,
  band = BAND_ELEMENTS,
): Tensor {
  const trace = traceOf(x);
  const [Co = 0, kh, kw, Ci] = w.shape;
  const [N = 0, , , C = 0] = x.shape;
  if (kh !== form.kh || kw !== form.kw || Ci !== C) refuse('windows', 'image and weight differ', x, w);
  const [Ho, Wo] = extents('windows', x, form);
  const depth = form.kh * form.kw * C;
  const flat = reshape(w, [Co, depth]);
  if (form.kh * form.kw === 1 && form.stride === 1) return linear(x, flat, bias);
  const y = trace.fresh({ shape: [N, Ho, Wo, Co], elem: 'act' }, 'conv.y');
  const out = reshape(y, [N * Ho * Wo, Co]);
  const most = Math.max(1, Math.floor(band / depth));
  const each = Math.ceil(rows(out) / Math.ceil(rows(out) / most));
  const matrix = trace.fresh({ shape: [each, depth], elem: 'act' }, 'conv.windows');
  const { stride, padH, padW } = form;
  for (let first = 0; first < rows(out); first += each) {
    const count = Math.min(each, rows(out) - first);
    const part = slices(matrix, 0, count);
    trace.emitInto(windows, [x], [{ tensor: part, accumulate: false }], {
      ...{ kh: form.kh, kw: form.kw, stride, padH, padW, first, rows: count },
    });
    const to = { tensor: slices(out, first, first + count), accumulate: false };
    trace.emitInto(gemm, [part, flat, bias], [to], { transB: 1 });
  }
  return y;
}

/** A row of the table for a pool: what it makes of the pixels of a window that lie in the image. */
function pool(name: string, formula: string, tolerance: Op['tolerance']): Op {
  const form = ({ k = 1, stride = 1, pad = 0 }: Node['attrs']) => square(k, stride, pad);
  return defineOp({
    name,
    formula,
    inputs: ['x'],
    outputs: ['y'],
    shape: ([xx], attrs) => {
      const x = need(xx, name);
      const [Ho, Wo] = extents(name, x, form(attrs));
      return [{ shape: [x.shape[0]!, Ho, Wo, cols(x)], elem: 'act' }];
    },
    fields: { pointers: 'act x y', ints: 'C H W Ho Wo k stride pad ldy' },
    launch: (node) => {
      const [x, y] = [need(node.inputs[0], name), need(node.outputs[0], name)];
      const [Ho, Wo] = extents(name, x, form(node.attrs));
      const [N = 0, H = 0, W = 0, C = 0] = x.shape;
      const { k = 1, stride = 1, pad = 0 } = node.attrs;
      return {
        pointers: [x, y],
        ints: [C, H, W, Ho, Wo, k, stride, pad, y.ld],
        blocks: N * Ho,
        scratch: C,
        lanes: C,
      };
    },
    backward: FORWARD_ONLY,
    writes: ['set'],
    tolerance,
    flops: (node) => count(need(node.outputs[0], name)) * (node.attrs.k ?? 1) ** 2,
  });
}

const maxPoolOp = pool('max_pool', 'y[n, o, p, c] = max over the window of x[n, v, u, c]', {
  nmse: 0,
  why: 'copies',
});
const meanPoolOp = pool('mean_pool', 'y[n, o, p, c] = mean over the window of x[n, v, u, c]', {
  nmse: 1e-12,
  why: 'a float32 sum of one window',
});

interface PoolForm {
  readonly k: number;
  readonly stride?: number;
  /** Pixels outside of the image, which do not count, on every side. */
  readonly pad?: number;
}

function pooled(op: Op, x: Tensor, { k, stride = 1, pad = 0 }: PoolForm, to: Tensor | null): Tensor {
  const attrs = { k, stride, pad };
  if (!to) return traceOf(x).emit(op, [x], attrs)[0]!;
  traceOf(x).emitInto(op, [x], [{ tensor: to, accumulate: false }], attrs);
  return to;
}

/** The largest number of each window of k x k pixels: x [N, H, W, C] -> `to` or a new [N, Ho, Wo, C]. */
export function maxPool(x: Tensor, form: PoolForm, to: Tensor | null = null): Tensor {
  return pooled(maxPoolOp, x, form, to);
}

/** The mean of the pixels of each window that lie in the image: x [N, H, W, C] -> `to` or [N, Ho, Wo, C]. */
export function meanPool(x: Tensor, form: PoolForm, to: Tensor | null = null): Tensor {
  return pooled(meanPoolOp, x, form, to);
}
