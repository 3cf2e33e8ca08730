// Opens a shared library from a list of candidates; every function in it comes back checked (call.ts).

import { dlopen } from 'bun:ffi';
import { EXIT, Failure } from '../src/io/failure.ts';
import { type Checked, checked, type Signature } from './call.ts';

export type Symbols = Readonly<Record<string, Signature>>;

export interface Library<Required extends Symbols, Optional extends Symbols = Record<never, never>> {
  readonly path: string;
  readonly calls: { readonly [Name in keyof Required]: Checked };
  /** Functions that some releases lack. */
  readonly optional: { readonly [Name in keyof Optional]?: Checked };
}

export interface LibraryRequest<Required extends Symbols, Optional extends Symbols> {
  /** What it is called in messages. */
  readonly name: string;
  /** Absolute paths, best first: for a bare name bun:ffi would also load a file of the current folder. */
  readonly candidates: readonly string[];
  readonly required: Required;
  readonly optional?: Optional;
  /** The loader's own words about a path, where the native library can be asked: bun:ffi says less. */
  readonly reason?: (path: string) => string;
  /** What the user can do if none opens. */
  readonly fix: string;
}

/** Opens the first candidate that loads. Throws a Failure (code 3) with every candidate's reason. */
export function openLibrary<Required extends Symbols, Optional extends Symbols = Record<never, never>>(
  request: LibraryRequest<Required, Optional>,
): Library<Required, Optional> {
  const reasons: string[] = [];
  for (const path of request.candidates) {
    const opened = tryOpen(path, request.required);
    if (typeof opened === 'string') {
      reasons.push(request.reason?.(path) || opened);
      continue;
    }
    const calls: Record<string, Checked> = {};
    for (const [name, signature] of Object.entries(request.required)) {
      calls[name] = checked(name, signature, opened[name]!);
    }
    const optional: Record<string, Checked> = {};
    for (const [name, signature] of Object.entries(request.optional ?? {})) {
      const single = tryOpen(path, { [name]: signature });
      if (typeof single !== 'string') optional[name] = checked(name, signature, single[name]!);
    }
    return { path, calls, optional } as Library<Required, Optional>;
  }
  const why = reasons.length > 0 ? reasons.join('; ') : 'no place to look for it is known';
  throw new Failure({ what: `cannot load ${request.name}`, why, fix: request.fix, code: EXIT.missing });
}

/** The functions of a library, or the reason why it does not open. */
function tryOpen(path: string, symbols: Symbols): Record<string, (...args: never[]) => unknown> | string {
  try {
    const declared: Record<string, { args: string[]; returns: string }> = {};
    for (const [name, { args, returns }] of Object.entries(symbols)) {
      declared[name] = { args: [...args], returns };
    }
    return dlopen(path, declared as Parameters<typeof dlopen>[1]).symbols;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
