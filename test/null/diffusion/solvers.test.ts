// Solvers on Gaussian data, where denoiser and flow are known in closed form: order of convergence, the step
// to 0, evaluations, and each against the algorithm of its paper written in other terms.
import { describe, expect, test } from 'bun:test';
import { type Denoise, noiseLevels } from '../../../src/diffusion/heun.ts';
import { SAMPLERS, SOLVERS, type SamplerName } from '../../../src/diffusion/solvers.ts';

const SIGMA_D = 0.5;
const RANGE = { sigmaMin: 0.05, sigmaMax: 20, rho: 7 };
const NOISE = [1, -0.3, 0.02];

/** D of data N(0, sigma_d^2). */
const gaussian: Denoise = (x, sigma) => x.map((v) => (v * SIGMA_D ** 2) / (SIGMA_D ** 2 + sigma ** 2));
/** The flow keeps x / sqrt(sigma_d^2 + sigma^2). */
const exact = (from: number, to: number) => Math.hypot(SIGMA_D, to) / Math.hypot(SIGMA_D, from);

/** A denoiser without a closed form, bounded and not linear. */
const crooked: Denoise = (x, sigma) =>
  x.map((v, j) => Math.tanh(v / (1 + sigma)) + 0.1 * j * Math.cos(sigma));

function last(name: SamplerName, denoise: Denoise, levels: readonly number[], noise = NOISE) {
  return [...SOLVERS[name](denoise, noise, levels)].at(-1)!;
}

const ORDER = { heun: 2, euler: 1, dpmpp2m: 2 } as const;

describe.each([...SAMPLERS])('%s', (name) => {
  test('its error falls with its order', () => {
    const error = (steps: number) => {
      // Ends at sigma_min: the step to 0 is a matter of its own.
      const levels = noiseLevels(steps, RANGE).slice(0, -1);
      return Math.abs(
        last(name, gaussian, levels)[0]! / RANGE.sigmaMax / exact(RANGE.sigmaMax, RANGE.sigmaMin) - 1,
      );
    };
    for (const steps of [128, 256, 512]) {
      const order = Math.log2(error(steps) / error(2 * steps));
      expect(Math.abs(order - ORDER[name])).toBeLessThan(0.1);
    }
  });

  test('down to 0 it ends at the denoised picture, one step included', () => {
    for (const steps of [1, 2, 3, 64]) {
      const levels = noiseLevels(steps, RANGE);
      const seen = [...SOLVERS[name](gaussian, NOISE, levels)];
      expect(seen.length).toBe(steps);
      const before = steps === 1 ? Float64Array.from(NOISE, (v) => v * levels[0]!) : seen.at(-2)!;
      const D = gaussian(before, levels.at(-2)!);
      for (const [j, v] of seen.at(-1)!.entries()) expect(Math.abs(v - D[j]!)).toBeLessThan(1e-14);
    }
    const final = last(name, gaussian, noiseLevels(512, { ...RANGE, sigmaMin: 0.002 }));
    expect(Math.abs(final[0]! / RANGE.sigmaMax / exact(RANGE.sigmaMax, 0) - 1)).toBeLessThan(
      ORDER[name] === 1 ? 0.01 : 1e-4,
    );
  });

  test('evaluations, and arrays that the denoiser uses again', () => {
    const levels = noiseLevels(9, RANGE);
    let calls = 0;
    const shared = new Float64Array(NOISE.length);
    const reuse: Denoise = (x, sigma) => {
      calls++;
      shared.set(crooked(x, sigma));
      return shared;
    };
    expect(last(name, reuse, levels)).toEqual(last(name, crooked, levels));
    expect(calls).toBe(name === 'heun' ? 17 : 9);
  });
});

// In each the coordinates differ from ours: rounding differs, the numbers may not.
const near = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  for (let j = 0; j < NOISE.length; j++) expect(Math.abs(a[j]! - b[j]!)).toBeLessThan(1e-12);
};

describe('against the papers', () => {
  const levels = noiseLevels(11, RANGE);

  test('DPM-Solver++(2M): Algorithm 2 in variance-preserving coordinates', () => {
    const a = levels.map((s) => 1 / Math.sqrt(1 + s * s)); // alpha; a picture here is alpha times ours
    const s = levels.map((sigma, i) => sigma * a[i]!);
    const lambda = levels.map((_, i) => Math.log(a[i]! / s[i]!));
    const buffer: ArrayLike<number>[] = [];
    let x = Float64Array.from(NOISE, (v) => v * s[0]!);
    for (let i = 1; i < levels.length; i++) {
      buffer.push(
        crooked(
          x.map((v) => v / a[i - 1]!),
          levels[i - 1]!,
        ),
      );
      const h = lambda[i]! - lambda[i - 1]!;
      let D = buffer[i - 1]!;
      if (i > 1 && Number.isFinite(h)) {
        const r = (lambda[i - 1]! - lambda[i - 2]!) / h;
        const [now, old] = [buffer[i - 1]!, buffer[i - 2]!];
        D = NOISE.map((_, j) => (1 + 1 / (2 * r)) * now[j]! - (1 / (2 * r)) * old[j]!);
      }
      x = x.map((v, j) => (s[i]! / s[i - 1]!) * v - a[i]! * Math.expm1(-h) * D[j]!);
    }
    near(last('dpmpp2m', crooked, levels), x);
  });

  test('Euler: x is the mean of x and D, weighted by the noise that stays', () => {
    let x = NOISE.map((v) => v * levels[0]!);
    for (const [i, sigma] of levels.slice(0, -1).entries()) {
      const stays = levels[i + 1]! / sigma;
      const D = crooked(Float64Array.from(x), sigma);
      x = x.map((v, j) => stays * v + (1 - stays) * D[j]!);
    }
    near(last('euler', crooked, levels), x);
  });

  test('Heun: EDM, Algorithm 2 with S_churn = 0', () => {
    const t = levels;
    let x = NOISE.map((v) => v * t[0]!);
    for (let i = 0; i < t.length - 1; i++) {
      const D = crooked(Float64Array.from(x), t[i]!);
      const d = x.map((v, j) => (v - D[j]!) / t[i]!);
      let moved = x.map((v, j) => v + (t[i + 1]! - t[i]!) * d[j]!);
      if (t[i + 1] !== 0) {
        const D2 = crooked(Float64Array.from(moved), t[i + 1]!);
        const d2 = moved.map((v, j) => (v - D2[j]!) / t[i + 1]!);
        moved = x.map((v, j) => v + ((t[i + 1]! - t[i]!) * (d[j]! + d2[j]!)) / 2);
      }
      x = moved;
    }
    near(last('heun', crooked, levels), x);
  });
});
