// One GPU: the driver with its primary context, one stream on which everything happens in order, one for
// what ranks send meanwhile, device memory, and pinned memory through which host numbers travel.

import { type Cuda, type DeviceFacts, type HostMemory, openCuda } from '../../../ffi/cuda.ts';
import { EXIT, Failure } from '../../io/failure.ts';
import type { Numbers, Region } from '../backend.ts';

/** Bytes of one staging buffer; there are two. A batch of inputs fits, so that writing need not wait. */
const STAGING_BYTES = 32 * 2 ** 20;
/** Pinned memory of both. */
export const STAGING_BUFFERS_BYTES = 2 * STAGING_BYTES;

/** Something that is of no use once memory under it is gone. */
export interface Dependent {
  release(): void;
}

/** Device memory, cleared when made. Programs that use it end when it is freed. */
export class CudaRegion implements Region {
  readonly users = new Set<Dependent>();
  #address: number;

  constructor(
    readonly device: CudaDevice,
    readonly bytes: number,
  ) {
    this.#address = device.allocate(bytes);
  }

  get address(): number {
    if (this.#address === 0) {
      throw new Failure({ what: 'region', why: 'GPU memory was used after it was freed' });
    }
    return this.#address;
  }

  free(): void {
    if (this.#address === 0) return;
    const address = this.#address;
    this.#address = 0;
    for (const user of [...this.users]) user.release();
    this.device.release(address, this.bytes);
  }
}

/** A pinned buffer that is filled from front to back and used again when the stream has passed its copies. */
interface Staging {
  readonly memory: HostMemory;
  readonly passed: number;
  used: number;
}

export class CudaDevice {
  readonly stream: number;
  /** Bytes allocated now, and the most so far. */
  allocated = 0;
  peak = 0;
  readonly #handle: number;
  #beside = 0;
  readonly #staging: Staging[] = [];
  #filling = 0;
  #closed = false;

  constructor(
    readonly cuda: Cuda,
    readonly facts: DeviceFacts,
  ) {
    this.#handle = cuda.device(facts.ordinal);
    cuda.retainPrimary(this.#handle);
    this.stream = cuda.streamCreate();
  }

  /**
   * A second stream, for what is sent while the first one computes; made at its first use. Its kernels go
   * first where both have some ready: they are few and small, and what comes after them waits for the wire.
   */
  get beside(): number {
    if (this.#beside === 0) this.#beside = this.cuda.streamCreate('first');
    return this.#beside;
  }

  allocate(bytes: number): number {
    const address = this.cuda.alloc(bytes);
    this.allocated += bytes;
    this.peak = Math.max(this.peak, this.allocated);
    this.cuda.memsetAsync(address, 0, bytes, this.stream);
    return address;
  }

  release(address: number, bytes: number): void {
    this.allocated -= bytes;
    if (this.#closed || this.cuda.lost) return;
    this.cuda.streamSynchronize(this.stream);
    this.cuda.free(address);
  }

  /** Queues a copy of host numbers to an address: after earlier runs, before later ones. Does not wait. */
  write(address: number, data: Numbers): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + Math.min(STAGING_BYTES, bytes.length - at));
      const { memory, offset } = this.#stage(part.length);
      memory.bytes.set(part, offset);
      this.cuda.toDeviceAsync(address + at, memory.address + offset, part.length, this.stream);
      at += part.length;
    }
  }

  /** Waits for everything that is queued, then copies from an address into host numbers. */
  read(address: number, into: Numbers): void {
    this.cuda.streamSynchronize(this.stream);
    if (into.byteLength > 0) this.cuda.toHost(into, address);
  }

  /** Ends the use of the device; regions and programs are gone with it. */
  close(): void {
    if (this.#closed) return;
    if (!this.cuda.lost) this.cuda.streamSynchronize(this.stream);
    this.#closed = true;
    for (const { memory, passed } of this.#staging) {
      memory.free();
      this.cuda.eventDestroy(passed);
    }
    for (const stream of [this.#beside, this.stream]) if (stream !== 0) this.cuda.streamDestroy(stream);
    this.cuda.releasePrimary(this.#handle);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Room for so many bytes in one of the two staging buffers. */
  #stage(bytes: number): { memory: HostMemory; offset: number } {
    let staging = this.#staging[this.#filling] ?? this.#addStaging();
    if (staging.used + bytes > STAGING_BYTES) {
      this.cuda.eventRecord(staging.passed, this.stream);
      this.#filling = 1 - this.#filling;
      const next = this.#staging[this.#filling];
      if (next) this.cuda.eventSynchronize(next.passed);
      staging = next ?? this.#addStaging();
      staging.used = 0;
    }
    const offset = staging.used;
    staging.used += Math.ceil(bytes / 16) * 16;
    return { memory: staging.memory, offset };
  }

  #addStaging(): Staging {
    const made = {
      memory: this.cuda.hostAlloc(STAGING_BYTES),
      passed: this.cuda.eventCreate(false),
      used: 0,
    };
    this.#staging.push(made);
    return made;
  }
}

/** Oldest GPUs with bf16 tensor cores, asynchronous copies and what else the kernels use. */
const LEAST_CAPABILITY = 80;

/** Opens the driver and takes device number `ordinal`; a Failure (code 3) says why that cannot be. */
export async function openDevice(ordinal: number): Promise<CudaDevice> {
  const cuda = await openCuda();
  const facts = cuda.deviceFacts(ordinal);
  if (facts.capability < LEAST_CAPABILITY) {
    const [have, least] = [facts.capability, LEAST_CAPABILITY].map((each) => (each / 10).toFixed(1));
    throw new Failure({
      what: `cuda:${ordinal} ${facts.name}`,
      why: `has compute capability ${have}, ${least} is needed`,
      fix: 'Use a GPU of 2020 or later (A100, RTX 30 and newer), or say --device cpu',
      code: EXIT.missing,
    });
  }
  return new CudaDevice(cuda, facts);
}
