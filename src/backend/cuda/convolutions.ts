// Convolutions by cuDNN: launches of op `conv` as execution plans over NHWC tensors. An engine is chosen once
// a shape, outside of graphs: the first of the library's proposals that repeats to the bit, rounds as the
// mode says, can be made and fits the workspace. One-sided padding and bias are ops of their own in the plan:
// cuDNN has no engine for the one, and for the other only some that are compiled at run time, in seconds.

import { Cudnn, CudnnFailure, cudnnRelease, openCudnnLibrary } from '../../../ffi/cudnn.ts';
import {
  ConvolutionGraph,
  type ConvolutionSpec,
  type Heuristic,
  NOTE,
  variantPack,
} from '../../../ffi/cudnn-graph.ts';
import { candidates } from '../../../ffi/places.ts';
import { Failure } from '../../io/failure.ts';
import type { Launch } from '../backend.ts';
import type { CudaDevice } from './device.ts';
import type { Product } from './products.ts';

/** auto: cuDNN where it can be used, else im2col; the others: that one or an error. */
export type ConvolutionWay = 'auto' | 'cudnn' | 'im2col';

/**
 * Bytes of workspace that an engine may ask for. In bf16 implicit products need next to none; in float32
 * without tensor cores some engines turn their tensors round, up to 256 MiB each in an autoencoder at
 * 512 x 512.
 */
export const CONVOLUTION_WORKSPACE = { bf16: 128 * 2 ** 20, fp32: 2 ** 30 } as const;
/** The least that is taken at once. */
const LEAST_WORKSPACE = 2 ** 20;

/** Engines whose results do not repeat to the bit, or are further off than sums in float32. */
const REFUSED: ReadonlySet<number> = new Set([
  NOTE.downConvertInputs,
  NOTE.reducedPrecisionReduction,
  NOTE.fft,
  NOTE.nondeterministic,
  ...[NOTE.winograd, NOTE.winograd4x4, NOTE.winograd6x6, NOTE.winograd13x13],
]);
/** Tensors that are less aligned than this are told so; more is of no use to any engine. */
const MOST_ALIGNED = 16;

/** A shape's engine, for tests and reports. */
export interface ConvolutionChoice {
  readonly shape: string;
  /** Which of the proposals, of both kinds of heuristics one after the other. */
  readonly proposal: number;
  readonly workspace: number;
}

interface Chosen extends ConvolutionChoice {
  readonly graph: ConvolutionGraph;
  readonly plan: number;
}

export class Convolutions {
  readonly #cudnn: Cudnn;
  readonly #device: CudaDevice;
  readonly #precision: 'bf16' | 'fp32';
  readonly #chosen = new Map<string, Chosen>();
  readonly #packs = new Set<number>();
  /**
   * Powers of two, the largest last, none while nothing needs one; together less than twice the largest.
   * Earlier ones stay: recorded graphs know their addresses.
   */
  readonly #workspaces: { readonly address: number; readonly bytes: number }[] = [];

  constructor(cudnn: Cudnn, device: CudaDevice, precision: 'bf16' | 'fp32') {
    this.#cudnn = cudnn;
    this.#device = device;
    this.#precision = precision;
    cudnn.setStream(device.stream);
  }

  /** Path and release. */
  get library(): string {
    return `${this.#cudnn.path} (${cudnnRelease(this.#cudnn.version)})`;
  }

