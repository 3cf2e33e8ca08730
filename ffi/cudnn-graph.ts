// A convolution in cuDNN's graph interface: tensors, operation, operation graph, heuristics, engine
// configurations, execution plan, variant pack. All numbers are those of cudnn_graph.h, equal in all releases
// 8 and 9; compared with the bindings of hidet (C++), JCudnn (Java) and two made from 9.22 (Rust) and 9.24
// (C#). Order of calls and choice of attributes are those of cudnn-frontend.

import type { AttributeValue, Cudnn } from './cudnn.ts';

/** cudnnBackendDescriptorType_t. */
const KIND = {
  convolution: 1,
  engine: 2,
  engineConfig: 3,
  heuristics: 4,
  plan: 5,
  convolutionForward: 10,
  graph: 15,
  variantPack: 16,
  tensor: 17,
} as const;

/** cudnnBackendAttributeType_t. */
const TYPE = {
  handle: 0,
  dataType: 1,
  int64: 3,
  float: 4,
  pointer: 6,
  convolutionMode: 7,
  heuristicMode: 8,
  numericalNote: 11,
  descriptor: 15,
} as const;

/** cudnnBackendAttributeName_t. */
const ATTRIBUTE = {
  convolution: {
    computeType: 100,
    mode: 101,
    dilations: 102,
    strides: 103,
    paddingAfter: 104,
    paddingBefore: 105,
    spatialDimensions: 106,
  },
  heuristics: { mode: 200, graph: 201, results: 202 },
  engineConfig: { engine: 300 },
  plan: { handle: 400, engineConfig: 401, workspace: 402 },
  convolutionForward: { alpha: 700, beta: 701, convolution: 702, w: 703, x: 704, y: 705 },
  graph: { handle: 800, operations: 801 },
  tensor: { alignment: 900, dataType: 901, dimensions: 902, strides: 903, id: 906 },
  variantPack: { ids: 1000, pointers: 1001, workspace: 1003 },
  engine: { numericalNotes: 1303 },
} as const;

/** cudnnDataType_t. */
const DATA_TYPE = { f32: 0, bf16: 9 } as const;
/** cudnnConvolutionMode_t: the window is not turned round, as in every network. */
const CROSS_CORRELATION = 1;
/** cudnnBackendHeurMode_t. */
const HEURISTIC = { fallback: 2, A: 3 } as const;
export type Heuristic = keyof typeof HEURISTIC;

/** cudnnBackendNumericalNote_t: what an engine does to numbers. */
export const NOTE = {
  tensorCore: 0,
  downConvertInputs: 1,
  reducedPrecisionReduction: 2,
  fft: 3,
  nondeterministic: 4,
  winograd: 5,
  winograd4x4: 6,
  winograd6x6: 7,
  winograd13x13: 8,
} as const;
/** More than there are notes. */
const MOST_NOTES = 32;

/** Names of the tensors in a variant pack. */
const ID = { x: 1, w: 2, y: 3 } as const;

/** y [N, Ho, Wo, Co] of x [N, H, W, C] and w [Co, k, k, C], channels together; sums in float32. */
export interface ConvolutionSpec {
  readonly type: keyof typeof DATA_TYPE;
  readonly x: { readonly N: number; readonly H: number; readonly W: number; readonly C: number };
  readonly y: { readonly Ho: number; readonly Wo: number; readonly Co: number };
  readonly k: number;
  readonly stride: number;
  /** On all sides. */
  readonly pad: number;
  /** Bytes of which the addresses are multiples. */
  readonly align: { readonly x: number; readonly w: number; readonly y: number };
}

/** Over an explicit ArrayBuffer, as memory.ts asks for. */
function words(numbers: readonly number[]): BigInt64Array {
  const values = new BigInt64Array(new ArrayBuffer(8 * numbers.length));
  values.set(numbers.map(BigInt));
  return values;
}

function int64(attribute: number, ...numbers: number[]): AttributeValue {
  return { attribute, type: TYPE.int64, count: numbers.length, values: words(numbers) };
}

/** A C enum. */
function choice(attribute: number, type: number, value: number): AttributeValue {
  return { attribute, type, count: 1, values: new Int32Array(new ArrayBuffer(4)).fill(value) };
}

function float(attribute: number, value: number): AttributeValue {
  return { attribute, type: TYPE.float, count: 1, values: new Float32Array(new ArrayBuffer(4)).fill(value) };
}

function pointers(attribute: number, type: number, ...addresses: number[]): AttributeValue {
  return { attribute, type, count: addresses.length, values: words(addresses) };
}

const descriptors = (attribute: number, ...list: number[]) => pointers(attribute, TYPE.descriptor, ...list);

/** One convolution as an operation graph, with all that hangs on it; `destroy` ends it. */
export class ConvolutionGraph {
  readonly #cudnn: Cudnn;
  readonly #graph: number;
  /** In the order in which they refer to each other. */
  readonly #owned: number[] = [];

