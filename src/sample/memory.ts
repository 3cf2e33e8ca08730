// GPU memory of drawing with published weights, to the byte: the same code as when drawing, on a backend that
// only counts, or on any other, with weights of zeros.
import type { Backend } from '../backend/backend.ts';
import { nullBackend } from '../backend/null.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { ClipTextConfig } from '../text/clip-config.ts';
import { type VaeConfig, vaeFactor } from '../vae/config.ts';
import { Vae } from './autoencoder.ts';
import { ClipEncoder } from './clip-encoder.ts';
import { declareNetwork } from './network.ts';
import { latentDecoder } from './published.ts';
import { Sampler } from './sampler.ts';
import { allocWeights, freeWeights } from './weights.ts';

/** A model of published weights, by its parts. */
export interface PublishedParts {
  readonly recipe: Recipe;
  readonly clip: ClipTextConfig;
  readonly vae: VaeConfig;
  /** Pictures at once. */
  readonly batch: number;
}

/** Bytes that regions take, beside the backend's own workspaces. */
export interface SamplingMemory {
  /** Side of a picture in pixels. */
  readonly side: number;
  readonly weights: { readonly transformer: number; readonly text: number; readonly autoencoder: number };
  /** Arenas, inputs and what is kept of captions; the autoencoder's come and go with each picture. */
  readonly plans: { readonly transformer: number; readonly text: number; readonly autoencoder: number };
  /** The most at one moment. */
  readonly peak: number;
}

/** A GPU's element sizes; `whole`: with a library of convolutions. Needs no GPU. */
export function plannedMemory(parts: PublishedParts, precision: 'bf16' | 'fp32', whole: boolean) {
  const counter = nullBackend({ act: precision === 'bf16' ? 2 : 4, real: 4, i32: 4 });
  return samplingMemory({ ...counter, convolvesWhole: () => whole }, parts);
}

/** Draws one batch in one step, guided, on a backend that counts what it allocates. */
export async function samplingMemory(
  backend: Backend & Required<Pick<Backend, 'memory'>>,
  { recipe, clip, vae: config, batch }: PublishedParts,
): Promise<SamplingMemory> {
  let last = backend.memory().allocated;
  const first = last;
  const taken = () => {
    const before = last;
    last = backend.memory().allocated;
    return last - before;
  };
  const captions = ClipEncoder.zeroed(backend, clip);
  const text = taken();
  const vae = Vae.zeroed(backend, config);
  const autoencoder = taken();
  const network = declareNetwork(recipe.model, null);
  const weights = allocWeights(backend, network.parameters);
  const transformer = taken();
  captions.encode(['']);
  const reading = taken();
  const nothing = { factor: 1, decode: () => null, rough: () => null };
  const model = { name: 'planned', network, weights, recipe, step: null, captions };
  const { cfg_scale } = recipe.sample;
  const request = { prompt: '', negative_prompt: '', seed: 0, steps: 1, cfg_scale };
  const sampler = new Sampler(backend, { ...model, decoder: nothing }, batch);
  await sampler.sample(Array(batch).fill(request));
  const denoising = taken();
  const { in_channels: C, input_size: S } = recipe.model;
  latentDecoder(vae).decode(new Float64Array(batch * C * S * S), 0, { width: S, height: S });
  const peak = backend.memory().peak - first;
  sampler.free();
  captions.free();
  vae.free();
  freeWeights(weights);
  return {
    side: S * vaeFactor(config),
    weights: { transformer, text, autoencoder },
    plans: { transformer: denoising, text: reading, autoencoder: peak - (last - first) },
    peak,
  };
}
