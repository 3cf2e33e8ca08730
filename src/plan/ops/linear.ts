// Op: matrix products (linear layers, batches of experts), with their gradients.
import { type Backward, defineOp, type Node, need, refuse } from '../op.ts';
import { cols, count, isContiguous, product, reshape, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { sumRows } from './row-sum.ts';

/**
 * C = op(A) op(B) (+ bias), row-major, with `batch` equal products side by side.
 * attrs: transA, transB (0 or 1), batch, imageRows (rows of C that belong to one image, where a row's bits
 * must not depend on its neighbours; 0 where any tiling will do). The CPU's product has equal bits in every
 * tiling and needs no imageRows; it is there for back ends that do.
 */
export const gemm = defineOp({
  name: 'gemm',
  formula: 'C[M, N] = op(A)[M, K] op(B)[K, N] + bias[N]',
  inputs: ['A', 'B', 'bias?'],
  outputs: ['C'],
  shape: ([a, b, bias], attrs) => {
    const A = need(a, 'gemm');
    const B = need(b, 'gemm');
    const { M, N, K, K2 } = extents(A, B, attrs);
    if (K !== K2 || !Number.isInteger(M * N * K)) refuse('gemm', 'inner extents differ', A, B);
    if (A.storage.elem !== 'act') refuse('gemm', 'computes with act', A, B);
    if (bias && count(bias) !== N) refuse('gemm', 'bias does not fit', A, B, bias);
    if ((attrs.batch ?? 1) > 1 && !(isContiguous(A) && isContiguous(B)))
      refuse('gemm', 'strided batch', A, B);
    const lead = attrs.transA || (attrs.batch ?? 1) > 1 ? [(attrs.batch ?? 1) * M] : A.shape.slice(0, -1);
    return [{ shape: [...lead, N], elem: A.storage.elem }];
  },
  fields: {
    pointers: 'act A B; any C; act bias',
    ints: 'M N K lda ldb ldc transA transB batch strideA strideB strideC strideBias accumulate image_rows',
  },
  launch: (node) => {
    const [a, b, bias] = node.inputs;
    const A = need(a, 'gemm');
    const B = need(b, 'gemm');
    const C = need(node.outputs[0], 'gemm');
    const { M, N, K } = extents(A, B, node.attrs);
    const batch = node.attrs.batch ?? 1;
    const { transA = 0, transB = 0, imageRows = 0 } = node.attrs;
    return {
      pointers: [A, B, C, bias ?? null],
      ints: [
        ...[M, N, K, A.ld, B.ld, C.ld, transA, transB, batch],
        ...(batch > 1 ? [M * K, K * N, M * N, 0] : [0, 0, 0, 0]),
        ...[node.accumulate[0] ? 1 : 0, imageRows],
      ],
      blocks: 0,
    };
  },
  backward: gemmBackward,
  writes: ['either'],
  tolerance: { nmse: 1e-11, why: 'sums of K float32 products; K up to a few thousand' },
  products: 'gemm',
  flops: (node) => {
    const { M, N, K } = extents(need(node.inputs[0], 'gemm'), need(node.inputs[1], 'gemm'), node.attrs);
    return 2 * (node.attrs.batch ?? 1) * M * N * K;
  },
});

function extents(A: Tensor, B: Tensor, attrs: Node['attrs']) {
  const batch = attrs.batch ?? 1;
  const [aRows, aCols] = [rows(A) / batch, cols(A)];
  const [bRows, bCols] = [rows(B) / batch, cols(B)];
  const [M, K] = attrs.transA ? [aCols, aRows] : [aRows, aCols];
  const [K2, N] = attrs.transB ? [bCols, bRows] : [bRows, bCols];
  return { M, N, K, K2 };
}

/** dA = dC op(B)^T and dB = op(A)^T dC, each transposed back where the operand was. */
function gemmBackward(node: Node, b: Backward): void {
  const [A, B, bias] = node.inputs;
  const { transA = 0, transB = 0, batch = 1 } = node.attrs;
  const dC = b.grad(node.outputs[0] ?? null);
  if (!A || !B || !dC) return;
  if (transA) refuse('gemm', 'no gradient where A is transposed', A, B);
  const dA = b.sink(A);
  if (dA) b.append(gemm, [dC, B, null], [dA], { transB: 1 - transB, batch });
  const dB = b.sink(B);
  if (dB && transB) b.append(gemm, [dC, A, null], [dB], { transA: 1, batch });
  if (dB && !transB) b.append(gemm, [A, dC, null], [dB], { transA: 1, batch });
  const dBias = b.sink(bias ?? null, 'real');
  if (dBias) sumRows(b, dC, dBias);
}

/** Linear layer: x [.., K], w [N, K], bias [N] -> [.., N] (PyTorch's layout of w). */
export function linear(x: Tensor, w: Tensor, bias: Tensor | null = null, imageRows = 0): Tensor {
  return traceOf(x).emit(gemm, [x, w, bias], { transB: 1, imageRows })[0]!;
}

/** One product per expert: x [E, M, K], w [E, K, N] -> [E, M, N]. */
export function expertLinear(x: Tensor, w: Tensor, imageRows = 0): Tensor {
  const [E = 1, M = 1] = x.shape;
  const batch = w.shape[0] ?? 0;
  if (x.shape.length !== 3 || w.shape.length !== 3 || batch !== E) refuse('gemm', 'experts differ', x, w);
  const y = traceOf(x).emit(gemm, [x, w, null], { batch: E, imageRows })[0]!;
  return reshape(y, [E, M, product(w.shape) / (E * (w.shape[1] ?? 1))]);
}
