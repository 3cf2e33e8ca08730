// Takes pulled files, and what unfinished downloads left, out of the caches.

import { existsSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { makeFolder } from '../atomic.ts';
import { Failure } from '../failure.ts';
import { CachedRepository, sizeOf } from './cache.ts';
import type { HubSettings } from './settings.ts';
import type { RemoteFile } from '../hub.ts';
import { lockNow } from './lock.ts';
import { osFailure } from '../oserror.ts';

/**
 * Removes the files from every snapshot, with the unfinished downloads of their repositories (which of the
 * files those belong to is not known; they only cost time). Returns the bytes freed, or undefined if there
 * was nothing. A download that another process is making just now is a Failure, before anything is removed.
 */
export function removePulled(files: readonly RemoteFile[], settings: HubSettings): number | undefined {
  let freed: number | undefined;
  for (const file of files) {
    const got = file.repository === undefined ? removePlain(file, settings) : removeCached(file, settings);
    if (got !== undefined) freed = (freed ?? 0) + got;
  }
  return freed;
}

function removeCached(file: RemoteFile, settings: HubSettings): number | undefined {
  const repository = new CachedRepository(settings.cache, file.repository!);
  const partials = repository.partials();
  const isHere = repository.all(file.path).length > 0;
  if (!isHere && partials.length === 0) return undefined;
  let freed = 0;
  for (const etag of partials) freed += removeLocked(repository.partial(etag), repository.lock(etag), file);
  freed += repository.remove(file.path);
  repository.removeIfEmpty();
  return freed;
}

function removePlain(file: RemoteFile, settings: HubSettings): number | undefined {
  const done = join(settings.torch, basename(file.path));
  const lock = join(settings.torch, `.${basename(file.path)}.lock`);
  const there = [done, `${done}.microdiff.incomplete`].filter((path) => existsSync(path));
  if (there.length === 0) return undefined;
  const freed = there.reduce((sum, path) => sum + removeLocked(path, lock, file), 0);
  rmSync(lock, { force: true });
  return freed;
}

function removeLocked(path: string, lockPath: string, file: RemoteFile): number {
  makeFolder(dirname(lockPath));
  const lock = lockNow(lockPath);
  if (!lock) {
    throw new Failure({
      what: file.name,
      why: 'another process is downloading it',
      fix: 'Wait for it, or stop it',
    });
  }
  try {
    const bytes = sizeOf(path);
    rmSync(path, { force: true });
    return bytes;
  } catch (error) {
    throw osFailure(error, path, 'remove this file');
  } finally {
    lock.release();
  }
}
