// Which file `-m` means: the name of a model inside the executable or of a downloaded one, a file, a run
// folder or a checkpoint.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readLatest } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';
import { isPublished, type PulledParts, pulledModel } from './pulled.ts';
import { DEFAULT_MODEL, SHIPPED } from './shipped.ts';

export interface FoundModel {
  /** As the user called it. */
  readonly name: string;
  /** The .safetensors file. */
  readonly path: string;
  /** Where its text tower and autoencoder are, for downloaded ones. */
  readonly parts?: PulledParts;
}

/** A name goes before a file of the same name; `./NAME` is the file. Throws a Failure when there is none. */
export function findModel(
  given: string | undefined,
  shipped: Readonly<Record<string, string>> = SHIPPED,
): FoundModel {
  const name = given ?? DEFAULT_MODEL;
  if (Object.hasOwn(shipped, name)) return { name, path: shipped[name]! };
  if (isPublished(name)) return pulledModel(name);
  if (existsSync(name) && given !== undefined) {
    return { name, path: isFolder(name) ? modelOfFolder(name) : name };
  }
  const known = Object.keys(shipped);
  const has = known.length > 0 ? `this build carries ${known.join(', ')}` : 'this build carries no model';
  throw new Failure({
    what: given === undefined ? 'model' : `-m ${name}`,
    why: given === undefined ? `${name} is not there: ${has}` : `neither a file nor a folder; ${has}`,
    fix: 'Give a model file, a run folder (microdiff train makes both) or a name of `microdiff list` with -m',
    code: given === undefined ? EXIT.missing : EXIT.usage,
  });
}

/** Averaged weights before the raw ones: they draw better. */
const FILES = ['ema.safetensors', 'model.safetensors'];

/** The newest model of a run (RUN/latest names a folder of RUN/checkpoints), or that of one checkpoint. */
function modelOfFolder(folder: string): string {
  const checkpoints = join(folder, 'checkpoints');
  const latest = readLatest(folder) ?? readLatest(checkpoints);
  const places = latest === undefined ? [folder] : [join(checkpoints, latest), join(folder, latest)];
  for (const place of places) {
    const file = FILES.map((name) => join(place, name)).find((path) => existsSync(path));
    if (file !== undefined) return file;
  }
  throw new Failure({
    what: folder,
    why: latest === undefined ? 'has no checkpoint yet' : `its newest checkpoint ${latest} has no model`,
    fix: 'Name a model file or the folder of a run that has saved one',
  });
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}
