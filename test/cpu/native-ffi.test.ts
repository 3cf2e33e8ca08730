// The foreign function layer: what bun:ffi gets wrong in silence and how ffi/ refuses or avoids it.

import { expect, test } from 'bun:test';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checked, expectZero } from '../../ffi/call.ts';
import { openLibrary } from '../../ffi/library.ts';
import { Pinned } from '../../ffi/memory.ts';
import { Native, openNative } from '../../ffi/native.ts';
import { EXIT, Failure } from '../../src/io/failure.ts';

const native = await openNative();
native.init(2);

function failure(action: () => unknown): Failure {
  try {
    action();
  } catch (error) {
    if (error instanceof Failure) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const library = openLibrary({
  name: 'test',
  candidates: ['/nowhere/at/all.so', native.path],
  required: {
    md_copy: { args: ['ptr', 'ptr', 'i64'], returns: 'void' },
    md_fill: { args: ['ptr', 'i32', 'i64'], returns: 'void' },
    md_alloc: { args: ['i64'], returns: 'ptr' },
    md_kernel_slots: { args: ['i64'], returns: 'i64' },
  },
  optional: {
    md_threads: { args: [], returns: 'i32' },
    md_of_a_later_release: { args: [], returns: 'i32' },
  },
  fix: 'Do something',
});

test('the first candidate that opens is taken; optional symbols may lack', () => {
  expect(library.path).toBe(native.path);
  expect(library.optional.md_threads?.()).toBe(2);
  expect(library.optional.md_of_a_later_release).toBeUndefined();
});

test('the address of a view over an explicit ArrayBuffer stays right when the caller is hot', () => {
  // With ptr(new Uint8Array(8)) this goes wrong in most rounds: the engine moves the storage of small arrays.
  const source = new Pinned(8);
  const target = new Pinned(8);
  const words = [new Float64Array(source.buffer), new Float64Array(target.buffer)] as const;
  const round = (i: number) => {
    words[0][0] = i;
    library.calls.md_copy(target.address, source.address, 8);
    return words[1][0];
  };
  let wrong = 0;
  for (let i = 0; i < 100_000; i++) if (round(i) !== i) wrong++;
  expect(wrong).toBe(0);
});

test('an array given to a call is used in place', () => {
  const bytes = new Uint8Array(new ArrayBuffer(16));
  for (let i = 0; i < 50_000; i++) {
    library.calls.md_fill(bytes, i & 255, 16);
    if (bytes[7] !== (i & 255)) throw new Error(`round ${i}`);
  }
});

test('wrong arguments are refused by call and position', () => {
  const { md_copy, md_fill, md_alloc, md_kernel_slots } = library.calls;
  expect(failure(() => md_copy(1, 2)).message).toContain('md_copy: takes 3 arguments, got 2');
  expect(failure(() => md_copy(1, 2, 3, 4)).message).toContain('takes 3 arguments, got 4');
  expect(failure(() => md_alloc(Number.NaN)).message).toContain('md_alloc: argument 1 (i64) is NaN');
  expect(failure(() => md_alloc(2 ** 53)).message).toContain('not a safe integer');
  expect(failure(() => md_alloc(1.5)).message).toContain('is 1.5');
  expect(failure(() => md_fill(0, 2 ** 31, 0)).message).toContain(
    'argument 2 (i32) is 2147483648, outside 32 bits',
  );
  expect(failure(() => md_fill(-1, 0, 0)).message).toContain('argument 1 (ptr) is negative');
  const view = new Uint8Array(8);
  expect(failure(() => md_kernel_slots(view)).message).toContain('argument 1 (i64) is object');
  const absent: number[] = [];
  expect(failure(() => md_alloc(absent[0]!)).message).toContain('is missing');
});

test('results are numbers, null is 0, and more than 53 bits is refused', () => {
  expect(library.calls.md_kernel_slots(0)).toBe(19);
  expect(library.calls.md_alloc(0)).toBe(0);
  const wide = checked('wide', { args: [], returns: 'u64' }, () => 2n ** 60n);
  expect(failure(() => wide()).message).toContain('wide: returned 1152921504606846976');
});

test('a status becomes a Failure with call, words and remedy', () => {
  expectZero('call', 0, '');
  const error = failure(() => expectZero('cuInit', 100, 'no device', 'Install a driver', EXIT.missing));
  expect(error.message).toBe('cuInit: no device (status 100). Install a driver');
  expect(error.code).toBe(EXIT.missing);
});

test("a library that does not load: code 3, every candidate, the loader's words, the remedy", () => {
  const folder = mkdtempSync(join(tmpdir(), 'microdiff-'));
  const broken = join(folder, 'broken.so');
  writeFileSync(broken, 'not a library');
  const request = {
    name: 'libx',
    candidates: ['/nowhere/libx.so', broken],
    required: {},
    fix: 'Install libx',
  };
  const reason = (path: string) => native.dlopenReason(path);
  const error = failure(() =>
    openLibrary({ ...request, required: { f: { args: [], returns: 'i32' } }, reason }),
  );
  expect(error.code).toBe(EXIT.missing);
  expect(error.message).toContain('cannot load libx: /nowhere/libx.so: cannot open shared object file');
  expect(error.message).toContain('broken.so: file too short');
  expect(error.message).toEndWith('Install libx');
  expect(failure(() => new Native(broken)).message).toContain('TMPDIR');
  rmSync(folder, { recursive: true });
});

test('dlopenReason is empty for a library that opens', () => {
  expect(native.dlopenReason(native.path)).toBe('');
});
