// Pictures from prompts: captions, noise, a solver's steps with guidance, pixels, in batches of up to N.
import type { Backend } from '../backend/backend.ts';
import { type Interval, isInside, noiseLevels } from '../diffusion/heun.ts';
import { type SamplerName, SOLVERS } from '../diffusion/solvers.ts';
import { Failure } from '../io/failure.ts';
import type { Pixels } from '../io/png.ts';
import type { Recipe } from '../recipe/schema.ts';
import { readTexts } from './captions.ts';
import { Denoiser, type Guidance } from './denoiser.ts';
import type { Model } from './model-file.ts';
import { SampleNoise } from './noise.ts';
import { pixelsOf } from './pixels.ts';
import {
  type Canvas,
  type Extent,
  positionsFor,
  sameSize,
  sizeFault,
  sizeText,
  trainedSize,
} from './size.ts';
import { type RngName, torchCudaNormals } from './torch-noise.ts';

/** What a picture depends on, beside the model. */
export interface PictureRequest {
  readonly prompt: string;
  /** Takes the place of the empty caption in guidance; '' is none. */
  readonly negative_prompt: string;
  readonly seed: number;
  readonly steps: number;
  readonly cfg_scale: number;
  /** As the model's recipe says when left out. */
  readonly sampler?: SamplerName;
  /** In pixels; as the model was trained when left out. */
  readonly size?: Extent | null;
  /** What draws the initial noise; ours when left out. */
  readonly rng?: RngName;
  /** Noise levels at which guidance acts (Kynkaanniemi et al. 2024); at all when left out. */
  readonly guidance_interval?: Interval | null;
}

/** What a caller sees of a batch after each step of the solver. */
export interface StepView {
  /** Steps done, from 1, of all. */
  readonly step: number;
  readonly steps: number;
  /** Picture n as the network guesses it now, from what is still noisy; made when it is asked for. */
  estimate(n: number): Pixels | null;
  /**
   * The same, cheaply: of latents, each as one colour, which is a guess at what the decoder would make of
   * it.
   */
  rough(n: number): Pixels | null;
}

export interface Watch {
  readonly onStep?: (view: StepView) => void;
  /** Looked at between two steps: the batch ends by throwing its reason. */
  readonly signal?: AbortSignal;
}

export interface Picture {
  /** null when the numbers were not finite. */
  readonly pixels: Pixels | null;
  /** The prompt, or the negative one, had more words than the model reads. */
  readonly truncated: boolean;
}

/** Whether two pictures can be made in one batch. */
export function fitTogether(a: PictureRequest, b: PictureRequest): boolean {
  if (a.steps !== b.steps || a.cfg_scale !== b.cfg_scale || a.sampler !== b.sampler) return false;
  if (!sameSize(a.size, b.size) || a.rng !== b.rng) return false;
  return guidanceOf(a) === guidanceOf(b) && String(a.guidance_interval) === String(b.guidance_interval);
}

/** The noise levels of n steps, as a model's recipe spreads them. */
export function levelsOf({ diffusion }: Pick<Recipe, 'diffusion'>, steps: number): number[] {
  const { sigma_min, sigma_max, rho } = diffusion;
  return noiseLevels(steps, { sigmaMin: sigma_min, sigmaMax: sigma_max, rho });
}

/** What the sizes of a model's pictures follow from. */
export function canvasOf({ recipe, decoder }: Pick<Model, 'recipe' | 'decoder'>): Canvas {
  return { model: recipe.model, factor: decoder?.factor ?? 1 };
}

/** Noise of pictures one after another, each as PyTorch draws it for that one alone. */
function torchNoise(seeds: readonly number[], count: number): Float32Array {
  const noise = new Float32Array(seeds.length * count);
  for (const [n, seed] of seeds.entries()) noise.set(torchCudaNormals(seed, count), n * count);
  return noise;
}

