// From captions and seeds to images: noise drawn per image, Heun on the host, the denoiser on the backend.
import type { Backend } from '../backend/backend.ts';
import { heun, noiseLevels, type NoiseLevels } from '../diffusion/heun.ts';
import { gaussian } from '../plan/ops/random.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';
import type { Denoiser } from './denoiser.ts';

export interface SampleOptions {
  readonly steps: number;
  readonly cfgScale: number;
  readonly levels: NoiseLevels;
  /** After each step: the images so far; may throw to stop. */
  readonly onStep?: (step: number, steps: number) => void;
}

/** N images [N, C, S, S] in the data's range, from unit noise of the same shape. */
export function sampleImages(denoiser: Denoiser, noise: ArrayLike<number>, options: SampleOptions): Float64Array {
  const levels = noiseLevels(options.steps, options.levels);
  return heun((x, sigma) => denoiser.denoise(x, sigma, options.cfgScale), noise, {
    levels,
    onStep: (step) => options.onStep?.(step, options.steps),
  });
}
