// The CUDA driver: devices, memory, streams, events, modules, launches and graphs. Handles and device
// addresses are numbers. Every status that is not zero becomes a Failure (cuda-status.ts).

import { cudaFailure, CUDA, type CudaFailure, isLost, outOfMemory } from './cuda-status.ts';
import { type Library, openLibrary } from './library.ts';
import { bytesAt, cString, Pinned, textAt, textFrom } from './memory.ts';
import { candidates, loaderReason } from './places.ts';

// Names as the library exports them: cuda.h maps cuMemAlloc to cuMemAlloc_v2 and so on.
export const CUDA_SYMBOLS = {
  cuInit: { args: ['i32'], returns: 'i32' },
  cuDriverGetVersion: { args: ['ptr'], returns: 'i32' },
  cuGetErrorName: { args: ['i32', 'ptr'], returns: 'i32' },
  cuGetErrorString: { args: ['i32', 'ptr'], returns: 'i32' },
  cuDeviceGetCount: { args: ['ptr'], returns: 'i32' },
  cuDeviceGet: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetName: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDeviceGetAttribute: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDeviceTotalMem_v2: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDevicePrimaryCtxRetain: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDevicePrimaryCtxRelease_v2: { args: ['i32'], returns: 'i32' },
  cuCtxSetCurrent: { args: ['ptr'], returns: 'i32' },
  cuCtxSynchronize: { args: [], returns: 'i32' },
  cuMemGetInfo_v2: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuMemAlloc_v2: { args: ['ptr', 'u64'], returns: 'i32' },
  cuMemFree_v2: { args: ['u64'], returns: 'i32' },
  cuMemHostAlloc: { args: ['ptr', 'u64', 'i32'], returns: 'i32' },
  cuMemFreeHost: { args: ['ptr'], returns: 'i32' },
  cuMemsetD8_v2: { args: ['u64', 'i32', 'u64'], returns: 'i32' },
  cuMemsetD8Async: { args: ['u64', 'i32', 'u64', 'ptr'], returns: 'i32' },
  cuMemcpyHtoD_v2: { args: ['u64', 'ptr', 'u64'], returns: 'i32' },
  cuMemcpyDtoH_v2: { args: ['ptr', 'u64', 'u64'], returns: 'i32' },
  cuMemcpyDtoD_v2: { args: ['u64', 'u64', 'u64'], returns: 'i32' },
  cuMemcpyHtoDAsync_v2: { args: ['u64', 'ptr', 'u64', 'ptr'], returns: 'i32' },
  cuMemcpyDtoHAsync_v2: { args: ['ptr', 'u64', 'u64', 'ptr'], returns: 'i32' },
  cuMemcpyDtoDAsync_v2: { args: ['u64', 'u64', 'u64', 'ptr'], returns: 'i32' },
  cuStreamCreateWithPriority: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuStreamDestroy_v2: { args: ['ptr'], returns: 'i32' },
  cuStreamSynchronize: { args: ['ptr'], returns: 'i32' },
  cuStreamQuery: { args: ['ptr'], returns: 'i32' },
  cuStreamWaitEvent: { args: ['ptr', 'ptr', 'i32'], returns: 'i32' },
  cuStreamBeginCapture_v2: { args: ['ptr', 'i32'], returns: 'i32' },
  cuStreamEndCapture: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuEventCreate: { args: ['ptr', 'i32'], returns: 'i32' },
  cuEventDestroy_v2: { args: ['ptr'], returns: 'i32' },
  cuEventRecord: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuEventSynchronize: { args: ['ptr'], returns: 'i32' },
  cuEventElapsedTime: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
  cuModuleLoadData: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuModuleUnload: { args: ['ptr'], returns: 'i32' },
  cuModuleGetFunction: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
  cuFuncSetAttribute: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuFuncGetAttribute: { args: ['ptr', 'i32', 'ptr'], returns: 'i32' },
  cuLaunchKernel: {
    args: ['ptr', 'i32', 'i32', 'i32', 'i32', 'i32', 'i32', 'i32', 'ptr', 'ptr', 'ptr'],
    returns: 'i32',
  },
  cuGraphInstantiateWithFlags: { args: ['ptr', 'ptr', 'u64'], returns: 'i32' },
  cuGraphLaunch: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuGraphGetNodes: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
  cuGraphExecDestroy: { args: ['ptr'], returns: 'i32' },
  cuGraphDestroy: { args: ['ptr'], returns: 'i32' },
} as const;

