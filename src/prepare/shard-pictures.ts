// Pictures of a set of shards for a sheet: pictures as they are, latents through an autoencoder or, without
// one, as a plain look at their first channels.

import { decodeImage } from '../io/image/decode.ts';
import { resizeInto } from '../io/image/resize.ts';
import type { Rgb } from '../io/image/rgb.ts';
import { isKind } from '../io/mds/encodings.ts';
import type { MdsColumn } from '../io/mds/index.ts';
import { rgbOfPixels } from '../io/mds/pixels.ts';
import { MdsSet } from '../io/mds/set.ts';
import type { MdsValue } from '../io/mds/values.ts';
import type { Pixels } from '../io/png.ts';
import type { PictureDecoder } from '../sample/model-file.ts';
import { numbersOf } from './column-stats.ts';
import { spread } from './inspect-shards.ts';
import { guessShape } from './latent-shape.ts';

/** Side of a picture on the sheet. */
const CELL = 192;

/** Turns latents [channels, height, width] into pictures. */
export type LatentDecoder = Pick<PictureDecoder, 'decode'> & { readonly channels: number };

export interface ShardPicture {
  /** CELL x CELL. */
  readonly pixels: Pixels;
  readonly caption: string;
  readonly sample: number;
}

export interface ShardPictures {
  readonly pictures: readonly ShardPicture[];
  readonly column: string;
  /** How they came about, for the sheet: "jpeg", "decoded", "channels 0 to 2 ..., not decoded". */
  readonly how: string;
}

/** Up to `most` pictures spread over the set; null where no column is a picture. */
export async function shardPictures(
  folder: string,
  most: number,
  decoder: LatentDecoder | null,
): Promise<ShardPictures | null> {
  using set = MdsSet.open(folder, { openShards: 1 });
  const chosen = spread(set.count, most);
  if (chosen.length === 0) return null;
  const columns = set.shard(set.index.locate(chosen[0]!).shard).columns;
  const found = pictureColumn(set, columns, chosen[0]!, decoder);
  if (!found) return null;
  const captions =
    columns.find((c) => c.encoding === 'str' && c.name === 'caption') ??
    columns.find((c) => c.encoding === 'str');
  const pictures: ShardPicture[] = [];
  for (const sample of chosen) {
    const picture = await found.picture(set.value(sample, found.column));
    const words = captions ? String(set.value(sample, captions.name)) : '';
    pictures.push({
      pixels: picture ? fitted(picture) : blank(),
      caption: words || `sample ${sample}`,
      sample,
    });
  }
  return { pictures, column: found.column, how: found.how };
}

interface Found {
  readonly column: string;
  readonly how: string;
  picture(value: MdsValue): Promise<Rgb | null> | Rgb | null;
}

/** A column of pictures, else the latents with the fewest numbers that the decoder can take. */
function pictureColumn(
  set: MdsSet,
  columns: readonly MdsColumn[],
  sample: number,
  decoder: LatentDecoder | null,
): Found | null {
  for (const { name, encoding } of columns) {
    if (/^(jpeg|png|pil)\b/.test(encoding)) return { column: name, how: encoding, picture: pictureOf };
  }
  const latents = columns.flatMap(({ name, encoding }) => {
    if (encoding !== 'bytes' && !encoding.startsWith('ndarray')) return [];
    const shape = shapeOf(name, set.value(sample, name), decoder);
    const guessed = encoding === 'bytes';
    return shape && (!decoder || decoder.channels === shape[0]) ? [{ name, shape, guessed }] : [];
  });
  const [first] = latents.sort((a, b) => a.shape[1]! - b.shape[1]!);
  if (!first) return null;
  const how = decoder ? 'latents, decoded' : 'latents, not decoded: channels 0 to 2 as red, green and blue';
  const picture = (value: MdsValue) => latentPicture(first.name, value, decoder);
  const shape = `${first.guessed ? 'shape guessed: ' : ''}${first.shape.join(' x ')}`;
  return { column: first.name, how: `${how} (${shape})`, picture };
}

async function pictureOf(value: MdsValue): Promise<Rgb | null> {
  if (isKind(value, 'pixels')) return rgbOfPixels(value);
  return isKind(value, 'image') ? decodeImage(value.bytes, 'picture') : null;
}

/** [channels, height, width], or null where a value is no latent. */
function shapeOf(name: string, value: MdsValue, decoder: LatentDecoder | null): readonly number[] | null {
  if (isKind(value, 'ndarray')) return value.shape.length === 3 && value.shape[0]! <= 32 ? value.shape : null;
  const guess = value instanceof Uint8Array ? guessShape(name, value.length, decoder?.channels) : null;
  return guess?.kind === 'latent' ? guess.shape : null;
}

function latentPicture(name: string, value: MdsValue, decoder: LatentDecoder | null): Rgb | null {
  const shape = shapeOf(name, value, decoder);
  if (!shape) return null;
  const array = isKind(value, 'ndarray') ? value : null;
  const bytes = array ? array.bytes : value;
  if (!(bytes instanceof Uint8Array)) return null;
  const numbers = numbersOf(bytes, array?.dtype ?? 'float16');
  const [channels = 1, height = 1, width = 1] = shape;
  if (decoder) {
    const pixels = decoder.decode(numbers, 0, { height, width });
    return pixels && { ...pixels, data: Uint8Array.from(pixels.data) };
  }
  return projected(numbers, channels, height, width);
}

/**
 * The first three channels as colours, each from its own least value to its largest; what is no number is
 * black.
 */
function projected(numbers: ArrayLike<number>, channels: number, height: number, width: number): Rgb {
  const area = height * width;
  const data = new Uint8Array(area * 3);
  for (let c = 0; c < 3; c++) {
    const plane = Array.from({ length: area }, (_, i) => numbers[Math.min(c, channels - 1) * area + i]!);
    const known = plane.filter(Number.isFinite);
    const least = known.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
    const most = known.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const scale = most > least ? 255 / (most - least) : 0;
    for (const [i, v] of plane.entries())
      data[3 * i + c] = Number.isFinite(v) ? Math.round((v - least) * scale) : 0;
  }
  return { width, height, data };
}

/** In the middle of a light square, small ones enlarged. */
function fitted({ width, height, data }: Rgb): Pixels {
  const scale = CELL / Math.max(width, height);
  const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * scale))) as [number, number];
  const planes = resizeInto({ width, height, data }, w, h, { left: 0, top: 0, width: w, height: h });
  const cell = blank();
  const [left, top] = [(CELL - w) >> 1, (CELL - h) >> 1];
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      for (let c = 0; c < 3; c++)
        cell.data[((y + top) * CELL + x + left) * 3 + c] = planes[(c * h + y) * w + x]!;
    }
  }
  return cell;
}

function blank(): Pixels {
  return { width: CELL, height: CELL, channels: 3, data: new Uint8Array(CELL * CELL * 3).fill(0xf4) };
}
