// Locks between processes, on a file; the kernel gives one back when its holder ends, however it ends.

import { closeSync, openSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { tryLock } from '../../../ffi/flock.ts';
import { Stopped } from './http.ts';
import { Failure } from '../failure.ts';
import { osFailure } from '../oserror.ts';

const POLL_MS = 200;

export interface Lock {
  release(): void;
}

/** Takes the lock of a file, made if need be, or returns undefined if another process has it. */
export function lockNow(path: string): Lock | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'w', 0o666);
  } catch (error) {
    throw osFailure(error, path, 'write');
  }
  if (tryLock(fd)) return { release: () => closeSync(fd) };
  closeSync(fd);
  return undefined;
}

/** Waits for the lock of a file; `onWait` is called once if it has to. */
export async function takeLock(
  path: string,
  onWait?: () => void,
  signal?: AbortSignal,
  fix = 'Choose a folder on another disk with HF_HUB_CACHE',
): Promise<Lock> {
  for (let first = true; ; first = false) {
    const lock = lockNow(path);
    if (lock) return lock;
    if (first) {
      requireLocks(path, fix);
      onWait?.();
    }
    if (signal?.aborted) throw new Stopped('stopped');
    await Bun.sleep(POLL_MS);
  }
}

/** Some network disks grant no lock to anybody: then there is nothing to wait for. */
function requireLocks(path: string, fix: string): void {
  const own = `${path}.${process.pid}`;
  const lock = lockNow(own);
  lock?.release();
  rmSync(own, { force: true });
  if (lock) return;
  throw new Failure({
    what: dirname(path),
    why: 'this file system has no locks (flock)',
    fix,
  });
}
