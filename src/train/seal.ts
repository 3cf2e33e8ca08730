// The seal of a checkpoint: size and hash of each of its files, so that damage is told before anything is
// loaded.
import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';

/** By the name of the file. The hash is xxHash64 of its blocks, each seeded with that of the block before. */
export type Seal = Readonly<Record<string, { readonly bytes: number; readonly xxh64: string }>>;

/** Of what state.json says beside it, but for the seconds, in which equal runs differ. */
export function sealOfState({ seconds: _, ...state }: Readonly<Record<string, unknown>>): string {
  return Bun.hash.xxHash64(JSON.stringify(state)).toString(16);
}

const BLOCK = 16 * 2 ** 20;

/** Of every file in a folder. */
export function sealOf(folder: string): Seal {
  const names = readdirSync(folder).sort();
  return Object.fromEntries(
    names.map((name) => {
      const path = join(folder, name);
      return [name, { bytes: statSync(path).size, xxh64: hashOf(path) }];
    }),
  );
}

/** Throws a Failure that names the first file which is not as the seal says. No seal: nothing is checked. */
export function checkSeal(folder: string, seal: Seal): void {
  for (const [name, { bytes, xxh64 }] of Object.entries(seal)) {
    const path = join(folder, name);
    const there = statSync(path, { throwIfNoEntry: false })?.size;
    if (there === undefined) throw new Failure({ what: path, why: 'is missing' });
    if (there !== bytes) throw new Failure({ what: path, why: `has ${there} bytes, not ${bytes}` });
    if (hashOf(path) !== xxh64) throw new Failure({ what: path, why: 'was changed since it was written' });
  }
}

function hashOf(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  try {
    const block = new Uint8Array(BLOCK);
    let hash = 0n;
    for (let got = -1; got !== 0; ) {
      got = readSync(fd, block, 0, BLOCK, null);
      if (got > 0) hash = Bun.hash.xxHash64(block.subarray(0, got), hash);
    }
    return hash.toString(16).padStart(16, '0');
  } catch (error) {
    throw osFailure(error, path, 'read');
  } finally {
    closeSync(fd);
  }
}
