// The published weights that `microdiff pull` knows: weights/manifest.json, checked, and who needs whom.

import manifest from '../../weights/manifest.json' with { type: 'json' };
import { EXIT, Failure } from '../io/failure.ts';
import type { RemoteFile } from '../io/hub.ts';
import { didYouMean } from '../recipe/nearest.ts';

export interface WeightFile {
  readonly path: string;
  /** Roughly, for tables; null where nobody has said. */
  readonly about_bytes: number | null;
  /** null where it is not known: then the hub's is taken, and pinned at the first download. */
  readonly sha256: string | null;
  /** torch.hub's custom: the first digits stand in the file's name. */
  readonly sha256_prefix?: string;
}

export interface Weights {
  readonly name: string;
  readonly kind: string;
  readonly summary: string;
  /** ORG/NAME at the hub, or else `url`. */
  readonly hub?: string;
  readonly revision?: string;
  readonly url?: string;
  /** `confirmed`: whether its text was seen; where not, the user is told to read it at `address`. */
  readonly licence: { readonly name: string; readonly confirmed: boolean; readonly address: string };
  /** Names of the weights without which these draw nothing. */
  readonly needs: readonly string[];
  /** The first one is the weights themselves, the others belong to it. */
  readonly files: readonly WeightFile[];
}

export const REGISTRY: readonly Weights[] = manifest.weights;

/** The entry of a name; an unknown one is a Failure with exit code 2. */
export function findWeights(name: string): Weights {
  const found = REGISTRY.find((entry) => entry.name === name);
  if (found) return found;
  const names = REGISTRY.map((entry) => entry.name);
  const fix = didYouMean(name, names) ?? 'See `microdiff list`';
  throw new Failure({ what: name, why: 'not in the registry of published weights', fix, code: EXIT.usage });
}

/** The entries of these names and of all that they need, what is needed first, each once. */
export function withNeeds(names: readonly string[]): Weights[] {
  const found = new Set<Weights>();
  for (const name of names) {
    const entry = findWeights(name);
    for (const need of withNeeds(entry.needs)) found.add(need);
    found.add(entry);
  }
  return [...found];
}

/** The files of an entry, as they are asked for. */
export function filesOf(entry: Weights): RemoteFile[] {
  return entry.files.map(({ path, sha256, sha256_prefix }) => ({
    name: entry.name,
    path,
    sha256,
    ...(sha256_prefix === undefined ? {} : { sha256_prefix }),
    ...(entry.hub === undefined
      ? { url: entry.url! }
      : { repository: entry.hub, revision: entry.revision ?? 'main' }),
  }));
}
