// Our own native library, typed: kernels by name, replay of packed commands, memory, the loader's words.

import { tmpdir } from 'node:os';
import { EXIT, Failure, RankLost } from '../src/io/failure.ts';
import { expectZero } from './call.ts';
import { type Library, openLibrary } from './library.ts';
import { cString, NativeMemory, Pinned, textFrom } from './memory.ts';

const SYMBOLS = {
  md_init: { args: ['i32'], returns: 'i32' },
  md_threads: { args: [], returns: 'i32' },
  md_isa: { args: [], returns: 'i32' },
  md_bf16: { args: ['i32'], returns: 'i32' },
  md_act_bytes: { args: [], returns: 'i32' },
  md_cpu_features: { args: ['ptr', 'i64'], returns: 'i64' },
  md_blas_core: { args: ['ptr', 'i64'], returns: 'i64' },
  md_error: { args: ['ptr', 'i64'], returns: 'i64' },
  md_kernel: { args: ['ptr'], returns: 'i64' },
  md_kernel_name: { args: ['i64', 'ptr', 'i64'], returns: 'i64' },
  md_kernel_slots: { args: ['i64'], returns: 'i64' },
  md_replay: { args: ['ptr', 'i64'], returns: 'i32' },
  md_replay_timed: { args: ['ptr', 'i64', 'ptr'], returns: 'i32' },
  md_group_file: { args: ['i32'], returns: 'i32' },
  md_group_join: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  md_alloc: { args: ['i64'], returns: 'ptr' },
  md_free: { args: ['ptr', 'i64'], returns: 'void' },
  md_copy: { args: ['ptr', 'ptr', 'i64'], returns: 'void' },
  md_fill: { args: ['ptr', 'i32', 'i64'], returns: 'void' },
  md_readers: { args: ['i32'], returns: 'i32' },
  md_gather: { args: ['ptr'], returns: 'i32' },
  md_gather_wait: { args: ['ptr', 'i32'], returns: 'i32' },
  md_unmap: { args: ['ptr', 'i64'], returns: 'void' },
  md_dlopen_reason: { args: ['ptr', 'ptr', 'i64'], returns: 'i64' },
  md_dlopen_keep: { args: ['ptr'], returns: 'i32' },
  md_nccl_init_rank: { args: ['ptr', 'ptr', 'i32', 'ptr', 'i32'], returns: 'i32' },
} as const;

/** Status of md_init that means "this processor cannot run it". */
const NO_ISA = 1;
/** Status of md_replay that means "another rank is gone". */
const LOST = 7;

/** The opened library. One a process: libraries must not be opened from several Workers at once. */
export class Native {
  readonly path: string;
  readonly #c: Library<typeof SYMBOLS>['calls'];

  constructor(path: string) {
    const library = openLibrary({
      name: 'the native library',
      candidates: [path],
      required: SYMBOLS,
      fix: remedy(),
    });
    this.path = library.path;
    this.#c = library.calls;
  }

