// File locks of the kernel (flock): gone with the process that holds them, however it ends.

import { readFileSync } from 'node:fs';
import type { Checked } from './call.ts';
import { openLibrary } from './library.ts';

const LOCK_EX_NB = 2 | 4;

let flock: Checked | undefined;

/** Takes the exclusive lock of an open file if nobody has it; closing the file gives it back. */
export function tryLock(fd: number): boolean {
  flock ??= openLibrary({
    name: 'the C library',
    candidates: [...loaded(), '/lib64/libc.so.6', '/usr/lib/libc.so.6'],
    required: { flock: { args: ['i32', 'i32'], returns: 'i32' } },
    fix: 'Use a system with glibc',
  }).calls.flock;
  return flock(fd, LOCK_EX_NB) === 0;
}

/** The C library that this very process runs on. */
function loaded(): string[] {
  const maps = readFileSync('/proc/self/maps', 'utf8');
  return [...new Set(maps.match(/\/\S*\/libc[.-]\S*so\S*/g))];
}
