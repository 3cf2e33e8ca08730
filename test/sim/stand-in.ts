// The stand-in driver for tests: the program's own bindings on it, its sim_ functions, and small things that
// every test of it needs. Importing this file opens nothing.
import { dlopen } from 'bun:ffi';
import { resolve } from 'node:path';
import { Cuda, openDriver } from '../../ffi/cuda.ts';
import { cString, Pinned, textAt } from '../../ffi/memory.ts';

/** Where the stand-in libraries lie: the value for MICRODIFF_CUDA_PATH. */
export const FOLDER = resolve('build/sim');
const DRIVER = `${FOLDER}/libcuda.so.1`;

const raw = () =>
  dlopen(DRIVER, {
    sim_calls: { args: ['ptr'], returns: 'i64' },
    sim_take_calls: { args: [], returns: 'u64' },
    sim_launches: { args: ['ptr'], returns: 'i64' },
    sim_complaints: { args: [], returns: 'i64' },
    sim_message: { args: [], returns: 'u64' },
    sim_set: { args: ['ptr', 'ptr'], returns: 'void' },
    cuInit: { args: ['i32'], returns: 'i32' },
    cuDevicePrimaryCtxReset_v2: { args: ['i32'], returns: 'i32' },
    cuCtxSetCurrent: { args: ['u64'], returns: 'i32' },
    cuCtxPushCurrent_v2: { args: ['u64'], returns: 'i32' },
    cuCtxCreate_v2: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
    cuCtxDestroy_v2: { args: ['u64'], returns: 'i32' },
    cuEventQuery: { args: ['u64'], returns: 'i32' },
    cuStreamQuery: { args: ['u64'], returns: 'i32' },
    cuStreamCreate: { args: ['ptr', 'i32'], returns: 'i32' },
    cuLaunchKernel: {
      args: ['u64', 'u32', 'u32', 'u32', 'u32', 'u32', 'u32', 'u32', 'u64', 'ptr', 'ptr'],
      returns: 'i32',
    },
    cuMemHostRegister_v2: { args: ['ptr', 'u64', 'u32'], returns: 'i32' },
    cuMemHostUnregister: { args: ['ptr'], returns: 'i32' },
    cuModuleLoadData: { args: ['ptr', 'ptr'], returns: 'i32' },
    cuGetProcAddress_v2: { args: ['ptr', 'ptr', 'i32', 'u64', 'ptr'], returns: 'i32' },
    cuThreadExchangeStreamCaptureMode: { args: ['ptr'], returns: 'i32' },
  }).symbols;

export type StandIn = ReturnType<typeof raw>;

/** The sim_ functions and driver calls that the bindings have no need of. */
let symbols: StandIn | undefined;
export function standIn(): StandIn {
  symbols ??= raw();
  return symbols;
}

export const set = (name: string, value: string) => standIn().sim_set(cString(name), cString(value));
export const calls = (name: string) => Number(standIn().sim_calls(cString(name)));
/** Calls by name since it was asked last. */
export const takeCalls = (): Record<string, number> => JSON.parse(textAt(Number(standIn().sim_take_calls())));
export const launches = (kernel: string) => Number(standIn().sim_launches(cString(kernel)));
export const complaints = () => Number(standIn().sim_complaints());
export const message = () => textAt(Number(standIn().sim_message()));

/** A driver with a context of its own: whatever was there before, lost or not, is gone. */
export function freshCuda(): Cuda {
  set('SIM_QUIET', '1');
  set('SIM_FAIL', '');
  set('SIM_ORDER', 'forward');
  set('SIM_MEMORY', String(2 ** 31));
  standIn().cuInit(0);
  standIn().cuDevicePrimaryCtxReset_v2(0);
  const cuda = new Cuda(openDriver([DRIVER]));
  cuda.retainPrimary(cuda.device(0));
  return cuda;
}

/** The status that a failing action threw, 0 if it did not throw. */
export function statusOf(action: () => unknown): number {
  try {
    action();
    return 0;
  } catch (error) {
    const { status } = error as { status?: number };
    if (status === undefined) throw error;
    return status;
  }
}

/** Slots of a kernel's arguments: integers and addresses as they are, reals in { real }. */
export type Slot = number | { readonly real: number };

/** A list of one parameter: the kernel's packed argument struct. Hold it until the launch has returned. */
export class Parameters {
  readonly #slots: Pinned;
  readonly #list = new Pinned(8);
  constructor(slots: readonly Slot[]) {
    this.#slots = new Pinned(8 * Math.max(slots.length, 1));
    this.put(slots);
    new DataView(this.#list.buffer).setBigUint64(0, BigInt(this.#slots.address), true);
  }
  put(slots: readonly Slot[]): void {
    const view = new DataView(this.#slots.buffer);
    slots.forEach((slot, i) => {
      if (typeof slot === 'number') view.setBigInt64(8 * i, BigInt(slot), true);
      else view.setFloat64(8 * i, slot.real, true);
    });
  }
  get address(): number {
    return this.#list.address;
  }
}

/** The kernels of a set by name. */
export function kernelsOf(cuda: Cuda, set: string): (name: string) => number {
  const module = cuda.moduleLoad(new TextEncoder().encode(`sim ${set}\0`));
  return (name) => {
    const kernel = cuda.moduleFunction(module, name);
    if (kernel === null) throw new Error(`no kernel ${name}`);
    return kernel;
  };
}

/** Launches a kernel with its slots, one block of `threads` if not said otherwise. */
export function launch(
  cuda: Cuda,
  kernel: number,
  slots: readonly Slot[],
  { blocks = 1, threads = 64, shared = 0, stream = 0 } = {},
): void {
  const parameters = new Parameters(slots);
  cuda.launch(kernel, blocks, threads, shared, stream, parameters.address);
  parameters.put(slots.map(() => -1)); // the driver has its own copy
}

/** Device memory that holds `values`. */
export function onDevice(cuda: Cuda, values: ArrayLike<number>): number {
  const data = Float32Array.from(values);
  const address = cuda.alloc(data.byteLength);
  cuda.toDevice(address, data);
  return address;
}

export function fromDevice(cuda: Cuda, address: number, count: number): number[] {
  const data = new Float32Array(count);
  cuda.toHost(data, address);
  return [...data];
}

export const range = (count: number) => Array.from({ length: count }, (_, i) => i);
