// A golden set of the diffusion transformer as it lies in a folder: config, weights, tensors by file.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import type { ModelConfig } from '../recipe/schema.ts';
import { declareNetwork, type Network } from '../sample/network.ts';

/** What `M.info.json` says, as far as it is used. */
export interface SetInfo {
  readonly config: ModelConfig;
  readonly sigma_data: number;
  readonly P_mean: number;
  readonly P_std: number;
  readonly L: number;
  readonly parameters: number;
  readonly train?: Readonly<Record<string, TrainInfo>>;
  readonly hyper?: Readonly<Record<string, unknown>>;
  readonly sampler?: Readonly<Record<string, { cfg: number; steps: number; t_steps: number[] }>>;
}

export interface TrainInfo {
  readonly mask_ratio: number;
  readonly loss_at_step: readonly number[];
  readonly loss_after_5_steps: number;
  readonly grad_norm_before_clip_at_step: readonly number[];
}

export interface GoldenSet {
  readonly dir: string;
  readonly name: string;
  readonly info: SetInfo;
  readonly network: Network;
  /** An open file `M.<suffix>.safetensors`, or null where the set lacks it. The caller closes it. */
  open(suffix: string): Safetensors | null;
}

/** Names of the sets in a folder: those of manifest.json, else every `*.info.json`. */
export function setNames(dir: string): string[] {
  const manifest = join(dir, 'manifest.json');
  if (existsSync(manifest)) {
    const { models } = readJson<{ models?: string[] }>(manifest);
    if (models) return models;
  }
  return [...new Bun.Glob('*.info.json').scanSync(dir)].map((f) => f.slice(0, -'.info.json'.length)).sort();
}

export function openSet(dir: string, name: string): GoldenSet {
  const info = readJson<SetInfo>(join(dir, `${name}.info.json`));
  return {
    dir,
    name,
    info,
    network: declareNetwork({ ...info.config, masking: info.config.masking ?? 'deferred' }, null),
    open(suffix) {
      const path = join(dir, `${name}.${suffix}.safetensors`);
      return existsSync(path) ? Safetensors.open(path) : null;
    },
  };
}

/** Reads a JSON file; a broken one is a Failure that names it. */
export function readJson<T>(path: string): T {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T;
  } catch (error) {
    throw new Failure({ what: path, why: error instanceof Error ? error.message : String(error) });
  }
}
