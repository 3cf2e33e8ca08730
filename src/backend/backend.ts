// What a backend is: memory regions, and programs (frozen launch lists) that it replays with one call.

/**
 * Element kinds. `act` is the compute type of activations and weights, `real` the type of sums and
 * statistics.
 */
export type Elem = 'act' | 'real' | 'i32';

/**
 * Bytes of one element of each kind on one backend. CPU: act 4, real 4, i32 4; the float64 test build 8, 8,
 * 4;
 * a GPU 2 (bfloat16), 4, 4, or 4, 4, 4.
 */
export type ElemBytes = Readonly<Record<Elem, number>>;

/**
 * A place in one of the memory regions that a program is bound to: region name, byte offset, what lies
 * there.
 */
export interface Place {
  readonly space: string;
  readonly offset: number;
  readonly elem: Elem;
}

/** Another entry point with the same arguments, for bf16 on a GPU with tensor cores. Scratch in bytes. */
export interface TensorForm {
  readonly kernel: string;
  readonly blocks: number;
  readonly threads: number;
  readonly scratch: number;
}

/** One kernel call over `blocks` independent blocks. `blocks` 0: the kernel cuts its own grid (gemm). */
export interface Launch {
  readonly kernel: string;
  readonly pointers: readonly (Place | null)[];
  readonly ints: readonly number[];
  readonly reals: readonly number[];
  readonly blocks: number;
  /** Bytes of scratch memory that one block needs. */
  readonly scratch: number;
  /** Extent of the block's inner loops, by which a GPU chooses its threads; 0: not known. */
  readonly lanes: number;
  readonly tensorForm: TensorForm | null;
  /** May run at the same time as the launches after it; done when the program is. */
  readonly beside?: true;
}

/** A launch list with everything decided but the base addresses of its regions. */
export interface Program {
  readonly launches: readonly Launch[];
  /** Bytes needed in each region, the arena included. */
  readonly spaceBytes: Readonly<Record<string, number>>;
}

/** Owned memory of a backend, zeroed when made. It lives until `free`. */
export interface Region {
  readonly bytes: number;
  readonly address: number;
  free(): void;
}

/** A program bound to addresses, ready to run. */
export interface Loaded {
  run(): void;
  /** Runs once and returns nanoseconds per launch. */
  runTimed(): Float64Array;
}

/** Host numbers as they lie in memory; Uint16Array holds the bits of bfloat16. */
export type Numbers = Float32Array | Float64Array | Int32Array | Uint16Array | Uint8Array;

/** Which of several processes that compute together this one is. */
export interface Rank {
  readonly rank: number;
  readonly ranks: number;
}

/** How a backend computes together with those of other processes, by the collective ops of its programs. */
export interface Group {
  /** This process among those that have joined; null before. */
  readonly rank: Rank | null;
  /** Makes what so many ranks meet in, on one of them: the words by which all of them join. */
  invite(ranks: number): Promise<string>;
  /** Becomes a rank; all programs with collective ops are loaded afterwards. */
  join(invitation: string, rank: Rank): Promise<void>;
  /** Waits for what is queued while the event loop goes on; absent where runs are done when they return. */
  settle?(): Promise<void>;
  /** Leaves at once because another rank is gone: what waits for it ends with this reason. */
  leave(reason: Error): void;
}

export interface Backend {
  readonly name: string;
  readonly elemBytes: ElemBytes;
  alloc(bytes: number): Region;
  /** Copies host numbers into a region. The caller converts to the backend's element type. */
  write(region: Region, byteOffset: number, data: Numbers): void;
  /** Copies from a region into host numbers; waits until earlier runs are done. */
  read(region: Region, byteOffset: number, into: Numbers): void;
  fill(region: Region, byte: number, byteOffset?: number, bytes?: number): void;
  load(program: Program, regions: Readonly<Record<string, Region>>): Loaded;
  /** Waits until everything that was asked for is done. */
  synchronize(): void;
  /** Dense products of the compute type that the device is sold for, in TFLOP/s; absent where not known. */
  readonly peakTflops?: number;
  /**
   * Algorithms that were chosen by measuring or by a library, where that decides the last bits: a value that
   * JSON holds, to be stored with a run and taken back before its programs are loaded.
   */
  readonly choices?: unknown;
  /**
   * Whether a library runs op `conv` here, so that convolutions are best traced as a whole; absent or false:
   * as bands of products. Asked before a network with convolutions is traced; opens the library.
   */
  convolvesWhole?(): boolean;
  /** Throws a Failure where the saved choices are of another device or library, or damaged. */
  takeChoices?(saved: unknown): void;
  /** Absent where the backend is for one process. */
  readonly group?: Group;
  /** Bytes of device memory that nobody has taken; absent where the memory is that of the machine. */
  freeBytes?(): number;
  /** Bytes of device memory that are taken now, and the most so far; absent where nobody counts. */
  memory?(): { readonly allocated: number; readonly peak: number };
}