  /**
   * Starts the thread pool; `threads` = 0 takes as many as the process may use. Once started the number
   * stays. Throws a Failure (code 3) where the processor lacks AVX2.
   */
  init(threads = 0): void {
    const status = this.#c.md_init(threads);
    const code = status === NO_ISA ? EXIT.missing : EXIT.failed;
    const fix =
      status === NO_ISA ? 'microdiff needs a processor with AVX2 (2013 or later)' : 'Ask for fewer threads';
    expectZero('md_init', status, this.#error(), fix, code);
  }

  /**
   * Whether products round their operands to bf16 from now on, after init. Throws a Failure (code 3) where
   * the processor has no bf16 dot products.
   */
  bf16(on: boolean): void {
    if (this.#c.md_bf16(on ? 1 : 0) === 0) return;
    const fix = 'Leave --cpu-bf16 out';
    throw new Failure({ what: 'bf16 products', why: this.#error(), fix, code: EXIT.missing });
  }

  /** Threads of the pool, 0 before init. */
  get threads(): number {
    return this.#c.md_threads();
  }
  /** 3 or 4: kernels for x86-64-v3 (AVX2) or v4 (AVX-512). */
  get isa(): number {
    return this.#c.md_isa();
  }
  /** Bytes of an activation: 4, or 8 in the double build of the tests. */
  get actBytes(): number {
    return this.#c.md_act_bytes();
  }
  get cpuFeatures(): string[] {
    return textFrom((out, size) => this.#c.md_cpu_features(out, size)).split(' ');
  }
  /** OpenBLAS's name for the kernels it runs here. */
  get blasCore(): string {
    return textFrom((out, size) => this.#c.md_blas_core(out, size));
  }

  /** Index of a kernel in packed commands. Throws a Failure if the library has none of that name. */
  kernel(name: string): number {
    const index = this.#c.md_kernel(cString(name));
    if (index < 0) {
      throw new Failure({
        what: `kernel ${name}`,
        why: 'the native library has none',
        fix: 'Run make build',
      });
    }
    return index;
  }
  /** Number of 8-byte slots that a kernel's argument struct has. */
  kernelSlots(index: number): number {
    return this.#c.md_kernel_slots(index);
  }
  /** Names of all kernels; the index in this list is the index in packed commands. */
  kernelNames(): string[] {
    const names: string[] = [];
    for (let i = 0; this.#c.md_kernel_slots(i) > 0; i++) {
      names.push(textFrom((out, size) => this.#c.md_kernel_name(i, out, size)));
    }
    return names;
  }

  /** Runs `bytes` bytes of packed commands at an address. Throws a Failure that names a malformed command. */
  replay(address: number, bytes: number): void {
    const status = this.#c.md_replay(address, bytes);
    if (status !== 0) this.#refuse(status);
  }
  /** As replay; returns nanoseconds for each of `count` commands. */
  replayTimed(address: number, bytes: number, count: number): Float64Array {
    const out = new Pinned(count * 8);
    const status = this.#c.md_replay_timed(address, bytes, out.bytes);
    if (status !== 0) this.#refuse(status);
    return new Float64Array(out.buffer);
  }

  /** Memory for so many ranks of this machine, as a path that all of them open while this process lives. */
  groupFile(ranks: number): string {
    const fd = this.#c.md_group_file(ranks);
    if (fd < 0) throw new Failure({ what: 'ranks', why: this.#error() });
    return `/proc/${process.pid}/fd/${fd}`;
  }
  /** Makes this process a rank: collective operations are those of all ranks from now on. */
  joinGroup(path: string, rank: number, ranks: number): void {
    const status = this.#c.md_group_join(cString(path), rank, ranks);
    if (status !== 0) throw new Failure({ what: `rank ${rank} of ${ranks}`, why: this.#error() });
  }

  /** Zeroed memory, 64-byte aligned at least. Throws a Failure when the system refuses. */
  alloc(bytes: number): NativeMemory {
    const address = this.#c.md_alloc(bytes);
    if (address === 0) {
      const fix = 'Use a smaller batch, or a machine with more memory';
      throw new Failure({ what: 'md_alloc', why: `no memory for ${bytes} bytes`, fix });
    }
    return new NativeMemory(address, bytes, (at, size) => this.#c.md_free(at, size));
  }
  copy(to: number, from: number, bytes: number): void {
    this.#c.md_copy(to, from, bytes);
  }
  fill(to: number, byte: number, bytes: number): void {
    this.#c.md_fill(to, byte, bytes);
  }

  /** Starts reading threads until there are `threads` (64 at most); the process keeps them. */
  startReaders(threads: number): void {
    expectZero('md_readers', this.#c.md_readers(threads), this.#error());
  }
  /** Hands the readers a job (ffi/gather.ts); its memory stays in place until gatherWait says true. */
  gather(job: number): void {
    const status = this.#c.md_gather(job);
    if (status !== 0) expectZero('md_gather', status, this.#error());
  }
  /** Whether a job is done, after at most so many microseconds. */
  gatherWait(job: number, microseconds: number): boolean {
    return this.#c.md_gather_wait(job, microseconds) === 1;
  }

  /** Ends a mapping that a job made. */
  unmap(address: number, bytes: number): void {
    this.#c.md_unmap(address, bytes);
  }

  /** Opens a library for others, which then find it by its soname; false where it does not open. */
  dlopenKeep(path: string): boolean {
    return this.#c.md_dlopen_keep(cString(path)) === 0;
  }
  /** What the system's loader says about a library's path; empty if it opens. */
  dlopenReason(path: string): string {
    return textFrom((out, size) => this.#c.md_dlopen_reason(cString(path), out, size));
  }

  /** ncclCommInitRank at address `call`: its id goes by value, so C must pass it. Returns NCCL's status. */
  ncclInitRank(call: number, out: number, ranks: number, id: Uint8Array, rank: number): number {
    return this.#c.md_nccl_init_rank(call, out, ranks, id, rank);
  }

  #refuse(status: number): never {
    const words = this.#error();
    if (status === LOST) throw new RankLost(words);
    expectZero('md_replay', status, words);
    throw new Error('md_replay');
  }

  #error(): string {
    return textFrom((out, size) => this.#c.md_error(out, size));
  }
}

let opened: Promise<Native> | undefined;
let native: Native | undefined;

/** The native library where it is open already. */
export function openedNative(): Native | undefined {
  return native;
}

/**
 * The native library: at MICRODIFF_NATIVE if that is set, else the one built beside the sources or embedded
 * in the executable. Opened once. Throws a Failure (code 3) with the reason and the remedy.
 */
export function openNative(): Promise<Native> {
  opened ??= nativePath().then((path) => {
    native = new Native(path);
    return native;
  });
  return opened;
}

async function nativePath(): Promise<string> {
  const chosen = process.env.MICRODIFF_NATIVE;
  if (chosen) return chosen;
  try {
    return (await import('./embedded.ts')).default;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Failure({ what: 'the native library', why, fix: 'Run make build', code: EXIT.missing });
  }
}

function remedy(): string {
  return (
    `Set TMPDIR to a folder where files can be written and executed (now ${tmpdir()}): ` +
    'the executable unpacks its native library there'
  );
}
