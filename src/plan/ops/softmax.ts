// Op: softmax over rows; with it, attention of one wide head in bands of queries. Forward only.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, reshape, rows, slices, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { gemm } from './linear.ts';

/** Scores of one band of queries, at most, where a band has more than one query: 16 MiB of float32. */
const BAND_SCORES = 2 ** 22;

const softmaxRows = defineOp({
  name: 'softmax_rows',
  formula: 'y = softmax(x by) over each row',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([x]) => [{ shape: need(x, 'softmax_rows').shape, elem: 'act' }],
  fields: { pointers: 'real x; act y', ints: 'C ldx ldy', reals: 'by' },
  launch: (node) => {
    const x = need(node.inputs[0], 'softmax_rows');
    const y = need(node.outputs[0], 'softmax_rows');
    return {
      pointers: [x, y],
      ints: [cols(x), x.ld, y.ld],
      reals: [node.attrs.by ?? 1],
      blocks: rows(x),
      lanes: cols(x),
    };
  },
  backward: 'the autoencoder is not trained here',
  writes: ['set'],
  tolerance: { nmse: 1e-11, why: 'float32 exponentials and their sum over a row' },
  flops: (node) => 10 * count(need(node.inputs[0], 'softmax_rows')),
});

/** softmax(x by) over the last axis: x [.., C] real -> [.., C] act. */
export function softmax(x: Tensor, by = 1): Tensor {
  return traceOf(x).emit(softmaxRows, [x], { by })[0]!;
}

/**
 * softmax(q k^T / sqrt(C)) v: q, k, v [N, T, C] -> [N, T, C], one head of any width. Scores are float32 and
 * exist for a band of queries at a time.
 */
export function wideAttention(q: Tensor, k: Tensor, v: Tensor, band = BAND_SCORES): Tensor {
  const trace = traceOf(q);
  const [N = 0, T = 0, C = 0] = q.shape;
  const [, S = 0] = k.shape;
  const same = [k, v].every((t) => t.shape.join() === [N, S, C].join());
  if (q.shape.length !== 3 || !same) refuse('softmax_rows', 'q, k and v differ', q, k, v);
  const R = Math.min(T, Math.max(1, Math.floor(band / S)));
  const y = trace.fresh({ shape: [N, T, C], elem: 'act' }, 'attention.y');
  const scores = trace.fresh({ shape: [R, S], elem: 'real' }, 'attention.scores');
  const weights = trace.fresh({ shape: [R, S], elem: 'act' }, 'attention.weights');
  const image = (t: Tensor, n: number) => reshape(slices(t, n, n + 1), [t.shape[1]!, C]);
  const into = (tensor: Tensor) => [{ tensor, accumulate: false }];
  for (let n = 0; n < N; n++) {
    for (let first = 0; first < T; first += R) {
      const some = Math.min(R, T - first);
      const [raw, soft] = [slices(scores, 0, some), slices(weights, 0, some)];
      const queries = slices(image(q, n), first, first + some);
      trace.emitInto(gemm, [queries, image(k, n), null], into(raw), { transB: 1 });
      trace.emitInto(softmaxRows, [raw], into(soft), { by: 1 / Math.sqrt(C) });
      const out = slices(image(y, n), first, first + some);
      trace.emitInto(gemm, [soft, image(v, n), null], into(out));
    }
  }
  return y;
}
