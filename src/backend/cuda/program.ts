// A program on a GPU: arguments packed once; the first run queues launch after launch, the second records the
// same calls as a graph, and from then on a run is one call.

import { Pinned } from '../../../ffi/memory.ts';
import { Failure } from '../../io/failure.ts';
import type { Launch, Loaded, Place, Program } from '../backend.ts';
import type { CudaDevice, CudaRegion, Dependent } from './device.ts';
import type { Kernel, Kernels } from './modules.ts';
import type { Product } from './products.ts';

const SLOT_BYTES = 8;
const WARP = 32;
const MOST_THREADS = 256;

export interface ProgramOptions {
  /** Record the second run as a graph; false: every run queues launch after launch, with equal bits. */
  readonly graph: boolean;
  /** Take the tensor-core form of a launch where it has one. */
  readonly tensorForms: boolean;
  /** Threads of every block, for tests; 0: as the launch's lanes say. */
  readonly threads: number;
}

/** One launch with everything decided. */
type Step = Product & Pick<Launch, 'beside'>;

/** A library that takes launches of some kernels. */
export interface LaunchLibrary {
  prepare(launch: Launch, addresses: readonly number[]): Product;
}

const NOTHING: Step = { queue: () => {}, release: () => {} };

export class CudaProgram implements Loaded, Dependent {
  readonly #device: CudaDevice;
  readonly #steps: readonly Step[];
  readonly #graph: boolean;
  /** Argument slots of all launches, then the lists of parameter addresses: held as long as the program. */
  readonly #packed: Pinned;
  readonly #ended: () => void;
  #runs = 0;
  #executable = 0;
  #events: number[] = [];
  /** What the second stream waits for before a step of its own, and the first one at the end; 0: no such. */
  readonly #fork: number;
  readonly #join: number;
  #released = false;

