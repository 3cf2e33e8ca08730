// The one way to call a foreign function: arguments are checked before they reach C, because bun:ffi turns
// missing, NaN and oversized ones into other numbers in silence; a status that is not zero becomes a Failure.

import { EXIT, Failure } from '../src/io/failure.ts';

/** C types of arguments. `ptr` takes an address (0 = null) or a typed array that C uses during the call. */
export type ArgumentKind = 'ptr' | 'i32' | 'i64' | 'u64' | 'f64';
export type ReturnKind = ArgumentKind | 'void';
export type Argument = number | ArrayBufferView;

export interface Signature {
  readonly args: readonly ArgumentKind[];
  readonly returns: ReturnKind;
}

/** A function as bun:ffi gives it. */
export type Foreign = (...args: never[]) => unknown;
export type Checked = (...args: Argument[]) => number;

const I32_MAX = 2 ** 31 - 1;

/**
 * Wraps a foreign function. The result is a number: 64-bit results come back from bun:ffi as bigint and
 * must be safe integers, a null pointer comes back as 0, void as 0. Throws a Failure naming the call for a
 * wrong number of arguments, and for integers that are not safe, or not in 32 bits where the signature says
 * i32.
 */
export function checked(name: string, signature: Signature, foreign: Foreign): Checked {
  const kinds = signature.args;
  const call = foreign as unknown as (...args: Argument[]) => unknown;
  return (...args) => {
    if (args.length !== kinds.length) {
      throw refusal(name, `takes ${kinds.length} arguments, got ${args.length}`);
    }
    for (let i = 0; i < kinds.length; i++) checkArgument(name, i, kinds[i]!, args[i]);
    return resultOf(name, call(...args));
  };
}

/**
 * Throws if a status is not zero: `words` is what the library itself says about it, `fix` what the user can
 * do.
 */
export function expectZero(name: string, status: number, words: string, fix?: string, code?: number): void {
  if (status === 0) return;
  const why = words ? `${words} (status ${status})` : `status ${status}`;
  const exit = code === EXIT.missing ? EXIT.missing : EXIT.failed;
  throw new Failure(fix ? { what: name, why, fix, code: exit } : { what: name, why, code: exit });
}

function checkArgument(name: string, index: number, kind: ArgumentKind, value: Argument | undefined): void {
  if (typeof value === 'number') {
    if (kind === 'f64') return;
    if (!Number.isSafeInteger(value)) {
      throw refusal(name, `argument ${index + 1} (${kind}) is ${value}, not a safe integer`);
    }
    if (kind === 'i32' && (value > I32_MAX || value < -I32_MAX - 1)) {
      throw refusal(name, `argument ${index + 1} (i32) is ${value}, outside 32 bits`);
    }
    if ((kind === 'ptr' || kind === 'u64') && value < 0) {
      throw refusal(name, `argument ${index + 1} (${kind}) is negative: ${value}`);
    }
    return;
  }
  if (kind === 'ptr' && ArrayBuffer.isView(value)) return;
  throw refusal(name, `argument ${index + 1} (${kind}) is ${value === undefined ? 'missing' : typeof value}`);
}

function resultOf(name: string, result: unknown): number {
  if (typeof result === 'number') return result;
  if (typeof result === 'bigint') {
    const value = Number(result);
    if (!Number.isSafeInteger(value)) throw refusal(name, `returned ${result}, more than 53 bits`);
    return value;
  }
  return 0;
}

function refusal(name: string, why: string): Failure {
  return new Failure({ what: name, why, fix: 'This is a fault of microdiff: please report it' });
}
