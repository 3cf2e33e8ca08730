// EDM's loss on images that were not trained on, by noise level, with confidence intervals. Levels lie at
// equal shares of the distribution that training draws them from, so that their mean estimates the training
// loss without masks and without dropped captions.
import type { Backend } from '../backend/backend.ts';
import { trainingLoss } from '../diffusion/edm.ts';
import { Failure } from '../io/failure.ts';
import { denoiseTokens, directView, embedCaption } from '../model/dit.ts';
import { gaussian, PURPOSE, words } from '../plan/ops/random.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';
import type { Recipe } from '../recipe/schema.ts';
import { captionInput, contextFor, type Network } from '../sample/network.ts';
import { type LoadedWeights, regionsOf } from '../sample/weights.ts';

/** Images and captions as the network takes them. */
export interface LossData {
  readonly name: string;
  readonly count: number;
  /** Numbers of an image and of a caption. */
  readonly imageSize: number;
  readonly captionSize: number;
  /** Captions are rows of words for the small encoder, or states of a text tower [S, D]. */
  readonly captions: 'words' | 'captions';
  /** Caption length S. */
  readonly length: number;
  image(item: number, out: Float32Array, offset: number): void;
  caption(item: number, out: Float32Array | Int32Array, offset: number): void;
}

export interface Estimate {
  readonly loss: number;
  /** 95 % of such intervals hold the mean over all images of the kind (normal approximation). */
  readonly ci95: readonly [low: number, high: number];
}

export interface LossResult extends Estimate {
  readonly count: number;
  readonly levels: readonly (Estimate & { readonly sigma: number })[];
}

export interface LossOptions {
  /** Images; fewer where there are not as many. */
  readonly count?: number | undefined;
  readonly levels: number;
  readonly seed: number;
  readonly batchSize: number;
  readonly onImages?: (done: number, total: number) => void;
}

/** The noise levels at the shares (k + 1/2) / n of training's ln sigma ~ N(P_mean, P_std^2). */
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

/** At least two images. */
export function evalLoss(
  backend: Backend,
  { network, weights, recipe }: { network: Network; weights: LoadedWeights; recipe: Recipe },
  data: LossData,
  { count = data.count, levels: levelCount, seed, batchSize, onImages = () => {} }: LossOptions,
): LossResult {
  const images = Math.min(count, data.count);
  if (images < 2) {
    throw new Failure({ what: data.name, why: 'has fewer than two images', fix: 'Give more images' });
  }
  const sigmas = lossLevels(recipe, levelCount);
  const runner = lossRunner(backend, network, weights, recipe, data, batchSize);
  const x0 = new Float32Array(batchSize * data.imageSize);
  const Captions = data.captions === 'words' ? Int32Array : Float32Array;
  const captions = new Captions(batchSize * data.captionSize);
  const places = new Int32Array(2 * batchSize);
  runner.set('seed', Int32Array.from(words(seed)));
  const losses = sigmas.map(() => new Float64Array(images));
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
    onImages(first + n, images);
  }
  runner.free();
  const overall = Float64Array.from({ length: images }, (_, i) => {
    return losses.reduce((sum, level) => sum + level[i]!, 0) / sigmas.length;
  });
  const levels = sigmas.map((sigma, level) => ({ sigma, ...estimate(losses[level]!) }));
  return { ...estimate(overall), count: images, levels };
}

function lossRunner(
  backend: Backend,
  network: Network,
  weights: LoadedWeights,
  recipe: Recipe,
  data: LossData,
  N: number,
): Runner {
  const trace = new Trace();
  const g = contextFor(network, trace, { exactRows: true });
  const { dit } = network;
  const { in_channels: C, input_size: S, patch_size: patchSize } = dit.config;
  const [places, seed] = [trace.input('places', [N, 2], 'i32'), trace.input('seed', [2], 'i32')];
  const caption = embedCaption(g, dit, captionInput(g, network, trace, N, data.length));
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
  return new Runner(backend, plan, regionsOf(weights));
}

function estimate(values: Float64Array): Estimate {
  const n = values.length;
  const loss = values.reduce((sum, v) => sum + v, 0) / n;
  const variance = values.reduce((sum, v) => sum + (v - loss) ** 2, 0) / (n - 1);
  const half = 1.96 * Math.sqrt(variance / n);
  return { loss, ci95: [loss - half, loss + half] };
}
