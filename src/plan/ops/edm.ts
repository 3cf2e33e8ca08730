// Ops of EDM (Karras et al. 2022, Table 1): preconditioning, noising, denoiser, loss over kept patches;
// classifier-free guidance.
import { defineOp, type Node, need, refuse } from '../op.ts';
import { cols, count, isContiguous, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { imageExtents } from './patch.ts';
import { checkIds } from './rows.ts';

const FEW = { nmse: 1e-12, why: 'a few products, a square root or a logarithm per element' };

/** Numbers in one image of x [N, ..], where all operands have the same elements and `perImage` one each. */
function imageSize(op: string, x: Tensor, same: (Tensor | null)[], perImage: (Tensor | null)[]): number {
  const N = x.shape[0] ?? 1;
  const all = [x, ...same];
  if (all.some((t) => !t || count(t) !== count(x) || t.shape[0] !== N || !isContiguous(t))) {
    refuse(op, 'images differ', ...all);
  }
  if (perImage.some((t) => !t || count(t) !== N)) refuse(op, 'one number an image', x, ...perImage);
  return count(x) / N;
}

export const edmCoefficientsOp = defineOp({
  name: 'edm_coefficients',
  formula:
    'q = sqrt(sigma^2 + sd^2), c_skip = (sd / q)^2; c_out = sigma sd/q; c_in = 1 / q; c_noise = ln(sigma)/4',
  inputs: ['sigma'],
  outputs: ['c_skip', 'c_out', 'c_in', 'c_noise'],
  shape: ([sigma]) => {
    const spec = { shape: [count(need(sigma, 'edm_coefficients'))], elem: 'real' as const };
    return [spec, spec, spec, spec];
  },
  fields: { pointers: 'real sigma c_skip c_out c_in c_noise', ints: 'N', reals: 'sigma_data' },
  launch: (node) => {
    const sigma = need(node.inputs[0], 'edm_coefficients');
    return {
      pointers: [sigma, ...node.outputs],
      ints: [count(sigma)],
      reals: [node.attrs.sigmaData ?? 0],
      blocks: 1,
    };
  },
  backward: 'noise levels are data',
  writes: ['set', 'set', 'set', 'set'],
  tolerance: FEW,
  flops: (node) => 12 * count(need(node.inputs[0], 'edm_coefficients')),
});

export interface EdmCoefficients {
  readonly cSkip: Tensor;
  readonly cOut: Tensor;
  readonly cIn: Tensor;
  readonly cNoise: Tensor;
}

/** EDM, Table 1 (network and preconditioning): coefficients [N] real of noise levels sigma [N]. */
export function edmCoefficients(sigma: Tensor, sigmaData: number): EdmCoefficients {
  const [cSkip, cOut, cIn, cNoise] = traceOf(sigma).emit(edmCoefficientsOp, [sigma], { sigmaData });
  return { cSkip: cSkip!, cOut: cOut!, cIn: cIn!, cNoise: cNoise! };
}

export const addNoiseOp = defineOp({
  name: 'add_noise',
  formula: 'y[n] = x[n] + noise[n] * sigma[n]',
  inputs: ['x', 'noise', 'sigma'],
  outputs: ['y'],
  shape: ([x, noise, sigma]) => {
    imageSize('add_noise', need(x, 'add_noise'), [noise ?? null], [sigma ?? null]);
    return [{ shape: need(x, 'add_noise').shape, elem: 'real' }];
  },
  fields: { pointers: 'real x noise sigma y', ints: 'M' },
  launch: (node) => {
    const x = need(node.inputs[0], 'add_noise');
    const N = x.shape[0] ?? 1;
    return { pointers: [...node.inputs, ...node.outputs], ints: [count(x) / N], blocks: N };
  },
  backward: 'images are data',
  writes: ['set'],
  cheap: true,
  tolerance: FEW,
  flops: (node) => 2 * count(need(node.inputs[0], 'add_noise')),
});

/** x + sigma noise: x, noise [N, Ch, S, S] real, sigma [N] real. */
export function addNoise(x: Tensor, noise: Tensor, sigma: Tensor): Tensor {
  return traceOf(x).emit(addNoiseOp, [x, noise, sigma])[0]!;
}

export const denoiseOp = defineOp({
  name: 'denoise',
  formula: 'D[n] = c_skip[n] x[n] + c_out[n] F[n]',
  inputs: ['F', 'x', 'c_skip', 'c_out'],
  outputs: ['D'],
  shape: ([F, x, cSkip, cOut]) => {
    imageSize('denoise', need(F, 'denoise'), [x ?? null], [cSkip ?? null, cOut ?? null]);
    return [{ shape: need(x, 'denoise').shape, elem: 'real' }];
  },
  fields: { pointers: 'real F x c_skip c_out D', ints: 'M' },
  launch: (node) => {
    const F = need(node.inputs[0], 'denoise');
    const N = F.shape[0] ?? 1;
    return { pointers: [...node.inputs, ...node.outputs], ints: [count(F) / N], blocks: N };
  },
  backward: 'the loss is taken over tokens',
  writes: ['set'],
  tolerance: FEW,
  flops: (node) => 3 * count(need(node.inputs[0], 'denoise')),
});

/** EDM, Eq. 7: D = c_skip x + c_out F. F (network output), x (noisy) [N, Ch, S, S] real; cSkip, cOut [N]. */
export function denoise(F: Tensor, x: Tensor, cSkip: Tensor, cOut: Tensor): Tensor {
  return traceOf(F).emit(denoiseOp, [F, x, cSkip, cOut])[0]!;
}

/** Extents of the loss: images x0, tokens F [N, K, p p Ch] of the patches ids [N, K] (null: all, K = T). */
function lossExtents(op: string, node: Pick<Node, 'inputs' | 'attrs'>) {
  const [f, x, xn, sigma, i] = node.inputs;
  const F = need(f, op);
  const x0 = need(x, op);
  const { p = 0, sigmaData = 0 } = node.attrs;
  imageSize(op, x0, [xn ?? null], [sigma ?? null]);
  const { N, Ch, H: S, W, T } = imageExtents(op, x0, p);
  if (W !== S) refuse(op, 'needs square images', x0);
  const K = F.shape[1] ?? 0;
  if (F.shape.length !== 3 || F.shape[0] !== N || cols(F) !== p * p * Ch)
    refuse(op, 'tokens do not fit', F, x0);
  if (i) checkIds(op, i, N);
  if (i ? cols(i) !== K : K !== T) refuse(op, `needs a token for each of ${T} patches, or ids`, F, i ?? null);
  return { F, N, ints: [Ch, S, p, K, F.ld], sigmaData };
}

export const edmLossOp = defineOp({
  name: 'edm_loss',
  formula: 'loss[n] = weight(sigma[n]) * mean over kept patches of (c_skip x_noisy + c_out F - x0)^2',
  inputs: ['F', 'x0', 'x_noisy', 'sigma', 'ids?'],
  outputs: ['loss'],
  shape: (inputs, attrs) => {
    const { N } = lossExtents('edm_loss', { inputs, attrs });
    return [{ shape: [N], elem: 'real' }];
  },
  fields: {
    pointers: 'act F; real x0 xn sigma; i32 ids; real loss',
    ints: 'Ch S p K ldF',
    reals: 'sigma_data',
  },
  launch: (node) => {
    const { N, ints, sigmaData } = lossExtents('edm_loss', node);
    return { pointers: [...node.inputs, ...node.outputs], ints, reals: [sigmaData], blocks: N };
  },
  backward: (node, b) => {
    const [F = null, ...data] = node.inputs;
    if (data.some((t) => b.wants(t))) refuse('edm_loss', 'only F has a gradient', F, ...data);
    const dloss = b.grad(node.outputs[0] ?? null);
    const dF = b.sink(F);
    if (dloss && dF) b.append(edmLossBwd, [F, ...data, dloss], [dF], node.attrs);
  },
  writes: ['set'],
  tolerance: { nmse: 1e-11, why: 'a float32 sum over an image; x0 cancels against the prediction' },
  flops: (node) => 6 * count(need(node.inputs[0], 'edm_loss')),
});

export const edmLossBwd = defineOp({
  name: 'edm_loss_bwd',
  formula: 'dF = dloss[n] * weight(sigma[n]) * 2 / count * c_out * (c_skip x_noisy + c_out F - x0)',
  inputs: ['F', 'x0', 'x_noisy', 'sigma', 'ids?', 'dloss'],
  outputs: ['dF'],
  shape: (inputs, attrs) => {
    const { F } = lossExtents('edm_loss_bwd', { inputs, attrs });
    return [{ shape: F.shape, elem: F.storage.elem }];
  },
  fields: {
    pointers: 'act F; real x0 xn sigma; i32 ids; real dloss; act dF',
    ints: 'Ch S p K ldF lddF add_dF',
    reals: 'sigma_data',
  },
  launch: (node) => {
    const { N, ints, sigmaData } = lossExtents('edm_loss_bwd', node);
    return {
      pointers: [...node.inputs, ...node.outputs],
      ints: [...ints, need(node.outputs[0], 'edm_loss_bwd').ld, node.accumulate[0] ? 1 : 0],
      reals: [sigmaData],
      blocks: N,
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: { nmse: 1e-11, why: 'x0 cancels against the prediction' },
  flops: (node) => 6 * count(need(node.inputs[0], 'edm_loss_bwd')),
});

/**
 * EDM, Eq. 8 with lambda = (sigma^2 + sd^2) / (sigma sd)^2, per image [N] real: the weighted mean squared
 * error of the denoised image over the kept patches, all their pixels and channels (MicroDiT, Sec. 2).
 * F [N, K, p p Ch] tokens as `unpatchify` takes them; x0, xNoisy [N, Ch, S, S] real; sigma [N] real;
 * ids [N, K] i32, or null where every patch has a token. Only F gets a gradient.
 */
export function edmLoss(
  F: Tensor,
  x0: Tensor,
  xNoisy: Tensor,
  sigma: Tensor,
  ids: Tensor | null,
  sigmaData: number,
  p: number,
): Tensor {
  return traceOf(F).emit(edmLossOp, [F, x0, xNoisy, sigma, ids], { sigmaData, p })[0]!;
}

export const guideOp = defineOp({
  name: 'guide',
  formula: 'y[n] = u[n] + scale (c[n] - u[n]), F = (c, u)',
  inputs: ['F', 'scale?'],
  outputs: ['y'],
  shape: ([f, scale]) => {
    const F = need(f, 'guide');
    const [N2 = 0, ...rest] = F.shape;
    if (N2 % 2 !== 0 || rest.length === 0 || !isContiguous(F)) refuse('guide', 'needs pairs of images', F);
    if (scale && count(scale) !== N2 / 2) refuse('guide', 'one scale a pair', F, scale);
    return [{ shape: [N2 / 2, ...rest], elem: 'real' }];
  },
  fields: { pointers: 'real F scale y', ints: 'N M', reals: 'by' },
  launch: (node) => {
    const y = need(node.outputs[0], 'guide');
    const N = y.shape[0] ?? 1;
    return {
      pointers: [need(node.inputs[0], 'guide'), node.inputs[1] ?? null, y],
      ints: [N, count(y) / N],
      reals: [node.attrs.by ?? 0],
      blocks: N,
    };
  },
  backward: 'only used for sampling',
  writes: ['set'],
  tolerance: FEW,
  flops: (node) => 3 * count(need(node.outputs[0], 'guide')),
});

/**
 * Classifier-free guidance u + scale (c - u). F [2 N, ..] real: conditional images, then unconditional ones.
 * scale: one number, or [N] real (a number per pair that may change between runs). Forward only.
 */
export function guide(F: Tensor, scale: number | Tensor): Tensor {
  const fixed = typeof scale === 'number';
  return traceOf(F).emit(guideOp, [F, fixed ? null : scale], { by: fixed ? scale : 0 })[0]!;
}
