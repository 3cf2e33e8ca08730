// The file of a shard, opened: plain ones read at positions (or mapped), compressed ones unpacked, hashes
// compared when asked for.

import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../failure.ts';
import { osCode, osFailure } from '../oserror.ts';
import { Source } from '../source.ts';
import { compressionOf } from './compression.ts';
import { hashOf } from './hashes.ts';
import type { MdsFile, MdsIndex, MdsShardInfo } from './index.ts';
import { MdsShard } from './shard.ts';

export interface MdsOpenOptions {
  /**
   * Compares the hashes of the index: of the file that is read, and of what is unpacked from it. An index
   * that has none for the file, or none that is known here, is a Failure.
   */
  readonly hashes?: boolean;
  /**
   * Maps plain shards into memory where the file may be written to (Bun asks for that), so that columns are
   * views of the page cache. A mapped file that is cut off meanwhile ends the program (SIGBUS).
   */
  readonly map?: boolean;
}

/**
 * Opens a shard of a set. A plain file beside a compressed one, as the format's own library leaves it, is
 * taken.
 */
export function openShard(
  { folder }: Pick<MdsIndex, 'folder'>,
  info: MdsShardInfo,
  options: MdsOpenOptions = {},
): MdsShard {
  const { raw, zip } = info;
  const path = join(folder, raw.basename);
  if (zip && !isThere(path, raw)) return openZip(join(folder, zip.basename), zip, info, options);
  checkSize(path, raw);
  const source = options.map || options.hashes ? mapped(path) : Source.open(path);
  if (options.hashes && source instanceof Uint8Array) checkHashes(path, source, raw);
  return MdsShard.open(source, info, path);
}

function openZip(path: string, zip: MdsFile, info: MdsShardInfo, options: MdsOpenOptions): MdsShard {
  const bytes = wholeShardFile(path, zip);
  if (options.hashes) checkHashes(path, bytes, zip);
  const raw = unpackShard(bytes, info, path);
  if (options.hashes && Object.keys(info.raw.hashes).length > 0) checkHashes(path, raw, info.raw);
  return MdsShard.open(raw, info, path);
}

/** The shard in a compressed file; never more than the bytes that the index says. */
export function unpackShard(bytes: Uint8Array, info: MdsShardInfo, path: string): Uint8Array {
  const compression = compressionOf(info.compression ?? '');
  if ('refused' in compression) throw new Failure({ what: path, why: compression.refused });
  try {
    return compression.decompress(bytes, info.raw.bytes);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const why = `cannot be unpacked (${compression.extension}): ${reason}`;
    throw new Failure({ what: path, why, fix: 'Copy or download this shard again' });
  }
}

/** Failure unless every hash that the index has is that of the bytes. */
export function checkHashes(path: string, bytes: Uint8Array, file: MdsFile): void {
  const fix = 'Copy or download this shard again';
  const wanted = Object.entries(file.hashes);
  if (wanted.length === 0) {
    const why = 'hashes were to be checked and the index has none for it';
    throw new Failure({ what: path, why, fix: 'Leave the check out' });
  }
  let checked = 0;
  for (const [name, hash] of wanted) {
    const own = hashOf(name, bytes);
    if (own === null) continue;
    checked += 1;
    if (own !== hash.toLowerCase()) {
      throw new Failure({ what: path, why: `damaged: its ${name} is ${own}, the index says ${hash}`, fix });
    }
  }
  if (checked > 0) return;
  const names = wanted.map(([name]) => name).join(', ');
  throw new Failure({
    what: path,
    why: `its hashes (${names}) cannot be computed here`,
    fix: 'Leave the check out',
  });
}

function isThere(path: string, file: MdsFile): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat?.isFile() === true && stat.size === file.bytes;
}

/** All of a file of a shard, which must be as long as the index says. */
export function wholeShardFile(path: string, file: MdsFile): Uint8Array {
  checkSize(path, file);
  return contentOf(path);
}

/** Before it is opened: a pipe in place of a shard would be waited for, a wrong size needs no reading. */
function checkSize(path: string, file: MdsFile): void {
  let found: { size: number; isFile(): boolean };
  try {
    found = statSync(path);
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  const fix = 'Copy or download this shard again';
  if (!found.isFile()) throw new Failure({ what: path, why: 'is not a regular file', fix });
  if (found.size !== file.bytes) {
    throw new Failure({ what: path, why: `has ${found.size} bytes where the index says ${file.bytes}`, fix });
  }
}

function mapped(path: string): Uint8Array {
  try {
    return Bun.mmap(path);
  } catch (error) {
    if (osCode(error) === 'EACCES' || osCode(error) === 'EROFS' || osCode(error) === 'EPERM')
      return contentOf(path);
    throw osFailure(error, path, 'read');
  }
}

function contentOf(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}
