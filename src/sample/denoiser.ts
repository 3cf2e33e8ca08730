// The denoiser of a loaded network for one batch size: captions are read once, then D(x; sigma) as often as
// needed.
import type { Backend, Numbers, Region } from '../backend/backend.ts';
import { denoised, tokensToImage } from '../diffusion/edm.ts';
import { Failure } from '../io/failure.ts';
import type { Block } from '../model/block.ts';
import {
  type Caption,
  type CaptionView,
  denoiseTokens,
  directView,
  embedCaption,
  guidedView,
  rememberedView,
  zeroCaptionConstant,
} from '../model/dit.ts';
import { type Context, type Memory, remember } from '../model/layers.ts';
import { copyInto } from '../plan/ops/copy.ts';
import { guide } from '../plan/ops/edm.ts';
import { zero } from '../plan/ops/fill.ts';
import { freeze, type Plan } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { product, type Tensor } from '../plan/tensor.ts';
import { ALIGN, Trace } from '../plan/trace.ts';
import { captionInput, contextFor, type Network } from './network.ts';
import { type LoadedWeights, regionsOf } from './weights.ts';

/**
 * Where guidance takes its other half from: nowhere (cfg_scale 1), a zeroed caption (the shortcut: one
 * constant vector per block), or a caption of its own. 'plain' is 'zero' without any saving, to check and to
 * time the others by: both captions go through the whole text path and every block in each evaluation.
 */
export type Guidance = 'none' | 'zero' | 'negative' | 'plain';

export interface DenoiserOptions {
  readonly backend: Backend;
  readonly network: Network;
  /** The network's weights, as loaded. */
  readonly weights: LoadedWeights;
  readonly sigmaData: number;
  /** Images at once, N. */
  readonly batch: number;
  readonly guidance: Guidance;
  /** Caption length, where captions come as embeddings. */
  readonly captionLength?: number;
  /**
   * Height and width of the images, where they are not of the trained size, with the positions of their
   * patches.
   */
  readonly other?: { readonly height: number; readonly width: number; readonly positions: Float64Array };
}

export class Denoiser {
  /** Null where captions are read in each evaluation. */
  private readonly read: Runner | null;
  private readonly step: Runner;
  private readonly shared: Record<string, Region>;
  private readonly pixels: number;

  constructor(private readonly options: DenoiserOptions) {
    const { backend, network, guidance, weights } = options;
    const { config } = network.dit;
    const { height, width } = sidesOf(options);
    this.pixels = config.in_channels * height * width;
    const layout = memoryLayout(options);
    this.shared = { ...regionsOf(weights), memory: backend.alloc(layout.elements * backend.elemBytes.act) };
    if (guidance === 'zero') {
      const zero = new Runner(backend, tracePlan('zero-caption', options, readZeroCaption), this.shared);
      zero.run();
      zero.free();
    }
    this.read =
      guidance === 'plain'
        ? null
        : new Runner(backend, tracePlan('captions', options, readCaptions), this.shared);
    this.step = new Runner(backend, tracePlan('denoise', options, traceDenoiser), this.shared);
    if (options.other) this.step.set('positions', options.other.positions);
  }

  /** All memory that the plans use, weights included. */
  get regions(): readonly Region[] {
    return [...Object.values(this.read?.regions ?? {}), ...Object.values(this.step.regions)];
  }

  /** Images that the network sees in one call of `denoise`. */
  get rows(): number {
    return networkRows(this.options);
  }

  /** Floating point operations of reading captions once, and of one evaluation. */
  get flops(): { readonly captions: number; readonly evaluation: number } {
    return { captions: this.read?.plan.flops ?? 0, evaluation: this.step.plan.flops };
  }

  /**
   * Reads N captions; with guidance 'negative' N more for the other half follow. Word rows [N, S, 2], or
   * embeddings [N, S, caption_channels].
   */
  setCaptions(captions: ArrayLike<number>): void {
    (this.read ?? this.step).set(this.options.network.words ? 'words' : 'captions', captions);
    this.read?.run();
  }

  /** D(x; sigma) for N images [N, C, H, W], guided by u + scale (c - u). The result is the caller's. */
  denoise(x: ArrayLike<number>, sigma: number, scale: number): Numbers {
    const { batch, guidance } = this.options;
    if (x.length !== batch * this.pixels) {
      throw new Failure({ what: 'denoise', why: `${x.length} values for ${batch} images of ${this.pixels}` });
    }
    const rows = networkRows(this.options);
    const images = new Float64Array(rows * this.pixels);
    for (let at = 0; at < images.length; at += x.length) images.set(x, at);
    this.step.set('x', images);
    this.step.set('sigma', new Float64Array(rows).fill(sigma));
    if (guidance !== 'none') this.step.set('scale', new Float64Array(batch).fill(scale));
    this.step.run();
    return this.step.get('D');
  }

  free(): void {
    this.read?.free();
    this.step.free();
    this.shared.memory?.free();
  }
}

/**
 * Places in space 'memory': keys and values of each block, pooled vectors, constants of the zeroed caption.
 */
interface MemoryLayout {
  readonly elements: number;
  place(trace: Trace, name: string): Tensor;
}

