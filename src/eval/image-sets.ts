// Sets of images that are measured: a folder, shards (MDS), tar and zip archives. Read one image after
// another as Pillow's convert('RGB') gives them; what cannot be read is left out and told.
import { readdirSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { decodeImage, readImage } from '../io/image/decode.ts';
import type { Rgb } from '../io/image/rgb.ts';
import { INDEX_NAME } from '../io/mds/index.ts';
import { rgbOfPixels } from '../io/mds/pixels.ts';
import { MdsSet } from '../io/mds/set.ts';
import type { MdsPixels, MdsValue } from '../io/mds/values.ts';
import { osFailure } from '../io/oserror.ts';
import { Source } from '../io/source.ts';
import { readTar } from '../io/tar_read.ts';
import { readEntry, readZip } from '../io/zip.ts';

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
const isTarName = (name: string) => /\.(tar|tgz|tar\.(gz|zst))$/i.test(name);
/** Archives of images; a .zip that torch.save wrote has another ending. */
export const isArchiveName = (name: string) => isTarName(name) || /\.zip$/i.test(name);
const isImageName = (name: string) => ENDINGS.includes(extname(name).toLowerCase());

/** A folder of image files, of shards or of tar archives, or an archive; anything else is a Failure. */
export function openImageSet(path: string): ImageSet {
  const refuse = (why: string, fix: string) => new Failure({ what: path, why, fix });
  let inside: readonly string[] | null;
  try {
    inside = statSync(path).isDirectory() ? readdirSync(path) : null;
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  if (inside?.includes(INDEX_NAME)) return shardsOf(path);
  if (inside) {
    const names = inside.filter(isImageName);
    if (names.length > 0) return filesOf(path, names);
    const archives = inside.filter(isTarName);
    if (archives.length > 0) return tarsOf(path, inOrder(archives));
    const below = readdirSync(path, { withFileTypes: true }).some((entry) => entry.isDirectory());
    throw refuse(
      `has no image files (${ENDINGS.map((ending) => ending.slice(1)).join(', ')})`,
      below ? 'Name the folder that they lie in; folders inside it are not looked at' : 'Name another folder',
    );
  }
  if (isTarName(path)) return tarOf(path);
  if (isArchiveName(path)) return zipOf(path);
  throw refuse(
    'is no set of images',
    'Give a folder of images, a folder of MDS shards, a .tar, a .zip, or statistics (.npz, .safetensors)',
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

/** Numbers in names by their size, 2.png before 10.png as prompts are counted; the rest by bytes. */
const inOrder = (names: readonly string[]) => {
  const counted = (digits: string) => {
    const own = digits.replace(/^0+(?=.)/, '');
    return String(own.length).padStart(3, '0') + own;
  };
  const keys = names.map((name) => ({ name, key: Buffer.from(`${name.replace(/\d+/g, counted)}\0${name}`) }));
  return keys.sort((a, b) => Buffer.compare(a.key, b.key)).map(({ name }) => name);
};

/** These files of a folder. */
export function filesOf(path: string, unsorted: readonly string[]): ImageSet {
  const names = inOrder(unsorted);
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

/** The images of several archives, one after another. */
function tarsOf(path: string, names: readonly string[]): ImageSet {
  return {
    path,
    count: null,
    async *images(unreadable) {
      for (const name of names) yield* tarOf(join(path, name)).images(unreadable);
    },
  };
}

/** Largest image in a zip archive. */
const MOST_BYTES = 2 ** 28;

function zipOf(path: string): ImageSet {
  using source = Source.open(path);
  const names = inOrder([...readZip(source, { deflated: true }).keys()].filter(isImageName));
  return {
    path,
    count: names.length,
    async *images(unreadable) {
      using source = Source.open(path);
      const entries = readZip(source, { deflated: true });
      for (const name of names) {
        const read = async () => decodeImage(readEntry(source, entries.get(name)!, MOST_BYTES), name);
        const image = await attemptImage(name, read, unreadable);
        if (image) yield image;
      }
    },
  };
}

/** Encodings of columns that hold pictures, and names of such where they are plain bytes. */
const PICTURES = /^(jpeg|png|pil|jpeg_array)(:|$)/;
const PICTURE_NAMES = ['image', 'images', 'img', 'jpg', 'jpeg', 'png', 'webp', 'picture', 'photo'];

function shardsOf(path: string): ImageSet {
  const columnOf = (set: MdsSet): string => {
    const columns = set.index.shards[0]?.columns ?? [];
    const named = ({ name }: { name: string }) => PICTURE_NAMES.includes(name.toLowerCase());
    const pictures = columns.filter(({ encoding }) => PICTURES.test(encoding));
    const plain = columns.filter((column) => column.encoding === 'bytes' && named(column));
    const all = pictures.length > 0 ? pictures : plain;
    const sideOf = ({ name }: { name: string }) => Number(/^image_(\d+)$/.exec(name)?.[1] ?? Number.NaN);
    // The same pictures in several sizes, as `prepare` writes them: the largest.
    if (all.length > 1 && all.every((one) => sideOf(one) > 0)) {
      return all.reduce((a, b) => (sideOf(b) > sideOf(a) ? b : a)).name;
    }
    const chosen = all.length > 1 ? all.filter(named) : all;
    if (chosen.length === 1) return chosen[0]!.name;
    if (all.length > 1) {
      const why = `has several columns of images (${all.map(({ name }) => name).join(', ')})`;
      throw new Failure({ what: path, why, fix: 'Give shards with one of them, or with one named "image"' });
    }
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
