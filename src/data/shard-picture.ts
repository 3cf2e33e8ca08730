// Pictures with captions in shards: which columns they are in, and one of them as training takes it.
import { EXIT, Failure } from '../io/failure.ts';
import { middleSquare } from '../io/image/crop.ts';
import { decodeImage } from '../io/image/decode.ts';
import { ImageFailure, type Rgb } from '../io/image/rgb.ts';
import { isKind } from '../io/mds/encodings.ts';
import type { MdsColumn } from '../io/mds/index.ts';
import { rgbOfPixels } from '../io/mds/pixels.ts';
import type { MdsShard } from '../io/mds/shard.ts';

/** Names of columns that hold captions, in the order of preference. */
export const CAPTION_NAMES = ['caption', 'captions', 'text', 'texts', 'txt', 'prompt', 'description'];

/** Places of the columns that are read. */
export interface PictureColumns {
  readonly image: number;
  readonly caption: number;
}

/**
 * Where the pictures for a model of `size` pixels are: image_SIZE, else the smallest larger image_N, else the
 * first column of pictures with another name. Throws a Failure where there is none, or none with captions.
 */
export function pictureColumns(columns: readonly MdsColumn[], size: number, address: string): PictureColumns {
  const names = columns.map(({ name }) => name);
  const pictures = columns.filter(({ encoding }) => /^(jpeg|png|pil)\b/.test(encoding));
  const sideOf = ({ name }: MdsColumn) => Number(/^image_(\d+)$/.exec(name)?.[1] ?? Number.NaN);
  const sized = pictures.filter((column) => sideOf(column) >= size).sort((a, b) => sideOf(a) - sideOf(b));
  const image = sized[0] ?? pictures.find((column) => Number.isNaN(sideOf(column)));
  const caption = CAPTION_NAMES.find((name) =>
    columns.some((column) => column.name === name && column.encoding === 'str'),
  );
  if (image && caption) return { image: columns.indexOf(image), caption: names.indexOf(caption) };
  const latents = pictures.length === 0 && names.some((name) => name.startsWith('latents_'));
  const why = latents
    ? 'shards hold latents, but image.kind is pixels'
    : image
      ? 'shards have no column of captions'
      : `shards have no pictures of ${size} x ${size} pixels or more`;
  const fix = latents
    ? 'Train a recipe of latents on them, or prepare the pictures without --vae'
    : `They have ${names.join(', ')}; prepare the pictures with --size ${size}`;
  throw new Failure({ what: address, why, fix, code: EXIT.usage });
}

export interface ShardPicture {
  /** The middle square, planes [3, size, size]. */
  readonly planes: Uint8Array;
  readonly caption: string;
}

/** Reads and decodes a sample. A Failure names shard, sample and reason. */
export async function readPicture(
  shard: MdsShard,
  sample: number,
  { image, caption }: PictureColumns,
  size: number,
): Promise<ShardPicture> {
  const value = shard.value(sample, image);
  const words = shard.value(sample, caption);
  if (typeof words !== 'string') throw shard.refuseSample(sample, 'has a caption that is no text');
  let picture: Rgb | null = null;
  try {
    if (isKind(value, 'pixels')) picture = rgbOfPixels(value);
    else if (isKind(value, 'image')) picture = await decodeImage(value.bytes, 'its picture');
  } catch (error) {
    if (!(error instanceof ImageFailure)) throw error;
    throw shard.refuseSample(sample, `cannot be decoded: ${error.message}`);
  }
  if (!picture) throw shard.refuseSample(sample, 'has pixels of a kind that is not read');
  return { planes: middleSquare(picture, size), caption: words };
}

/** Byte -> [-1, 1], as pictures are trained on. */
export const SIGNED = Float32Array.from({ length: 256 }, (_, byte) => byte / 127.5 - 1);
