// A model with made-up weights, small enough to sample from in a blink.
import type { Backend } from '../../../src/backend/backend.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import type { Model } from '../../../src/sample/model-file.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { allocWeights, writeWeight } from '../../../src/sample/weights.ts';
import { randomValues } from '../op-case.ts';

/**
 * Preset nano (8 px pictures), or another, and more of a recipe as TOML; every weight is random, so that no
 * branch is silent.
 */
export function tinyModel(backend: Backend, preset = 'nano', toml = ''): Model {
  const text = `[model]\npreset = "${preset}"\n${toml}`;
  const { recipe } = resolveRecipe({ file: { name: 'test.toml', text } });
  const network = declareNetwork(recipe.model, recipe.text);
  const weights = allocWeights(backend, network.parameters);
  for (const p of network.parameters.list) {
    const made =
      p.init.kind === 'values'
        ? p.init.values()
        : randomValues(p.count, p.index + 1).map((v) => (p.shape.length > 1 ? 0.3 * v : 1 + 0.2 * v));
    writeWeight(backend, weights, p, made);
  }
  return { name: 'tiny', network, weights, recipe, step: 0 };
}
