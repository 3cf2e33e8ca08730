// Published weights: a bare state_dict of MicroDiT, with the CLIP text tower and the autoencoder that it was
// trained with in files of their own, as one model that draws pictures.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { openTensors } from '../io/open-tensors.ts';
import type { Pixels } from '../io/png.ts';
import { readJsonFile } from '../io/read-json.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import { resolveRecipe } from '../recipe/resolve.ts';
import type { Recipe } from '../recipe/schema.ts';
import { type ClipTextConfig, clipTextConfig, DFN5B_TEXT } from '../text/clip-config.ts';
import { readVaeConfig, type VaeConfig, vaeFactor } from '../vae/config.ts';
import { unscaleLatents } from '../vae/posterior.ts';
import { Vae } from './autoencoder.ts';
import { ClipEncoder } from './clip-encoder.ts';
import { guessContent, nearestPreset } from './guess.ts';
import { type LatentColors, latentColors } from './latent-colors.ts';
import type { Model, PictureDecoder } from './model-file.ts';
import { declareNetwork } from './network.ts';
import { pixelsOf } from './pixels.ts';
import { allocWeights, checkWeights, freeWeights, loadWeights } from './weights.ts';

/** Files that stand beside the weights of the transformer. */
export interface Parts {
  readonly clip?: string | undefined;
  readonly vae?: string | undefined;
}

/** The SDXL autoencoder, where no config.json lies beside the file. */
export const SDXL_VAE = {
  block_out_channels: [128, 256, 512, 512],
  layers_per_block: 2,
  latent_channels: 4,
  norm_num_groups: 32,
  scaling_factor: 0.13025,
};

/** Steps and guidance where the user names none: those of the paper's samples. */
const SAMPLE = { steps: 30, cfg_scale: 5 };

/** The recipe that a bare state_dict of MicroDiT stands for; a Failure where it is no known one. */
export function publishedRecipe(file: TensorFile): Recipe {
  const guess = guessContent(file.tensors);
  const fix = 'Use a file that microdiff train wrote, or published weights';
  if (guess.what !== 'MicroDiT') {
    throw new Failure({ what: file.path, why: `is no MicroDiT (${guess.what})`, fix });
  }
  const preset = typeof guess.preset === 'string' ? guess.preset : nearestPreset(guess);
  if (preset === null) throw new Failure({ what: file.path, why: 'is a MicroDiT of no known preset', fix });
  const prefix = String(guess.prefix ?? '');
  const [in_channels, input_size, caption_channels] = [
    guess.in_channels,
    guess.input_size,
    guess.caption_channels,
  ].map(Number);
  const pos_interp_scale = interpolationOf(file, prefix);
  const model = { preset, in_channels, input_size, caption_channels, pos_interp_scale };
  const values = { model, text: { length: DFN5B_TEXT.context }, sample: SAMPLE };
  const { recipe } = resolveRecipe({ given: { origin: file.path, values } });
  // Not a preset, but near one: the tensor that is missing or of another shape is worth naming.
  if (guess.preset === null) checkWeights(declareNetwork(recipe.model, null).parameters, file, prefix);
  return recipe;
}

/**
 * The scale of the positions, which no shape tells: that of the second patch is 1 / scale, and its first sine
 * and cosine are that angle's. Stored values may be rounded, hence the nearest quarter where one is near.
 */
function interpolationOf(file: TensorFile, prefix: string): number {
  const name = `${prefix}pos_embed`;
  const dim = file.tensors.get(name)?.shape.at(-1) ?? 0;
  const values = file.readFloat32(name);
  const scale = 1 / Math.atan2(values[dim] ?? 0, values[dim + dim / 4] ?? 0);
  const quarter = Math.round(4 * scale) / 4;
  if (!Number.isFinite(scale) || scale <= 0) return 1;
  return quarter > 0 && Math.abs(scale / quarter - 1) < 0.01 ? quarter : scale;
}

/** Pixels to one number of a latent, of the autoencoder at `path`, without loading it. */
export function factorOfVae(path: string): number {
  using file = openTensors(path);
  return vaeFactor(vaeConfigOf(file));
}

/** Is told of each part that has been loaded, and how long it took. */
export type OnLoaded = (part: string, seconds: number) => void;

/** What makes captions and pictures of a transformer's embeddings and latents. */
export interface LoadedParts {
  readonly captions: ClipEncoder;
  readonly decoder: PictureDecoder;
  free(): void;
}

/** Loads text tower and autoencoder for a recipe. Throws a Failure where one is missing or does not fit. */
export function openParts(
  backend: Backend,
  name: string,
  recipe: Recipe,
  parts: Parts,
  onLoaded: OnLoaded = () => {},
): LoadedParts {
  if (parts.clip === undefined || parts.vae === undefined) {
    throw new Failure({
      what: name,
      why: 'holds the transformer alone: it needs the text tower and the autoencoder of its training',
      fix: 'Give both: --clip FILE --vae FILE, or names of `microdiff list` that were pulled',
      code: EXIT.usage,
    });
  }
  const owned: (() => void)[] = [];
  const loaded = stopwatch(onLoaded);
  try {
    using text = openTensors(parts.clip);
    const captions = ClipEncoder.load(backend, clipConfigOf(text), text);
    owned.push(() => captions.free());
    const { caption_channels } = recipe.model;
    if (captions.channels !== caption_channels) {
      const why = `has states of ${captions.channels} channels, ${name} reads ${caption_channels}`;
      throw new Failure({ what: parts.clip, why, fix: 'Use the text tower that it was trained with' });
    }
    loaded('text tower');
    using pictures = openTensors(parts.vae);
    const vae = Vae.load(backend, vaeConfigOf(pictures), pictures);
    owned.push(() => vae.free());
    loaded('autoencoder');
    const { latent_channels, out_channels } = vae.config;
    if (out_channels !== 3) {
      const why = `makes pictures of ${out_channels} channels; only RGB can be drawn`;
      throw new Failure({ what: parts.vae, why, fix: 'Use the autoencoder that it was trained with' });
    }
    if (latent_channels !== recipe.model.in_channels) {
      const why = `has latents of ${latent_channels} channels, ${name} works on ${recipe.model.in_channels}`;
      throw new Failure({ what: parts.vae, why, fix: 'Use the autoencoder that it was trained with' });
    }
    const free = () => {
      captions.free();
      vae.free();
    };
    return { captions, decoder: latentDecoder(vae), free };
  } catch (error) {
    for (const free of owned) free();
    throw error;
  }
}

