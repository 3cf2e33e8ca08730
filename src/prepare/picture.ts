// The work of a worker: an item's picture read, hashed, decoded and cut to its squares, its caption chosen.
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { Failure } from '../io/failure.ts';
import { middleSquare } from '../io/image/crop.ts';
import { decodeImage } from '../io/image/decode.ts';
import { ImageFailure, LIMITS, type Rgb } from '../io/image/rgb.ts';
import { osCode, osFailure } from '../io/oserror.ts';
import { captionsOfFiles, chooseCaptions, MAX_CLEANED } from './captions.ts';
import { download } from './download.ts';
import type { Dropped, ImageRef, Item, ItemSettings, Prepared, Reason, Result } from './item.ts';

/** Why an item cannot be used; thrown and caught in this file. */
class Drop extends Error {
  constructor(readonly dropped: Dropped) {
    super(dropped.why);
  }
}

const drop = (reason: Reason, why: string) => new Drop({ reason, why });

/** Never throws for what is wrong with an item; a missing library is a Failure. */
export async function prepareItem(item: Item, settings: ItemSettings): Promise<Result> {
  try {
    return { prepared: await prepared(item, settings) };
  } catch (error) {
    if (error instanceof Drop) return { dropped: error.dropped };
    if (error instanceof ImageFailure) return { dropped: { reason: error.reason, why: whyOf(error) } };
    throw error;
  }
}

/** The cause alone: the name stands beside it, the remedy is that of all. */
function whyOf({ file, message }: ImageFailure): string {
  return message.startsWith(`${file}: `) ? message.slice(file.length + 2) : message;
}

async function prepared(item: Item, settings: ItemSettings): Promise<Prepared> {
  const { image } = item;
  if ('none' in image) throw new Drop(image.none);
  const captions = captionsOf(item, settings);
  const bytes = await bytesOf(image, settings);
  const hash = new Uint8Array(new Bun.CryptoHasher('sha256').update(bytes).digest().subarray(0, 16));
  const picture = 'rgb' in image ? pixels(image) : await decodeImage(bytes, item.name, settings);
  const { width, height } = picture;
  if (Math.min(width, height) < settings.minSize) {
    throw drop('too small', `${width} x ${height}: the shorter edge has less than ${settings.minSize}`);
  }
  const squares = settings.sizes.map((size) => middleSquare(picture, size));
  return { hash, format: picture.format, bytes: bytes.length, width, height, squares, captions };
}

function captionsOf({ captions, place }: Item, settings: ItemSettings): string[] {
  const { captions: mode, clean, seed, captionKey } = settings;
  let texts: readonly string[];
  try {
    texts = 'texts' in captions ? captions.texts : captionsOfFiles(captions.files, captionKey);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw drop('no caption', `the file with it cannot be read: ${why}`);
  }
  const long = clean === 'reference' ? texts.find(({ length }) => length > MAX_CLEANED) : undefined;
  if (long !== undefined) {
    throw drop('no caption', `one of ${long.length} characters is too long to clean up (${MAX_CLEANED})`);
  }
  const chosen = chooseCaptions(texts, mode, clean, seed, place);
  if (chosen.length > 0) return chosen;
  const had = texts.some((text) => text.trim() !== '');
  throw drop('no caption', had ? 'nothing is left of it after the clean-up' : 'it has none');
}

function pixels(image: { rgb: Uint8Array; width: number; height: number }): Rgb & { format: string } {
  const { width, height, rgb: data } = image;
  if (width < 1 || height < 1) throw drop('damaged', `its size is ${width} x ${height}`);
  return { width, height, data, format: 'pixels' };
}

async function bytesOf(
  image: Exclude<ImageRef, { none: Dropped }>,
  settings: ItemSettings,
): Promise<Uint8Array> {
  if ('bytes' in image) return image.bytes;
  if ('rgb' in image) return image.rgb;
  if ('path' in image) return readPicture(image.path);
  if (!settings.allowUrls) throw drop('download', 'it is behind an address, and --allow-urls is not given');
  const got = await download(image.url, settings.urlBytes, settings.urlSeconds);
  if ('why' in got) throw drop('download', got.why);
  return got.bytes;
}

async function readPicture(path: string): Promise<Uint8Array> {
  try {
    // Not blocking: a pipe is refused at once, and not when somebody writes to it.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = await file.stat();
    if (!stat.isFile()) throw drop('missing', 'is not a regular file');
    if (stat.size > LIMITS.bytes) throw drop('too large', `${stat.size} bytes are more than ${LIMITS.bytes}`);
    return await file.readFile();
  } catch (error) {
    if (osCode(error) === undefined) throw error;
    const failure = osFailure(error, 'it', 'read'); // its name stands beside this
    throw drop('missing', failure instanceof Failure ? failure.message.slice('it: '.length) : String(error));
  }
}
