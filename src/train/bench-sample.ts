// Speed of sampling: pictures by Heun's method with guidance, on made-up captions, without decoding.
import { heun, noiseLevels } from '../diffusion/heun.ts';
import { Denoiser } from '../sample/denoiser.ts';
import { allocFlat, computeWeights, freeWeights } from '../sample/weights.ts';
import { type BenchOptions, type BenchResult, judge } from './bench.ts';
import { initialiseWeights } from './initialise.ts';
import { stageWork } from './work.ts';

export interface SampleBenchOptions extends BenchOptions {
  /** Steps of Heun's method: 2 steps - 1 evaluations of the network. */
  readonly steps: number;
  readonly cfgScale: number;
}

/** `ms_per_step` is the time of one evaluation; images and FLOPs are those of whole pictures. */
export function benchSample(options: SampleBenchOptions): BenchResult {
  const { backend, network, recipe, stage, steps, cfgScale } = options;
  const { in_channels: C, input_size: S } = network.dit.config;
  const { batch: micro, passes } = stageWork(recipe, stage).step;
  const batch = micro * passes;
  const master = allocFlat(backend, network.parameters, 'all');
  initialiseWeights(backend, master, network.parameters, recipe.train.seed);
  const weights = computeWeights(backend, network.parameters, master);
  const denoiser = new Denoiser({
    ...{ backend, network, weights, batch },
    sigmaData: recipe.diffusion.sigma_data,
    guidance: cfgScale === 1 ? 'none' : 'zero',
    captionLength: recipe.text.length,
  });
  const length = recipe.text.length;
  const captions = network.words
    ? Int32Array.from({ length: batch * length * 2 }, (_, i) => (i * 7919) % network.words!.buckets)
    : Float32Array.from({ length: batch * length * network.dit.config.caption_channels }, (_, i) =>
        Math.sin(i * 12.9898),
      );
  const noise = Float64Array.from({ length: batch * C * S * S }, (_, i) => 1.4 * Math.sin(i * 78.233));
  const levels = noiseLevels(steps, { sigmaMin: 0.002, sigmaMax: 80, rho: 7 });
  const evaluations = 2 * steps - 1;
  const [read, step] = denoiser.plans;
  const result = judge(options, {
    images: batch,
    flops: (read?.flops ?? 0) + evaluations * (step?.flops ?? 0),
    regions: denoiser.regions,
    run() {
      denoiser.setCaptions(captions);
      heun((x, sigma) => denoiser.denoise(x, sigma, cfgScale), noise, { levels });
    },
    ops: () => [],
  });
  denoiser.free();
  freeWeights(weights);
  return {
    ...result,
    ms_per_step: result.ms_per_step / evaluations,
    ms_per_step_best: result.ms_per_step_best / evaluations,
  };
}