const OUT_BYTES = 64;
/** Beyond the least number that a driver knows, which it then takes. */
const FIRST = -100;
const STREAM_NON_BLOCKING = 1;
const EVENT_DEFAULT = 0;
const EVENT_DISABLE_TIMING = 2;

/** Numbers of device attributes (CUdevice_attribute). */
export const DEVICE_ATTRIBUTE = {
  maxThreadsPerBlock: 1,
  maxGridX: 5,
  sharedPerBlock: 8,
  multiprocessors: 16,
  computeMajor: 75,
  computeMinor: 76,
  sharedPerBlockOptin: 97,
} as const;

/** Numbers of function attributes (CUfunction_attribute). */
export const FUNCTION_ATTRIBUTE = {
  maxThreadsPerBlock: 0,
  staticShared: 1,
  localBytes: 3,
  registers: 4,
  maxDynamicShared: 8,
} as const;

export type CaptureMode = 'global' | 'thread-local' | 'relaxed';
const CAPTURE_MODES: readonly CaptureMode[] = ['global', 'thread-local', 'relaxed'];

/** What one device is. */
export interface DeviceFacts {
  readonly ordinal: number;
  readonly name: string;
  /** Compute capability times ten: 90 for an H100. */
  readonly capability: number;
  readonly memory: number;
  readonly multiprocessors: number;
  /** Bytes of dynamic shared memory that a block may have, after asking for it. */
  readonly sharedOptin: number;
}

/** The opened and initialised driver. */
export class Cuda {
  readonly path: string;
  readonly #c: Library<typeof CUDA_SYMBOLS>['calls'];
  /** Out-parameters of all calls; the address stays right as long as this object lives. */
  readonly #out = new Pinned(OUT_BYTES);
  readonly #view = new DataView(this.#out.buffer);
  #lost = false;

  /** Starts the driver. Throws a Failure (code 3) where there is no device or the driver does not fit. */
  constructor(library: Library<typeof CUDA_SYMBOLS>) {
    this.path = library.path;
    this.#c = library.calls;
    this.#check('cuInit', this.#c.cuInit(0), `of ${library.path}`);
  }

  /** True once a call has failed in a way that no later call recovers from. */
  get lost(): boolean {
    return this.#lost;
  }

  /** CUDA version that the driver speaks: 13000 for 13.0. */
  get version(): number {
    this.#check('cuDriverGetVersion', this.#c.cuDriverGetVersion(this.#out.address));
    return this.#i32();
  }

  // Devices and context ------------------------------------------------------------------------------

  get deviceCount(): number {
    this.#check('cuDeviceGetCount', this.#c.cuDeviceGetCount(this.#out.address));
    return this.#i32();
  }
  /** The driver's handle of device number `ordinal`. */
  device(ordinal: number): number {
    const asked = `for device ${ordinal} of ${this.deviceCount}`;
    this.#check('cuDeviceGet', this.#c.cuDeviceGet(this.#out.address, ordinal), asked);
    return this.#i32();
  }
  deviceAttribute(device: number, attribute: keyof typeof DEVICE_ATTRIBUTE): number {
    const number = DEVICE_ATTRIBUTE[attribute];
    const status = this.#c.cuDeviceGetAttribute(this.#out.address, number, device);
    this.#check('cuDeviceGetAttribute', status, attribute);
    return this.#i32();
  }
  deviceFacts(ordinal: number): DeviceFacts {
    const device = this.device(ordinal);
    const name = textFrom((out, size) => {
      this.#check('cuDeviceGetName', this.#c.cuDeviceGetName(out, size, device));
      return out.indexOf(0);
    }, 256);
    this.#check('cuDeviceTotalMem', this.#c.cuDeviceTotalMem_v2(this.#out.address, device));
    const memory = this.#u64();
    const attribute = (key: keyof typeof DEVICE_ATTRIBUTE) => this.deviceAttribute(device, key);
    return {
      ordinal,
      name,
      capability: attribute('computeMajor') * 10 + attribute('computeMinor'),
      memory,
      multiprocessors: attribute('multiprocessors'),
      sharedOptin: attribute('sharedPerBlockOptin'),
    };
  }
  /** Takes a share in the device's primary context and makes it current on this thread. */
  retainPrimary(device: number): number {
    const status = this.#c.cuDevicePrimaryCtxRetain(this.#out.address, device);
    this.#check('cuDevicePrimaryCtxRetain', status, `of device ${device}`);
    const context = this.#u64();
    this.#check('cuCtxSetCurrent', this.#c.cuCtxSetCurrent(context));
    return context;
  }
  releasePrimary(device: number): void {
    this.#release('cuDevicePrimaryCtxRelease', () => this.#c.cuDevicePrimaryCtxRelease_v2(device));
  }
  /** Waits for everything on the device. */
  synchronize(): void {
    this.#check('cuCtxSynchronize', this.#c.cuCtxSynchronize());
  }

