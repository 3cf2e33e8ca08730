// cuBLASLt: matrix products D = alpha op(A) op(B) + beta C (+ bias), column-major, in a strided batch.
// Numbers are those of cublasLt.h and library_types.h, which have been the same since release 11.4.

import { EXIT, Failure } from '../src/io/failure.ts';
import { type Library, openLibrary } from './library.ts';
import { Pinned, textAt } from './memory.ts';
import { candidates, loaderReason } from './places.ts';

export const CUBLASLT_SYMBOLS = {
  cublasLtCreate: { args: ['ptr'], returns: 'i32' },
  cublasLtDestroy: { args: ['ptr'], returns: 'i32' },
  cublasLtGetVersion: { args: [], returns: 'u64' },
  cublasLtMatmulDescCreate: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cublasLtMatmulDescDestroy: { args: ['ptr'], returns: 'i32' },
  cublasLtMatmulDescSetAttribute: { args: ['ptr', 'i32', 'ptr', 'u64'], returns: 'i32' },
  cublasLtMatrixLayoutCreate: { args: ['ptr', 'i32', 'u64', 'u64', 'i64'], returns: 'i32' },
  cublasLtMatrixLayoutDestroy: { args: ['ptr'], returns: 'i32' },
  cublasLtMatrixLayoutSetAttribute: { args: ['ptr', 'i32', 'ptr', 'u64'], returns: 'i32' },
  cublasLtMatmulPreferenceCreate: { args: ['ptr'], returns: 'i32' },
  cublasLtMatmulPreferenceDestroy: { args: ['ptr'], returns: 'i32' },
  cublasLtMatmulPreferenceSetAttribute: { args: ['ptr', 'i32', 'ptr', 'u64'], returns: 'i32' },
  cublasLtMatmulAlgoGetHeuristic: {
    args: ['ptr', 'ptr', 'ptr', 'ptr', 'ptr', 'ptr', 'ptr', 'i32', 'ptr', 'ptr'],
    returns: 'i32',
  },
  // handle, descriptor, alpha, A, layout, B, layout, beta, C, layout, D, layout, algorithm, workspace, bytes,
  // stream
  cublasLtMatmul: {
    args: [
      ...(['ptr', 'ptr', 'ptr', 'u64', 'ptr', 'u64', 'ptr', 'ptr', 'u64', 'ptr', 'u64', 'ptr'] as const),
      ...(['ptr', 'u64', 'u64', 'ptr'] as const),
    ],
    returns: 'i32',
  },
} as const;

const CUBLASLT_OPTIONAL = {
  cublasLtGetStatusName: { args: ['i32'], returns: 'ptr' },
  cublasLtGetStatusString: { args: ['i32'], returns: 'ptr' },
} as const;

/** cudaDataType_t. */
export const DATA_TYPE = { f32: 0, bf16: 14 } as const;
export type DataType = keyof typeof DATA_TYPE;

/** cublasComputeType_t: products of fp32 stay fp32 (TF32 is another number). */
const COMPUTE_32F = 68;
const OP = { none: 0, transpose: 1 } as const;
/** cublasLtEpilogue_t. */
const EPILOGUE_BIAS = 4;

/** cublasLtMatmulDescAttributes_t. */
const DESCRIPTOR = {
  transA: 3,
  transB: 4,
  epilogue: 7,
  biasPointer: 8,
  biasStride: 10,
  biasType: 26,
} as const;
/** cublasLtMatrixLayoutAttribute_t. */
const LAYOUT = { batchCount: 5, batchStride: 6 } as const;
/** cublasLtMatmulPreferenceAttributes_t. */
const PREFERENCE = {
  workspaceBytes: 1,
  reductionSchemes: 3,
  alignA: 5,
  alignB: 6,
  alignC: 7,
  alignD: 8,
} as const;
/**
 * cublasLtReductionScheme_t as a mask: split products may be summed in the compute type (2) or the output
 * type (4), in a step of their own with a fixed order; not in place (1).
 */
