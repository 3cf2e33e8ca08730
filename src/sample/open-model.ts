// A model out of a file of either kind: one that training wrote, or published weights; with the text tower
// and the autoencoder beside it where it works on latents.
import type { Backend } from '../backend/backend.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import type { Recipe } from '../recipe/schema.ts';
import { hasRecipe, loadModel, type Model, provenanceOf } from './model-file.ts';
import { loadParts, type OnLoaded, type Parts, publishedRecipe } from './published.ts';
import { pulledPart } from './pulled.ts';

/** What a file says of its model before anything is loaded. */
export interface ModelFacts {
  readonly recipe: Recipe;
  /** Steps of training; null where the file does not say. */
  readonly step: number | null;
  /** It draws with nothing beside it: it works on pixels. */
  readonly whole: boolean;
  /** Files of what stands beside it: those given, else those that its recipe names. */
  readonly parts: Parts;
}

/** Parts are files, or names of the registry that were pulled. */
export function factsOf(file: TensorFile, given: Parts = {}): ModelFacts {
  const own = hasRecipe(file);
  const { recipe, step } = own ? provenanceOf(file) : { recipe: publishedRecipe(file), step: null };
  const whole = own && recipe.image.kind === 'pixels';
  const part = (name: string | undefined) => (name === undefined || whole ? undefined : pulledPart(name));
  const parts = { clip: part(given.clip ?? recipe.text.clip), vae: part(given.vae ?? recipe.image.vae) };
  return { recipe, step, whole, parts };
}

/** Loads a model with its parts. Throws a Failure that names what is missing. */
export function openModel(
  backend: Backend,
  file: TensorFile,
  name: string,
  facts: ModelFacts = factsOf(file),
  onLoaded: OnLoaded = () => {},
): Model {
  return facts.whole ? loadModel(backend, file, name) : loadParts(backend, file, name, facts, onLoaded);
}