  // Memory -------------------------------------------------------------------------------------------

  /** Free and whole memory of the device, in bytes. */
  memoryInfo(): { free: number; total: number } {
    const { address } = this.#out;
    this.#check('cuMemGetInfo', this.#c.cuMemGetInfo_v2(address, address + 8));
    return { free: this.#u64(), total: this.#u64(8) };
  }
  /** Device memory, at least 256-byte aligned, not cleared. Out of memory: says what is free. */
  alloc(bytes: number): number {
    const status = this.#c.cuMemAlloc_v2(this.#out.address, bytes);
    if (status === CUDA.outOfMemory) throw this.#shortOf('cuMemAlloc', bytes);
    this.#check('cuMemAlloc', status, `of ${bytes} bytes`);
    return this.#u64();
  }
  free(address: number): void {
    this.#release('cuMemFree', () => this.#c.cuMemFree_v2(address));
  }
  /** Memory of the host that the device can read while the processor goes on. */
  hostAlloc(bytes: number): HostMemory {
    const status = this.#c.cuMemHostAlloc(this.#out.address, bytes, 0);
    this.#check('cuMemHostAlloc', status, `of ${bytes} bytes of pinned host memory`);
    const address = this.#u64();
    return new HostMemory(address, bytes, () =>
      this.#release('cuMemFreeHost', () => this.#c.cuMemFreeHost(address)),
    );
  }
  memset(to: number, byte: number, bytes: number): void {
    this.#check('cuMemsetD8', this.#c.cuMemsetD8_v2(to, byte, bytes), `of ${bytes} bytes`);
  }
  memsetAsync(to: number, byte: number, bytes: number, stream: number): void {
    this.#check('cuMemsetD8Async', this.#c.cuMemsetD8Async(to, byte, bytes, stream), `of ${bytes} bytes`);
  }
  /** Copies bytes of a typed array to the device, and waits. */
  toDevice(to: number, from: ArrayBufferView): void {
    const { byteLength } = from;
    this.#check('cuMemcpyHtoD', this.#c.cuMemcpyHtoD_v2(to, from, byteLength), `of ${byteLength} bytes`);
  }
  /** Copies bytes of the device into a typed array, and waits. */
  toHost(into: ArrayBufferView, from: number): void {
    const { byteLength } = into;
    this.#check('cuMemcpyDtoH', this.#c.cuMemcpyDtoH_v2(into, from, byteLength), `of ${byteLength} bytes`);
  }
  copy(to: number, from: number, bytes: number): void {
    this.#check('cuMemcpyDtoD', this.#c.cuMemcpyDtoD_v2(to, from, bytes), `of ${bytes} bytes`);
  }
  /** `from` is an address in pinned memory that must stay as it is until the stream has passed the copy. */
  toDeviceAsync(to: number, from: number, bytes: number, stream: number): void {
    const status = this.#c.cuMemcpyHtoDAsync_v2(to, from, bytes, stream);
    this.#check('cuMemcpyHtoDAsync', status, `of ${bytes} bytes`);
  }
  toHostAsync(to: number, from: number, bytes: number, stream: number): void {
    const status = this.#c.cuMemcpyDtoHAsync_v2(to, from, bytes, stream);
    this.#check('cuMemcpyDtoHAsync', status, `of ${bytes} bytes`);
  }
  copyAsync(to: number, from: number, bytes: number, stream: number): void {
    const status = this.#c.cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
    this.#check('cuMemcpyDtoDAsync', status, `of ${bytes} bytes`);
  }

  // Streams, events ----------------------------------------------------------------------------------

  /** A stream that does not wait for the null stream; `first`: its kernels start before those of others. */
  streamCreate(priority: 'last' | 'first' = 'last'): number {
    const number = priority === 'first' ? FIRST : 0;
    const status = this.#c.cuStreamCreateWithPriority(this.#out.address, STREAM_NON_BLOCKING, number);
    this.#check('cuStreamCreate', status);
    return this.#u64();
  }
  streamDestroy(stream: number): void {
    this.#release('cuStreamDestroy', () => this.#c.cuStreamDestroy_v2(stream));
  }
  streamSynchronize(stream: number): void {
    this.#check('cuStreamSynchronize', this.#c.cuStreamSynchronize(stream));
  }
  /** Whether everything that is queued on the stream is done. */
  streamDone(stream: number): boolean {
    const status = this.#c.cuStreamQuery(stream);
    if (status === CUDA.notReady) return false;
    this.#check('cuStreamQuery', status);
    return true;
  }
  /** What is queued on the stream from now on waits for the event. */
  streamWaitEvent(stream: number, event: number): void {
    this.#check('cuStreamWaitEvent', this.#c.cuStreamWaitEvent(stream, event, 0));
  }
  eventCreate(timing: boolean): number {
    const flags = timing ? EVENT_DEFAULT : EVENT_DISABLE_TIMING;
    this.#check('cuEventCreate', this.#c.cuEventCreate(this.#out.address, flags));
    return this.#u64();
  }
  eventDestroy(event: number): void {
    this.#release('cuEventDestroy', () => this.#c.cuEventDestroy_v2(event));
  }
  eventRecord(event: number, stream: number): void {
    this.#check('cuEventRecord', this.#c.cuEventRecord(event, stream));
  }
  eventSynchronize(event: number): void {
    this.#check('cuEventSynchronize', this.#c.cuEventSynchronize(event));
  }
  /** Milliseconds between two recorded events, to half a microsecond or so. */
  eventElapsed(start: number, end: number): number {
    const status = this.#c.cuEventElapsedTime(this.#out.address, start, end);
    this.#check('cuEventElapsedTime', status);
    return this.#view.getFloat32(0, true);
  }

  // Modules, launches --------------------------------------------------------------------------------

  /** Loads a fatbin, a cubin, or PTX that ends with a zero. The image may go when the call has returned. */
  moduleLoad(image: Uint8Array): number {
    const status = this.#c.cuModuleLoadData(this.#out.address, image);
    this.#check('cuModuleLoadData', status, `of ${image.byteLength} bytes`);
    return this.#u64();
  }
  moduleUnload(module: number): void {
    this.#release('cuModuleUnload', () => this.#c.cuModuleUnload(module));
  }
  /** A kernel by name, or null where the module has none. */
  moduleFunction(module: number, name: string): number | null {
    const status = this.#c.cuModuleGetFunction(this.#out.address, module, cString(name));
    if (status === CUDA.notFound) return null;
    this.#check('cuModuleGetFunction', status, name);
    return this.#u64();
  }
  functionAttribute(kernel: number, attribute: keyof typeof FUNCTION_ATTRIBUTE): number {
    const status = this.#c.cuFuncGetAttribute(this.#out.address, FUNCTION_ATTRIBUTE[attribute], kernel);
    this.#check('cuFuncGetAttribute', status, attribute);
    return this.#i32();
  }
  /** Allows a kernel so many bytes of dynamic shared memory: beyond 48 KiB it must be asked for. */
  allowShared(kernel: number, bytes: number): void {
    const status = this.#c.cuFuncSetAttribute(kernel, FUNCTION_ATTRIBUTE.maxDynamicShared, bytes);
    this.#check('cuFuncSetAttribute', status, `to ${bytes} bytes of shared memory`);
  }
  /**
   * Queues a kernel over `blocks` x `threads`. `parameters`: address of the list of addresses of its
   * parameters, which are read before the call returns.
   */
  launch(
    kernel: number,
    blocks: number,
    threads: number,
    shared: number,
    stream: number,
    parameters: number,
    name = '',
  ): void {
    const c = this.#c;
    const status = c.cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, 0);
    if (status === 0) return;
    const sizes = `of ${name} over ${blocks} blocks of ${threads} threads, ${shared} bytes shared`;
    this.#check('cuLaunchKernel', status, sizes);
  }

