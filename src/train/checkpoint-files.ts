// The files of a checkpoint, written whole or not at all: by the thread that trains out of the backend's
// memory, or by a Worker out of a copy.
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeFolderAtomically, writeLatest, writeWholeFile } from '../io/atomic.ts';
import { type TensorToWrite, writeSafetensors } from '../io/safetensors_write.ts';
import { sealOf, sealOfState } from './seal.ts';

/** Which checkpoints stay: the newest ones, and for ever those of every so many steps (0: none). */
export interface Keep {
  readonly keep_last: number;
  readonly keep_every: number;
}

export interface TensorsFile<T> {
  readonly name: string;
  readonly tensors: readonly T[];
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Everything that is written; names and numbers alone, but for the tensors. */
export interface CheckpointFiles<T = TensorToWrite> {
  /** The run's folder, and the name of the checkpoint in RUN/checkpoints. */
  readonly run: string;
  readonly name: string;
  readonly files: readonly TensorsFile<T>[];
  /** What state.json says, but for the seal. */
  readonly state: Readonly<Record<string, unknown>>;
  readonly keep: Keep;
}

/** Where a run has its checkpoints. */
export const checkpointFolder = (run: string) => join(run, 'checkpoints');

export const nameOf = (step: number) => `step-${String(step).padStart(8, '0')}`;
const stepOf = (name: string) => Number(name.slice('step-'.length));

/** Names of all checkpoints of a run, the oldest first. */
export function checkpointNames(run: string): string[] {
  return readdirSync(checkpointFolder(run))
    .filter((n) => /^step-\d+$/.test(n))
    .sort();
}

/**
 * Writes RUN/checkpoints/NAME and RUN/latest, then removes those that need not be kept. Throws a Failure that
 * names the file it could not write.
 */
export function writeCheckpoint({ run, name, files, state, keep }: CheckpointFiles): void {
  writeFolderAtomically(join(checkpointFolder(run), name), (folder) => {
    for (const { name, tensors, metadata } of files) {
      writeSafetensors(join(folder, name), tensors, metadata ? { metadata } : {});
    }
    const written = { ...state, files: sealOf(folder) };
    const sealed = { ...written, seal: sealOfState(written) };
    writeWholeFile(join(folder, 'state.json'), `${JSON.stringify(sealed, null, 2)}\n`);
  });
  writeLatest(run, name);
  prune(run, keep, name);
}

function prune(run: string, { keep_last, keep_every }: Keep, newest: string): void {
  const old = checkpointNames(run).filter((n) => n <= newest);
  for (const name of old.slice(0, -keep_last)) {
    if (keep_every > 0 && stepOf(name) % keep_every === 0) continue;
    rmSync(join(checkpointFolder(run), name), { recursive: true, force: true });
  }
}