  constructor(
    device: CudaDevice,
    kernels: Kernels,
    libraryOf: (kernel: string) => LaunchLibrary | null,
    program: Program,
    regions: Readonly<Record<string, CudaRegion>>,
    options: ProgramOptions,
    ended: (program: CudaProgram) => void,
  ) {
    this.#device = device;
    this.#ended = () => ended(this);
    this.#graph = options.graph;
    const libraries = new Map(program.launches.map((launch) => [launch, libraryOf(launch.kernel)]));
    const launches = program.launches.filter((launch) => libraries.get(launch) || launch.blocks > 0);
    const own = launches.filter((launch) => !libraries.get(launch));
    const slots = own.reduce((sum, launch) => sum + slotsOf(launch), 0);
    this.#packed = new Pinned((slots + own.length) * SLOT_BYTES);
    const packer = new Packer(this.#packed, slots);
    const addressOf = (place: Place | null) => (place ? regions[place.space]!.address + place.offset : 0);
    const steps = new Map(
      launches.map((launch) => {
        const addresses = launch.pointers.map(addressOf);
        const library = libraries.get(launch);
        if (library) {
          const { beside } = launch;
          return [launch, { ...library.prepare(launch, addresses), beside }] as const;
        }
        if (launch.beside) throw new Failure({ what: launch.kernel, why: 'cannot run beside others' });
        const form = shapeOf(launch, kernels, options);
        kernels.allowShared(form.kernel, form.scratch);
        const parameters = packer.put(addresses, launch.ints, launch.reals);
        const { cuda, stream } = device;
        const { kernel, blocks, threads, scratch } = form;
        const queue = () =>
          cuda.launch(kernel.handle, blocks, threads, scratch, stream, parameters, kernel.name);
        return [launch, { queue, release: NOTHING.release }] as const;
      }),
    );
    // Launches over no blocks stay as steps that do nothing, so that times keep their places.
    this.#steps = program.launches.map((launch) => steps.get(launch) ?? NOTHING);
    const beside = this.#steps.some((step) => step.beside);
    [this.#fork = 0, this.#join = 0] = beside ? [1, 2].map(() => device.cuda.eventCreate(false)) : [];
  }

  run(): void {
    this.#need();
    const { cuda, stream } = this.#device;
    if (this.#executable === 0 && this.#graph && this.#runs === 1) this.#executable = this.#record();
    if (this.#executable !== 0) cuda.graphLaunch(this.#executable, stream);
    else this.#queue();
    this.#runs = Math.max(this.#runs, 1);
  }

  /** Queues launch after launch, none beside another, with an event between each two, and waits. */
  runTimed(): Float64Array {
    this.#need();
    const { cuda, stream } = this.#device;
    while (this.#events.length <= this.#steps.length) this.#events.push(cuda.eventCreate(true));
    cuda.eventRecord(this.#events[0]!, stream);
    for (const [i, step] of this.#steps.entries()) {
      this.#put(step);
      if (step.beside) this.#meet();
      cuda.eventRecord(this.#events[i + 1]!, stream);
    }
    cuda.eventSynchronize(this.#events[this.#steps.length]!);
    this.#runs = Math.max(this.#runs, 1);
    return Float64Array.from(this.#steps, (_, i) => {
      return cuda.eventElapsed(this.#events[i]!, this.#events[i + 1]!) * 1e6;
    });
  }

  /** Gives graph and events back; called when memory under the program is freed. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    const { cuda, stream } = this.#device;
    if (this.#executable !== 0) {
      if (!cuda.lost) cuda.streamSynchronize(stream);
      cuda.graphExecDestroy(this.#executable);
    }
    for (const event of [...this.#events, this.#fork, this.#join]) if (event !== 0) cuda.eventDestroy(event);
    for (const step of this.#steps) step.release();
    this.#ended();
    this.#events = [];
    this.#executable = 0;
  }

  #queue(): void {
    for (const step of this.#steps) this.#put(step);
    if (this.#fork !== 0) this.#meet();
  }

  /** A step beside others begins when all before it are done, on a second stream. */
  #put(step: Step): void {
    if (step.beside) this.#order(this.#fork, this.#device.stream, this.#device.beside);
    step.queue();
  }

  /** What comes next waits for all steps beside the others. */
  #meet(): void {
    this.#order(this.#join, this.#device.beside, this.#device.stream);
  }

  /** What is queued on a stream from now on waits for what is queued on another. In a capture: an edge. */
  #order(event: number, earlier: number, later: number): void {
    const { cuda } = this.#device;
    cuda.eventRecord(event, earlier);
    cuda.streamWaitEvent(later, event);
  }

  /** The same calls as an eager run, recorded. Nothing in them allocates or asks for algorithms. */
  #record(): number {
    const { cuda, stream } = this.#device;
    cuda.beginCapture(stream, 'thread-local');
    let graph: number;
    try {
      this.#queue();
      graph = cuda.endCapture(stream);
    } catch (error) {
      cuda.abandonCapture(stream);
      throw error;
    }
    try {
      return cuda.graphInstantiate(graph);
    } finally {
      cuda.graphDestroy(graph);
    }
  }

  #need(): void {
    if (this.#released) throw new Failure({ what: 'program', why: 'its GPU memory was freed' });
  }
}

interface Form {
  readonly kernel: Kernel;
  readonly blocks: number;
  readonly threads: number;
  readonly scratch: number;
}

/** Kernel, blocks, threads and shared memory of a launch. */
function shapeOf(launch: Launch, kernels: Kernels, options: ProgramOptions): Form {
  const tensor = options.tensorForms ? launch.tensorForm : null;
  if (tensor) {
    const kernel = kernels.find(tensor.kernel);
    return { kernel, blocks: tensor.blocks, threads: tensor.threads, scratch: tensor.scratch };
  }
  const kernel = kernels.find(launch.kernel);
  const wanted = options.threads || threadsFor(launch.lanes);
  const most = Math.max(WARP, Math.floor(kernel.maxThreads / WARP) * WARP);
  return { kernel, blocks: launch.blocks, threads: Math.min(wanted, most), scratch: launch.scratch };
}

/** A multiple of 32 that covers the lanes which a block has work for, within 32..256; not known: 256. */
export function threadsFor(lanes: number): number {
  if (lanes <= 0) return MOST_THREADS;
  return Math.min(MOST_THREADS, Math.ceil(lanes / WARP) * WARP);
}

function slotsOf({ pointers, ints, reals }: Launch): number {
  return pointers.length + ints.length + reals.length;
}

/** Writes argument structs one after the other, and for each the list of its one parameter's address. */
class Packer {
  readonly #view: DataView;
  readonly #packed: Pinned;
  #slot = 0;
  #list: number;

  constructor(packed: Pinned, slots: number) {
    this.#packed = packed;
    this.#view = new DataView(packed.buffer);
    this.#list = slots;
  }

  /** Address of the list of parameter addresses of a struct: pointers, then int64, then float64. */
  put(addresses: readonly number[], ints: readonly number[], reals: readonly number[]): number {
    const first = this.#packed.address + this.#slot * SLOT_BYTES;
    for (const n of [...addresses, ...ints])
      this.#view.setBigInt64(SLOT_BYTES * this.#slot++, BigInt(n), true);
    for (const r of reals) this.#view.setFloat64(SLOT_BYTES * this.#slot++, r, true);
    const at = this.#list++ * SLOT_BYTES;
    this.#view.setBigUint64(at, BigInt(first), true);
    return this.#packed.address + at;
  }
}
