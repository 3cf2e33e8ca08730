// A model as one safetensors file: weights under the reference's names (and text_embedder.*), and in the
// metadata the recipe that they belong to. Saved from a flat buffer; loaded with suspicion.
import type { Backend, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { Pixels } from '../io/png.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import { type TensorToWrite, writeSafetensors } from '../io/safetensors_write.ts';
import type { Parameters } from '../plan/params.ts';
import { recipeToml, resolveRecipe } from '../recipe/resolve.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { Reader } from './captions.ts';
import { declareNetwork } from './network.ts';
import type { Extent } from './size.ts';
import {
  allocWeights,
  checkWeights,
  freeWeights,
  type LoadedWeights,
  loadWeights,
  readParameter,
} from './weights.ts';

/** Where weights come from, as it stands in a model file. */
export interface Provenance {
  readonly recipe: Recipe;
  /** Version of the program that trained them. */
  readonly version: string;
  /** Steps of training. */
  readonly step: number;
  /** Hash of the set of pictures; null where none was used or it is not known. */
  readonly data: string | null;
}

export interface SavedWeights {
  readonly backend: Backend;
  readonly parameters: Parameters;
  /** Flat float32 buffer of the weights, or of their averages. */
  readonly weights: Region;
  /** Flat buffer to take the frozen parameters from, where `weights` lacks them. */
  readonly frozen?: Region;
  /** F32 when left out; BF16 halves the file and rounds. */
  readonly dtype?: 'F32' | 'BF16';
}

/** From what a network works on, where those are no pictures, to pictures. */
export interface PictureDecoder {
  /** Pixels of a picture to one of its latent, along each side. */
  readonly factor: number;
  /** Picture n of a batch of latents of this size; null where a number is not finite. */
  decode(latents: ArrayLike<number>, n: number, size: Extent): Pixels | null;
  /** The same without the decoder, a pixel for each latent; see latent-colors.ts. */
  rough(latents: ArrayLike<number>, n: number, size: Extent): Pixels | null;
}

/** A loaded model, ready to sample from. */
export interface Model extends Reader {
  readonly weights: LoadedWeights;
  readonly recipe: Recipe;
  /** Steps of training; null when the file does not say. */
  readonly step: number | null;
  /** Where the network works on latents. */
  readonly decoder?: PictureDecoder;
}

/** Pixels along one side of a model's pictures. */
export function pictureSide({ decoder, recipe }: Pick<Model, 'decoder' | 'recipe'>): number {
  return recipe.model.input_size * (decoder?.factor ?? 1);
}

const KEY = {
  recipe: 'microdiff.recipe',
  version: 'microdiff.version',
  step: 'microdiff.step',
  data: 'microdiff.data',
} as const;

/** Writes a model file, whole or not at all. Throws a Failure when the disk is full or forbids it. */
export function saveModel(path: string, saved: SavedWeights, from: Provenance): void {
  const { backend, parameters, weights, frozen = weights, dtype = 'F32' } = saved;
  const tensors = parameters.list.map((p): TensorToWrite => {
    const region = p.tags.frozen ? frozen : weights;
    const data = () => [Float32Array.from(readParameter(backend, region, p))];
    return { name: p.name, dtype, shape: p.shape, data };
  });
  writeSafetensors(path, tensors, { metadata: modelMetadata(from) });
}

/** The `__metadata__` of a model file. */
export function modelMetadata({ recipe, version, step, data }: Provenance): Record<string, string> {
  return {
    format: 'pt',
    [KEY.recipe]: recipeToml(recipe),
    [KEY.version]: version,
    [KEY.step]: String(step),
    ...(data === null ? {} : { [KEY.data]: data }),
  };
}

/** Whether a file says itself how it was made. */
export function hasRecipe(file: TensorFile): boolean {
  return file.metadata.has(KEY.recipe);
}

/** The provenance that a model file carries; throws a Failure when it has no recipe or a broken one. */
export function provenanceOf(file: TensorFile): Omit<Provenance, 'step'> & Pick<Model, 'step'> {
  const toml = file.metadata.get(KEY.recipe);
  const version = file.metadata.get(KEY.version) ?? 'unknown';
  if (toml === undefined) {
    const why = `is no model of microdiff: its metadata has no ${KEY.recipe}`;
    throw new Failure({ what: file.path, why, fix: 'Use a file that microdiff train wrote' });
  }
  const step = Number(file.metadata.get(KEY.step) ?? Number.NaN);
  return {
    recipe: readRecipe(file.path, toml, version),
    version,
    step: Number.isSafeInteger(step) && step >= 0 ? step : null,
    data: file.metadata.get(KEY.data) ?? null,
  };
}

function readRecipe(path: string, toml: string, version: string): Recipe {
  try {
    return resolveRecipe({ file: { name: 'recipe.toml', text: toml } }).recipe;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const why = `its recipe cannot be used (${error.message})`;
    throw new Failure({ what: path, why, fix: `It was written by microdiff ${version}: use that version` });
  }
}

/**
 * Loads a model into new memory of the backend. Sizes are compared before any memory is taken: a file of
 * another model, or one whose recipe asks for more than it holds, is a Failure.
 */
export function loadModel(backend: Backend, file: TensorFile, name: string): Model {
  const { recipe, step } = provenanceOf(file);
  const { model, text, image } = recipe;
  const blocks = model.depth + (model.use_patch_mixer ? model.patch_mixer_depth : 0);
  if (blocks > file.tensors.size) {
    const why = `its recipe has ${blocks} blocks, the file has ${file.tensors.size} tensors`;
    throw new Failure({ what: file.path, why, fix: 'Copy or download it again' });
  }
  if (image.channels !== 3) {
    const why = `makes pictures of ${image.channels} channels; only RGB can be drawn`;
    throw new Failure({ what: file.path, why, fix: 'Use a model with image.channels = 3' });
  }
  const network = declareNetwork(model, text);
  checkWeights(network.parameters, file);
  const weights = allocWeights(backend, network.parameters);
  try {
    loadWeights(backend, weights, network.parameters, file);
  } catch (error) {
    freeWeights(weights);
    throw error;
  }
  return { name, network, weights, recipe, step };
}
