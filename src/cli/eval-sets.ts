// The sets that eval compares: what a word on the command line means, and its features.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Lapack } from '../../ffi/lapack.ts';
import { type Side, sideOfImages, sideOfStatistics } from '../eval/fid.ts';
import { FORMULA, loadClip, type LoadedExtractor, loadInception } from '../eval/extractors.ts';
import { gather, type Gathered } from '../eval/gather.ts';
import { isArchiveName, type ImageSet, openImageSet } from '../eval/image-sets.ts';
import { readStatistics } from '../eval/statistics-file.ts';
import { seemsTensors } from '../io/open-tensors.ts';
import { Safetensors } from '../io/safetensors.ts';
import { isPublished, pulledPart } from '../sample/pulled.ts';
import { SHIPPED } from '../sample/shipped.ts';
import { openDevice } from './device.ts';
import { DEFAULT_CLIP, type EvalCall } from './eval-flags.ts';
import { usage } from './flags.ts';

export type Kind = 'statistics' | 'images' | 'model';

/** What a word means: a name of a model goes before a file, `./NAME` is the file. */
export function kindOf(word: string): Kind {
  if (Object.hasOwn(SHIPPED, word) || isPublished(word)) return 'model';
  if (/\.npz$/i.test(word)) return 'statistics';
  if (!existsSync(word)) return 'images'; // whose reader says that there is none
  if (statSync(word).isDirectory()) {
    const parts = ['latest', 'checkpoints', 'ema.safetensors', 'model.safetensors'];
    return parts.some((name) => existsSync(join(word, name))) ? 'model' : 'images';
  }
  if (isArchiveName(word) || !seemsTensors(word)) return 'images';
  if (!/\.safetensors$/i.test(word)) return 'model';
  using file = Safetensors.open(word);
  return file.tensors.has('mu') && file.tensors.has('sigma') ? 'statistics' : 'model';
}

/** The network of the features, loaded when the first set needs it; they are in float32 on every device. */
export class Measuring implements Disposable {
  private loaded: LoadedExtractor | null = null;

  constructor(
    private readonly call: EvalCall,
    private readonly lapack: () => Promise<Lapack>,
    /** Keeps every image's features. */
    private readonly keep: boolean,
  ) {}

  /** Remarks on the weights; empty before a set needed them. */
  get warnings(): readonly string[] {
    return this.loaded?.warnings ?? [];
  }

  async extractor(): Promise<LoadedExtractor> {
    if (this.loaded) return this.loaded;
    const { values, given, log } = this.call;
    const clip = values.features === 'clip';
    if (clip && given.has('weights')) {
      throw usage('--weights', 'is for Inception, --features clip takes --clip', 'Leave one of them out');
    }
    const asked = clip ? (values.clip ?? DEFAULT_CLIP) : values.weights;
    const path = !clip && asked === FORMULA ? FORMULA : pulledPart(asked);
    const backend = await openDevice({ ...values, precision: 'fp32', 'cpu-bf16': false }, log);
    this.loaded = await (clip ? loadClip : loadInception)(backend, path, values['batch-size']);
    return this.loaded;
  }

  async side(word: string, kind: Exclude<Kind, 'model'>): Promise<Side> {
    if (kind === 'statistics') return sideOfStatistics(word, readStatistics(word));
    return this.measure(word, openImageSet(word));
  }

  /** Features of images. */
  async measure(name: string, set: ImageSet): Promise<Side> {
    const { origin } = await this.extractor();
    return sideOfImages(name, await this.gathered(set), origin);
  }

  /** The same, however few they are. */
  async gathered(set: ImageSet): Promise<Gathered> {
    const { extractor } = await this.extractor();
    const { progress } = this.call;
    const begin = performance.now();
    const gathered = await gather(extractor, await this.lapack(), set, {
      keep: this.keep,
      onImages(done) {
        const rate = done / ((performance.now() - begin) / 1000);
        progress.update({ unit: 'image', done, rate, ...(set.count === null ? {} : { total: set.count }) });
      },
    });
    progress.finish();
    return gathered;
  }

  [Symbol.dispose](): void {
    this.loaded?.free();
  }
}