const REDUCTIONS_IN_ORDER = 2 | 4;

/** sizeof(cublasLtMatmulHeuristicResult_t): algorithm, u64 workspace, i32 status, f32 waves, 16 reserved. */
const RESULT_BYTES = 96;
export const ALGORITHM_BYTES = 64;

/** One matrix: column-major, `rows` x `columns`, columns `ld` elements apart. */
export interface LayoutSpec {
  readonly type: DataType;
  readonly rows: number;
  readonly columns: number;
  readonly ld: number;
  readonly batch: number;
  /** Elements from one matrix of the batch to the next. */
  readonly stride: number;
}

export interface BiasSpec {
  readonly type: DataType;
  readonly address: number;
  readonly stride: number;
}

/** What a product has to bear: bytes of workspace, and the alignment of its four addresses. */
export interface Limits {
  readonly workspace: number;
  readonly align: { readonly A: number; readonly B: number; readonly C: number; readonly D: number };
}

/** A way to compute a product that the library proposes. */
export interface Algorithm {
  /** Opaque to us; good for this release of the library on this kind of GPU. */
  readonly bytes: Uint8Array;
  readonly workspace: number;
  /** How often the GPU's processors are filled; 1.0 is one full wave. */
  readonly waves: number;
}

/** The opened library with one handle. The device's context must be current. */
export class CublasLt {
  readonly path: string;
  readonly version: number;
  readonly #c: Library<typeof CUBLASLT_SYMBOLS, typeof CUBLASLT_OPTIONAL>['calls'];
  readonly #o: Library<typeof CUBLASLT_SYMBOLS, typeof CUBLASLT_OPTIONAL>['optional'];
  readonly #out = new Pinned(16);
  readonly #view = new DataView(this.#out.buffer);
  #handle: number;

  constructor(library: Library<typeof CUBLASLT_SYMBOLS, typeof CUBLASLT_OPTIONAL>) {
    this.path = library.path;
    this.#c = library.calls;
    this.#o = library.optional;
    this.version = this.#c.cublasLtGetVersion();
    this.#check('cublasLtCreate', this.#c.cublasLtCreate(this.#out.address));
    this.#handle = this.#pointer();
  }