  get choices(): readonly ConvolutionChoice[] {
    return [...this.#chosen.values()].map(({ shape, proposal, workspace }) => ({
      ...{ shape, proposal, workspace },
    }));
  }

  /** Readies a launch of kernel "conv" with its pointers at the given addresses. */
  prepare(launch: Launch, addresses: readonly number[]): Product {
    const [x = 0, w = 0, y = 0] = addresses;
    const spec = specOf(launch, { x, w, y }, this.#precision);
    const key = JSON.stringify(spec);
    const chosen = this.#chosen.get(key) ?? this.#choose(spec);
    this.#chosen.set(key, chosen);
    const pack = variantPack(this.#cudnn, { x, w, y }, this.#workspace(chosen.workspace));
    this.#packs.add(pack);
    return {
      queue: () => this.#cudnn.execute(chosen.plan, pack),
      release: () => {
        if (this.#packs.delete(pack)) this.#cudnn.descriptorDestroy(pack);
      },
    };
  }

  close(): void {
    for (const pack of this.#packs) this.#cudnn.descriptorDestroy(pack);
    for (const { graph } of this.#chosen.values()) graph.destroy();
    for (const { address, bytes } of this.#workspaces) this.#device.release(address, bytes);
    this.#cudnn.destroy();
  }

  /** Address of a workspace of so many bytes at least. */
  #workspace(needed: number): number {
    const last = this.#workspaces.at(-1);
    if (last && last.bytes >= needed) return last.address;
    if (needed === 0) return 0;
    const bytes = 2 ** Math.ceil(Math.log2(Math.max(needed, LEAST_WORKSPACE)));
    const address = this.#device.allocate(bytes);
    this.#workspaces.push({ address, bytes });
    return address;
  }

  #choose(spec: ConvolutionSpec): Chosen {
    const shape = words(spec);
    const reasons: string[] = [];
    let graph: ConvolutionGraph | null = null;
    try {
      graph = new ConvolutionGraph(this.#cudnn, spec);
      let proposal = 0;
      for (const mode of ['A', 'fallback'] as const) {
        for (const config of configs(graph, mode, reasons)) {
          const found = this.#tried(graph, config, reasons);
          if (found) return { shape, proposal, graph, ...found };
          proposal++;
        }
      }
    } catch (error) {
      graph?.destroy();
      if (!(error instanceof CudnnFailure)) throw error;
      reasons.push(error.message);
      graph = null;
    }
    graph?.destroy();
    const of = `on ${this.#device.facts.name}`;
    const why = `cuDNN ${cudnnRelease(this.#cudnn.version)} has no engine for it ${of}: ${summary(reasons)}`;
    const fix = 'Set MICRODIFF_CONVOLUTIONS=im2col, or use another release of cuDNN';
    throw new Failure({ what: `conv of ${shape}`, why, fix });
  }

  /** The plan of a configuration that may be used; else null, with a reason more. */
  #tried(
    graph: ConvolutionGraph,
    config: number,
    reasons: string[],
  ): { readonly plan: number; readonly workspace: number } | null {
    try {
      const notes = graph.notes(config);
      const tensorCores = this.#precision === 'fp32' && notes.includes(NOTE.tensorCore);
      if (tensorCores || notes.some((note) => REFUSED.has(note))) {
        reasons.push('rounds in another way');
        return null;
      }
      const made = graph.plan(config);
      if (made.workspace <= CONVOLUTION_WORKSPACE[this.#precision]) return made;
      reasons.push(`needs ${Math.ceil(made.workspace / 2 ** 20)} MiB of workspace`);
    } catch (error) {
      if (!(error instanceof CudnnFailure)) throw error;
      reasons.push(error.message);
    }
    return null;
  }
}

/** Proposals of one kind of heuristics, which may know none at all. */
function configs(graph: ConvolutionGraph, mode: Heuristic, reasons: string[]): readonly number[] {
  try {
    return graph.configs(mode);
  } catch (error) {
    if (!(error instanceof CudnnFailure)) throw error;
    reasons.push(error.message);
    return [];
  }
}

/** Different reasons, the first few of them. */
function summary(reasons: readonly string[]): string {
  const different = [...new Set(reasons)];
  const more = different.length > 3 ? `; and ${different.length - 3} more` : '';
  return different.length === 0 ? 'it proposes none' : different.slice(0, 3).join('; ') + more;
}

function specOf(
  { ints }: Launch,
  at: { readonly x: number; readonly w: number; readonly y: number },
  precision: 'bf16' | 'fp32',
): ConvolutionSpec {
  const [N = 0, H = 0, W = 0, C = 0, Ho = 0, Wo = 0, Co = 0, k = 0, stride = 1, pad = 0] = ints;
  const align = (address: number) => {
    let bytes = MOST_ALIGNED;
    while (address % bytes !== 0) bytes /= 2;
    return bytes;
  };
  return {
    type: precision === 'bf16' ? 'bf16' : 'f32',
    ...{ x: { N, H, W, C }, y: { Ho, Wo, Co }, k, stride, pad },
    align: { x: align(at.x), w: align(at.w), y: align(at.y) },
  };
}

function words({ type, x, y, k, stride, pad }: ConvolutionSpec): string {
  const form = `${k} x ${k}, stride ${stride}, padding ${pad}`;
  return `[${x.N}, ${x.H}, ${x.W}, ${x.C}] to [${y.Ho}, ${y.Wo}, ${y.Co}], ${form}, ${type}`;
}

/** What a backend convolves with, opened when it is first asked for. */
export class ConvolutionLibrary {
  #opened: Convolutions | null | undefined;
  #failed: Failure | undefined;

  constructor(
    private readonly device: CudaDevice,
    private readonly options: {
      readonly way: ConvolutionWay;
      readonly precision: 'bf16' | 'fp32';
      /** The loader's own words about a path. */
      readonly reason: ((path: string) => string) | undefined;
      /** Gets the line that says which way it is. */
      readonly notice: (line: string) => void;
    },
  ) {}

  /** Null: in bands of im2col. Throws a Failure (code 3) where cuDNN was asked for and cannot be used. */
  open(): Convolutions | null {
    if (this.#failed) throw this.#failed;
    if (this.#opened !== undefined) return this.#opened;
    const { way, precision, reason, notice } = this.options;
    const bands = (why: string) => {
      notice(`convolutions: im2col and cuBLASLt, ${why}`);
      this.#opened = null;
      return null;
    };
    if (way === 'im2col') return bands('as MICRODIFF_CONVOLUTIONS says');
    try {
      const cudnn = new Cudnn(openCudnnLibrary(candidates('cudnn'), reason));
      this.#opened = new Convolutions(cudnn, this.device, precision);
      notice(`convolutions: cuDNN ${cudnnRelease(cudnn.version)}`);
      return this.#opened;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (way === 'auto') return bands(error.message);
      this.#failed = error;
      throw error;
    }
  }

  /** Path and release of what is open; null while nothing is. */
  get library(): string | null {
    return this.#opened?.library ?? null;
  }

  get choices(): readonly ConvolutionChoice[] {
    return this.#opened?.choices ?? [];
  }

  close(): void {
    this.#opened?.close();
    this.#opened = null;
  }
}
