// A golden set of the diffusion transformer as it lies in a folder: config, weights, tensors by file.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import { checkValue } from '../recipe/field.ts';
import { type ModelConfig, TABLES } from '../recipe/schema.ts';
import { declareNetwork, type Network } from '../sample/network.ts';
import { allocWeights, freeWeights, type LoadedWeights, loadWeights } from '../sample/weights.ts';
import { JsonObject } from './json-file.ts';

/** A set whose weights are loaded. */
export interface GoldenSet {
  readonly name: string;
  readonly info: JsonObject;
  readonly network: Network;
  readonly backend: Backend;
  readonly weights: LoadedWeights;
  /** The suffixes of the set's files `M.<suffix>.safetensors`. */
  readonly suffixes: readonly string[];
  /** An open file `M.<suffix>.safetensors`, or null where the set lacks it. The caller closes it. */
  open(suffix: string): Safetensors | null;
}

const INFO = '.info.json';

/** Names of the sets in a folder: those of manifest.json, else every `*.info.json`. */
export function setNames(dir: string): readonly string[] {
  const manifest = join(dir, 'manifest.json');
  const listed = existsSync(manifest) ? JsonObject.read(manifest).texts('models') : [];
  const outside = listed.find((name) => !/^[\w][\w.-]*$/.test(name));
  if (outside !== undefined) {
    throw new Failure({ what: `${manifest}: models`, why: `${JSON.stringify(outside)} is no name of a set` });
  }
  if (listed.length > 0) return listed;
  return readdirSync(dir)
    .filter((file) => file.endsWith(INFO))
    .map((file) => file.slice(0, -INFO.length))
    .sort();
}

/** Opens a set and loads its weights; null where it has no info file or no weights. */
export function openSet(dir: string, name: string, backend: Backend): GoldenSet | null {
  const info = join(dir, name + INFO);
  const path = (suffix: string) => join(dir, `${name}.${suffix}.safetensors`);
  if (!existsSync(info) || !existsSync(path('weights'))) return null;
  const json = JsonObject.read(info);
  using file = Safetensors.open(path('weights'));
  const config = readConfig(json.object('config'));
  if (config.depth + config.patch_mixer_depth > file.tensors.size) {
    throw new Failure({ what: json.at('config'), why: `has more blocks than ${file.path} has tensors` });
  }
  const network = declareNetwork(config, null);
  checkShapes(network, file);
  const weights = allocWeights(backend, network.parameters);
  try {
    loadWeights(backend, weights, network.parameters, file);
  } catch (error) {
    freeWeights(weights);
    throw error;
  }
  const part = new RegExp(`^${RegExp.escape(name)}\\.(.+)\\.safetensors$`);
  return {
    ...{ name, info: json, network, backend, weights },
    suffixes: readdirSync(dir).flatMap((entry) => part.exec(entry)?.[1] ?? []),
    open: (suffix) => (existsSync(path(suffix)) ? Safetensors.open(path(suffix)) : null),
  };
}

/** The reference constructor's arguments; what is left out has that constructor's default. */
export function readConfig(json: JsonObject): ModelConfig {
  const rows = Object.entries(TABLES.model).map(([key, row]) => {
    const value = json.has(key) ? checkValue(row, json.get(key), json.at(key)) : row.default;
    return [key, value];
  });
  return Object.fromEntries(rows);
}

/** Before any memory is taken: a hostile config must not ask for more than the file holds. */
function checkShapes(network: Network, file: Safetensors): void {
  for (const { name, shape } of network.parameters.list) {
    const found = file.tensors.get(name)?.shape;
    if (found?.join() === shape.join()) continue;
    const why = found ? `has shape [${found}], the config needs [${shape}]` : 'is missing';
    throw new Failure({ what: file.path, why: `tensor ${name} ${why}` });
  }
}

/** Kept tokens [N, K] of a file: distinct tokens of T; null where the file has none. */
export function readKept(file: Safetensors, N: number, T: number): { ids: Int32Array; K: number } | null {
  if (!file.tensors.has('ids_keep')) return null;
  const [images = 0, K = 0] = file.entry('ids_keep').shape;
  const ids = file.readInt32('ids_keep');
  const distinct = (n: number) => new Set(ids.subarray(n * K, (n + 1) * K)).size === K;
  const inside = ids.every((id) => id >= 0 && id < T);
  if (images !== N || ids.length !== N * K || !inside || !ids.every((_, n) => n >= N || distinct(n))) {
    throw new Failure({
      what: file.path,
      why: `ids_keep does not name distinct tokens of ${T} for ${N} images`,
    });
  }
  return { ids, K };
}
