// RUN/algorithms.json: how a device does its matrix products, where that was chosen when the run began. Kept,
// so that going on gives the same bits.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { writeWholeFile } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';

const pathIn = (folder: string) => join(folder, 'algorithms.json');

/** Hands the choices of a run to the device; one that chooses otherwise is a Failure that names the file. */
export function takeAlgorithms(folder: string, backend: Backend, warn: (text: string) => void): void {
  const path = pathIn(folder);
  if (!existsSync(path)) return;
  if (!backend.takeChoices) {
    warn(`${path} is of a GPU: on ${backend.name} the run goes on with other roundings`);
    return;
  }
  try {
    backend.takeChoices(JSON.parse(readFileSync(path, 'utf8')));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const fix = 'To go on with algorithms chosen anew, and so with other roundings, remove the file';
    const missing = error instanceof Failure && error.code === EXIT.missing;
    throw new Failure({ what: path, why, fix, code: missing ? EXIT.missing : EXIT.failed });
  }
}

/** Writes the choices made so far, where the device makes any. */
export function keepAlgorithms(folder: string, backend: Backend): void {
  if (backend.choices === undefined) return;
  writeWholeFile(pathIn(folder), `${JSON.stringify(backend.choices, null, 1)}\n`);
}