function guidanceOf({ cfg_scale, negative_prompt }: PictureRequest): Guidance {
  if (cfg_scale === 1) return 'none';
  return negative_prompt === '' ? 'zero' : 'negative';
}

/** Plans for one guidance, batch size and size of pictures. */
interface Prepared {
  readonly denoiser: Denoiser;
  readonly noise: SampleNoise;
}

/** Prepared plans that are kept; a stream of changing settings needs no more at a time. */
const KEPT = 4;

export class Sampler {
  /** Seconds spent so far: on tracing plans, captions to their encodings, steps, pictures of the result. */
  readonly seconds = { plans: 0, captions: 0, steps: 0, pictures: 0 };

  private readonly prepared = new Map<string, Prepared>();

  /**
   * The model's weights must not change while this lives. With `pad` a batch is filled up to `batchSize`, so
   * that every batch runs the same plan: needed for equal bits where kernels choose their way by size. The
   * CPU's do not: there a picture is the same in any batch.
   */
  constructor(
    private readonly backend: Backend,
    private readonly model: Model,
    private readonly batchSize: number,
    private readonly pad = backend.name !== 'cpu',
  ) {}

  /** The size of pictures whose request says none, in pixels. */
  get trained(): Extent {
    return trainedSize(canvasOf(this.model));
  }

  /** Pictures of requests that fit together, at most the batch size. Other tasks run between two steps. */
  async sample(requests: readonly PictureRequest[], watch: Watch = {}): Promise<Picture[]> {
    const first = requests[0];
    if (!first) return [];
    if (requests.length > this.batchSize || !requests.every((other) => fitTogether(first, other))) {
      throw new Failure({ what: 'batch', why: `${requests.length} pictures do not fit together` });
    }
    let begin = performance.now();
    const spent = (on: keyof Sampler['seconds']) => {
      this.seconds[on] += (performance.now() - begin) / 1000;
      begin = performance.now();
    };
    const rows = [...requests];
    while (this.pad && rows.length < this.batchSize) rows.push(first);
    const { sample } = this.model.recipe;
    const size = this.sidesOf(first);
    const solve = SOLVERS[first.sampler ?? sample.sampler];
    const levels = levelsOf(this.model.recipe, first.steps);
    const interval = first.guidance_interval;
    // Outside of the interval the plan without guidance runs: half of the rows, half of the time.
    const guidanceAt = (sigma: number): Guidance =>
      interval && !isInside(interval, sigma) ? 'none' : guidanceOf(first);
    const kinds = new Set(levels.slice(0, -1).map(guidanceAt)); // no solver looks at level 0
    const prepared = new Map([...kinds].map((kind) => [kind, this.prepare(kind, rows.length, size)]));
    spent('plans');
    const truncated = this.setCaptions(prepared, rows);
    spent('captions');
    let guess: ArrayLike<number> = [];
    const denoise = (x: Float64Array, sigma: number) => {
      guess = prepared.get(guidanceAt(sigma))!.denoiser.denoise(x, sigma, first.cfg_scale);
      return guess;
    };
    const { noise } = prepared.get(guidanceAt(levels[0]!))!;
    const { decoder } = this.model;
    const pixels = (images: ArrayLike<number>, n: number) =>
      decoder ? decoder.decode(images, n, size) : pixelsOf(images, n, size.width, size.height);
    const seeds = rows.map((r) => r.seed);
    const start = first.rng === 'torch-cuda' ? torchNoise(seeds, noise.count) : noise.draw(seeds);
    let images = new Float64Array(0);
    let step = 0;
    for (const x of solve(denoise, start, levels)) {
      images = x;
      const estimate = (n: number) => pixels(guess, n);
      const rough = decoder ? (n: number) => decoder.rough(guess, n, size) : estimate;
      watch.onStep?.({ step: ++step, steps: first.steps, estimate, rough });
      await new Promise((resolve) => setImmediate(resolve));
      watch.signal?.throwIfAborted();
    }
    spent('steps');
    const pictures = requests.map((_, n) => ({ pixels: pixels(images, n), truncated: truncated[n]! }));
    spent('pictures');
    return pictures;
  }

