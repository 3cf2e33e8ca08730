// The solvers of EDM's probability flow by name, all of one shape: x after each step, on the host in float64.
// 1. the table   2. Euler   3. DPM-Solver++(2M). Heun has its own file.
import { type Denoise, heunSteps } from './heun.ts';

/** From unit noise along `levels` (from the highest down, 0 at most at the end): x after each step. */
export type Solver = (
  denoise: Denoise,
  unitNoise: ArrayLike<number>,
  levels: readonly number[],
) => Generator<Float64Array<ArrayBuffer>>;

export const SAMPLERS = ['heun', 'euler', 'dpmpp2m'] as const;

export type SamplerName = (typeof SAMPLERS)[number];

/** Evaluations of the denoiser in n steps down to 0: Heun 2 n - 1, the others n. */
export const SOLVERS: Readonly<Record<SamplerName, Solver>> = {
  heun: heunSteps,
  euler: eulerSteps,
  dpmpp2m: dpmpp2mSteps,
};

/** Euler's method on dx / dsigma = (x - D) / sigma (EDM, Eq. 3): first order. The step to 0 gives D. */
export function* eulerSteps(
  denoise: Denoise,
  unitNoise: ArrayLike<number>,
  levels: readonly number[],
): Generator<Float64Array<ArrayBuffer>> {
  let x = start(unitNoise, levels);
  for (let i = 0; i + 1 < levels.length; i++) {
    const [now, next] = [levels[i]!, levels[i + 1]!];
    const D = denoise(x, now);
    x = x.map((v, j) => v + (next - now) * ((v - D[j]!) / now));
    yield x;
  }
}

/**
 * DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2) with EDM's alpha = 1, so that lambda = -log sigma: the flow
 * is integrated exactly but for D, which is taken as a straight line in lambda through its last two values.
 * Second order at one evaluation a step. The first step has no value before it and is of first order; in the
 * step to 0 lambda has no end, and what is left of the formula is D.
 */
export function* dpmpp2mSteps(
  denoise: Denoise,
  unitNoise: ArrayLike<number>,
  levels: readonly number[],
): Generator<Float64Array<ArrayBuffer>> {
  let x = start(unitNoise, levels);
  let before: Float64Array | null = null;
  for (let i = 0; i + 1 < levels.length; i++) {
    const [now, next] = [levels[i]!, levels[i + 1]!];
    const D = Float64Array.from(denoise(x, now)); // kept: the denoiser may use its array again
    let line = D;
    if (before !== null && next > 0) {
      // h of the step before over h of this one
      const r = Math.log(levels[i - 1]! / now) / Math.log(now / next);
      const old = before;
      line = D.map((v, j) => v + (v - old[j]!) / (2 * r));
    }
    x = x.map((v, j) => (next / now) * v + (1 - next / now) * line[j]!);
    before = D;
    yield x;
  }
}

function start(unitNoise: ArrayLike<number>, levels: readonly number[]): Float64Array<ArrayBuffer> {
  return Float64Array.from(unitNoise, (v) => v * levels[0]!);
}