  // Graphs -------------------------------------------------------------------------------------------

  beginCapture(stream: number, mode: CaptureMode): void {
    const status = this.#c.cuStreamBeginCapture_v2(stream, CAPTURE_MODES.indexOf(mode));
    this.#check('cuStreamBeginCapture', status);
  }
  /** Ends a capture; the graph is the caller's. */
  endCapture(stream: number): number {
    this.#check('cuStreamEndCapture', this.#c.cuStreamEndCapture(stream, this.#out.address));
    return this.#u64();
  }
  /** Ends a capture that cannot be used, whatever its state. */
  abandonCapture(stream: number): void {
    const status = this.#c.cuStreamEndCapture(stream, this.#out.address);
    const graph = this.#u64();
    if (status === 0 && graph !== 0) this.graphDestroy(graph);
  }
  graphNodes(graph: number): number {
    this.#check('cuGraphGetNodes', this.#c.cuGraphGetNodes(graph, 0, this.#out.address));
    return this.#u64();
  }
  /** Makes an executable graph; the graph itself may go then. */
  graphInstantiate(graph: number): number {
    const nodes = this.graphNodes(graph);
    const status = this.#c.cuGraphInstantiateWithFlags(this.#out.address, graph, 0);
    if (status === CUDA.outOfMemory) throw this.#shortOf(`cuGraphInstantiate of ${nodes} nodes`, 0);
    this.#check('cuGraphInstantiate', status, `of ${nodes} nodes`);
    return this.#u64();
  }
  graphLaunch(executable: number, stream: number): void {
    const status = this.#c.cuGraphLaunch(executable, stream);
    if (status !== 0) this.#check('cuGraphLaunch', status);
  }
  graphDestroy(graph: number): void {
    this.#release('cuGraphDestroy', () => this.#c.cuGraphDestroy(graph));
  }
  graphExecDestroy(executable: number): void {
    this.#release('cuGraphExecDestroy', () => this.#c.cuGraphExecDestroy(executable));
  }

