// What the conformance of training needs from the code that trains. That code stands on the same floor as
// this room, so whoever runs a check hands it in.
import type { Backend, ElemBytes, Region } from '../backend/backend.ts';
import type { Context } from '../model/layers.ts';
import type { Parameters } from '../plan/params.ts';
import type { Plan } from '../plan/plan.ts';
import type { Tensor } from '../plan/tensor.ts';
import type { Trace } from '../plan/trace.ts';
import type { Network } from '../sample/network.ts';

export type ScheduleKind = 'constant' | 'warmup-constant' | 'warmup-cosine';

export interface TrainingCode {
  /** Loss of each image [N] of clean images x0 and noise [N, C, S, S], sigma [N], ids [N, K], captions y. */
  traceLoss(
    g: Context,
    network: Network,
    sigmaData: number,
    t: { x0: Tensor; noise: Tensor; sigma: Tensor; ids: Tensor | null; y: Tensor },
  ): Tensor;
  /** Appends the gradient of the mean loss over so many images; makes the output `loss`. */
  finishMicroStep(trace: Trace, loss: Tensor, images: number): void;
  /** Norm, clipping, AdamW and EMA over the flat buffers. */
  updatePlan(
    parameters: Parameters,
    options: {
      clipNorm: number;
      weightDecay: number;
      beta1: number;
      beta2: number;
      eps: number;
      expertLrScale: number;
      ema: boolean;
    },
    elemBytes: ElemBytes,
  ): Plan;
  initialiseWeights(backend: Backend, weights: Region, parameters: Parameters, seed: number): void;
  /** Multiplier of the learning rate after `step` steps. */
  rateMultiplier(
    schedule: {
      kind: ScheduleKind;
      warmupSteps: number;
      alphaF: number;
      steps: number;
      lagged: boolean;
    },
    step: number,
  ): number;
}