  free(): void {
    for (const key of this.prepared.keys()) this.drop(key);
  }

  /** What the network works on for a request. A size that the model cannot draw is a Failure. */
  private sidesOf({ size }: PictureRequest): Extent {
    const { input_size } = this.model.recipe.model;
    if (!size) return { width: input_size, height: input_size };
    const canvas = canvasOf(this.model);
    const fault = sizeFault(canvas, size);
    if (fault !== undefined) throw new Failure({ what: `size ${sizeText(size)}`, why: fault });
    return { width: size.width / canvas.factor, height: size.height / canvas.factor };
  }

  private prepare(guidance: Guidance, batch: number, size: Extent): Prepared {
    const key = `${guidance} ${batch} ${sizeText(size)}`;
    const known = this.prepared.get(key);
    if (known) {
      this.prepared.delete(key); // and back in, as the one used last
      this.prepared.set(key, known);
      return known;
    }
    if (this.prepared.size >= KEPT) this.drop(this.prepared.keys().next().value!);
    const { backend, model } = this;
    const { network, weights, recipe, captions } = model;
    const { in_channels, input_size, patch_size } = recipe.model;
    const { width, height } = size;
    const positions = () =>
      positionsFor(backend, network, weights, { rows: height / patch_size, columns: width / patch_size });
    const trained = width === input_size && height === input_size;
    const made: Prepared = {
      denoiser: new Denoiser({
        backend,
        network,
        weights,
        sigmaData: recipe.diffusion.sigma_data,
        batch,
        guidance,
        ...(captions ? { captionLength: captions.length } : {}),
        ...(trained ? {} : { other: { width, height, positions: positions() } }),
      }),
      noise: new SampleNoise(backend, batch, [in_channels, height, width]),
    };
    this.prepared.set(key, made);
    return made;
  }

  private drop(key: string): void {
    const { denoiser, noise } = this.prepared.get(key)!;
    denoiser.free();
    noise.free();
    this.prepared.delete(key);
  }

  /** Gives the captions to all that were prepared. Returns which requests were cut. */
  private setCaptions(
    prepared: ReadonlyMap<Guidance, Prepared>,
    requests: readonly PictureRequest[],
  ): boolean[] {
    const texts = requests.map((r) => r.prompt);
    if (prepared.has('negative')) texts.push(...requests.map((r) => r.negative_prompt));
    const { values, truncated: cut } = readTexts(this.model, texts);
    const prompts = values.subarray(0, (values.length / texts.length) * requests.length);
    for (const [guidance, { denoiser }] of prepared) {
      denoiser.setCaptions(guidance === 'negative' ? values : prompts);
    }
    return requests.map((_, n) => cut[n]! || (cut[n + requests.length] ?? false));
  }
}

/**
 * Pictures of any number of requests in their order, `batchSize` at a time: for previews and evaluations.
 * `onPicture` is told how many are done; when a stop is asked for, only those come back.
 */
export async function sampleImages(
  backend: Backend,
  model: Model,
  requests: readonly PictureRequest[],
  options: {
    batchSize?: number;
    onPicture?: (done: number) => void;
    interrupt?: { readonly stopRequested: boolean };
  } = {},
): Promise<Picture[]> {
  const { batchSize = 8 } = options;
  const sampler = new Sampler(backend, model, batchSize);
  try {
    const pictures: Picture[] = [];
    while (pictures.length < requests.length && !options.interrupt?.stopRequested) {
      const first = requests[pictures.length]!;
      const rest = requests.slice(pictures.length, pictures.length + batchSize);
      const stranger = rest.findIndex((other) => !fitTogether(first, other));
      pictures.push(...(await sampler.sample(stranger < 0 ? rest : rest.slice(0, stranger))));
      options.onPicture?.(pictures.length);
    }
    return pictures;
  } finally {
    sampler.free();
  }
}
