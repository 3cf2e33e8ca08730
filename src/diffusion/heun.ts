// Heun's method for EDM's probability flow (Karras et al. 2022, Algorithm 1 without churn), on the host
// in float64.
import { Failure } from '../io/failure.ts';

export interface NoiseLevels {
  readonly sigmaMin: number;
  readonly sigmaMax: number;
  readonly rho: number;
}

/** Noise levels from `low` to `high`, both included. */
export type Interval = readonly [low: number, high: number];

export function isInside([low, high]: Interval, sigma: number): boolean {
  return low <= sigma && sigma <= high;
}

/** steps + 1 noise levels from sigma_max down to sigma_min, then 0 (EDM, Eq. 5). One step: sigma_max, 0. */
export function noiseLevels(steps: number, { sigmaMin, sigmaMax, rho }: NoiseLevels): number[] {
  if (!Number.isInteger(steps) || steps < 1) {
    throw new Failure({ what: 'steps', why: `${steps} is not a positive whole number` });
  }
  const [high, low] = [sigmaMax ** (1 / rho), sigmaMin ** (1 / rho)];
  const levels = Array.from({ length: steps }, (_, i) =>
    i === 0 ? sigmaMax : (high + (i / (steps - 1)) * (low - high)) ** rho,
  );
  return [...levels, 0];
}

/** D(x; sigma): `x` is what the network sees in float32; the result is read before the next call. */
export type Denoise = (x: Float64Array, sigma: number) => ArrayLike<number>;

export interface HeunOptions {
  readonly levels: readonly number[];
  /** Sees x after each step; may stop the run by throwing. */
  readonly onStep?: (step: number, x: Float64Array) => void;
}

/** From unit noise to an image. Takes 2 steps - 1 evaluations; the last step is Euler's. */
export function heun(denoise: Denoise, unitNoise: ArrayLike<number>, options: HeunOptions): Float64Array {
  let last = new Float64Array(0);
  let step = 0;
  for (const x of heunSteps(denoise, unitNoise, options.levels)) {
    options.onStep?.(step++, x);
    last = x;
  }
  return last;
}

/** The same one step at a time, for callers who have something else to do between two; gives x after each. */
export function* heunSteps(
  denoise: Denoise,
  unitNoise: ArrayLike<number>,
  levels: readonly number[],
): Generator<Float64Array<ArrayBuffer>> {
  let x = Float64Array.from(unitNoise, (v) => v * levels[0]!);
  for (let i = 0; i + 1 < levels.length; i++) {
    const [now, next] = [levels[i]!, levels[i + 1]!];
    const d = slope(x, denoise(x, now), now);
    let moved = x.map((v, j) => v + (next - now) * d[j]!);
    if (next > 0) {
      const d2 = slope(moved, denoise(moved, next), next);
      moved = x.map((v, j) => v + (next - now) * (0.5 * d[j]! + 0.5 * d2[j]!));
    }
    x = moved;
    yield x;
  }
}

/** dx / dsigma = (x - D) / sigma */
function slope(x: Float64Array, D: ArrayLike<number>, sigma: number): Float64Array {
  return x.map((v, j) => (v - D[j]!) / sigma);
}
