// EDM's loss on images that were not trained on, by noise level, with confidence intervals. Levels lie at
// equal shares of the distribution that training draws them from, so that their mean estimates the training
// loss without masks and without dropped captions.
import type { Backend } from '../backend/backend.ts';
import { trainingLoss } from '../diffusion/edm.ts';
import type { LossData } from '../diffusion/loss-data.ts';
import { Failure } from '../io/failure.ts';
import type { Context } from '../model/layers.ts';
import { denoiseTokens, directView, embedCaption } from '../model/dit.ts';
import { gaussian, PURPOSE, words } from '../plan/ops/random.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import type { Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import type { Recipe } from '../recipe/schema.ts';
import { type CaptionTower, traceCaptions } from './clip-encoder.ts';
import { captionInput, contextFor, type Network } from './network.ts';
import { type LoadedWeights, regionsOf } from './weights.ts';

export interface Estimate {
  readonly loss: number;
  /** 95 % of such intervals hold the mean over all images of the kind (normal approximation). */
  readonly ci95: readonly [low: number, high: number];
}

export interface LossResult extends Estimate {
  readonly count: number;
  /** Means over the levels, image by image: what two models are compared by. */
  readonly each: readonly number[];
  readonly levels: readonly (Estimate & { readonly sigma: number })[];
}

export interface LossOptions {
  /** Images; fewer where there are not as many. */
  readonly count?: number | undefined;
  readonly levels: number;
  readonly seed: number;
  readonly batchSize: number;
}

/**
 * The noise levels at the shares (k + 1/2) / n of training's ln sigma ~ N(P_mean, P_std^2): those of the
 * recipe and not of a stage, so that losses of all stages compare.
 */
export function lossLevels({ diffusion }: Pick<Recipe, 'diffusion'>, n: number): number[] {
  const { P_mean, P_std } = diffusion;
  return Array.from({ length: n }, (_, k) => Math.exp(P_mean + P_std * normalQuantile((k + 0.5) / n)));
}

/** Where the standard normal distribution reaches a share, by summing its density, to 1e-6. */
function normalQuantile(share: number): number {
  if (share === 0.5) return 0;
  if (share > 0.5) return -normalQuantile(1 - share);
  const step = 1e-3;
  const density = (z: number) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  let below = 0;
  for (let z = -9; ; z += step) {
    const part = (step / 6) * (density(z) + 4 * density(z + step / 2) + density(z + step));
    if (below + part >= share) return z + (step * (share - below)) / part;
    below += part;
  }
}

/** What the loss is taken of. `tower`: reads token ids of the data. */
export interface LossModel {
  readonly network: Network;
  readonly weights: LoadedWeights;
  readonly recipe: Recipe;
  readonly tower?: CaptionTower | null;
}

/** At least two images. */
export function evalLoss(
  backend: Backend,
  model: LossModel,
  data: LossData,
  { onImages = () => {}, ...options }: LossOptions & { onImages?: (done: number, total: number) => void },
): LossResult {
  const steps = lossSteps(backend, model, data, options);
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return step.value;
    onImages(step.value, Math.min(options.count ?? data.count, data.count));
  }
}

/** The same in steps of one batch, each of which yields how many images are done. */
export function* lossSteps(
  backend: Backend,
  model: LossModel,
  data: LossData,
  { count = data.count, levels: levelCount, seed, batchSize }: LossOptions,
): Generator<number, LossResult> {
  const images = Math.min(count, data.count);
  if (images < 2) {
    throw new Failure({ what: data.name, why: 'has fewer than two images', fix: 'Give more images' });
  }
  const sigmas = lossLevels(model.recipe, levelCount);
  const runner = lossRunner(backend, model, data, batchSize);
  const x0 = new Float32Array(batchSize * data.imageSize);
  const Captions = data.captions === 'captions' ? Float32Array : Int32Array;
  const captions = new Captions(batchSize * data.captionSize);
  const places = new Int32Array(2 * batchSize);
  runner.set('seed', Int32Array.from(words(seed)));
  const losses = sigmas.map(() => new Float64Array(images));
  try {
    for (let first = 0; first < images; first += batchSize) {
      const n = Math.min(batchSize, images - first);
      for (let i = 0; i < n; i++) {
        data.image(first + i, x0, i * data.imageSize);
        data.caption(first + i, captions, i * data.captionSize);
      }
      runner.set('x0', x0);
      runner.set(data.captions, captions);
      for (const [level, sigma] of sigmas.entries()) {
        for (let i = 0; i < n; i++) places.set(words((first + i) * levelCount + level), 2 * i);
        runner.set('places', places);
        runner.set('sigma', new Float32Array(batchSize).fill(sigma));
        runner.run();
        losses[level]!.set(runner.get('loss').subarray(0, n), first);
      }
      yield first + n;
    }
  } finally {
    runner.free();
  }
  const overall = Float64Array.from({ length: images }, (_, i) => {
    return losses.reduce((sum, level) => sum + level[i]!, 0) / sigmas.length;
  });
  const levels = sigmas.map((sigma, level) => ({ sigma, ...estimate(losses[level]!) }));
  return { ...estimate(overall), count: images, each: [...overall], levels };
}

function lossRunner(backend: Backend, model: LossModel, data: LossData, N: number): Runner {
  const { network, weights, recipe, tower = null } = model;
  const trace = new Trace();
  const g = contextFor(network, trace, { exactRows: true });
  const { dit } = network;
  const { in_channels: C, input_size: S, patch_size: patchSize } = dit.config;
  const [places, seed] = [trace.input('places', [N, 2], 'i32'), trace.input('seed', [2], 'i32')];
  const caption = embedCaption(g, dit, captionsOf(trace, g, model, data, N));
  const view = directView(g, dit, caption);
  const batch = {
    x0: trace.input('x0', [N, C, S, S], 'real'),
    noise: gaussian(places, seed, [N, C, S, S], PURPOSE.noise),
    sigma: trace.input('sigma', [N], 'real'),
    ids: null,
  };
  const geometry = { patchSize, sigmaData: recipe.diffusion.sigma_data };
  trace.output(
    'loss',
    trainingLoss(
      (patches, cNoise, ids) => denoiseTokens(g, dit, patches, cNoise, caption.pooled, view, ids),
      geometry,
      batch,
    ),
  );
  const plan = freeze('loss', trace, { elemBytes: backend.elemBytes });
  return new Runner(backend, plan, { ...regionsOf(weights), ...tower?.regions });
}

function captionsOf(
  trace: Trace,
  g: Context,
  { network, tower }: LossModel,
  data: LossData,
  N: number,
): Tensor {
  if (data.captions !== 'tokens') return captionInput(g, network, trace, N, data.length);
  if (!tower) throw new Failure({ what: data.name, why: 'has token ids, and there is no text tower' });
  return traceCaptions(tower, trace.input('tokens', [N, data.length, 2], 'i32'));
}

/** The mean of some values (at least two), and how sure it is. */
export function estimate(values: Float64Array): Estimate {
  const n = values.length;
  const loss = values.reduce((sum, v) => sum + v, 0) / n;
  const variance = values.reduce((sum, v) => sum + (v - loss) ** 2, 0) / (n - 1);
  const half = 1.96 * Math.sqrt(variance / n);
  return { loss, ci95: [loss - half, loss + half] };
}
