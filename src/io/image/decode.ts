// Picture files to RGB as the reference's data pipeline sees them (Pillow's convert('RGB')): told by their
// bytes and not by their names, alpha dropped and not blended, colour profiles and EXIF orientation ignored
// unless asked. PNG and GIF are decoded here, the rest by the drawing library, which is loaded when first
// needed and gets a file without what would make it turn, blend or correct the picture.
import { open } from 'node:fs/promises';
import { osFailure } from '../oserror.ts';
import { withCanvas } from '../figure/canvas.ts';
import { bareAvif } from './avif.ts';
import { bareBmp } from './bmp.ts';
import { upright } from './exif.ts';
import { decodeGif } from './gif.ts';
import { bareJpeg } from './jpeg.ts';
import { decodePng } from './png.ts';
import { ImageFailure, LIMITS, type Limits, type Rgb } from './rgb.ts';
import { bareWebp } from './webp.ts';

export type Format = 'PNG' | 'JPEG' | 'WebP' | 'GIF' | 'BMP' | 'AVIF';

export interface Decoded extends Rgb {
  readonly format: Format;
  /** EXIF orientation of the file, 1 to 8, whether it was applied or not; 1 where there is none. */
  readonly orientation: number;
}

export interface DecodeOptions {
  /** Turns the picture as its EXIF orientation says. Off: as the reference. */
  readonly exif?: boolean;
  readonly limits?: Limits;
}

/**
 * Decodes a picture; of animations the first frame. `name` stands in messages. Throws an ImageFailure for
 * another kind of file, a damaged one and one beyond the limits, and a Failure (code 3) where the drawing
 * library cannot be loaded.
 */
export async function decodeImage(
  bytes: Uint8Array,
  name: string,
  { exif = false, limits = LIMITS }: DecodeOptions = {},
): Promise<Decoded> {
  if (bytes.length > limits.bytes) throw tooLong(name, bytes.length, limits);
  const format = formatOf(bytes);
  if (!isFormat(format)) throw new ImageFailure(name, 'unsupported', refusal(format));
  const { orientation, ...image } = await DECODERS[format](bytes, name, limits);
  return { ...(exif ? upright(image, orientation) : image), format, orientation };
}

/** `decodeImage` of a file; one that cannot be read is a Failure. */
export async function readImage(path: string, options: DecodeOptions = {}): Promise<Decoded> {
  return decodeImage(await readBytes(path, options.limits ?? LIMITS), path, options);
}

async function readBytes(path: string, limits: Limits): Promise<Uint8Array> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > limits.bytes) throw tooLong(path, size, limits);
    return await file.readFile();
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

function tooLong(name: string, bytes: number, limits: Limits): ImageFailure {
  return new ImageFailure(name, 'too large', `${bytes} bytes are more than ${limits.bytes}`);
}

type Upright = Rgb & { readonly orientation: number };
type Decoder = (bytes: Uint8Array, name: string, limits: Limits) => Upright | Promise<Upright>;

const DECODERS: Readonly<Record<Format, Decoder>> = {
  PNG: decodePng,
  async JPEG(bytes, name, limits) {
    const { file, orientation } = bareJpeg(bytes, name, limits);
    return { ...(await draw(file, name, limits)), orientation };
  },
  async WebP(bytes, name, limits) {
    const { file, orientation, ...place } = bareWebp(bytes, name, limits);
    return { ...onCanvas(await draw(file, name, limits), place), orientation };
  },
  GIF: (bytes, name, limits) => still(decodeGif(bytes, name, limits)),
  BMP: async (bytes, name, limits) => still(await draw(bareBmp(bytes, name, limits), name, limits)),
  AVIF: async (bytes, name, limits) => still(await draw(bareAvif(bytes, name, limits), name, limits)),
};

const still = (image: Rgb): Upright => ({ ...image, orientation: 1 });

const isFormat = (format: string | null): format is Format => format !== null && format in DECODERS;

function refusal(format: string | null): string {
  return format === null ? 'this is no picture that is known here' : `${format} is not read`;
}

/** Kinds of files by how they begin. Those without a decoder are refused by name. */
const BEGINNINGS: readonly (readonly [string, ...(string | RegExp)[]])[] = [
  ['PNG', '\x89PNG\r\n\x1a\n'],
  ['JPEG', '\xff\xd8\xff'],
  ['WebP', /^RIFF....WEBP/s],
  ['GIF', 'GIF87a', 'GIF89a'],
  ['BMP', 'BM'],
  ['AVIF', /^....ftyp(....){0,16}?avi[fs]/s],
  ['HEIF', /^....ftyp(hei|hev|mif|msf)/s],
  ['JPEG XL', '\xff\x0a', '\0\0\0\x0cJXL '],
  ['JPEG 2000', '\0\0\0\x0cjP  ', '\xff\x4f\xff\x51'],
  ['TIFF', 'II*\0', 'MM\0*'],
  ['Photoshop', '8BPS'],
  ['an icon', '\0\0\x01\0', '\0\0\x02\0'],
  ['PNM', /^P[1-7]\s/],
  ['PDF', '%PDF'],
  ['SVG', /^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)/is],
  ['a web page', /^\s*<(!doctype html|html|head|body)/i],
];

/** The kind of a file by its first bytes; null for an unknown one. */
function formatOf(bytes: Uint8Array): string | null {
  if (bytes.length === 0) return 'an empty file';
  const begin = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 256)).toString('latin1');
  const fits = (how: string | RegExp) => (typeof how === 'string' ? begin.startsWith(how) : how.test(begin));
  return BEGINNINGS.find(([, ...ways]) => ways.some(fits))?.[0] ?? null;
}

/** Decodes an opaque picture with the drawing library. */
async function draw(file: Uint8Array, name: string, limits: Limits): Promise<Rgb> {
  const { createCanvas, loadImage } = await withCanvas(() => import('@napi-rs/canvas'));
  let image: Awaited<ReturnType<typeof loadImage>>;
  try {
    image = await loadImage(file);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ImageFailure(name, 'damaged', `it cannot be decoded (${why})`);
  }
  const { width, height } = image;
  if (width < 1 || height < 1 || width * height > limits.pixels) {
    throw new ImageFailure(name, 'damaged', 'its size is not what its header says');
  }
  const canvas = createCanvas(width, height);
  canvas.getContext('2d').drawImage(image, 0, 0);
  // Not getImageData: that divides by alpha, which lossless WebP files keep beside colours that are whole.
  return { width, height, data: withoutAlpha(canvas.data(), width * height) };
}

/** [pixels, 4] -> [pixels, 3] */
function withoutAlpha(rgba: Uint8Array, pixels: number): Uint8Array {
  const rgb = new Uint8Array(pixels * 3);
  for (let i = 0, from = 0, to = 0; i < pixels; i++, from += 4, to += 3) {
    rgb[to] = rgba[from]!;
    rgb[to + 1] = rgba[from + 1]!;
    rgb[to + 2] = rgba[from + 2]!;
  }
  return rgb;
}

/** A frame of an animation on its canvas, which is black elsewhere. */
function onCanvas(frame: Rgb, place: { width: number; height: number; left: number; top: number }): Rgb {
  const { width, height, left, top } = place;
  if (frame.width === width && frame.height === height) return frame;
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < frame.height; y++) {
    const row = frame.data.subarray(y * frame.width * 3, (y + 1) * frame.width * 3);
    data.set(row, ((top + y) * width + left) * 3);
  }
  return { width, height, data };
}
