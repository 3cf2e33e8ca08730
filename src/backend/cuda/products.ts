// Matrix products by cuBLASLt. Ours are row-major; the library's are column-major, where the same bytes are
// the transpose: C^T = op(B)^T op(A)^T. An algorithm is chosen once a shape and stays; choices can be saved.

import {
  type Algorithm,
  ALGORITHM_BYTES,
  type CublasLt,
  type DataType,
  type LayoutSpec,
} from '../../../ffi/cublaslt.ts';
import { Pinned } from '../../../ffi/memory.ts';
import { EXIT, Failure } from '../../io/failure.ts';
import type { Elem, Launch } from '../backend.ts';
import type { CudaDevice } from './device.ts';

/** Bytes that products may work in. */
export const PRODUCT_WORKSPACE = 32 * 2 ** 20;
/** Algorithms to try where the fastest is wanted, and how often each is timed. */
const TRIED = 8;
const TIMED = 5;

/** Algorithms by shape, good for one kind of GPU and one release of the library. */
export interface ProductChoices {
  readonly device: string;
  readonly library: string;
  readonly products: Readonly<Record<string, { readonly algorithm: string; readonly workspace: number }>>;
}

export interface ProductOptions {
  /** Time the library's proposals on first use, instead of taking its favourite. */
  readonly tune: boolean;
  /** Choices of an earlier run; a shape that is not among them is chosen anew. */
  readonly choices: ProductChoices | null;
}

/** The integer slots of kernel "gemm", by name. */
interface Extents {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
  readonly transA: boolean;
  readonly transB: boolean;
  readonly batch: number;
  readonly strideA: number;
  readonly strideB: number;
  readonly strideC: number;
  readonly strideBias: number;
  readonly accumulate: boolean;
}

interface Operand {
  readonly address: number;
  readonly type: DataType;
}

interface Chosen {
  /** 64 opaque bytes, and the address that the library reads them at. */
  readonly bytes: Pinned;
  readonly workspace: number;
}

/** A product with everything decided: queueing it is one call. */
export interface Product {
  queue(): void;
  release(): void;
}

export class Products {
  readonly #lt: CublasLt;
  readonly #device: CudaDevice;
  readonly #typeOf: (elem: Elem) => DataType;
  readonly #tune: boolean;
  readonly #choices = new Map<string, Chosen>();
  readonly #layouts = new Map<string, number>();
  readonly #descriptors = new Set<number>();
  readonly #plain = new Map<string, number>();
  readonly #workspace: number;
  /** alpha 1, beta 0: the library reads them on the host. */
  readonly #factors = new Pinned(8);