  /** Throws a CudnnFailure where the library refuses the sizes. */
  constructor(cudnn: Cudnn, { type, x, y, k, stride, pad, align }: ConvolutionSpec) {
    this.#cudnn = cudnn;
    try {
      const tensor = (id: number, bytes: number, [N, H, W, C]: [number, number, number, number]) =>
        this.#own(KIND.tensor, [
          choice(ATTRIBUTE.tensor.dataType, TYPE.dataType, DATA_TYPE[type]),
          // Always in the order N, C, H, W; the strides say how they lie.
          int64(ATTRIBUTE.tensor.dimensions, N, C, H, W),
          int64(ATTRIBUTE.tensor.strides, H * W * C, 1, W * C, C),
          int64(ATTRIBUTE.tensor.id, id),
          int64(ATTRIBUTE.tensor.alignment, bytes),
        ]);
      const input = tensor(ID.x, align.x, [x.N, x.H, x.W, x.C]);
      const weight = tensor(ID.w, align.w, [y.Co, k, k, x.C]);
      const output = tensor(ID.y, align.y, [x.N, y.Ho, y.Wo, y.Co]);
      const window = ATTRIBUTE.convolution;
      const convolution = this.#own(KIND.convolution, [
        choice(window.computeType, TYPE.dataType, DATA_TYPE.f32),
        choice(window.mode, TYPE.convolutionMode, CROSS_CORRELATION),
        int64(window.spatialDimensions, 2),
        int64(window.dilations, 1, 1),
        int64(window.strides, stride, stride),
        int64(window.paddingBefore, pad, pad),
        int64(window.paddingAfter, pad, pad),
      ]);
      const forward = ATTRIBUTE.convolutionForward;
      const operation = this.#own(KIND.convolutionForward, [
        descriptors(forward.x, input),
        descriptors(forward.w, weight),
        descriptors(forward.y, output),
        descriptors(forward.convolution, convolution),
        float(forward.alpha, 1),
        float(forward.beta, 0),
      ]);
      this.#graph = this.#own(KIND.graph, [
        pointers(ATTRIBUTE.graph.handle, TYPE.handle, cudnn.handle),
        descriptors(ATTRIBUTE.graph.operations, operation),
      ]);
    } catch (error) {
      this.destroy();
      throw error;
    }
  }

  /** Engine configurations that the library proposes, best first; they belong to the graph. */
  configs(mode: Heuristic): number[] {
    const { results, ...set } = ATTRIBUTE.heuristics;
    const heuristics = this.#own(KIND.heuristics, [
      descriptors(set.graph, this.#graph),
      choice(set.mode, TYPE.heuristicMode, HEURISTIC[mode]),
    ]);
    const read = (list: number[]) => {
      const values = words(list.length > 0 ? list : [0]);
      const wanted = { attribute: results, type: TYPE.descriptor, count: list.length, values };
      return this.#cudnn.attribute(heuristics, wanted);
    };
    const found = Array.from({ length: read([]) }, () => this.#hold(KIND.engineConfig));
    return found.slice(0, read(found));
  }

  /** Numerical notes of a configuration's engine. */
  notes(config: number): number[] {
    const engine = this.#hold(KIND.engine);
    this.#cudnn.attribute(config, descriptors(ATTRIBUTE.engineConfig.engine, engine));
    const values = new Int32Array(new ArrayBuffer(4 * MOST_NOTES));
    const attribute = ATTRIBUTE.engine.numericalNotes;
    const wanted = { attribute, type: TYPE.numericalNote, count: MOST_NOTES, values };
    return [...values.subarray(0, this.#cudnn.attribute(engine, wanted))];
  }

  /** An execution plan and the bytes of its workspace. Throws a CudnnFailure where it cannot be made. */
  plan(config: number): { readonly plan: number; readonly workspace: number } {
    const { workspace, ...set } = ATTRIBUTE.plan;
    const plan = this.#own(KIND.plan, [
      pointers(set.handle, TYPE.handle, this.#cudnn.handle),
      descriptors(set.engineConfig, config),
    ]);
    const values = new BigInt64Array(new ArrayBuffer(8));
    this.#cudnn.attribute(plan, { attribute: workspace, type: TYPE.int64, count: 1, values });
    return { plan, workspace: Number(values[0]) };
  }

  /** Ends the graph and everything that was made from it, last things first. */
  destroy(): void {
    for (const each of this.#owned.splice(0).reverse()) this.#cudnn.descriptorDestroy(each);
  }

  #own(kind: number, attributes: readonly AttributeValue[]): number {
    const made = this.#cudnn.descriptor(kind, attributes);
    this.#owned.push(made);
    return made;
  }

  #hold(kind: number): number {
    const made = this.#cudnn.holder(kind);
    this.#owned.push(made);
    return made;
  }
}

/** Where a plan finds its tensors, and memory to work in; the caller destroys it. */
export function variantPack(
  cudnn: Cudnn,
  at: { readonly x: number; readonly w: number; readonly y: number },
  workspace: number,
): number {
  const { ids, pointers: places, workspace: room } = ATTRIBUTE.variantPack;
  return cudnn.descriptor(KIND.variantPack, [
    pointers(places, TYPE.pointer, at.x, at.w, at.y),
    int64(ids, ID.x, ID.w, ID.y),
    pointers(room, TYPE.pointer, workspace),
  ]);
}
