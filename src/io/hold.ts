// The lock of a folder that one process at a time may write: a file in it, which holds the number of that
// process. The kernel gives the lock back when its holder ends, however it ends.

import { closeSync, constants, ftruncateSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { tryLock } from '../../ffi/flock.ts';
import { Failure } from './failure.ts';
import { osCode, osFailure } from './oserror.ts';

const NAME = '.lock';
/** Who looks whether a folder is held takes its lock for a moment: that is no reason to be refused. */
const PATIENCE = { ms: 300, step: 20 } as const;

/**
 * Holds `folder` until disposed. A Failure that names the holder where another process has it; `warn` is told
 * where the file system has no locks at all.
 */
export function holdFolder(folder: string, warn: (text: string) => void): Disposable {
  const path = join(folder, NAME);
  const fd = open(path);
  for (let waited = 0; !tryLock(fd); waited += PATIENCE.step) {
    if (waited < PATIENCE.ms) {
      Bun.sleepSync(PATIENCE.step);
      continue;
    }
    if (hasLocks(folder)) {
      closeSync(fd);
      throw new Failure({
        what: folder,
        why: `${holderOf(path)} is at work in this folder`,
        fix: 'Wait for its end, or choose another folder with -o',
      });
    }
    warn(`${folder}: this file system has no locks: see to it that no second run uses the folder`);
    break;
  }
  try {
    ftruncateSync(fd, 0);
    writeSync(fd, `${process.pid} ${hostname()}\n`, 0);
  } catch (error) {
    closeSync(fd);
    throw osFailure(error, path, 'write');
  }
  return {
    [Symbol.dispose]() {
      ftruncateSync(fd, 0);
      closeSync(fd);
    },
  };
}

/** Whether a process holds `folder` just now. */
export function isHeld(folder: string): boolean {
  let fd: number;
  try {
    fd = openSync(join(folder, NAME), 'r');
  } catch (error) {
    if (osCode(error) === 'ENOENT') return false;
    throw osFailure(error, folder, 'read');
  }
  try {
    return !tryLock(fd);
  } finally {
    closeSync(fd);
  }
}

function open(path: string): number {
  try {
    return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o666);
  } catch (error) {
    throw osFailure(error, path, 'write');
  }
}

/** "process 123", with its machine where it is another one, as over a network disk. */
function holderOf(path: string): string {
  const [pid, host] = readFileSync(path, 'utf8').trim().split(' ');
  if (!pid) return 'another process';
  return host === hostname() ? `process ${pid}` : `process ${pid} of ${host}`;
}

/** Some network disks grant no lock to anybody. */
function hasLocks(folder: string): boolean {
  const path = join(folder, `${NAME}.${process.pid}`);
  const fd = open(path);
  try {
    return tryLock(fd);
  } finally {
    closeSync(fd);
    rmSync(path, { force: true });
  }
}
