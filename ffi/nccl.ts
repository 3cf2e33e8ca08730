// NCCL: sums and exchanges between GPUs, one process a GPU. Buffers are device addresses, counts elements.

import { Failure } from '../src/io/failure.ts';
import { type Library, openLibrary } from './library.ts';
import { Pinned, textAt } from './memory.ts';
import type { Native } from './native.ts';
import { candidates, loaderReason } from './places.ts';

export const NCCL_SYMBOLS = {
  ncclGetVersion: { args: ['ptr'], returns: 'i32' },
  ncclGetErrorString: { args: ['i32'], returns: 'ptr' },
  ncclGetUniqueId: { args: ['ptr'], returns: 'i32' },
  // Takes the id by value, which bun:ffi cannot pass: our native library calls it (Native.ncclInitRank).
  ncclCommInitRank: { args: ['ptr', 'i32', 'ptr', 'i32'], returns: 'i32' },
  ncclCommDestroy: { args: ['ptr'], returns: 'i32' },
  ncclCommAbort: { args: ['ptr'], returns: 'i32' },
  ncclAllReduce: { args: ['ptr', 'ptr', 'u64', 'i32', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  ncclReduce: { args: ['ptr', 'ptr', 'u64', 'i32', 'i32', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  ncclReduceScatter: { args: ['ptr', 'ptr', 'u64', 'i32', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  ncclAllGather: { args: ['ptr', 'ptr', 'u64', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  ncclBroadcast: { args: ['ptr', 'ptr', 'u64', 'i32', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  ncclGroupStart: { args: [], returns: 'i32' },
  ncclGroupEnd: { args: [], returns: 'i32' },
} as const;

const NCCL_OPTIONAL = {
  ncclGetLastError: { args: ['ptr'], returns: 'ptr' },
} as const;

/** sizeof(ncclUniqueId). */
export const UNIQUE_ID_BYTES = 128;
/** ncclDataType_t. */
export const NCCL_TYPE = { i32: 2, f32: 7, f64: 8, bf16: 9 } as const;
/** ncclRedOp_t. */
export const NCCL_OP = { sum: 0, product: 1, max: 2, min: 3, mean: 4 } as const;
export type NcclType = keyof typeof NCCL_TYPE;
export type NcclOp = keyof typeof NCCL_OP;

export class Nccl {
  readonly path: string;
  readonly #c: Library<typeof NCCL_SYMBOLS, typeof NCCL_OPTIONAL>['calls'];
  readonly #o: Library<typeof NCCL_SYMBOLS, typeof NCCL_OPTIONAL>['optional'];
  readonly #initRank: number;
  readonly #out = new Pinned(8);
  readonly #view = new DataView(this.#out.buffer);

  constructor(library: Library<typeof NCCL_SYMBOLS, typeof NCCL_OPTIONAL>) {
    this.path = library.path;
    this.#c = library.calls;
    this.#o = library.optional;
    this.#initRank = library.addresses.ncclCommInitRank;
  }

  /** 22703 for 2.27.3. */
  get version(): number {
    this.#check('ncclGetVersion', this.#c.ncclGetVersion(this.#out.address), 0);
    return this.#view.getInt32(0, true);
  }

  /** The id of a new group of ranks: one rank makes it, all join with it. */
  uniqueId(): Uint8Array {
    const id = new Uint8Array(new ArrayBuffer(UNIQUE_ID_BYTES));
    this.#check('ncclGetUniqueId', this.#c.ncclGetUniqueId(id), 0);
    return id;
  }

  /** Joins a group as `rank` of `ranks`; returns when all have joined. The device's context is current. */
  join(native: Native, id: Uint8Array, rank: number, ranks: number): Communicator {
    if (id.byteLength !== UNIQUE_ID_BYTES || rank < 0 || rank >= ranks) {
      throw new Failure({
        what: 'ncclCommInitRank',
        why: `rank ${rank} of ${ranks}, an id of ${id.byteLength} bytes`,
      });
    }
    const status = native.ncclInitRank(this.#initRank, this.#out.address, ranks, id, rank);
    this.#check(`ncclCommInitRank as rank ${rank} of ${ranks}`, status, 0);
    const handle = Number(this.#view.getBigUint64(0, true));
    return new Communicator(handle, rank, ranks, this.#c, (call, result) =>
      this.#check(call, result, handle),
    );
  }

  /** What `queue` queues is started together: needed where calls of one rank wait for each other. */
  group(queue: () => void): void {
    this.#check('ncclGroupStart', this.#c.ncclGroupStart(), 0);
    try {
      queue();
    } finally {
      this.#check('ncclGroupEnd', this.#c.ncclGroupEnd(), 0);
    }
  }

  #check(call: string, status: number, communicator: number): void {
    if (status === 0) return;
    const words = textAt(this.#c.ncclGetErrorString(status));
    const last = this.#o.ncclGetLastError ? textAt(this.#o.ncclGetLastError(communicator)) : '';
    const why = `${words}${last && last !== words ? `, ${last}` : ''} (status ${status})`;
    const fix = 'Set NCCL_DEBUG=WARN for more; the last checkpoint is intact';
    throw new Failure({ what: call, why, fix });
  }
}

/** One rank's end of a group. Calls queue work on a stream and return. */
export class Communicator {
  readonly #c: Library<typeof NCCL_SYMBOLS>['calls'];
  readonly #check: (call: string, status: number) => void;
  #handle: number;

  constructor(
    handle: number,
    readonly rank: number,
    readonly ranks: number,
    calls: Library<typeof NCCL_SYMBOLS>['calls'],
    check: (call: string, status: number) => void,
  ) {
    this.#handle = handle;
    this.#c = calls;
    this.#check = check;
  }

  /** to[count] = op over ranks of from[count]; `to` may be `from`. */
  allReduce(from: number, to: number, count: number, type: NcclType, op: NcclOp, stream: number): void {
    const numbers = [count, NCCL_TYPE[type], NCCL_OP[op]] as const;
    const status = this.#c.ncclAllReduce(from, to, ...numbers, this.#handle, stream);
    this.#check(`ncclAllReduce of ${count} ${type}`, status);
  }
  /** to[count] of rank `root` = op over ranks of from[count]; `to` may be `from`. Others' `to` stays. */
  reduce(from: number, to: number, count: number, type: NcclType, op: NcclOp, root: number, stream: number) {
    const numbers = [count, NCCL_TYPE[type], NCCL_OP[op], root] as const;
    const status = this.#c.ncclReduce(from, to, ...numbers, this.#handle, stream);
    this.#check(`ncclReduce of ${count} ${type}`, status);
  }
  /** to[count] = this rank's share of op over ranks of from[ranks * count]. */
  reduceScatter(from: number, to: number, count: number, type: NcclType, op: NcclOp, stream: number): void {
    const numbers = [count, NCCL_TYPE[type], NCCL_OP[op]] as const;
    const status = this.#c.ncclReduceScatter(from, to, ...numbers, this.#handle, stream);
    this.#check(`ncclReduceScatter of ${count} ${type}`, status);
  }
  /** to[ranks * count] = from[count] of all ranks, in their order. */
  allGather(from: number, to: number, count: number, type: NcclType, stream: number): void {
    const status = this.#c.ncclAllGather(from, to, count, NCCL_TYPE[type], this.#handle, stream);
    this.#check(`ncclAllGather of ${count} ${type}`, status);
  }
  /** to[count] = from[count] of rank `root`. */
  broadcast(from: number, to: number, count: number, type: NcclType, root: number, stream: number): void {
    const numbers = [count, NCCL_TYPE[type], root] as const;
    const status = this.#c.ncclBroadcast(from, to, ...numbers, this.#handle, stream);
    this.#check(`ncclBroadcast of ${count} ${type}`, status);
  }

  /** Leaves the group, when all its work is done. */
  destroy(): void {
    if (this.#handle !== 0) this.#check('ncclCommDestroy', this.#c.ncclCommDestroy(this.#handle));
    this.#handle = 0;
  }
  /** Leaves the group at once: other ranks may be gone. */
  abort(): void {
    if (this.#handle !== 0) this.#c.ncclCommAbort(this.#handle);
    this.#handle = 0;
  }
}

/** Opens the library. Throws a Failure (code 3) with every candidate's reason. */
export async function openNccl(): Promise<Nccl> {
  return new Nccl(openNcclLibrary(candidates('nccl'), await loaderReason()));
}

export function openNcclLibrary(
  paths: readonly string[],
  reason?: (path: string) => string,
): Library<typeof NCCL_SYMBOLS, typeof NCCL_OPTIONAL> {
  return openLibrary({
    name: 'NCCL',
    candidates: paths,
    required: NCCL_SYMBOLS,
    optional: NCCL_OPTIONAL,
    reason,
    fix: 'Install libnccl 2 (pip install nvidia-nccl-cu12), or name its folder in MICRODIFF_CUDA_PATH',
  });
}
