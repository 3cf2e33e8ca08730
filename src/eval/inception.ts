// Inception with its weights on a backend: images of any size to features, a batch at a time.
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { checkInceptionFile, foldLayer, type InceptionFile } from '../inception/fold.ts';
import {
  applyInception,
  declareInception,
  INCEPTION_FEATURES,
  INCEPTION_SIDE,
} from '../inception/network.ts';
import { type RgbImage, resizeBilinear } from '../inception/resize.ts';
import { Weights } from '../plan/params.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import type { Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import { allocWeights, freeWeights, type LoadedWeights, regionsOf, writeWeight } from '../sample/weights.ts';

const IMAGE = INCEPTION_SIDE * INCEPTION_SIDE * 3;

/** A loaded network with a plan for `batch` images. `free` gives its memory back. */
export class InceptionNetwork {
  /** Numbers that one image becomes. */
  readonly d = INCEPTION_FEATURES;
  private readonly input: Float32Array;

  private constructor(
    readonly backend: Backend,
    private readonly weights: LoadedWeights,
    private readonly runner: Runner,
    /** Images that are run at once; fewer leave the rest as it was. */
    readonly batch: number,
  ) {
    this.input = new Float32Array(batch * IMAGE);
  }

  /**
   * Names and shapes of the file are checked before any memory is taken. `tap` keeps every module's output.
   */
  static load(
    backend: Backend,
    file: InceptionFile,
    { batch = 4, tap = false }: { batch?: number; tap?: boolean } = {},
  ): InceptionNetwork {
    const network = declareInception();
    checkInceptionFile(network, file);
    const { parameters } = network;
    const weights = allocWeights(backend, parameters);
    try {
      for (const layer of network.layers) {
        const { weight, bias } = foldLayer(layer, file);
        writeWeight(backend, weights, parameters.at(layer.weight), weight);
        writeWeight(backend, weights, parameters.at(layer.bias), bias);
      }
      const trace = new Trace();
      const x = trace.input('images', [batch, INCEPTION_SIDE, INCEPTION_SIDE, 3], 'act');
      const see = (name: string, value: Tensor) => {
        if (tap) trace.output(name, value);
      };
      const bound = new Weights(trace, parameters, false);
      trace.output('features', applyInception(bound, network, x, see));
      const plan = freeze('inception', trace, { elemBytes: backend.elemBytes });
      return new InceptionNetwork(backend, weights, new Runner(backend, plan, regionsOf(weights)), batch);
    } catch (error) {
      freeWeights(weights);
      throw error;
    }
  }

  /** Features [n, 2048] of at most `batch` images. */
  features(images: readonly RgbImage[]): Float32Array {
    const { batch, input, runner } = this;
    if (images.length > batch)
      throw new Failure({ what: 'inception', why: `${images.length} images at once` });
    for (const [i, image] of images.entries()) {
      resizeBilinear(image, INCEPTION_SIDE, input, { at: i * IMAGE, scale: 2, shift: -1 });
    }
    runner.set('images', input);
    runner.run();
    return Float32Array.from(runner.get('features').subarray(0, images.length * this.d));
  }

  /** Outputs of the last run [batch, H, W, C] by name; modules' only with `tap`. */
  output(name: string): { readonly values: ArrayLike<number>; readonly shape: readonly number[] } {
    return { values: this.runner.get(name), shape: this.runner.plan.outputs.get(name)!.shape };
  }

  /** Nanoseconds per op of one run, for benches. */
  timed(): { readonly name: string; readonly ns: number }[] {
    const ns = this.runner.runTimed();
    return this.runner.plan.nodes.map(({ op }, i) => ({ name: op.name, ns: ns[i]! }));
  }

  free(): void {
    this.runner.free();
    freeWeights(this.weights);
  }
}
