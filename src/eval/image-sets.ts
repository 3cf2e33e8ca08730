// Sets of images that are measured: a folder, shards (MDS), a tar archive. Read one image after another as
// Pillow's convert('RGB') gives them; what cannot be read is left out and told.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { decodeImage, readImage } from '../io/image/decode.ts';
import type { Rgb } from '../io/image/rgb.ts';
import { INDEX_NAME } from '../io/mds/index.ts';
import { rgbOfPixels } from '../io/mds/pixels.ts';
import { MdsSet } from '../io/mds/set.ts';
import type { MdsPixels, MdsValue } from '../io/mds/values.ts';
import { osFailure } from '../io/oserror.ts';
import { readTar } from '../io/tar_read.ts';

/** An image that could not be used, and why. */
export interface Unreadable {
  readonly name: string;
  readonly why: string;
}

export interface ImageSet {
  readonly path: string;
  /** Images, unreadable ones too; null where it is not known before the end. */
  readonly count: number | null;
  /** In a fixed order. */
  images(unreadable: (file: Unreadable) => void): AsyncGenerator<Rgb>;
}

/** Endings that pytorch-fid takes for images. */
const ENDINGS = ['.bmp', '.jpg', '.jpeg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'];
/** Packed or not. */
export const isTarName = (name: string) => /\.(tar|tgz|tar\.(gz|zst))$/i.test(name);
const isImageName = (name: string) => ENDINGS.includes(extname(name).toLowerCase());

/** A folder of image files or of shards, or a tar archive; anything else is a Failure. */
export function openImageSet(path: string): ImageSet {
  const refuse = (why: string, fix: string) => new Failure({ what: path, why, fix });
  let folder: boolean;
  try {
    folder = statSync(path).isDirectory();
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  if (folder && existsSync(join(path, INDEX_NAME))) return shardsOf(path);
  if (folder) {
    const names = readdirSync(path).filter(isImageName);
    if (names.length > 0) return filesOf(path, names);
    const below = readdirSync(path, { withFileTypes: true }).some((entry) => entry.isDirectory());
    throw refuse(
      `has no image files (${ENDINGS.map((ending) => ending.slice(1)).join(', ')})`,
      below ? 'Name the folder that they lie in; folders inside it are not looked at' : 'Name another folder',
    );
  }
  if (isTarName(path)) return tarOf(path);
  throw refuse(
    'is no set of images',
    'Give a folder of images, a folder of MDS shards, a .tar, or statistics (.npz, .safetensors)',
  );
}

/** Yields what `read` gives; a Failure is told instead. */
async function attemptImage(
  name: string,
  read: () => Promise<Rgb>,
  unreadable: (file: Unreadable) => void,
): Promise<Rgb | null> {
  try {
    return await read();
  } catch (error) {
    // A missing library (code 3) is no fault of the image.
    if (!(error instanceof Failure) || error.code === 3) throw error;
    unreadable({ name, why: error.message });
    return null;
  }
}

function filesOf(path: string, unsorted: readonly string[]): ImageSet {
  const names = unsorted.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return {
    path,
    count: names.length,
    async *images(unreadable) {
      for (const name of names) {
        const image = await attemptImage(name, () => readImage(join(path, name)), unreadable);
        if (image) yield image;
      }
    },
  };
}

function tarOf(path: string): ImageSet {
  return {
    path,
    count: null,
    async *images(unreadable) {
      for await (const { name, kind, content, refused } of readTar(path, { wanted: isImageName })) {
        if (kind !== 'file' || !isImageName(name)) continue;
        const read = () => {
          if (content) return decodeImage(content, name);
          throw new Failure({ what: name, why: refused ?? 'is empty' });
        };
        const image = await attemptImage(name, async () => read(), unreadable);
        if (image) yield image;
      }
    },
  };
}

/** Encodings of columns that hold pictures. */
const PICTURES = /^(jpeg|png|pil|jpeg_array)(:|$)/;

function shardsOf(path: string): ImageSet {
  const columnOf = (set: MdsSet): string => {
    const columns = set.index.shards[0]?.columns ?? [];
    const column = columns.find(({ encoding }) => PICTURES.test(encoding));
    if (column) return column.name;
    throw new Failure({
      what: path,
      why: `has no column of images (it has ${columns.map(({ name }) => name).join(', ') || 'none'})`,
      fix: 'Give the shards that the latents were made of',
    });
  };
  using first = MdsSet.open(path);
  const column = columnOf(first);
  return {
    path,
    count: first.count,
    async *images(unreadable) {
      using set = MdsSet.open(path);
      for (let i = 0; i < set.count; i++) {
        const name = `sample ${i}`;
        const image = await attemptImage(name, () => pictureOf(set.value(i, column), name), unreadable);
        if (image) yield image;
      }
    },
  };
}

async function pictureOf(value: MdsValue, name: string): Promise<Rgb> {
  const kind = typeof value === 'object' && !(value instanceof Uint8Array) ? value.kind : '';
  if (kind === 'image' || value instanceof Uint8Array) {
    return decodeImage((value as { bytes: Uint8Array }).bytes ?? value, name);
  }
  const rgb = kind === 'pixels' ? rgbOfPixels(value as MdsPixels) : null;
  if (rgb) return rgb;
  throw new Failure({ what: name, why: 'is no picture in RGB, gray or the like' });
}
