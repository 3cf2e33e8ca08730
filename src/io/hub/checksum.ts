// Checksums of files, read piece by piece, the event loop let in between.

import { closeSync, openSync, readSync } from 'node:fs';
import { osFailure } from '../oserror.ts';

const PIECE = 8 * 2 ** 20;

export interface Checksums {
  readonly bytes: number;
  readonly sha256: string;
  /** SHA-1 as git has it for a blob: the hub's etag of a small file. */
  readonly git: string;
}

/** Reads a file of `bytes` bytes whole; one of another length gives sums that match nothing. */
export async function checksums(
  path: string,
  bytes: number,
  onBytes: (done: number) => void = () => {},
): Promise<Checksums> {
  const sha256 = new Bun.CryptoHasher('sha256');
  const git = new Bun.CryptoHasher('sha1').update(`blob ${bytes}\0`);
  const piece = new Uint8Array(PIECE);
  let done = 0;
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    for (;;) {
      const got = readSync(fd, piece, 0, PIECE, done);
      if (got === 0) break;
      const part = piece.subarray(0, got);
      sha256.update(part);
      git.update(part);
      done += got;
      onBytes(done);
      await Bun.sleep(0);
    }
  } catch (error) {
    throw osFailure(error, path, 'read');
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
  return { bytes: done, sha256: sha256.digest('hex'), git: git.digest('hex') };
}
