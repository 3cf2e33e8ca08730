// Files and folders that appear complete or not at all: written beside, fsynced, renamed, parent fsynced.
// A kill at any moment leaves the old one, the new one, or both, and a temporary that `cleanLeftovers`
// removes.

import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { bytesOf } from './dtype.ts';
import { Failure } from './failure.ts';
import { osCode, osFailure } from './oserror.ts';

/** A temporary older than this is nobody's any more, even if its number is that of a living process. */
const STALE_MS = 3_600_000;

/** Ends the name of a folder that is being replaced; nobody's own files are called so. */
const ASIDE = '.replaced-by-microdiff';

/** The temporaries that this process is writing just now. */
const inProgress = new Set<string>();

/** Largest single write: the kernel takes at most 2 GiB - 4 KiB in one call. */
const WRITE_BYTES = 64 * 2 ** 20;

/** Where the writer of an atomic file puts its bytes, in order. */
export interface Sink {
  /** Bytes written so far. */
  readonly bytes: number;
  write(view: ArrayBufferView | string): void;
}

/**
 * Writes the file `path` through `write`; it exists under its name only when every byte is on the disk.
 * An existing file is replaced. Failure (full disk, no permission, ...) names the path, removes the temporary
 * and leaves the old file as it was.
 */
export function writeFileAtomically(path: string, write: (sink: Sink) => void): void {
  const whole = (sink: Sink) => {
    write(sink);
    return [];
  };
  for (const _ of writeFileInSteps(path, whole));
}

/**
 * The same in steps, between which the caller may look up; who leaves them unfinished leaves nothing
 * behind.
 */
export function* writeFileInSteps(path: string, write: (sink: Sink) => Iterable<void>): Generator<void> {
  const temporary = partName(path);
  let fd: number | undefined;
  let there = false;
  try {
    fd = openSync(temporary, 'wx', 0o666);
    yield* write(new FileSink(fd));
    fsyncSync(fd);
    const done = fd;
    fd = undefined;
    closeSync(done);
    renameSync(temporary, path);
    there = true;
    syncFolder(dirname(path));
  } catch (error) {
    throw osFailure(error, path, 'write');
  } finally {
    if (fd !== undefined) closeSync(fd);
    if (!there) discard(temporary);
    inProgress.delete(temporary);
  }
}

/** `writeFileAtomically` for a file that is at hand as one text or array. */
export function writeWholeFile(path: string, content: ArrayBufferView | string): void {
  writeFileAtomically(path, (sink) => sink.write(content));
}

/**
 * Fills the folder `path` through `fill(temporary folder)`, fsyncs every file in it and renames it into
 * place. An existing folder of that name is replaced; between the two renames the old one lies beside under a
 * name that
 * `cleanLeftovers` brings back if the program dies just there.
 */
export function writeFolderAtomically(path: string, fill: (folder: string) => void): void {
  const temporary = partName(path);
  const old = join(dirname(path), `.${basename(path)}${ASIDE}`);
  try {
    makeFolder(dirname(path));
    mkdirSync(temporary);
    fill(temporary);
    syncTree(temporary);
    if (existsSync(path)) {
      rmSync(old, { recursive: true, force: true });
      renameSync(path, old);
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
    rmSync(old, { recursive: true, force: true });
  } catch (error) {
    discard(temporary);
    if (!existsSync(path) && existsSync(old)) renameSync(old, path);
    // A Failure from inside names a file in the temporary folder, which is gone by now: name it as it was to
    // be.
    if (error instanceof Failure) error.message = error.message.replaceAll(temporary, path);
    throw osFailure(error, path, 'write');
  } finally {
    inProgress.delete(temporary);
  }
}

/** Makes a folder and its parents; a file in its place or a folder that cannot be made is a Failure. */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    // A file of that name gives EEXIST, which would read as if the folder were there.
    if (osCode(error) === 'EEXIST') {
      throw new Failure({
        what: path,
        why: 'a file of this name is in the way',
        fix: 'Remove it or choose another',
      });
    }
    throw osFailure(error, path, 'make this folder');
  }
}

/**
 * Removes the temporaries that dead programs left in `folder` (not in its subfolders) and puts back a folder
 * that was moved aside for one that never came. Returns the names it removed or put back.
 */
