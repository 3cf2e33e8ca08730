// cuDNN: handle, version, and the six calls of its graph interface, in which everything is a descriptor with
// numbered attributes (cudnn-graph.ts knows the numbers).

import { EXIT, Failure } from '../src/io/failure.ts';
import { type Library, openLibrary } from './library.ts';
import { Pinned, textAt } from './memory.ts';

export const CUDNN_SYMBOLS = {
  cudnnGetVersion: { args: [], returns: 'u64' },
  cudnnGetErrorString: { args: ['i32'], returns: 'ptr' },
  cudnnCreate: { args: ['ptr'], returns: 'i32' },
  cudnnDestroy: { args: ['ptr'], returns: 'i32' },
  cudnnSetStream: { args: ['ptr', 'ptr'], returns: 'i32' },
  cudnnBackendCreateDescriptor: { args: ['i32', 'ptr'], returns: 'i32' },
  cudnnBackendDestroyDescriptor: { args: ['ptr'], returns: 'i32' },
  cudnnBackendSetAttribute: { args: ['ptr', 'i32', 'i32', 'i64', 'ptr'], returns: 'i32' },
  cudnnBackendGetAttribute: { args: ['ptr', 'i32', 'i32', 'i64', 'ptr', 'ptr'], returns: 'i32' },
  cudnnBackendFinalize: { args: ['ptr'], returns: 'i32' },
  cudnnBackendExecute: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
} as const;

const CUDNN_OPTIONAL = {
  cudnnGetLastErrorString: { args: ['ptr', 'u64'], returns: 'void' },
} as const;

/** Values of attributes, in the order that C expects; `type` and `attribute` are cuDNN's numbers. */
export interface AttributeValue {
  readonly attribute: number;
  readonly type: number;
  readonly count: number;
  /** A view over an explicit ArrayBuffer. */
  readonly values: ArrayBufferView;
}

/** Releases before this one have other status numbers and no such soname. */
const LEAST_VERSION = 90000;

/** A call that cuDNN refused. */
export class CudnnFailure extends Failure {}

/** 9.8.0 of 90800, 8.9.7 of 8907: the numbers changed with release 9. */
export function cudnnRelease(version: number): string {
  const major = version < 10000 ? 1000 : 10000;
  return [Math.floor(version / major), Math.floor((version % major) / 100), version % 100].join('.');
}

/** The opened library with one handle. The device's context must be current. */
export class Cudnn {
  readonly path: string;
  /** 90800 for 9.8.0. */
  readonly version: number;
  readonly #c: Library<typeof CUDNN_SYMBOLS, typeof CUDNN_OPTIONAL>['calls'];
  readonly #o: Library<typeof CUDNN_SYMBOLS, typeof CUDNN_OPTIONAL>['optional'];
  readonly #out = new Pinned(8);
  readonly #view = new DataView(this.#out.buffer);
  #handle: number;

  constructor(library: Library<typeof CUDNN_SYMBOLS, typeof CUDNN_OPTIONAL>) {
    this.path = library.path;
    this.#c = library.calls;
    this.#o = library.optional;
    this.version = this.#c.cudnnGetVersion();
    this.#check('cudnnCreate', this.#c.cudnnCreate(this.#out.address));
    this.#handle = this.#pointer();
  }

  /** cudnnHandle_t. */
  get handle(): number {
    return this.#handle;
  }

  destroy(): void {
    if (this.#handle !== 0) this.#check('cudnnDestroy', this.#c.cudnnDestroy(this.#handle));
    this.#handle = 0;
  }
  setStream(stream: number): void {
    this.#check('cudnnSetStream', this.#c.cudnnSetStream(this.#handle, stream));
  }

  /** An empty descriptor of a kind (cudnnBackendDescriptorType_t), to read one into. */
  holder(kind: number): number {
    const created = this.#c.cudnnBackendCreateDescriptor(kind, this.#out.address);
    this.#check('cudnnBackendCreateDescriptor', created, `of kind ${kind}`);
    return this.#pointer();
  }
  /** A descriptor of a kind with its attributes set and finalized. Nothing is left of it where that fails. */
  descriptor(kind: number, attributes: readonly AttributeValue[]): number {
    const made = this.holder(kind);
    try {
      for (const { attribute, type, count, values } of attributes) {
        const status = this.#c.cudnnBackendSetAttribute(made, attribute, type, count, values);
        this.#check('cudnnBackendSetAttribute', status, `${attribute} of kind ${kind}`);
      }
      this.#check('cudnnBackendFinalize', this.#c.cudnnBackendFinalize(made), `of kind ${kind}`);
    } catch (error) {
      this.#c.cudnnBackendDestroyDescriptor(made);
      throw error;
    }
    return made;
  }
  /** Reads up to `count` elements of an attribute; returns how many there are. */
  attribute(descriptor: number, { attribute, type, count, values }: AttributeValue): number {
    const { address } = this.#out;
    const status = this.#c.cudnnBackendGetAttribute(descriptor, attribute, type, count, address, values);
    this.#check('cudnnBackendGetAttribute', status, String(attribute));
    return Number(this.#view.getBigInt64(0, true));
  }
  descriptorDestroy(descriptor: number): void {
    this.#check('cudnnBackendDestroyDescriptor', this.#c.cudnnBackendDestroyDescriptor(descriptor));
  }
  /** Queues an execution plan over a variant pack (both descriptors) on the handle's stream. */
  execute(plan: number, variantPack: number): void {
    this.#check('cudnnBackendExecute', this.#c.cudnnBackendExecute(this.#handle, plan, variantPack));
  }

  #pointer(): number {
    return Number(this.#view.getBigUint64(0, true));
  }

  #check(call: string, status: number, sizes?: string): void {
    if (status === 0) return;
    const words = textAt(this.#c.cudnnGetErrorString(status));
    const more = new Pinned(512);
    this.#o.cudnnGetLastErrorString?.(more.address, more.bytes.byteLength);
    const last = new TextDecoder().decode(more.bytes.subarray(0, more.bytes.indexOf(0)));
    const why = `${words}${last ? `, ${last}` : ''} (status ${status}, cuDNN ${cudnnRelease(this.version)})`;
    throw new CudnnFailure({ what: sizes ? `${call} ${sizes}` : call, why });
  }
}

const FIX = 'Install cuDNN 9 (pip install nvidia-cudnn-cu12), or name its folder in MICRODIFF_CUDA_PATH';

/**
 * Throws a Failure (code 3) where none opens, with every candidate's reason, or the one that does is too
 * old.
 */
export function openCudnnLibrary(
  paths: readonly string[],
  reason?: (path: string) => string,
): Library<typeof CUDNN_SYMBOLS, typeof CUDNN_OPTIONAL> {
  const library = openLibrary({
    name: 'cuDNN',
    candidates: paths,
    required: CUDNN_SYMBOLS,
    optional: CUDNN_OPTIONAL,
    reason,
    fix: FIX,
  });
  const version = library.calls.cudnnGetVersion();
  if (version >= LEAST_VERSION) return library;
  throw new Failure({
    what: `cuDNN ${cudnnRelease(version)} at ${library.path}`,
    why: `is too old, ${cudnnRelease(LEAST_VERSION)} is needed`,
    fix: FIX,
    code: EXIT.missing,
  });
}