  constructor(
    lt: CublasLt,
    device: CudaDevice,
    typeOf: (elem: Elem) => DataType,
    { tune, choices }: ProductOptions,
  ) {
    this.#lt = lt;
    this.#device = device;
    this.#typeOf = typeOf;
    this.#tune = tune;
    new Float32Array(this.#factors.buffer).set([1, 0]);
    this.#workspace = device.allocate(PRODUCT_WORKSPACE);
    if (choices) this.take(choices);
  }

  /** What was chosen so far, to be stored with a run. */
  get choices(): ProductChoices {
    const products = [...this.#choices].map(([key, { bytes, workspace }]) => {
      return [key, { algorithm: Buffer.from(bytes.bytes).toString('hex'), workspace }] as const;
    });
    return { ...this.#identity(), products: Object.fromEntries(products) };
  }

  /** Readies a launch of kernel "gemm" with its pointers at the given addresses. */
  prepare(launch: Launch, addresses: readonly number[]): Product {
    const e = extentsOf(launch);
    const operand = (i: number): Operand => {
      const place = launch.pointers[i];
      if (!place) throw new Failure({ what: 'gemm', why: 'a matrix is missing' });
      return { address: addresses[i]!, type: this.#typeOf(place.elem) };
    };
    const [A, B, C] = [operand(0), operand(1), operand(2)];
    const bias = launch.pointers[3] ? operand(3) : null;
    const sizes = () => `of ${words(e, A, C)}`;
    if (A.type !== B.type || (bias && bias.type !== C.type)) {
      const types = [A, B, C, ...(bias ? [bias] : [])].map(({ type }) => type).join(', ');
      throw new Failure({ what: `gemm ${sizes()}`, why: `no GPU product for operands of ${types}` });
    }
    const { batch } = e;
    const specs = {
      A: { ...column(e.transB, e.N, e.K, e.ldb), type: B.type, batch, stride: e.strideB },
      B: { ...column(e.transA, e.K, e.M, e.lda), type: A.type, batch, stride: e.strideA },
      C: { rows: e.N, columns: e.M, ld: e.ldc, type: C.type, batch, stride: e.strideC },
    };
    const layouts = { A: this.#layout(specs.A), B: this.#layout(specs.B), C: this.#layout(specs.C) };
    const descriptor = this.#descriptor(e, bias);
    const aligned = [B.address, A.address, C.address].map(alignment);
    const key = [
      ...[e.M, e.N, e.K, e.lda, e.ldb, e.ldc, e.transA ? 't' : 'n', e.transB ? 't' : 'n', batch],
      ...[e.strideA, e.strideB, e.strideC, e.strideBias, e.accumulate ? 'add' : 'set'],
      ...[A.type, C.type, bias ? 'bias' : 'plain', ...aligned],
    ].join(' ');
    const beta = this.#factors.address + (e.accumulate ? 0 : 4);
    const queue = (D: number, { bytes, workspace }: Chosen) =>
      this.#lt.matmul(
        ...([descriptor, this.#factors.address, B.address, layouts.A, A.address, layouts.B] as const),
        ...([beta, D, layouts.C, D, layouts.C, bytes.address] as const),
        ...([this.#workspace, workspace, this.#device.stream, sizes] as const),
      );
    let chosen = this.#choices.get(key);
    if (!chosen) {
      const bytes = spanOf(specs.C) * (C.type === 'bf16' ? 2 : 4);
      chosen = this.#choose(descriptor, layouts, aligned, sizes, (trial, D) => queue(D, trial), bytes);
      this.#choices.set(key, chosen);
    }
    const decided = chosen;
    const release = () => {
      if (this.#descriptors.delete(descriptor)) this.#lt.descriptorDestroy(descriptor);
    };
    return { queue: () => queue(C.address, decided), release };
  }

  close(): void {
    for (const layout of this.#layouts.values()) this.#lt.layoutDestroy(layout);
    for (const descriptor of [...this.#descriptors, ...this.#plain.values()]) {
      this.#lt.descriptorDestroy(descriptor);
    }
    this.#device.release(this.#workspace, PRODUCT_WORKSPACE);
    this.#lt.destroy();
  }

  /** The library's favourite, or the fastest of its proposals with D in memory of its own. */
  #choose(
    descriptor: number,
    { A, B, C }: { A: number; B: number; C: number },
    [alignA = 1, alignB = 1, alignC = 1]: readonly number[],
    sizes: () => string,
    run: (trial: Chosen, D: number) => void,
    bytes: number,
  ): Chosen {
    const align = { A: alignA, B: alignB, C: alignC, D: alignC };
    const limits = { workspace: PRODUCT_WORKSPACE, align };
    const found = this.#lt.algorithms(descriptor, { A, B, C, D: C }, limits, this.#tune ? TRIED : 1);
    const trials = found.map(chosenOf);
    const [first] = trials;
    if (!first) {
      const why = `cuBLASLt ${this.#lt.version} has no algorithm for it on ${this.#device.facts.name}`;
      throw new Failure({
        what: `gemm ${sizes()}`,
        why,
        fix: 'Use another release of libcublas, or --precision fp32',
      });
    }
    if (trials.length === 1) return first;
    const D = this.#device.allocate(bytes);
    try {
      const times = trials.map((trial) => this.#time(() => run(trial, D)));
      return trials[times.indexOf(Math.min(...times))]!;
    } finally {
      this.#device.release(D, bytes);
    }
  }

  /** Median milliseconds of one call, after one that warms up. */
  #time(call: () => void): number {
    const { cuda, stream } = this.#device;
    const [start, end] = [cuda.eventCreate(true), cuda.eventCreate(true)];
    call();
    const times = Array.from({ length: TIMED }, () => {
      cuda.eventRecord(start, stream);
      call();
      cuda.eventRecord(end, stream);
      cuda.eventSynchronize(end);
      return cuda.eventElapsed(start, end);
    });
    cuda.eventDestroy(start);
    cuda.eventDestroy(end);
    return times.sort((a, b) => a - b)[TIMED >> 1]!;
  }

  #layout(spec: LayoutSpec): number {
    const key = JSON.stringify(spec);
    const known = this.#layouts.get(key);
    if (known !== undefined) return known;
    const made = this.#lt.layout(spec);
    this.#layouts.set(key, made);
    return made;
  }

  /** Descriptors with a bias hold its address: one a product. */
  #descriptor(e: Extents, bias: Operand | null): number {
    if (bias) {
      const made = this.#lt.descriptor(e.transB, e.transA, { ...bias, stride: e.strideBias });
      this.#descriptors.add(made);
      return made;
    }
    const key = `${e.transB} ${e.transA}`;
    const known = this.#plain.get(key);
    if (known !== undefined) return known;
    const made = this.#lt.descriptor(e.transB, e.transA, null);
    this.#plain.set(key, made);
    return made;
  }

  #identity(): { device: string; library: string } {
    const { name, capability } = this.#device.facts;
    return { device: `${name} sm_${capability}`, library: `cuBLASLt ${this.#lt.version}` };
  }

  /** Takes the choices of an earlier run. Throws a Failure where they are of another GPU or library. */
  take(saved: unknown): void {
    const what = 'choice of algorithms';
    if (!isChoices(saved)) throw new Failure({ what, why: 'is damaged' });
    const { device, library, products } = saved;
    const here = this.#identity();
    if (device !== here.device || library !== here.library) {
      throw new Failure({
        what,
        why: `was made on ${device} with ${library}, here are ${here.device} with ${here.library}`,
        fix: 'Go on where it was begun, or begin a new run from its checkpoint',
        code: EXIT.missing,
      });
    }
    for (const [key, { algorithm, workspace }] of Object.entries(products)) {
      const bytes = Buffer.from(algorithm, 'hex');
      if (bytes.length !== ALGORITHM_BYTES || !(workspace >= 0 && workspace <= PRODUCT_WORKSPACE)) {
        throw new Failure({ what, why: `is damaged at ${key}` });
      }
      this.#choices.set(key, chosenOf({ bytes, workspace, waves: 0 }));
    }
  }
}

function isChoices(saved: unknown): saved is ProductChoices {
  if (typeof saved !== 'object' || saved === null) return false;
  if (!('device' in saved) || !('library' in saved) || !('products' in saved)) return false;
  const { products } = saved;
  if (typeof products !== 'object' || products === null) return false;
  return Object.values(products).every(
    (each) => typeof each?.algorithm === 'string' && typeof each.workspace === 'number',
  );
}

function chosenOf({ bytes, workspace }: Algorithm): Chosen {
  const kept = new Pinned(ALGORITHM_BYTES);
  kept.bytes.set(bytes);
  return { bytes: kept, workspace };
}

function extentsOf({ ints }: Launch): Extents {
  const [M = 0, N = 0, K = 0, lda = 0, ldb = 0, ldc = 0, transA, transB, batch = 1] = ints;
  const [strideA = 0, strideB = 0, strideC = 0, strideBias = 0, accumulate] = ints.slice(9);
  return {
    ...{ M, N, K, lda, ldb, ldc, transA: transA === 1, transB: transB === 1, batch },
    ...{ strideA, strideB, strideC, strideBias, accumulate: accumulate === 1 },
  };
}

/** A row-major [outer, inner] (or, stored transposed, [inner, outer]) as the library sees it. */
function column(transposed: boolean, inner: number, outer: number, ld: number) {
  return transposed ? { rows: outer, columns: inner, ld } : { rows: inner, columns: outer, ld };
}

/** Elements from the first to the last of a batch. */
function spanOf({ rows, columns, ld, batch, stride }: LayoutSpec): number {
  return (batch - 1) * stride + (columns - 1) * ld + rows;
}

/** The largest power of two, up to 256, that divides an address. */
function alignment(address: number): number {
  let align = 256;
  while (address % align !== 0) align /= 2;
  return align;
}

function words(e: Extents, A: Operand, C: Operand): string {
  const batch = e.batch > 1 ? `${e.batch} x ` : '';
  const op = `${e.transA ? 'A^T' : 'A'} ${e.transB ? 'B^T' : 'B'}`;
  const types = `${A.type} to ${C.type}`;
  const product = `C[${e.M}, ${e.N}] ${e.accumulate ? '+=' : '='} ${op} over ${e.K}`;
  return `${batch}${product}, ${types}, ld ${e.lda} ${e.ldb} ${e.ldc}`;
}
