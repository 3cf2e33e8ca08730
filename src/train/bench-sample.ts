// Speed of sampling: pictures by Heun's method with guidance, on made-up captions, without decoding; and, in
// turn with it, of sampling without the exact savings (captions read once, zeroed ones as constants).
import { heunSteps, noiseLevels } from '../diffusion/heun.ts';
import { Denoiser, type Guidance } from '../sample/denoiser.ts';
import { allocFlat, computeWeights, freeWeights, writeParameter } from '../sample/weights.ts';
import { type BenchOptions, type BenchResult, judge, medianOf } from './bench.ts';
import { initialiseWeights } from './initialise.ts';
import { stageWork } from './work.ts';

export interface SampleBenchOptions extends BenchOptions {
  /** Steps of Heun's method: 2 steps - 1 evaluations of the network. */
  readonly steps: number;
  readonly cfgScale: number;
  /** Also without the savings; only with guidance. */
  readonly plain: boolean;
}

/** What the savings bring; keys are those of `bench sample --plain --json`. */
export interface PlainResult {
  /** How many times as fast as plain sampling, by medians. */
  readonly vs_plain: number;
  /** The same in time of processors, which other work on the machine changes less. */
  readonly vs_plain_processor: number;
  /** The same by floating point operations. */
  readonly vs_plain_flops: number;
  /** Largest difference of the pictures, to the largest value. */
  readonly plain_difference: number;
}

/** `ms_per_step` is the time of one evaluation; images and FLOPs are those of whole pictures. */
export function benchSample(options: SampleBenchOptions): BenchResult & { plain: PlainResult | null } {
  const { backend, network, recipe, stage, steps, cfgScale } = options;
  const { in_channels: C, input_size: S } = network.dit.config;
  const { batch: micro, passes } = stageWork(recipe, stage).step;
  const batch = micro * passes;
  const master = allocFlat(backend, network.parameters, 'all');
  initialiseWeights(backend, master, network.parameters, recipe.train.seed);
  // A network that has not been trained gives zeros, whatever it computes before.
  for (const p of network.parameters.list) {
    if (p.init.kind !== 'constant' || p.init.value !== 0 || p.tags.frozen) continue;
    const values = Float32Array.from({ length: p.count }, (_, i) => 0.02 * Math.sin(i * 12.9898 + p.index));
    writeParameter(backend, master, p, values);
  }
  const weights = computeWeights(backend, network.parameters, master);
  const denoiserOf = (guidance: Guidance) =>
    new Denoiser({
      ...{ backend, network, weights, batch, guidance },
      sigmaData: recipe.diffusion.sigma_data,
      captionLength: recipe.text.length,
    });
  const denoiser = denoiserOf(cfgScale === 1 ? 'none' : 'zero');
  const plain = options.plain && cfgScale !== 1 ? denoiserOf('plain') : null;
  const length = recipe.text.length;
  const captions = network.words
    ? Int32Array.from({ length: batch * length * 2 }, (_, i) => (i * 7919) % network.words!.buckets)
    : Float32Array.from({ length: batch * length * network.dit.config.caption_channels }, (_, i) =>
        Math.sin(i * 12.9898),
      );
  const noise = Float64Array.from({ length: batch * C * S * S }, (_, i) => 1.4 * Math.sin(i * 78.233));
  const levels = noiseLevels(steps, { sigmaMin: 0.002, sigmaMax: 80, rho: 7 });
  const evaluations = 2 * steps - 1;
  const flopsOf = ({ flops }: Denoiser) => flops.captions + evaluations * flops.evaluation;
  /** Captions, then a step at a time; what is yielded is the picture so far. */
  function* draw(by: Denoiser): Generator<Float64Array> {
    by.setCaptions(captions);
    yield* heunSteps((x, sigma) => by.denoise(x, sigma, cfgScale), noise, levels);
  }
  const result = judge(options, {
    images: batch,
    flops: flopsOf(denoiser),
    regions: denoiser.regions,
    run: () => void [...draw(denoiser)],
    ops: () => [],
  });
  const compared = plain && {
    ...inTurn(
      () => draw(denoiser),
      () => draw(plain),
      options.repeats,
    ),
    vs_plain_flops: flopsOf(plain) / flopsOf(denoiser),
  };
  plain?.free();
  denoiser.free();
  freeWeights(weights);
  return {
    ...result,
    ms_per_step: result.ms_per_step / evaluations,
    ms_per_step_best: result.ms_per_step_best / evaluations,
    plain: compared,
  };
}

type Drawing = () => Generator<Float64Array>;

/**
 * Draws both ways, one step of the one and one step of the other, so that other work on the machine meets
 * both. A picture's time is the sum of the medians of its steps.
 */
function inTurn(saving: Drawing, plain: Drawing, repeats: number): Omit<PlainResult, 'vs_plain_flops'> {
  const ways = [saving, plain].map((draw) => ({
    draw,
    /** Of each step, over the repeats. */
    seconds: [] as number[][],
    processor: [] as number[][],
    picture: new Float64Array(0) as Float64Array,
  }));
  for (let round = 0; round < repeats; round++) {
    const running = ways.map((way) => ({ way, steps: way.draw() }));
    for (let step = 0, going = true; going; step++) {
      for (const { way, steps } of running) {
        const [begin, before] = [performance.now(), process.cpuUsage()];
        const { done, value } = steps.next();
        const { user, system } = process.cpuUsage(before);
        going = !done;
        if (done) continue;
        way.picture = value;
        way.seconds[step] = [...(way.seconds[step] ?? []), performance.now() - begin];
        way.processor[step] = [...(way.processor[step] ?? []), user + system];
      }
    }
  }
  const sum = (steps: readonly number[][]) => steps.reduce((total, times) => total + medianOf(times), 0);
  const [own, other] = ways as [(typeof ways)[0], (typeof ways)[0]];
  return {
    vs_plain: sum(other.seconds) / sum(own.seconds),
    vs_plain_processor: sum(other.processor) / sum(own.processor),
    plain_difference: relativeDifference(own.picture, other.picture),
  };
}

/** max |a - b| / max |b| */
function relativeDifference(a: Float64Array, b: Float64Array): number {
  const most = (values: Float64Array) => values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  return most(a.map((v, i) => v - b[i]!)) / most(b);
}