function memoryLayout(options: DenoiserOptions): MemoryLayout {
  const { network, guidance } = options;
  const { dit, words } = network;
  const S = words?.length ?? options.captionLength ?? 1;
  const captions = captionRows(options);
  const places = new Map<string, { shape: readonly number[]; base: number }>();
  let elements = 0;
  const add = (name: string, shape: readonly number[]) => {
    places.set(name, { shape, base: elements });
    elements += Math.ceil(product(shape) / ALIGN) * ALIGN;
  };
  for (const block of [...dit.mixer, ...dit.blocks]) {
    add(`${block.name}.k`, [captions, S, block.dim]);
    add(`${block.name}.v`, [captions, S, block.dim]);
    if (guidance === 'zero') add(`${block.name}.zero`, [1, block.dim]);
  }
  add('pooled', [networkRows(options), dit.config.dim]);
  return {
    elements,
    place(trace, name) {
      const { shape, base } = places.get(name)!;
      return trace.fixed('memory', name, shape, base);
    },
  };
}

/** Captions that are read: N, or 2 N where the other half has captions of its own. */
function captionRows({ batch, guidance }: DenoiserOptions): number {
  return guidance === 'negative' ? 2 * batch : batch;
}

/** Images that the network sees at once: each one twice under guidance, first with its caption. */
function networkRows({ batch, guidance }: DenoiserOptions): number {
  return guidance === 'none' ? batch : 2 * batch;
}

function sidesOf({ network, other }: DenoiserOptions): { height: number; width: number } {
  const { input_size: side } = network.dit.config;
  return other ?? { height: side, width: side };
}

type Traced = (trace: Trace, g: Context, options: DenoiserOptions, layout: MemoryLayout) => void;

function tracePlan(name: string, options: DenoiserOptions, body: Traced): Plan {
  const trace = new Trace();
  body(trace, contextFor(options.network, trace, { exactRows: true }), options, memoryLayout(options));
  return freeze(name, trace, { elemBytes: options.backend.elemBytes });
}

function blockTokens(network: Network, caption: Caption, block: Block): Tensor {
  return network.dit.mixer.includes(block) ? caption.mixerTokens : caption.tokens;
}

/** Captions to keys, values and pooled vectors. */
const readCaptions: Traced = (trace, g, options, layout) => {
  const { network, captionLength } = options;
  const { dit } = network;
  const captions = captionRows(options);
  const y = captionInput(g, network, trace, captions, captionLength);
  const caption = embedCaption(g, dit, y);
  for (const block of [...dit.mixer, ...dit.blocks]) {
    const { k, v } = remember(g, block.cross, blockTokens(network, caption, block));
    copyInto(k, layout.place(trace, `${block.name}.k`));
    copyInto(v, layout.place(trace, `${block.name}.v`));
  }
  const pooled = layout.place(trace, 'pooled');
  copyInto(caption.pooled, { ...pooled, shape: [captions, dit.config.dim] });
};

/** A caption of one zero token to one vector per block, and the pooled vector of the second half. */
const readZeroCaption: Traced = (trace, g, options, layout) => {
  const { network, batch } = options;
  const { dit } = network;
  const y = trace.fresh({ shape: [1, 1, dit.config.caption_channels], elem: 'act' }, 'zero caption');
  zero(y);
  const caption = embedCaption(g, dit, y);
  for (const block of [...dit.mixer, ...dit.blocks]) {
    const constant = zeroCaptionConstant(g, block.cross, blockTokens(network, caption, block));
    copyInto(constant, layout.place(trace, `${block.name}.zero`));
  }
  const pooled = layout.place(trace, 'pooled');
  const half = { ...pooled, offset: pooled.offset + batch * pooled.ld, shape: [batch, dit.config.dim] };
  copyInto(caption.pooled, half);
};

/** Captions [N, S, C], and as many of zeros behind them. */
function captionsAndZeros(trace: Trace, g: Context, options: DenoiserOptions): Tensor {
  const { network, batch: N, captionLength } = options;
  const y = captionInput(g, network, trace, N, captionLength);
  const both = trace.fresh({ shape: [2 * N, ...y.shape.slice(1)], elem: 'act' }, 'captions, zeros');
  copyInto(y, { ...both, shape: y.shape });
  zero({ ...both, shape: y.shape, offset: both.offset + product(y.shape) });
  return both;
}

/** x, sigma (and scale) to D. */
const traceDenoiser: Traced = (trace, g, options, layout) => {
  const { network, guidance, sigmaData } = options;
  const { dit } = network;
  const { in_channels: C, patch_size: patchSize, dim } = dit.config;
  const { height, width } = sidesOf(options);
  const rows = networkRows(options);
  const x = trace.input('x', [rows, C, height, width], 'real');
  const sigma = trace.input('sigma', [rows], 'real');
  const blocks = [...dit.mixer, ...dit.blocks];
  const plain = guidance === 'plain' ? embedCaption(g, dit, captionsAndZeros(trace, g, options)) : null;
  const memory = new Map(
    blocks.map((block): [Block, Memory] => [
      block,
      { k: layout.place(trace, `${block.name}.k`), v: layout.place(trace, `${block.name}.v`) },
    ]),
  );
  const view = (): CaptionView => {
    if (plain) return directView(g, dit, plain);
    if (guidance !== 'zero') return rememberedView(g, memory);
    return guidedView(g, memory, new Map(blocks.map((b) => [b, layout.place(trace, `${b.name}.zero`)])));
  };
  const F = (patches: Tensor, cNoise: Tensor): Tensor => {
    const T = (height / patchSize) * (width / patchSize);
    const positions = options.other ? trace.input('positions', [T, dim], 'act') : null;
    const pooled = plain?.pooled ?? layout.place(trace, 'pooled');
    const tokens = denoiseTokens(g, dit, patches, cNoise, pooled, view(), null, positions);
    const image = tokensToImage(tokens, { channels: C, height, width, patchSize }, null, null);
    return guidance === 'none' ? image : guide(image, trace.input('scale', [options.batch], 'real'));
  };
  trace.output('D', denoised(F, { patchSize, sigmaData }, x, sigma));
};