export function cleanLeftovers(folder: string): string[] {
  const touched: string[] = [];
  try {
    for (const name of readdirSync(folder)) {
      const part = /^\..+\.(\d+)-[0-9a-z]+\.part$/.exec(name);
      const old = name.startsWith('.') && name.endsWith(ASIDE) ? name.slice(1, -ASIDE.length) : '';
      if (part && isAbandoned(join(folder, name), Number(part[1]))) {
        rmSync(join(folder, name), { recursive: true, force: true });
        touched.push(name);
      } else if (old) {
        const home = join(folder, old);
        if (existsSync(home)) rmSync(join(folder, name), { recursive: true, force: true });
        else renameSync(join(folder, name), home);
        touched.push(name);
      }
    }
  } catch (error) {
    throw osFailure(error, folder, 'clean up');
  }
  return touched;
}

/** Writes `folder/latest`, the one-line file that names the newest checkpoint. */
export function writeLatest(folder: string, name: string): void {
  writeWholeFile(join(folder, 'latest'), `${name}\n`);
}

/** The name in `folder/latest`, or undefined if there is no such file or it is not a plain name. */
export function readLatest(folder: string): string | undefined {
  const path = join(folder, 'latest');
  try {
    const name = readFileSync(path, 'utf8').trim();
    return name && name === basename(name) && name !== '..' ? name : undefined;
  } catch (error) {
    if (osCode(error) === 'ENOENT') return undefined;
    throw osFailure(error, path, 'read');
  }
}

/** Bytes that this user may still write on the disk of `path` (the nearest folder above it that exists). */
export function freeBytes(path: string): number {
  let folder = resolve(path);
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder);
  try {
    const disk = statfsSync(folder);
    return disk.bavail * disk.bsize;
  } catch (error) {
    throw osFailure(error, folder, 'ask for free space');
  }
}

/**
 * Failure unless `bytes` fit on the disk of `path`; `purpose` says what they are for, as in "a checkpoint".
 */
export function requireFreeBytes(path: string, bytes: number, purpose: string): void {
  const free = freeBytes(path);
  if (free >= bytes) return;
  throw new Failure({
    what: path,
    why: `${purpose} needs ${megabytes(bytes)} MB and the disk has ${megabytes(free)} MB left`,
    fix: 'Free space there or choose another folder',
  });
}

class FileSink implements Sink {
  bytes = 0;

  constructor(private readonly fd: number) {}

  write(view: ArrayBufferView | string): void {
    const bytes = typeof view === 'string' ? new TextEncoder().encode(view) : bytesOf(view);
    for (let at = 0; at < bytes.length; ) {
      const wrote = writeSync(this.fd, bytes, at, Math.min(WRITE_BYTES, bytes.length - at));
      at += wrote;
      this.bytes += wrote;
    }
  }
}

/** A name beside `path`, hidden, that tells whose temporary it is. */
function partName(path: string): string {
  const unique = Math.random().toString(36).slice(2, 10) || '0';
  // Cut, so that a long name that is allowed does not become one that is not.
  const stem = basename(path).slice(0, 50);
  const name = join(dirname(path), `.${stem}.${process.pid}-${unique}.part`);
  inProgress.add(name);
  return name;
}

/** Removes a temporary on the way out of a failure, whose own reason is the one to be told. */
function discard(temporary: string): void {
  try {
    rmSync(temporary, { recursive: true, force: true });
  } catch (error) {
    if (osCode(error) === undefined) throw error;
  }
}

function syncTree(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) syncTree(path);
    else if (entry.isFile()) syncPath(path);
  }
  syncFolder(folder);
}

function syncFolder(folder: string): void {
  try {
    syncPath(folder);
  } catch (error) {
    // Some network file systems cannot fsync a folder; the file itself is on the disk by then.
    const code = osCode(error);
    if (code !== 'EINVAL' && code !== 'ENOTSUP' && code !== 'EACCES') throw error;
  }
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** True unless a living process may still be writing the temporary `path`, which carries its number `pid`. */
function isAbandoned(path: string, pid: number): boolean {
  // In a container the next run often gets the number of the last one, so our own number says nothing.
  if (pid === process.pid) return !inProgress.has(path);
  const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0);
  return age > STALE_MS || !isAlive(pid);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return osCode(error) === 'EPERM';
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
}
