// Names of the registry as models and parts: their files out of the cache, never out of the network.
import { EXIT, Failure } from '../io/failure.ts';
import { findPulled } from '../io/hub.ts';
import { type HubSettings, hubSettings } from '../io/hub/settings.ts';
import { filesOf, findWeights, REGISTRY, type Weights } from './registry.ts';

/** What a pulled model needs beside its own file; undefined where that is not in the cache. */
export interface PulledParts {
  readonly clip: string | undefined;
  readonly vae: string | undefined;
}

export interface PulledModel {
  readonly name: string;
  readonly path: string;
  readonly parts: PulledParts;
}

/** Whether the registry has weights of this name. */
export function isPublished(name: string): boolean {
  return REGISTRY.some((entry) => entry.name === name);
}

/** The model of a name of the registry. Throws a Failure (code 3) when it was not pulled. */
export function pulledModel(name: string, settings: HubSettings = hubSettings(process.env)): PulledModel {
  const entry = findWeights(name);
  if (entry.kind !== 'model') {
    throw new Failure({
      what: name,
      why: `is no model (${entry.summary})`,
      fix: 'See `microdiff list`',
      code: EXIT.usage,
    });
  }
  const needs = entry.needs.map(findWeights);
  const part = (kind: string) => {
    const need = needs.find((one) => one.kind === kind);
    return need && pathOf(need, settings);
  };
  const path = pathOf(entry, settings);
  if (path === undefined) throw notPulled(name);
  return { name, path, parts: { clip: part('text'), vae: part('autoencoder') } };
}

/** A file named by its path, or by its name in the registry when it was pulled. */
export function pulledPart(given: string, settings: HubSettings = hubSettings(process.env)): string {
  if (!isPublished(given)) return given;
  const path = pathOf(findWeights(given), settings);
  if (path === undefined) throw notPulled(given);
  return path;
}

/** The weights' path, if every file of theirs is here. */
function pathOf(entry: Weights, settings: HubSettings): string | undefined {
  const paths = filesOf(entry).map((file) => findPulled(file, settings));
  return paths.includes(undefined) ? undefined : paths[0];
}

function notPulled(name: string): Failure {
  return new Failure({
    what: name,
    why: 'it is not downloaded',
    fix: `Run \`microdiff pull ${name}\``,
    code: EXIT.missing,
  });
}
