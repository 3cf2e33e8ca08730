// What lies between moments and latents: the normal distribution that the encoder gives for each latent, and
// the scaling under which a model is trained. Arrays are planes [N, channels, h w].
import { Failure } from '../io/failure.ts';
import type { VaeConfig } from './config.ts';

const LOGVAR_MIN = -30;
const LOGVAR_MAX = 20;

export interface Posterior {
  readonly mean: Float32Array;
  /** log of the variance, clamped to [-30, 20]. */
  readonly logvar: Float32Array;
}

/** The two halves of moments [N, 2 z, area] along the channels. */
export function posterior(moments: ArrayLike<number>, N: number): Posterior {
  const half = moments.length / N / 2;
  if (!Number.isInteger(half))
    throw new Failure({ what: 'moments', why: `${moments.length} for ${N} images` });
  const part = (first: number, f: (v: number) => number) =>
    Float32Array.from({ length: N * half }, (_, i) => {
      return f(moments[Math.floor(i / half) * 2 * half + first + (i % half)]!);
    });
  return {
    mean: part(0, (v) => v),
    logvar: part(half, (v) => Math.min(LOGVAR_MAX, Math.max(LOGVAR_MIN, v))),
  };
}

/** mean + exp(logvar / 2) noise, not scaled. */
export function samplePosterior({ mean, logvar }: Posterior, noise: ArrayLike<number>): Float32Array {
  return mean.map((m, i) => m + Math.exp(0.5 * logvar[i]!) * noise[i]!);
}

/** Latents as a model sees them: (z - shift) * scale, channel by channel; z [N, channels, area]. */
export function scaleLatents(config: VaeConfig, z: ArrayLike<number>, area: number): Float32Array {
  const { latent_channels: C, shift, scale } = config;
  return Float32Array.from({ length: z.length }, (_, i) => {
    const c = Math.floor(i / area) % C;
    return (z[i]! - shift[c]!) * scale[c]!;
  });
}

/** The reverse, for the decoder. */
export function unscaleLatents(config: VaeConfig, latents: ArrayLike<number>, area: number): Float32Array {
  const { latent_channels: C, shift, scale } = config;
  return Float32Array.from({ length: latents.length }, (_, i) => {
    const c = Math.floor(i / area) % C;
    return latents[i]! / scale[c]! + shift[c]!;
  });
}
