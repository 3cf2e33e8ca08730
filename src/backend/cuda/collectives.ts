// Collective operations of several GPUs by NCCL: launches of the collective ops as calls on the stream, which
// a graph records like any other. The library is opened when a group is made or joined, not before.

import { type Communicator, type Nccl, type NcclType, openNccl, UNIQUE_ID_BYTES } from '../../../ffi/nccl.ts';
import { openNative } from '../../../ffi/native.ts';
import { Failure } from '../../io/failure.ts';
import type { Elem, Group, Launch, Rank } from '../backend.ts';
import type { CudaDevice } from './device.ts';
import type { Product } from './products.ts';
import type { LaunchLibrary } from './program.ts';

const KERNELS = new Set(['all_reduce', 'reduce', 'all_gather', 'broadcast']);
/** Looks at the stream that follow each other at once, before the process sleeps between two. */
const EAGER = 1000;

export class Collectives implements LaunchLibrary, Group {
  rank: Rank | null = null;
  #nccl: Nccl | null = null;
  #group: Communicator | null = null;
  #lost: Error | null = null;

  constructor(
    private readonly device: CudaDevice,
    private readonly typeOf: (elem: Elem) => NcclType,
  ) {}

  /** Whether launches of a kernel are this library's. */
  static takes(kernel: string): boolean {
    return KERNELS.has(kernel);
  }

  async invite(): Promise<string> {
    return Buffer.from((await this.#open()).uniqueId()).toString('hex');
  }

  async join(invitation: string, rank: Rank): Promise<void> {
    const nccl = await this.#open();
    const id = new Uint8Array(new ArrayBuffer(UNIQUE_ID_BYTES));
    id.set(Buffer.from(invitation, 'hex').subarray(0, UNIQUE_ID_BYTES));
    this.#group = nccl.join(await openNative(), id, rank.rank, rank.ranks);
    this.rank = rank;
  }

  /** Readies a launch of a collective op with its pointer at the given address. */
  prepare({ kernel, pointers, ints, beside }: Launch, [address = 0]: readonly number[]): Product {
    const group = this.#group;
    const elem = pointers[0]?.elem;
    if (!group || !elem) throw new Failure({ what: kernel, why: 'this process is in no group of ranks' });
    const stream = beside ? this.device.beside : this.device.stream;
    const type = this.typeOf(elem);
    const [count = 0, root = 0] = ints;
    const own = address + group.rank * count * (type === 'bf16' ? 2 : 4);
    const queue = {
      all_reduce: () => group.allReduce(address, address, count, type, 'sum', stream),
      reduce: () => group.reduce(address, address, count, type, 'sum', root, stream),
      all_gather: () => group.allGather(own, address, count, type, stream),
      broadcast: () => group.broadcast(address, address, count, type, root, stream),
    }[kernel];
    if (!queue) throw new Failure({ what: kernel, why: 'is no collective operation' });
    return { queue, release: () => {} };
  }

  /** Looks at the stream again and again, so that the end of another rank is heard of meanwhile. */
  async settle(): Promise<void> {
    if (!this.#group && !this.#lost) return;
    for (let looks = 0; ; looks++) {
      if (this.#lost) throw this.#lost;
      if (this.device.cuda.streamDone(this.device.stream)) return;
      if (looks < EAGER) await new Promise((resolve) => setImmediate(resolve));
      else await Bun.sleep(1);
    }
  }

  leave(reason: Error): void {
    this.#lost ??= reason;
    this.#group?.abort();
    this.#group = null;
  }

  close(): void {
    if (!this.device.cuda.lost) this.#group?.destroy();
    this.#group = null;
  }

  async #open(): Promise<Nccl> {
    this.#nccl ??= await openNccl();
    return this.#nccl;
  }
}
