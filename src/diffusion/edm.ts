// EDM (Karras et al. 2022) in ops: preconditioning, the denoiser D and the masked training loss.
import { addNoise, denoise, edmCoefficients, edmLoss } from '../plan/ops/edm.ts';
import { patchify, unpatchify } from '../plan/ops/patch.ts';
import { keepSlots } from '../plan/ops/rows.ts';
import { columns, slices, type Tensor } from '../plan/tensor.ts';

/**
 * The network F on patches: [N, T, C p p] scaled by c_in, c_noise [N], ids [N, K] of kept patches or null;
 * gives tokens [N, K, p p C].
 */
export type PatchNetwork = (patches: Tensor, cNoise: Tensor, ids: Tensor | null) => Tensor;

export interface Geometry {
  readonly patchSize: number;
  /** Standard deviation of the data (EDM, Table 1). */
  readonly sigmaData: number;
}

export interface TrainingBatch {
  /** Clean images [N, C, S, S]. */
  readonly x0: Tensor;
  /** Unit noise of the same shape. */
  readonly noise: Tensor;
  /** Noise levels [N]. */
  readonly sigma: Tensor;
  /** Kept patches [N, K], or null for all. */
  readonly ids: Tensor | null;
}

/**
 * Loss of each image [N]: lambda(sigma) |D(x0 + sigma noise) - x0|^2 averaged over the kept patches
 * (EDM, Eq. 2 and 8; MicroDiT, Eq. 3).
 */
export function trainingLoss(network: PatchNetwork, geometry: Geometry, batch: TrainingBatch): Tensor {
  const { x0, noise, sigma, ids } = batch;
  const { cIn, cNoise } = edmCoefficients(sigma, geometry.sigmaData);
  const xNoisy = addNoise(x0, noise, sigma);
  const F = network(patchify(xNoisy, geometry.patchSize, cIn), cNoise, ids);
  return edmLoss(F, x0, xNoisy, sigma, ids, geometry.sigmaData, geometry.patchSize);
}

/** Network tokens as an image [N, C, H, W]; dropped patches show `maskToken` [p p C]. */
export function tokensToImage(
  tokens: Tensor,
  image: { channels: number; height: number; width: number; patchSize: number },
  ids: Tensor | null,
  maskToken: Tensor | null,
): Tensor {
  const { channels, height, width, patchSize } = image;
  const slots = ids ? keepSlots(ids, (height / patchSize) * (width / patchSize)) : null;
  return unpatchify(tokens, slots, maskToken, channels, patchSize, height, width);
}

/**
 * D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (EDM, Eq. 7). x [N, C, H, W], sigma [N]. Guidance makes
 * one image out of two: where F has fewer images than x, its images are those of the first of x.
 */
export function denoised(
  network: (patches: Tensor, cNoise: Tensor) => Tensor,
  geometry: Geometry,
  x: Tensor,
  sigma: Tensor,
): Tensor {
  const { cSkip, cOut, cIn, cNoise } = edmCoefficients(sigma, geometry.sigmaData);
  const F = network(patchify(x, geometry.patchSize, cIn), cNoise);
  const N = F.shape[0] ?? 1;
  return denoise(F, slices(x, 0, N), columns(cSkip, 0, N), columns(cOut, 0, N));
}
