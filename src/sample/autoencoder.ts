// An autoencoder with its weights on a backend: pictures to moments, latents to pictures, one at a time.
import type { Backend, Numbers } from '../backend/backend.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { imagePlanes, pixelRows } from '../plan/ops/planes.ts';
import { Weights } from '../plan/params.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import type { Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import { type Autoencoder, applyChain, declareAutoencoder } from '../vae/autoencoder.ts';
import { type VaeConfig, vaeFactor } from '../vae/config.ts';
import { fromFileOrder, tensorNames, type TensorList } from '../vae/names.ts';
import { Strips, type Tiling } from './strips.ts';
import { allocWeights, freeWeights, type LoadedWeights, regionsOf, writeWeight } from './weights.ts';

/** A file of weights: its list of tensors, and their values. */
export interface TensorFile extends TensorList {
  readFloat32(name: string): Float32Array;
  readFloat64(name: string): Float64Array;
}

/** Height and width of a picture or of its latent. */
export interface Size {
  readonly height: number;
  readonly width: number;
}

type Direction = 'encoder' | 'decoder';

/** An encoder and decoder whose weights are loaded. `free` gives their memory back. */
export class Vae {
  private readonly runners = new Map<Direction, { size: string; runner: Runner }>();

  /** The last choice of strips: pictures of one size come one after another. */
  private strips: { key: string; strips: Strips; tiling: Tiling } | null = null;

  private constructor(
    readonly backend: Backend,
    readonly model: Autoencoder,
    readonly weights: LoadedWeights,
  ) {}

  /** Names and shapes of the file are checked before any memory is taken. */
  static load(backend: Backend, config: VaeConfig, file: TensorFile): Vae {
    const model = declareAutoencoder(config);
    const { parameters } = model;
    const names = tensorNames(parameters, config.block_out_channels.length, file);
    const weights = allocWeights(backend, parameters);
    const double = backend.elemBytes.real === 8;
    try {
      for (const p of parameters.list) {
        const name = names.get(p.name) ?? p.name;
        const values = double ? file.readFloat64(name) : file.readFloat32(name);
        writeWeight(backend, weights, p, fromFileOrder(p, values));
      }
    } catch (error) {
      freeWeights(weights);
      throw error;
    }
    return new Vae(backend, model, weights);
  }

  /** With weights of zeros, to see what memory it takes. */
  static zeroed(backend: Backend, config: VaeConfig): Vae {
    const model = declareAutoencoder(config);
    return new Vae(backend, model, allocWeights(backend, model.parameters));
  }

  get config(): VaeConfig {
    return this.model.config;
  }

  /** One picture [in_channels, height, width] in [-1, 1] -> moments [2 z, height / f, width / f]. */
  encode(picture: ArrayLike<number>, size: Size): Numbers {
    return this.run('encoder', picture, size);
  }

  /**
   * One latent [z, height, width], not scaled (`unscaleLatents`), to a picture [out_channels, f height,
   * f width], not clamped. `memory`: bytes that it may take beside the weights; where they are too few for
   * all at once, it is done in strips (strips.ts), with equal bits on the CPU. A picture with a value that is
   * not finite is a Failure.
   */
  decode(latent: ArrayLike<number>, size: Size, memory = Number.POSITIVE_INFINITY): Numbers {
    if (memory === Number.POSITIVE_INFINITY) return checkFinite(this.run('decoder', latent, size));
    const { latent_channels: C } = this.config;
    if (latent.length !== C * size.height * size.width) {
      throw new Failure({
        what: 'latent',
        why: `${latent.length} values for ${C} x ${size.height} x ${size.width}`,
      });
    }
    const key = `${size.height} x ${size.width} in ${memory}`;
    if (this.strips?.key !== key) {
      const strips = new Strips(this, size);
      this.strips = { key, strips, tiling: strips.tiling(memory) };
    }
    const { strips, tiling } = this.strips;
    // All at once: the plan stays for the next picture.
    if (tiling.stretches.length === 0) return checkFinite(this.run('decoder', latent, size));
    return checkFinite(strips.decode(latent, tiling));
  }

  /** A plan of one direction for `batch` inputs of this size; `tap` keeps named values as outputs. */
  plan(
    direction: Direction,
    { height, width }: Size,
    options: { readonly tap?: boolean; readonly batch?: number } = {},
  ): Runner {
    const { backend, model, weights } = this;
    const f = vaeFactor(model.config);
    if (direction === 'encoder' && (height < f || width < f)) {
      const why = `${width} x ${height} pixels are less than one latent`;
      throw new Failure({ what: 'picture', why, fix: `Give at least ${f} x ${f}` });
    }
    const C = direction === 'encoder' ? model.config.in_channels : model.config.latent_channels;
    const trace = new Trace();
    const x = pixelRows(trace.input('x', [options.batch ?? 1, C, height, width], 'real'));
    const tap = (name: string, value: Tensor) => trace.output(name, imagePlanes(value));
    const g = {
      weights: new Weights(trace, model.parameters, false),
      groups: model.config.norm_num_groups,
      whole: backend.convolvesWhole?.() ?? false,
      ...(options.tap ? { tap } : {}),
    };
    trace.output('y', imagePlanes(applyChain(g, model[direction], x)));
    const plan = freeze(direction, trace, { elemBytes: backend.elemBytes });
    return new Runner(backend, plan, regionsOf(weights));
  }

  free(): void {
    for (const { runner } of this.runners.values()) runner.free();
    this.runners.clear();
    freeWeights(this.weights);
  }

  private run(direction: Direction, values: ArrayLike<number>, size: Size): Numbers {
    const key = `${size.height} x ${size.width}`;
    let last = this.runners.get(direction);
    if (last?.size !== key) {
      last?.runner.free();
      this.runners.delete(direction);
      last = { size: key, runner: this.plan(direction, size) };
      this.runners.set(direction, last);
    }
    last.runner.set('x', values);
    last.runner.run();
    return last.runner.get('y');
  }
}

/** The planes themselves; a value that is not finite is a Failure, before any file shows it. */
export function checkFinite<T extends Numbers>(planes: T): T {
  let bad = 0;
  for (const v of planes) if (!Number.isFinite(v)) bad += 1;
  if (bad === 0) return planes;
  throw new Failure({
    what: 'decoded picture',
    why: `${bad} of ${planes.length} values are not finite`,
    fix: 'Check the latents and the weights of the autoencoder',
    code: EXIT.nonFinite,
  });
}
