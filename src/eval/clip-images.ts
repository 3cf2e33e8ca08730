// CLIP's image tower with its weights on a backend: images of any size to vectors that texts are compared
// with. Images are resized as open_clip does it: bicubic as Pillow's, squashed to a square or its middle cut.
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { middleSquare } from '../io/image/crop.ts';
import { resizeInto } from '../io/image/resize.ts';
import type { Rgb } from '../io/image/rgb.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import { Parameters, Weights } from '../plan/params.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';
import { allocWeights, freeWeights, type LoadedWeights, regionsOf, writeWeight } from '../sample/weights.ts';
import {
  CLASS_EMBEDDING,
  type ClipVisualConfig,
  declareClipVisual,
  encodeClipImages,
  patchesOf,
} from '../text/clip-visual.ts';

/** Means and deviations of red, green and blue that OpenAI's CLIP and its successors take. */
const MEAN = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION = [0.26862954, 0.26130258, 0.27577711];

/** `squash`: both sides to the size; `shortest`: the shorter one, then the middle square. */
export type ClipResize = 'squash' | 'shortest';

export interface ClipImagesOptions {
  readonly batch: number;
  readonly resize: ClipResize;
}

type WeightFile = Pick<TensorFile, 'path' | 'tensors' | 'readFloat32'>;

export class ClipImages {
  private readonly input: Float32Array;

  private constructor(
    private readonly config: ClipVisualConfig,
    private readonly weights: LoadedWeights,
    private readonly runner: Runner,
    readonly batch: number,
    private readonly resize: ClipResize,
  ) {
    const { count, size } = patchesOf(config);
    this.input = new Float32Array(batch * (count + 1) * size);
  }

  /** Numbers of a vector. */
  get d(): number {
    return this.config.embed;
  }

  /** Names and sizes of the tower's tensors are checked before any memory is taken; others are left alone. */
  static load(
    backend: Backend,
    config: ClipVisualConfig,
    file: WeightFile,
    { batch, resize }: ClipImagesOptions,
  ): ClipImages {
    const parameters = new Parameters();
    const tower = declareClipVisual(parameters, config);
    const wanted = parameters.list.map(({ name, count }): [string, number] => [name, count]);
    for (const [name, count] of [...wanted, [CLASS_EMBEDDING, config.width] as const]) {
      const shape = file.tensors.get(name)?.shape;
      if (shape?.reduce((a, b) => a * b, 1) === count) continue;
      const why = shape ? `has shape [${shape.join(', ')}], not ${count} numbers` : 'is missing';
      throw new Failure({ what: file.path, why: `tensor ${name} ${why}`, fix: 'Use a CLIP of this size' });
    }
    const weights = allocWeights(backend, parameters);
    try {
      for (const p of parameters.list) {
        const values = file.readFloat32(p.name);
        if (p.index === tower.positions) {
          const token = file.readFloat32(CLASS_EMBEDDING);
          for (let i = 0; i < token.length; i++) values[i]! += token[i]!;
        }
        writeWeight(backend, weights, p, values);
      }
    } catch (error) {
      freeWeights(weights);
      throw error;
    }
    const trace = new Trace();
    const { count, size } = patchesOf(config);
    const images = trace.input('images', [batch, count + 1, size], 'act');
    const first = trace.input('first', [batch, 1], 'i32');
    const g = { weights: new Weights(trace, parameters, false), exactRows: true };
    trace.output('vectors', encodeClipImages(g, tower, images, first));
    const plan = freeze('clip-images', trace, { elemBytes: backend.elemBytes });
    const runner = new Runner(backend, plan, regionsOf(weights));
    runner.set('first', new Int32Array(batch));
    return new ClipImages(config, weights, runner, batch, resize);
  }

  /** Vectors [n, embed] of at most `batch` images, not normalised. */
  features(images: readonly Rgb[]): Float32Array {
    const { batch, input, runner, d } = this;
    if (images.length > batch) throw new Failure({ what: 'clip', why: `${images.length} images at once` });
    for (const [i, image] of images.entries()) this.fill(image, i);
    runner.set('images', input);
    runner.run();
    return Float32Array.from(runner.get('vectors').subarray(0, images.length * d));
  }

  free(): void {
    this.runner.free();
    freeWeights(this.weights);
  }

  /** Writes an image's patches; those that do not fill a patch at the right and below are cut off. */
  private fill(image: Rgb, place: number): void {
    const { side, patch } = this.config;
    const { count, size } = patchesOf(this.config);
    const planes =
      this.resize === 'squash'
        ? resizeInto(image, side, side, { left: 0, top: 0, width: side, height: side })
        : middleSquare(image, side);
    const grid = Math.floor(side / patch);
    let to = (place * (count + 1) + 1) * size;
    for (let row = 0; row < grid; row++) {
      for (let column = 0; column < grid; column++) {
        for (let c = 0; c < 3; c++) {
          for (let y = 0; y < patch; y++) {
            const from = (c * side + row * patch + y) * side + column * patch;
            for (let x = 0; x < patch; x++) {
              this.input[to++] = (planes[from + x]! / 255 - MEAN[c]!) / DEVIATION[c]!;
            }
          }
        }
      }
    }
  }
}
