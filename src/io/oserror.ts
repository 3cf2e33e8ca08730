// What the operating system's error codes mean to a user: the cause in plain words and what to do about it.

import { Failure } from './failure.ts';

const MEANING: Record<string, { why: string; fix: string }> = {
  ENOSPC: { why: 'the disk is full', fix: 'Free space there or choose another folder' },
  EDQUOT: { why: 'the disk quota is used up', fix: 'Free space there or choose another folder' },
  EFBIG: { why: 'the file grew past the size allowed', fix: 'Raise `ulimit -f` or choose another disk' },
  EACCES: { why: 'permission denied', fix: 'Change its permissions or choose another path' },
  EPERM: { why: 'operation not permitted', fix: 'Change its permissions or choose another path' },
  EROFS: { why: 'the file system is read-only', fix: 'Choose another folder' },
  ENOENT: { why: 'no such file or folder', fix: 'Check the path' },
  ENOTDIR: {
    why: 'a part of the path is a file, not a folder',
    fix: 'Remove that file or choose another path',
  },
  EISDIR: { why: 'this is a folder, not a file', fix: 'Name a file' },
  EEXIST: { why: 'it exists already', fix: 'Remove it or choose another path' },
  ENAMETOOLONG: { why: 'the name is too long', fix: 'Choose a shorter one' },
  ELOOP: { why: 'its symbolic links go in a circle', fix: 'Mend the links' },
  EMFILE: { why: 'too many files are open', fix: 'Raise `ulimit -n`' },
  ENFILE: { why: 'too many files are open on this machine', fix: 'Close other programs' },
  EIO: { why: 'the disk reports an input/output error', fix: 'Check the disk' },
  EBUSY: { why: 'it is in use', fix: 'Close what uses it' },
};

/**
 * The code (`ENOSPC`, ...) of an error thrown by a file call, or undefined if it is another kind of error.
 */
export function osCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' && /^E[A-Z0-9]+$/.test(error.code) ? error.code : undefined;
}

/**
 * Turns a file error into a Failure `PATH: cannot ACTION: why. fix`; errors of other kinds come back
 * unchanged.
 */
export function osFailure(error: unknown, path: string, action: string): unknown {
  const code = osCode(error);
  if (code === undefined) return error;
  const meaning = MEANING[code] ?? { why: code, fix: 'Check the path' };
  return new Failure({ what: path, why: `cannot ${action}: ${meaning.why}`, fix: meaning.fix });
}
