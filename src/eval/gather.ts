// Features of a set of images, streamed: batches through a network into moments, and into rows where a
// measure needs them all.
import type { Lapack } from '../../ffi/lapack.ts';
import type { Rgb } from '../io/image/rgb.ts';
import { FeatureRows } from './feature-rows.ts';
import type { ImageSet, Unreadable } from './image-sets.ts';
import { Moments } from './moments.ts';

/** A network that makes features of images. */
export interface Extractor {
  /** Features of an image. */
  readonly d: number;
  /** Images that it takes at once. */
  readonly batch: number;
  /** [n, d] of n images, at most `batch`. */
  features(images: readonly Rgb[]): Float32Array;
}

export interface Gathered {
  readonly moments: Moments;
  /** Every image's features, where they were asked for. */
  readonly rows: FeatureRows | null;
  readonly unreadable: readonly Unreadable[];
  /** How many images have which size, "640 x 480". */
  readonly sizes: ReadonlyMap<string, number>;
}

export interface GatherOptions {
  /** Keeps every image's features, 8 KiB an image. */
  readonly keep?: boolean;
  readonly onImages?: (done: number) => void;
}

export async function gather(
  extractor: Extractor,
  lapack: Lapack,
  set: ImageSet,
  { keep = false, onImages = () => {} }: GatherOptions = {},
): Promise<Gathered> {
  const moments = new Moments(lapack, extractor.d);
  const rows = keep ? new FeatureRows(extractor.d) : null;
  const unreadable: Unreadable[] = [];
  const sizes = new Map<string, number>();
  let waiting: Rgb[] = [];
  let done = 0;
  const flush = async () => {
    if (waiting.length === 0) return;
    const features = extractor.features(waiting);
    moments.add(features);
    rows?.add(features);
    done += waiting.length;
    waiting = [];
    onImages(done);
    await new Promise((resolve) => setImmediate(resolve)); // signals are seen between batches
  };
  for await (const image of set.images((file) => unreadable.push(file))) {
    const size = `${image.width} x ${image.height}`;
    sizes.set(size, (sizes.get(size) ?? 0) + 1);
    waiting.push(image);
    if (waiting.length === extractor.batch) await flush();
  }
  await flush();
  return { moments, rows, unreadable, sizes };
}
