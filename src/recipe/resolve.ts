// From layers to one recipe: flag > environment > file > preset > default; then the checks that need several
// keys, and the way back to TOML.

import { EXIT, Failure } from '../io/failure.ts';
import { envLayer, type Given, type Layer, parseRecipe, presetLayer, setLayer, treeLayer } from './layers.ts';
import { checkRecipe } from './check.ts';
import { withTokenBudget } from './stages.ts';
import { LISTS, type Recipe, type RecipeInput, type Table, TABLES } from './schema.ts';

export interface RecipeSources {
  /** The recipe file: its name (for messages and the format) and its text. */
  readonly file?: { readonly name: string; readonly text: string };
  /** Values from the program itself, below the environment and above the file. */
  readonly given?: { readonly origin: string; readonly values: RecipeInput };
  /** Environment variables, MICRODIFF_TABLE_KEY. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Sources from --data, which take the place of others; --set may change a key of them. */
  readonly data?: { readonly origin: string; readonly values: RecipeInput };
  /** `key=value` from --set, in order. */
  readonly sets?: readonly string[];
  /** Values from flags of their own such as --checkpoint-every; the highest layers. */
  readonly flags?: readonly { readonly origin: string; readonly values: RecipeInput }[];
}

export interface Resolved {
  readonly recipe: Recipe;
  /** Dotted key -> where its value came from; keys that are not in here have their default. */
  readonly origins: ReadonlyMap<string, string>;
}

/** Resolves and checks a recipe; every error is a Failure with exit code 2. */
export function resolveRecipe(sources: RecipeSources): Resolved {
  const layers: Layer[] = [];
  if (sources.file) {
    layers.push(treeLayer(parseRecipe(sources.file.name, sources.file.text), sources.file.name));
  }
  if (sources.given) layers.push(treeLayer(sources.given.values, sources.given.origin));
  if (sources.env) layers.push(envLayer(sources.env));
  if (sources.data) layers.push(treeLayer(sources.data.values, sources.data.origin));
  if (sources.sets) layers.push(setLayer(sources.sets));
  for (const { values, origin } of sources.flags ?? []) layers.push(treeLayer(values, origin));
  const preset = layers.findLast((layer) => layer.has('model.preset'))?.get('model.preset');
  if (preset) layers.unshift(presetLayer(preset));

  const merged = merge(layers);
  const recipe = withTokenBudget(build(merged));
  checkRecipe(recipe, (key) => merged.get(key)?.origin ?? 'defaults');
  return { recipe, origins: new Map([...merged].map(([key, { origin }]) => [key, origin])) };
}

function merge(layers: readonly Layer[]): Map<string, Given> {
  const merged = new Map<string, Given>();
  for (const layer of layers) {
    for (const list of Object.keys(LISTS)) {
      if (layer.has(list)) deleteUnder(merged, list); // a list replaces the whole list of a lower layer
    }
    for (const [key, given] of layer) merged.set(key, given);
    for (const [key, given] of layer) growList(merged, key, given);
  }
  return merged;
}

function deleteUnder(merged: Map<string, Given>, list: string): void {
  for (const key of merged.keys()) if (key.startsWith(`${list}.`)) merged.delete(key);
}

/** `--set stage.0.steps=5` changes entry 0, or adds it when the list ends just before it. */
function growList(merged: Map<string, Given>, key: string, given: Given): void {
  const [, list, index] = /^(.+)\.(\d+)\.[^.]+$/.exec(key) ?? [];
  if (list === undefined) return;
  const length = Number(merged.get(list)?.value ?? 0);
  if (Number(index) > length) {
    throw new Failure({
      what: `${key} in ${given.origin}`,
      why: `${list} has ${length} entries, so that entry ${index} cannot be set`,
      fix: `The next one is ${list}.${length}`,
      code: EXIT.usage,
    });
  }
  if (Number(index) === length) merged.set(list, { value: length + 1, origin: given.origin });
}

function build(merged: ReadonlyMap<string, Given>): Recipe {
  const tree: Record<string, unknown> = {};
  for (const [name, rows] of Object.entries(TABLES)) tree[name] = buildTable(merged, name, rows);
  for (const [name, rows] of Object.entries(LISTS)) {
    const length = Number(merged.get(name)?.value ?? 0);
    const entries = Array.from({ length }, (_, i) => buildTable(merged, `${name}.${i}`, rows));
    const [table, list] = name.split('.') as [string, string?];
    if (list === undefined) tree[table] = entries;
    else (tree[table] as Record<string, unknown>)[list] = entries;
  }
  return tree as unknown as Recipe; // every key of the tables is there, each checked against its row
}

function buildTable(merged: ReadonlyMap<string, Given>, path: string, rows: Table): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(rows).map(([name, row]) => {
      const given = merged.get(`${path}.${name}`) ?? (row.follows ? merged.get(row.follows) : undefined);
      return [name, given ? given.value : row.default];
    }),
  );
}

/** The recipe as TOML that resolves to the same recipe; keys without a value are left out. */
export function recipeToml(recipe: Recipe): string {
  return Bun.TOML.stringify(recipe);
}
