// Opens a shared library from a list of candidates; every function in it comes back checked (call.ts).

import { dlopen } from 'bun:ffi';
import { existsSync } from 'node:fs';
import { EXIT, Failure } from '../src/io/failure.ts';
import { type Checked, checked, type Foreign, type Signature } from './call.ts';

export type Symbols = Readonly<Record<string, Signature>>;

/** Up to so many candidates, an error lists each. */
const FEW = 3;

/** A path that was tried in vain, and why it did not open. */
export interface Tried {
  readonly path: string;
  readonly reason: string;
}

export interface Library<Required extends Symbols, Optional extends Symbols = Record<never, never>> {
  readonly path: string;
  readonly calls: { readonly [Name in keyof Required]: Checked };
  /** Functions that some releases lack. */
  readonly optional: { readonly [Name in keyof Optional]?: Checked };
  /** Addresses of the functions, for those that our native library calls on our behalf. */
  readonly addresses: { readonly [Name in keyof Required]: number };
  /** Better candidates that did not open. */
  readonly tried: readonly Tried[];
}

export interface LibraryRequest<Required extends Symbols, Optional extends Symbols> {
  /** What it is called in messages. */
  readonly name: string;
  /** Absolute paths, best first: for a bare name bun:ffi would also load a file of the current folder. */
  readonly candidates: readonly string[];
  readonly required: Required;
  readonly optional?: Optional;
  /** The loader's own words about a path, where the native library can be asked: bun:ffi says less. */
  readonly reason?: ((path: string) => string) | undefined;
  /** What the user can do if none opens. */
  readonly fix: string;
}

/** No candidate opened; `tried` holds every one of them. */
export class LibraryMissing extends Failure {
  constructor(
    name: string,
    readonly tried: readonly Tried[],
    fix: string,
  ) {
    super({ what: `cannot load ${name}`, why: reasonsIn(tried), fix, code: EXIT.missing });
  }
}

/** Opens the first candidate that loads. Throws a LibraryMissing (code 3) with every candidate's reason. */
export function openLibrary<Required extends Symbols, Optional extends Symbols = Record<never, never>>(
  request: LibraryRequest<Required, Optional>,
): Library<Required, Optional> {
  const tried: Tried[] = [];
  for (const path of request.candidates) {
    const opened = tryOpen(path, request.required);
    if (typeof opened === 'string') {
      tried.push({ path, reason: request.reason?.(path) || opened });
      continue;
    }
    const calls: Record<string, Checked> = {};
    const addresses: Record<string, number> = {};
    for (const [name, signature] of Object.entries(request.required)) {
      calls[name] = checked(name, signature, opened[name]!);
      addresses[name] = opened[name]!.ptr;
    }
    const optional: Record<string, Checked> = {};
    for (const [name, signature] of Object.entries(request.optional ?? {})) {
      const single = tryOpen(path, { [name]: signature });
      if (typeof single !== 'string') optional[name] = checked(name, signature, single[name]!);
    }
    return { path, calls, optional, addresses, tried } as Library<Required, Optional>;
  }
  throw new LibraryMissing(request.name, tried, request.fix);
}

/**
 * One sentence for all: files that are there with their reasons; places without such a file are counted when
 * they are many.
 */
function reasonsIn(tried: readonly Tried[]): string {
  if (tried.length === 0) return 'no place to look for it is known';
  const present = tried.filter(({ path }) => existsSync(path));
  if (tried.length <= FEW) return tried.map(({ reason }) => reason).join('; ');
  const absent = tried.length - present.length;
  const counted = `${absent} places without it, ${tried.find(({ path }) => !existsSync(path))?.path} first`;
  return [...present.map(({ reason }) => reason), ...(absent > 0 ? [counted] : [])].join('; ');
}

type Opened = Readonly<Record<string, Foreign & { readonly ptr: number }>>;

/** The functions of a library, or the reason why it does not open. */
function tryOpen(path: string, symbols: Symbols): Opened | string {
  try {
    const declared: Record<string, { args: string[]; returns: string }> = {};
    for (const [name, { args, returns }] of Object.entries(symbols)) {
      declared[name] = { args: [...args], returns };
    }
    return dlopen(path, declared as Parameters<typeof dlopen>[1]).symbols as unknown as Opened;
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    return words.replace(/^Failed to open library "[^"]*": /, '');
  }
}
