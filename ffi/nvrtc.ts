// NVRTC: compiles kernel sources for the GPU at hand, where the embedded kernels cannot be loaded.

import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Failure } from '../src/io/failure.ts';
import { type Library, openLibrary } from './library.ts';
import { cString, Pinned, textAt } from './memory.ts';
import { openedNative } from './native.ts';
import { candidates, loaderReason } from './places.ts';

export const NVRTC_SYMBOLS = {
  nvrtcVersion: { args: ['ptr', 'ptr'], returns: 'i32' },
  nvrtcGetErrorString: { args: ['i32'], returns: 'ptr' },
  nvrtcCreateProgram: { args: ['ptr', 'ptr', 'ptr', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  nvrtcDestroyProgram: { args: ['ptr'], returns: 'i32' },
  nvrtcCompileProgram: { args: ['ptr', 'i32', 'ptr'], returns: 'i32' },
  nvrtcGetProgramLogSize: { args: ['ptr', 'ptr'], returns: 'i32' },
  nvrtcGetProgramLog: { args: ['ptr', 'ptr'], returns: 'i32' },
  nvrtcGetPTXSize: { args: ['ptr', 'ptr'], returns: 'i32' },
  nvrtcGetPTX: { args: ['ptr', 'ptr'], returns: 'i32' },
  nvrtcGetCUBINSize: { args: ['ptr', 'ptr'], returns: 'i32' },
  nvrtcGetCUBIN: { args: ['ptr', 'ptr'], returns: 'i32' },
} as const;

const NVRTC_OPTIONAL = {
  nvrtcGetNumSupportedArchs: { args: ['ptr'], returns: 'i32' },
  nvrtcGetSupportedArchs: { args: ['ptr'], returns: 'i32' },
} as const;

const COMPILATION_FAILED = 6;

/** Sources of one compilation; headers by the name by which they are included. */
export interface Compilation {
  readonly name: string;
  readonly source: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly options: readonly string[];
}

export interface Compiled {
  readonly image: Uint8Array;
  readonly kind: 'cubin' | 'ptx';
  /** Warnings; empty as a rule. */
  readonly log: string;
}

export class Nvrtc {
  readonly path: string;
  readonly #c: Library<typeof NVRTC_SYMBOLS, typeof NVRTC_OPTIONAL>['calls'];
  readonly #o: Library<typeof NVRTC_SYMBOLS, typeof NVRTC_OPTIONAL>['optional'];
  readonly #out = new Pinned(16);
  readonly #view = new DataView(this.#out.buffer);

  constructor(library: Library<typeof NVRTC_SYMBOLS, typeof NVRTC_OPTIONAL>) {
    this.path = library.path;
    keepBuiltins(dirname(library.path));
    this.#c = library.calls;
    this.#o = library.optional;
  }

  /** Release as CUDA counts it: 12.9 is [12, 9]. */
  get version(): readonly [number, number] {
    const { address } = this.#out;
    this.#check('nvrtcVersion', this.#c.nvrtcVersion(address, address + 4));
    return [this.#view.getInt32(0, true), this.#view.getInt32(4, true)];
  }

  /** Compute capabilities (times ten) that it compiles for; empty where a release cannot tell. */
  get architectures(): number[] {
    const { nvrtcGetNumSupportedArchs: count, nvrtcGetSupportedArchs: list } = this.#o;
    if (!count || !list) return [];
    this.#check('nvrtcGetNumSupportedArchs', count(this.#out.address));
    const found = new Pinned(4 * this.#view.getInt32(0, true));
    this.#check('nvrtcGetSupportedArchs', list(found.address));
    return [...new Int32Array(found.buffer)];
  }

  /**
   * Compiles for the target that `options` name: `--gpu-architecture=sm_90` gives a cubin, `compute_90` PTX.
   * Throws a Failure with the compiler's first messages.
   */
  compile({ name, source, headers, options }: Compilation): Compiled {
    const files = addresses(Object.values(headers));
    const names = addresses(Object.keys(headers));
    const made = this.#c.nvrtcCreateProgram(
      ...([this.#out.address, cString(source), cString(name), Object.keys(headers).length] as const),
      ...[files.list.address, names.list.address],
    );
    this.#check('nvrtcCreateProgram', made, name);
    const program = Number(this.#view.getBigUint64(0, true));
    try {
      const flags = addresses(options);
      const status = this.#c.nvrtcCompileProgram(program, options.length, flags.list.address);
      const log = decode(this.#bytes(program, 'nvrtcGetProgramLogSize', 'nvrtcGetProgramLog'));
      if (status === COMPILATION_FAILED) {
        const first = log.split('\n').filter((line) => /error/i.test(line));
        const why = `NVRTC ${this.version.join('.')} refuses it: ${first.slice(0, 3).join('; ') || log}`;
        throw new Failure({ what: name, why, fix: 'This is a fault of microdiff: please report it' });
      }
      this.#check('nvrtcCompileProgram', status, `${name} ${options.join(' ')}`);
      const cubin = this.#bytes(program, 'nvrtcGetCUBINSize', 'nvrtcGetCUBIN');
      if (cubin.byteLength > 0) return { image: cubin, kind: 'cubin', log };
      return { image: this.#bytes(program, 'nvrtcGetPTXSize', 'nvrtcGetPTX'), kind: 'ptx', log };
    } finally {
      this.#view.setBigUint64(0, BigInt(program), true);
      this.#c.nvrtcDestroyProgram(this.#out.address);
    }
  }

  #bytes(program: number, sizeOf: SizeCall, get: BytesCall): Uint8Array {
    this.#check(sizeOf, this.#c[sizeOf](program, this.#out.address));
    const out = new Uint8Array(new ArrayBuffer(Number(this.#view.getBigUint64(0, true))));
    if (out.byteLength > 0) this.#check(get, this.#c[get](program, out));
    return out;
  }

  #check(call: string, status: number, sizes?: string): void {
    if (status === 0) return;
    const words = textAt(this.#c.nvrtcGetErrorString(status));
    throw new Failure({ what: sizes ? `${call} ${sizes}` : call, why: `${words} (status ${status})` });
  }
}

type SizeCall = 'nvrtcGetProgramLogSize' | 'nvrtcGetPTXSize' | 'nvrtcGetCUBINSize';
type BytesCall = 'nvrtcGetProgramLog' | 'nvrtcGetPTX' | 'nvrtcGetCUBIN';

function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/\0+$/, '').trim();
}

/** A list of C strings: whoever passes `list.address` on holds the whole object until C is done. */
function addresses(texts: readonly string[]): { readonly list: Pinned; readonly texts: readonly Pinned[] } {
  const pinned = texts.map((text) => {
    const bytes = cString(text);
    const kept = new Pinned(bytes.length);
    kept.bytes.set(bytes);
    return kept;
  });
  const list = new Pinned(8 * texts.length);
  new BigUint64Array(list.buffer).set(pinned.map(({ address }) => BigInt(address)));
  return { list, texts: pinned };
}

/**
 * NVRTC opens its second library by name alone and finds it only on the loader's own paths, where Python's
 * packages are not. Opened from beside NVRTC before, it is found. Where none of that name opens, NVRTC says
 * what it misses.
 */
function keepBuiltins(folder: string): void {
  const native = openedNative();
  if (!native) return;
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    if (name.startsWith('libnvrtc-builtins.so')) native.dlopenKeep(join(folder, name));
  }
}

/** Opens the library. Throws a Failure (code 3) with every candidate's reason. */
export async function openNvrtc(): Promise<Nvrtc> {
  return new Nvrtc(openNvrtcLibrary(candidates('nvrtc'), await loaderReason()));
}

export function openNvrtcLibrary(
  paths: readonly string[],
  reason?: (path: string) => string,
): Library<typeof NVRTC_SYMBOLS, typeof NVRTC_OPTIONAL> {
  return openLibrary({
    name: 'NVRTC',
    candidates: paths,
    required: NVRTC_SYMBOLS,
    optional: NVRTC_OPTIONAL,
    reason,
    fix: 'Install libnvrtc 13 or 12 (pip install nvidia-cuda-nvrtc), or set MICRODIFF_CUDA_PATH',
  });
}