  destroy(): void {
    if (this.#handle !== 0) this.#check('cublasLtDestroy', this.#c.cublasLtDestroy(this.#handle));
    this.#handle = 0;
  }

  /** Descriptor of op(A) op(B) summed in fp32, with an optional bias along the rows of D. */
  descriptor(transA: boolean, transB: boolean, bias: BiasSpec | null): number {
    const status = this.#c.cublasLtMatmulDescCreate(this.#out.address, COMPUTE_32F, DATA_TYPE.f32);
    this.#check('cublasLtMatmulDescCreate', status);
    const made = this.#pointer();
    this.#describe(made, 'transA', transA ? OP.transpose : OP.none, 4);
    this.#describe(made, 'transB', transB ? OP.transpose : OP.none, 4);
    if (bias) {
      this.#describe(made, 'epilogue', EPILOGUE_BIAS, 4);
      this.#describe(made, 'biasPointer', bias.address, 8);
      this.#describe(made, 'biasType', DATA_TYPE[bias.type], 4);
      if (bias.stride !== 0) this.#describe(made, 'biasStride', bias.stride, 8);
    }
    return made;
  }
  descriptorDestroy(descriptor: number): void {
    this.#check('cublasLtMatmulDescDestroy', this.#c.cublasLtMatmulDescDestroy(descriptor));
  }

  layout({ type, rows, columns, ld, batch, stride }: LayoutSpec): number {
    const { address } = this.#out;
    const status = this.#c.cublasLtMatrixLayoutCreate(address, DATA_TYPE[type], rows, columns, ld);
    this.#check('cublasLtMatrixLayoutCreate', status, `of ${rows} x ${columns}, ${ld} apart`);
    const made = this.#pointer();
    if (batch > 1) {
      const set = (attribute: keyof typeof LAYOUT, value: number, bytes: 4 | 8) => {
        this.#put(value, bytes);
        const result = this.#c.cublasLtMatrixLayoutSetAttribute(made, LAYOUT[attribute], address, bytes);
        this.#check('cublasLtMatrixLayoutSetAttribute', result, attribute);
      };
      set('batchCount', batch, 4);
      set('batchStride', stride, 8);
    }
    return made;
  }
  layoutDestroy(layout: number): void {
    this.#check('cublasLtMatrixLayoutDestroy', this.#c.cublasLtMatrixLayoutDestroy(layout));
  }

  /** At most `count` algorithms for a product, the library's favourite first; empty where it knows none. */
  algorithms(
    descriptor: number,
    layouts: { A: number; B: number; C: number; D: number },
    limits: Limits,
    count: number,
  ): Algorithm[] {
    const preference = this.#preference(limits);
    const results = new Pinned(count * RESULT_BYTES);
    const { A, B, C, D } = layouts;
    const status = this.#c.cublasLtMatmulAlgoGetHeuristic(
      ...([this.#handle, descriptor, A, B, C, D, preference, count] as const),
      ...[results.address, this.#out.address],
    );
    const found = this.#view.getInt32(0, true);
    const destroyed = this.#c.cublasLtMatmulPreferenceDestroy(preference);
    if (status === NOT_SUPPORTED) return [];
    this.#check('cublasLtMatmulAlgoGetHeuristic', status);
    this.#check('cublasLtMatmulPreferenceDestroy', destroyed);
    const view = new DataView(results.buffer);
    const all: Algorithm[] = [];
    for (let at = 0; at < found * RESULT_BYTES; at += RESULT_BYTES) {
      if (view.getInt32(at + ALGORITHM_BYTES + 8, true) !== 0) continue;
      all.push({
        bytes: results.bytes.slice(at, at + ALGORITHM_BYTES),
        workspace: Number(view.getBigUint64(at + ALGORITHM_BYTES, true)),
        waves: view.getFloat32(at + ALGORITHM_BYTES + 12, true),
      });
    }
    return all;
  }

  /**
   * Queues a product. `alpha`, `beta` and `algorithm` are addresses on the host, read before the call
   * returns; `sizes` goes into the error.
   */
  matmul(
    ...[descriptor, alpha, A, layoutA, B, layoutB, beta, C, layoutC, D, layoutD, ...rest]: MatmulArguments
  ): void {
    const [algorithm, workspace, workspaceBytes, stream, sizes] = rest;
    const status = this.#c.cublasLtMatmul(
      ...([this.#handle, descriptor, alpha, A, layoutA, B, layoutB, beta, C, layoutC, D, layoutD] as const),
      ...[algorithm, workspace, workspaceBytes, stream],
    );
    if (status !== 0) this.#check('cublasLtMatmul', status, sizes());
  }

  #preference({ workspace, align }: Limits): number {
    this.#check('cublasLtMatmulPreferenceCreate', this.#c.cublasLtMatmulPreferenceCreate(this.#out.address));
    const made = this.#pointer();
    const set = (attribute: keyof typeof PREFERENCE, value: number, bytes: 4 | 8) => {
      this.#put(value, bytes);
      const number = PREFERENCE[attribute];
      const status = this.#c.cublasLtMatmulPreferenceSetAttribute(made, number, this.#out.address, bytes);
      this.#check('cublasLtMatmulPreferenceSetAttribute', status, attribute);
    };
    set('workspaceBytes', workspace, 8);
    set('reductionSchemes', REDUCTIONS_IN_ORDER, 4);
    set('alignA', align.A, 4);
    set('alignB', align.B, 4);
    set('alignC', align.C, 4);
    set('alignD', align.D, 4);
    return made;
  }

  #describe(descriptor: number, attribute: keyof typeof DESCRIPTOR, value: number, bytes: 4 | 8): void {
    this.#put(value, bytes);
    const { address } = this.#out;
    const status = this.#c.cublasLtMatmulDescSetAttribute(descriptor, DESCRIPTOR[attribute], address, bytes);
    this.#check('cublasLtMatmulDescSetAttribute', status, attribute);
  }

  #put(value: number, bytes: 4 | 8): void {
    if (bytes === 4) this.#view.setInt32(0, value, true);
    else this.#view.setBigInt64(0, BigInt(value), true);
  }

  #pointer(): number {
    return Number(this.#view.getBigUint64(0, true));
  }

  #check(call: string, status: number, sizes?: string): void {
    if (status === 0) return;
    const text = (find: ((status: number) => number) | undefined) => (find ? textAt(find(status)) : '');
    const name = text(this.#o.cublasLtGetStatusName) || STATUS_NAMES.get(status) || 'unknown status';
    const words = text(this.#o.cublasLtGetStatusString);
    const what = sizes ? `${call} ${sizes}` : call;
    const said = words && words !== name ? `${name}, ${words}` : name;
    const why = `${said} (status ${status}, cuBLASLt ${this.version})`;
    throw new Failure({ what, why, ...FIXES.get(status) });
  }
}

type MatmulArguments = readonly [
  descriptor: number,
  alpha: number,
  A: number,
  layoutA: number,
  B: number,
  layoutB: number,
  beta: number,
  C: number,
  layoutC: number,
  D: number,
  layoutD: number,
  algorithm: number,
  workspace: number,
  workspaceBytes: number,
  stream: number,
  sizes: () => string,
];

/** cublasStatus_t. */
const NOT_SUPPORTED = 15;
const STATUS_NAMES: ReadonlyMap<number, string> = new Map([
  [1, 'CUBLAS_STATUS_NOT_INITIALIZED'],
  [3, 'CUBLAS_STATUS_ALLOC_FAILED'],
  [7, 'CUBLAS_STATUS_INVALID_VALUE'],
  [8, 'CUBLAS_STATUS_ARCH_MISMATCH'],
  [11, 'CUBLAS_STATUS_MAPPING_ERROR'],
  [13, 'CUBLAS_STATUS_EXECUTION_FAILED'],
  [14, 'CUBLAS_STATUS_INTERNAL_ERROR'],
  [NOT_SUPPORTED, 'CUBLAS_STATUS_NOT_SUPPORTED'],
  [16, 'CUBLAS_STATUS_LICENSE_ERROR'],
]);
const FIXES: ReadonlyMap<number, { fix: string; code?: typeof EXIT.missing }> = new Map([
  [
    1,
    {
      fix: 'libcublasLt does not fit the driver or finds no GPU: see microdiff doctor',
      code: EXIT.missing,
    },
  ],
  [3, { fix: 'Lower train.micro_batch (sampling: --batch-size), or end other programs on this GPU' }],
  [8, { fix: 'This GPU is too old: compute capability 8.0 (A100) or newer is needed', code: EXIT.missing }],
  [13, { fix: 'The GPU may be lost; the last checkpoint is intact: start the same command again to go on' }],
]);

/** Opens the library and makes a handle. Throws a Failure (code 3) with every candidate's reason. */
export async function openCublasLt(): Promise<CublasLt> {
  return new CublasLt(openCublasLtLibrary(candidates('cublaslt'), await loaderReason()));
}

export function openCublasLtLibrary(
  paths: readonly string[],
  reason?: (path: string) => string,
): Library<typeof CUBLASLT_SYMBOLS, typeof CUBLASLT_OPTIONAL> {
  return openLibrary({
    name: 'cuBLASLt',
    candidates: paths,
    required: CUBLASLT_SYMBOLS,
    optional: CUBLASLT_OPTIONAL,
    reason,
    fix: 'Install libcublas 13 or 12 (pip install nvidia-cublas), or name its folder in MICRODIFF_CUDA_PATH',
  });
}