/** Loads transformer, text tower and autoencoder. Throws a Failure that names the part that is missing. */
export function loadParts(
  backend: Backend,
  file: TensorFile,
  name: string,
  { recipe, step, parts }: { recipe: Recipe; step: number | null; parts: Parts },
  onLoaded: OnLoaded = () => {},
): Model {
  const network = declareNetwork(recipe.model, null);
  checkWeights(network.parameters, file, file.prefix);
  const { captions, decoder, free } = openParts(backend, name, recipe, parts, onLoaded);
  const loaded = stopwatch(onLoaded);
  const weights = allocWeights(backend, network.parameters);
  try {
    loadWeights(backend, weights, network.parameters, file, file.prefix);
  } catch (error) {
    freeWeights(weights);
    free();
    throw error;
  }
  loaded('transformer');
  return { name, network, weights, recipe, step, captions, decoder };
}

/** Tells of each part how long it took since the one before. */
function stopwatch(onLoaded: OnLoaded): (part: string) => void {
  let begin = performance.now();
  return (part) => {
    onLoaded(part, (performance.now() - begin) / 1000);
    begin = performance.now();
  };
}

/** Bytes that decoding a picture may take beside the weights; larger ones are decoded in strips. */
const DECODER_BYTES = 2 ** 31;

/** Latents of an autoencoder to pictures. */
export function latentDecoder(vae: Vae): PictureDecoder & { readonly channels: number } {
  const { latent_channels: C } = vae.config;
  let colors: LatentColors | null = null;
  return {
    factor: vaeFactor(vae.config),
    channels: C,
    rough(latents, n, size): Pixels | null {
      colors ??= latentColors(vae);
      return colors(latents, n, size);
    },
    decode(latents, n, size): Pixels | null {
      const area = size.height * size.width;
      const count = C * area;
      const latent = Float64Array.from({ length: count }, (_, i) => latents[n * count + i]!);
      if (!latent.every(Number.isFinite)) return null;
      const planes = finiteOrNull(() =>
        vae.decode(unscaleLatents(vae.config, latent, area), size, DECODER_BYTES),
      );
      return planes && pixelsOf(planes, 0, size.width * this.factor, size.height * this.factor);
    },
  };
}

/** A picture that is not finite is told of in its place; what comes after it is drawn. */
function finiteOrNull<T>(decode: () => T): T | null {
  try {
    return decode();
  } catch (error) {
    if (error instanceof Failure && error.code === EXIT.nonFinite) return null;
    throw error;
  }
}

/** An autoencoder alone, for latents that lie in files. `free` gives its memory back. */
export function loadLatentDecoder(
  backend: Backend,
  path: string,
): ReturnType<typeof latentDecoder> & { free(): void } {
  using file = openTensors(path);
  const config = vaeConfigOf(file);
  if (config.out_channels !== 3) {
    const why = `makes pictures of ${config.out_channels} channels; only RGB can be drawn`;
    throw new Failure({ what: path, why, fix: 'Use the autoencoder that the latents are of' });
  }
  const vae = Vae.load(backend, config, file);
  return { ...latentDecoder(vae), free: () => vae.free() };
}

/** The autoencoder of a file, both directions, with the config that lies beside it. */
export function openAutoencoder(backend: Backend, path: string): Vae {
  using file = openTensors(path);
  return Vae.load(backend, vaeConfigOf(file), file);
}

/** The text tower of a file, with the config that lies beside it; `batch` texts in one run. */
export function openTextTower(backend: Backend, path: string, batch = 1): ClipEncoder {
  using file = openTensors(path);
  return ClipEncoder.load(backend, clipConfigOf(file), file, { batch });
}

/** FILE.config.json (without FILE's own ending), else one of the given names in FILE's folder. */
function configBeside(path: string, names: readonly string[]): { path: string; json: unknown } | null {
  const stem = path.replace(/(\.weights)?\.[^./]+$/, '');
  const places = [`${stem}.config.json`, ...names.map((name) => join(dirname(path), name))];
  const found = places.find((place) => existsSync(place));
  return found === undefined ? null : { path: found, json: readJsonFile(found) };
}

function clipConfigOf(file: TensorFile): ClipTextConfig {
  const beside = configBeside(file.path, ['open_clip_config.json']);
  return beside ? clipTextConfig(beside.json, beside.path) : DFN5B_TEXT;
}

function vaeConfigOf(file: TensorFile): VaeConfig {
  const beside = configBeside(file.path, ['config.json']);
  return beside ? readVaeConfig(beside.json, beside.path) : readVaeConfig(SDXL_VAE, file.path);
}