  // Statuses -----------------------------------------------------------------------------------------

  #check(call: string, status: number, sizes?: string): void {
    if (status === 0) return;
    if (isLost(status)) this.#lost = true;
    const words = {
      name: this.#words('cuGetErrorName', status),
      text: this.#words('cuGetErrorString', status),
    };
    throw cudaFailure(call, status, words, sizes);
  }

  /**
   * Gives a handle back. On a lost device that is neither possible nor needed, and must not hide the cause.
   */
  #release(call: string, action: () => number): void {
    if (!this.#lost) this.#check(call, action());
  }

  #shortOf(call: string, bytes: number): CudaFailure {
    const { address } = this.#out;
    const known = this.#c.cuMemGetInfo_v2(address, address + 8) === 0;
    return outOfMemory(call, bytes, known ? this.#u64() : 0, known ? this.#u64(8) : 0);
  }

  #words(call: 'cuGetErrorName' | 'cuGetErrorString', status: number): string {
    return this.#c[call](status, this.#out.address) === 0 ? textAt(this.#u64()) : '';
  }

  #i32(): number {
    return this.#view.getInt32(0, true);
  }
  /** An address or a size: below 2^53 on every machine that there is. */
  #u64(at = 0): number {
    return Number(this.#view.getBigUint64(at, true));
  }
}

/** Pinned memory of the host. */
export class HostMemory {
  readonly bytes: Uint8Array;
  readonly #free: () => void;
  #freed = false;

  constructor(
    readonly address: number,
    readonly byteLength: number,
    free: () => void,
  ) {
    this.bytes = bytesAt(address, byteLength);
    this.#free = free;
  }

  /** `bytes` must not be touched afterwards. A second call does nothing. */
  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#free();
  }
}

let opened: Promise<Cuda> | undefined;

/** The driver, opened once. Throws a Failure (code 3) with every candidate's reason. */
export function openCuda(): Promise<Cuda> {
  opened ??= loaderReason().then((reason) => new Cuda(openDriver(candidates('driver'), reason)));
  return opened;
}

/** Opens the driver's library without starting it. */
export function openDriver(
  paths: readonly string[],
  reason?: (path: string) => string,
): Library<typeof CUDA_SYMBOLS> {
  return openLibrary({
    name: "the NVIDIA driver's library",
    candidates: paths,
    required: CUDA_SYMBOLS,
    reason,
    fix: 'Install the NVIDIA driver, start the container with --gpus all, or say --device cpu',
  });
}
