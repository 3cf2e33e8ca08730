// Learning rates by step: constant, with linear warm-up, and cosine after it (as the reference's trainer).

export interface Schedule {
  readonly kind: 'constant' | 'warmup-constant' | 'warmup-cosine';
  /** Linear rise from 0 over so many steps. */
  readonly warmupSteps: number;
  /** Multiplier at the end of the cosine. */
  readonly alphaF: number;
  /** Length of the whole course. */
  readonly steps: number;
  /** One step late, so that steps 0 and 1 have the same rate: what the reference's trainer really does. */
  readonly lagged: boolean;
}

/**
 * Multiplier of the learning rate when `step` steps are done. Cosine over what remains after the warm-up:
 * alpha_f + (1 - alpha_f) (1 + cos(pi x)) / 2, x = (step - warmup) / (steps - warmup).
 */
export function rateMultiplier(schedule: Schedule, step: number): number {
  const { kind, warmupSteps, alphaF, steps, lagged } = schedule;
  const t = lagged ? Math.max(step - 1, 0) : step;
  if (kind === 'constant') return 1;
  if (t < warmupSteps) return t / warmupSteps;
  if (kind === 'warmup-constant') return 1;
  const x = Math.min(1, (t - warmupSteps) / Math.max(1, steps - warmupSteps));
  return alphaF + ((1 - alphaF) * (1 + Math.cos(Math.PI * x))) / 2;
}
