// Ops of the update plan, over flat buffers at fixed places: loss sums, global gradient norm, clip factor and
// non-finite guard, AdamW with EMA. What the numbers of `state` and `scalars` mean is said here alone.
import { defineOp, need, refuse } from '../op.ts';
import { count, isContiguous, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

/** Places in the state block [STATE_SIZE] real, which outlives steps and is saved with the optimizer. */
export const STATE = {
  /** Global norm of the last gradient, before clipping. */
  norm: 0,
  /** Clip factor that the last step multiplied its gradient by. */
  scale: 1,
  /** 1 where the last step was skipped, because its norm or loss was not finite. */
  skip: 2,
  /** Adam's step: steps done without the skipped ones. */
  t: 3,
  /** Steps skipped so far. */
  skipped: 4,
  /** Mean loss over the images of the last step. */
  loss: 5,
  /** Sum of losses and number of images since the last step (`addLoss`). */
  lossSum: 6,
  images: 7,
} as const;
export const STATE_SIZE = 8;

/** Places in the scalar block [SCALAR_SIZE] real, which the host writes before each step. */
export const SCALAR = {
  /** Learning rate of this step. */
  lr: 0,
  /** ema = rate ema + (1 - rate) w; 0 copies the weights. */
  emaRate: 1,
} as const;
export const SCALAR_SIZE = 2;

/** Elements of one block: 256 KiB of each buffer. */
const SPAN = 65536;

function flat(op: string, x: Tensor, length = count(x)): Tensor {
  if (!isContiguous(x) || count(x) !== length) refuse(op, `needs ${length} numbers in one stretch`, x);
  return x;
}

export const addLossOp = defineOp({
  name: 'add_loss',
  formula: 'state.lossSum += sum of loss; state.images += N',
  inputs: ['loss'],
  outputs: ['state'],
  shape: () => [{ shape: [STATE_SIZE], elem: 'real' }],
  fields: { pointers: 'real loss state', ints: 'N' },
  launch: (node) => {
    const loss = flat('add_loss', need(node.inputs[0], 'add_loss'));
    return { pointers: [loss, need(node.outputs[0], 'add_loss')], ints: [count(loss)], blocks: 1 };
  },
  backward: 'only used for reports',
  writes: ['add'],
  tolerance: { nmse: 1e-12, why: 'a float32 sum over a batch' },
  flops: (node) => count(need(node.inputs[0], 'add_loss')),
});

/** Adds per-image losses [N] real to what the next `clipScale` reports and guards. */
export function addLoss(loss: Tensor, state: Tensor): void {
  traceOf(loss).emitInto(addLossOp, [loss], [{ tensor: state, accumulate: true }]);
}

export const sumSquaresOp = defineOp({
  name: 'sum_squares',
  formula: 'partial[b] = sum of x^2 over block b',
  inputs: ['x'],
  outputs: ['partial'],
  shape: ([x]) => [
    { shape: [Math.ceil(count(flat('sum_squares', need(x, 'sum_squares'))) / SPAN)], elem: 'real' },
  ],
  fields: { pointers: 'real x partial', ints: 'count span' },
  launch: (node) => {
    const x = need(node.inputs[0], 'sum_squares');
    const partial = need(node.outputs[0], 'sum_squares');
    return { pointers: [x, partial], ints: [count(x), SPAN], blocks: count(partial) };
  },
  backward: 'only used for gradients',
  writes: ['set'],
  tolerance: { nmse: 1e-13, why: 'summed in double' },
  flops: (node) => 2 * count(need(node.inputs[0], 'sum_squares')),
});

/** Sums of squares of a flat gradient, one for each block of it: real. */
export function sumSquares(grad: Tensor): Tensor {
  return traceOf(grad).emit(sumSquaresOp, [grad])[0]!;
}

export const clipScaleOp = defineOp({
  name: 'clip_scale',
  formula:
    'norm = sqrt(sum of partial); scale = min(1, max_norm / (norm + 1e-6)); skip unless finite, else t += 1',
  inputs: ['partial'],
  outputs: ['state'],
  shape: () => [{ shape: [STATE_SIZE], elem: 'real' }],
  fields: { pointers: 'real partial state', ints: 'blocks', reals: 'max_norm' },
  launch: (node) => {
    const partial = flat('clip_scale', need(node.inputs[0], 'clip_scale'));
    const state = flat('clip_scale', need(node.outputs[0], 'clip_scale'), STATE_SIZE);
    const maxNorm = node.attrs.maxNorm ?? Number.POSITIVE_INFINITY;
    return { pointers: [partial, state], ints: [count(partial)], reals: [maxNorm], blocks: 1 };
  },
  backward: 'only used for gradients',
  writes: ['set'],
  tolerance: { nmse: 1e-12, why: 'summed in double' },
  flops: (node) => count(need(node.inputs[0], 'clip_scale')),
});

/**
 * Turns partial sums of squares into norm, clip factor and the decision whether the step is done (STATE), as
 * torch.nn.utils.clip_grad_norm_. maxNorm Infinity: no clipping. Advances Adam's step unless skipped, and
 * closes the loss sums.
 */
export function clipScale(partial: Tensor, state: Tensor, maxNorm: number): void {
  traceOf(partial).emitInto(clipScaleOp, [partial], [{ tensor: state, accumulate: false }], { maxNorm });
}

export const adamwOp = defineOp({
  name: 'adamw',
  formula: 'w *= 1 - lr decay; m, v of g; w -= lr mhat / (sqrt(vhat) + eps); ema += (1 - r)(w - ema); g = 0',
  inputs: ['scalars', 'state'],
  outputs: ['weight', 'grad', 'm', 'v', 'ema?', 'copy?'],
  shape: () => [null, null, null, null, null, null],
  fields: {
    pointers: 'real scalars state weight grad m v ema; act copy',
    ints: 'count span',
    reals: 'decay lr_scale beta1 beta2 eps',
  },
  launch: (node) => {
    const scalars = flat('adamw', need(node.inputs[0], 'adamw'), SCALAR_SIZE);
    const state = flat('adamw', need(node.inputs[1], 'adamw'), STATE_SIZE);
    const length = count(need(node.outputs[0], 'adamw'));
    for (const t of node.outputs) if (t) flat('adamw', t, length);
    const { decay = 0, lrScale = 1, beta1 = 0, beta2 = 0, eps = 0 } = node.attrs;
    return {
      pointers: [scalars, state, ...node.outputs],
      ints: [length, SPAN],
      reals: [decay, lrScale, beta1, beta2, eps],
      blocks: Math.ceil(length / SPAN),
    };
  },
  backward: 'it is the end of a step',
  writes: ['set', 'set', 'set', 'set', 'set', 'set'],
  tolerance: { nmse: 1e-12, why: 'a square root and a quotient per element' },
  flops: (node) => 16 * count(need(node.outputs[0], 'adamw')),
  bytes: (node, elemBytes) =>
    node.outputs.reduce((sum, t, i) => {
      const touches = i === 5 ? 1 : 2;
      return sum + (t ? touches * count(t) * elemBytes[t.storage.elem] : 0);
    }, 0),
});

/** One stretch of the flat buffers, all of one length. `copy`: bf16 weights for kernels, where there are. */
export interface AdamwBuffers {
  readonly weight: Tensor;
  readonly grad: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
  readonly ema?: Tensor | null;
  readonly copy?: Tensor | null;
}

export interface AdamwOptions {
  /** Decoupled weight decay. */
  readonly decay: number;
  /** Multiplies SCALAR.lr (experts). */
  readonly lrScale?: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
}

/**
 * PyTorch's AdamW (Loshchilov and Hutter 2019) with EMA in one pass. Zeroes the gradient that it read; on a
 * skipped step (STATE.skip) it does nothing else. scalars [SCALAR_SIZE], state [STATE_SIZE] real.
 */
export function adamw(buffers: AdamwBuffers, scalars: Tensor, state: Tensor, options: AdamwOptions): void {
  const { weight, grad, m, v, ema = null, copy = null } = buffers;
  const sinks = [weight, grad, m, v, ema, copy].map((tensor) => tensor && { tensor, accumulate: false });
  traceOf(weight).emitInto(adamwOp, [scalars, state], sinks, { ...options });
}
