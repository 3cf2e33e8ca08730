// The cache of Hugging Face hubs, laid out as huggingface_hub lays it out, so that both use the same files:
// models--ORG--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/PATH -> ../../blobs/ETAG}, locks in .locks.

import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { makeFolder, writeWholeFile } from '../atomic.ts';
import { osCode, osFailure } from '../oserror.ts';

const COMMIT = /^[0-9a-f]{40}$/;
/** Ours alone: huggingface_hub takes the length of `ETAG.incomplete` for what is done, and ours has holes. */
const PARTIAL = '.microdiff.incomplete';

export interface CachedFile {
  /** snapshots/COMMIT/PATH. */
  readonly path: string;
  readonly commit: string;
  readonly bytes: number;
  /** Name of its blob: the hub's etag. Undefined where the file lies in the snapshot itself. */
  readonly etag: string | undefined;
}

/** The folder of one repository in the cache. */
export class CachedRepository {
  readonly folder: string;

  constructor(
    private readonly cache: string,
    readonly repository: string,
  ) {
    this.folder = join(cache, `models--${repository.replaceAll('/', '--')}`);
  }

  /** A file of a revision (a commit, or a name that refs/ knows), if it is here. */
  find(revision: string, path: string): CachedFile | undefined {
    const commit = COMMIT.test(revision) ? revision : this.#commitOf(revision);
    if (commit === undefined) return undefined;
    const file = join(this.folder, 'snapshots', commit, path);
    const stat = statSync(file, { throwIfNoEntry: false });
    if (!stat?.isFile()) return undefined;
    const etag = lstatSync(file).isSymbolicLink() ? basename(realpathSync(file)) : undefined;
    return { path: file, commit, bytes: stat.size, etag };
  }

  /** The snapshots of a file, newest or not. */
  all(path: string): CachedFile[] {
    return names(join(this.folder, 'snapshots')).flatMap((commit) => this.find(commit, path) ?? []);
  }

  blob(etag: string): string {
    return join(this.folder, 'blobs', etag);
  }

  partial(etag: string): string {
    return `${this.blob(etag)}${PARTIAL}`;
  }

  /** Where huggingface_hub locks the blob while it is on its way. */
  lock(etag: string): string {
    return join(this.cache, '.locks', basename(this.folder), `${etag}.lock`);
  }

  /** Links a blob into a snapshot and returns the link's path; `revision` is noted when it is a name. */
  link(etag: string, commit: string, path: string, revision: string): string {
    const link = join(this.folder, 'snapshots', commit, path);
    const blob = this.blob(etag);
    makeFolder(dirname(link));
    try {
      const temporary = `${link}.${process.pid}.link`;
      rmSync(temporary, { force: true });
      try {
        symlinkSync(relative(dirname(link), blob), temporary);
        renameSync(temporary, link);
      } catch (error) {
        // File systems without links: the file itself goes there, as with huggingface_hub.
        if (osCode(error) !== 'EPERM' && osCode(error) !== 'ENOTSUP' && osCode(error) !== 'EOPNOTSUPP')
          throw error;
        renameSync(blob, link);
      }
    } catch (error) {
      throw osFailure(error, link, 'write');
    }
    if (revision !== commit) {
      const ref = join(this.folder, 'refs', revision);
      makeFolder(dirname(ref));
      writeWholeFile(ref, commit);
    }
    return link;
  }

  /** Unfinished downloads of this program. */
  partials(): string[] {
    return names(join(this.folder, 'blobs'))
      .filter((name) => name.endsWith(PARTIAL))
      .map((name) => name.slice(0, -PARTIAL.length));
  }

  /**
   * Removes a file from every snapshot, the blobs that nothing links to any more, and what is empty then.
   * Returns the bytes that it freed.
   */
  remove(path: string): number {
    try {
      return this.#remove(path);
    } catch (error) {
      throw osFailure(error, this.folder, 'remove files');
    }
  }

  #remove(path: string): number {
    let freed = 0;
    const blobs = new Set<string>();
    for (const { path: file, etag, bytes } of this.all(path)) {
      if (etag === undefined) freed += bytes;
      else blobs.add(etag);
      rmSync(file);
      removeEmpty(dirname(file), this.folder);
    }
    const linked = new Set(links(join(this.folder, 'snapshots')));
    for (const etag of blobs) {
      if (linked.has(etag)) continue;
      freed += sizeOf(this.blob(etag));
      rmSync(this.blob(etag), { force: true });
    }
    return freed;
  }

  /** Removes the repository's folder if no snapshot and no blob is left in it. */
  removeIfEmpty(): void {
    const left = [...names(join(this.folder, 'snapshots')), ...names(join(this.folder, 'blobs'))];
    if (left.length > 0) return;
    rmSync(this.folder, { recursive: true, force: true });
  }

  #commitOf(revision: string): string | undefined {
    try {
      const commit = readFileSync(join(this.folder, 'refs', revision), 'utf8').trim();
      return COMMIT.test(commit) ? commit : undefined;
    } catch (error) {
      if (osCode(error) === 'ENOENT' || osCode(error) === 'ENOTDIR') return undefined;
      throw osFailure(error, join(this.folder, 'refs', revision), 'read');
    }
  }
}

/** The size of a file on the disk; 0 when it is not there. Holes of an unfinished download take none. */
export function sizeOf(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat ? Math.min(stat.size, stat.blocks * 512 || stat.size) : 0;
}

function names(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}

/** Names of the blobs that the links below a folder point to. */
function links(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isSymbolicLink())
    .map((entry) => basename(readlinkSync(join(entry.parentPath, entry.name))));
}

function removeEmpty(folder: string, root: string): void {
  for (let at = folder; at !== root && names(at).length === 0; at = dirname(at)) rmdirSync(at);
}
