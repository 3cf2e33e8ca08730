// PNG pixels as Pillow's convert('RGB') gives them: all colour types and depths, interlaced or not. Own code
// because memory has to be bounded before anything is unpacked and because of speed (zlib of the runtime);
// the libraries at hand unpack first. Chunks and filters: PNG specification, sections 5, 7, 8 and 9.
import { crc32, constants, inflateSync } from 'node:zlib';
import { orientationOf } from './exif.ts';
import { checkSize, ImageFailure, type Limits, type Rgb } from './rgb.ts';

interface Header {
  readonly width: number;
  readonly height: number;
  readonly depth: number;
  /** 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha. */
  readonly colour: number;
  readonly interlaced: boolean;
}

interface Parts {
  readonly header: Header;
  /** RGB of 256 entries. */
  readonly palette: Uint8Array;
  readonly data: readonly Uint8Array[];
  readonly orientation: number;
}

const CHANNELS: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS: Readonly<Record<number, readonly number[]>> = {
  0: [1, 2, 4, 8, 16],
  2: [8, 16],
  3: [1, 2, 4, 8],
  4: [8, 16],
  6: [8, 16],
};

/** Bytes that the pixels may unpack to beyond what their size needs; a few encoders write some. */
const SPARE_BYTES = 2 ** 16;

/** Deflate cannot pack tighter than this. */
const DENSEST = 1032;

/** Passes of an interlaced picture: first column and row, then the steps. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

/**
 * Decodes a PNG. Alpha is dropped, not blended; of 16-bit colours the high byte counts; 16-bit gray is
 * clipped at 255, as Pillow's mode I. Throws an ImageFailure for a file that is damaged or beyond the limits:
 * every checksum up to the last pixel counts, what follows the pixels does not.
 */
export function decodePng(png: Uint8Array, name: string, limits: Limits): Rgb & { orientation: number } {
  const { header, palette, data, orientation } = partsOf(png, name, limits);
  const passes = passesOf(header);
  const raw = inflate(
    data,
    passes.reduce((sum, pass) => sum + pass.bytes, 0),
    name,
  );
  const { width, height } = header;
  const out = new Uint8Array(width * height * 3);
  const step = Math.max(1, (CHANNELS[header.colour]! * header.depth) >> 3);
  const write = writerOf(header, palette);
  let at = 0;
  for (const pass of passes) {
    const stride = pass.stride;
    const blank = new Uint8Array(stride);
    let above: Uint8Array = blank;
    for (let y = 0; y < pass.rows; y++) {
      const row = raw.subarray(at + 1, at + 1 + stride);
      if (!unfilter(raw[at]!, row, above, step)) {
        throw new ImageFailure(name, 'damaged', `a row has the filter ${raw[at]}, which there is not`);
      }
      const to = ((pass.top + y * pass.down) * width + pass.left) * 3;
      write(row, pass.columns, out, to, pass.across * 3);
      above = row;
      at += stride + 1;
    }
  }
  return { width, height, data: out, orientation };
}

function partsOf(png: Uint8Array, name: string, limits: Limits): Parts {
  const file = Buffer.from(png.buffer, png.byteOffset, png.length);
  const damaged = (why: string) => new ImageFailure(name, 'damaged', why);
  const data: Uint8Array[] = [];
  // Pillow's palettes are gray where a file's has no colour.
  const palette = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3));
  let header: Header | null = null;
  let orientation = 1;
  for (let at = 8; ; ) {
    if (at + 12 > file.length) {
      if (data.length > 0) break; // without an end, but perhaps with all pixels
      throw damaged(`the file is cut off at byte ${file.length}`);
    }
    const length = file.readUInt32BE(at);
    const type = file.toString('latin1', at + 4, at + 8);
    if (data.length > 0 && type !== 'IDAT') {
      orientation = exifAfter(file, at) ?? orientation;
      break;
    }
    const end = at + 8 + length;
    if (end + 4 > file.length && type === 'IDAT' && header) {
      data.push(file.subarray(at + 8, end)); // what is there may be all that the pixels need
      break;
    }
    if (end + 4 > file.length) throw damaged(`the file is cut off in its ${type} chunk`);
    if (crc32(file.subarray(at + 4, end)) !== file.readUInt32BE(end)) {
      throw damaged(`the checksum of its ${type} chunk is wrong`);
    }
    const body = file.subarray(at + 8, end);
    if (!header && type !== 'IHDR') throw damaged(`it begins with ${type}, not with its size`);
    if (type === 'IHDR') header = headerOf(body, name, limits);
    else if (type === 'PLTE') palette.set(body.subarray(0, 768));
    else if (type === 'eXIf') orientation = orientationOf(body);
    else if (type === 'IDAT') data.push(body);
    else if (type === 'IEND') throw damaged('it has no pixels');
    at = end + 4;
  }
  return { header: header!, palette, data, orientation };
}

/** Orientation of an eXIf chunk behind the pixels, from `at` on; null without one that is whole. */
function exifAfter(file: Buffer, at: number): number | null {
  for (let place = at; place + 12 <= file.length; ) {
    const end = place + 8 + file.readUInt32BE(place);
    if (end > file.length) return null;
    if (file.toString('latin1', place + 4, place + 8) === 'eXIf') {
      return orientationOf(file.subarray(place + 8, end));
    }
    place = end + 4;
  }
  return null;
}

function headerOf(body: Buffer, name: string, limits: Limits): Header {
  if (body.length !== 13) throw new ImageFailure(name, 'damaged', 'its header has the wrong length');
  const [width, height] = [body.readUInt32BE(0), body.readUInt32BE(4)];
  const [depth, colour, packing, filters, interlace] = body.subarray(8);
  checkSize(name, width, height, limits);
  if (!DEPTHS[colour!]?.includes(depth!) || packing !== 0 || filters !== 0 || interlace! > 1) {
    const why = `there is no PNG of colour type ${colour}, depth ${depth}, interlace ${interlace}`;
    throw new ImageFailure(name, 'damaged', why);
  }
  return { width, height, depth: depth!, colour: colour!, interlaced: interlace === 1 };
}

interface Pass {
  readonly left: number;
  readonly top: number;
  readonly across: number;
  readonly down: number;
  readonly columns: number;
  readonly rows: number;
  /** Bytes of a row without its filter. */
  readonly stride: number;
  /** Of all rows with their filters. */
  readonly bytes: number;
}

/** The one pass of a plain picture, or those of an interlaced one that have pixels. */
function passesOf({ width, height, depth, colour, interlaced }: Header): Pass[] {
  const grids = interlaced ? ADAM7 : ([[0, 0, 1, 1]] as const);
  return grids.flatMap(([left, top, across, down]) => {
    const columns = Math.max(0, Math.ceil((width - left) / across));
    const rows = Math.max(0, Math.ceil((height - top) / down));
    if (columns === 0 || rows === 0) return [];
    const stride = Math.ceil((columns * depth * CHANNELS[colour]!) / 8);
    return { left, top, across, down, columns, rows, stride, bytes: rows * (stride + 1) };
  });
}

/** The first `bytes` bytes of the pixels; fewer is a failure, and so is much more. */
function inflate(data: readonly Uint8Array[], bytes: number, name: string): Uint8Array {
  const packed = data.length === 1 ? data[0]! : Buffer.concat(data);
  if (packed.length * DENSEST < bytes) {
    throw new ImageFailure(
      name,
      'damaged',
      `${packed.length} bytes cannot hold its ${bytes} bytes of pixels`,
    );
  }
  let raw: Uint8Array;
  try {
    const most = bytes + SPARE_BYTES;
    // Without its checksum at the end the stream still counts, as long as all pixels are there.
    const finishFlush = constants.Z_SYNC_FLUSH;
    raw = inflateSync(packed, { finishFlush, maxOutputLength: most, chunkSize: most });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ImageFailure(name, 'damaged', `its pixels cannot be unpacked (${why})`);
  }
  if (raw.length < bytes) {
    throw new ImageFailure(name, 'damaged', `its pixels end after ${raw.length} of ${bytes} bytes`);
  }
  return raw;
}

/** Takes the filter off a row in place; `step`: bytes of a pixel. False for an unknown filter. */
function unfilter(filter: number, row: Uint8Array, above: Uint8Array, step: number): boolean {
  const length = row.length;
  if (filter === 1) {
    for (let i = step; i < length; i++) row[i] = row[i]! + row[i - step]!;
  } else if (filter === 2) {
    for (let i = 0; i < length; i++) row[i] = row[i]! + above[i]!;
  } else if (filter === 3) {
    for (let i = 0; i < step && i < length; i++) row[i] = row[i]! + (above[i]! >> 1);
    for (let i = step; i < length; i++) row[i] = row[i]! + ((row[i - step]! + above[i]!) >> 1);
  } else if (filter === 4) {
    for (let i = 0; i < step && i < length; i++) row[i] = row[i]! + above[i]!;
    for (let i = step; i < length; i++) {
      const left = row[i - step]!;
      const up = above[i]!;
      const corner = above[i - step]!;
      const toLeft = Math.abs(up - corner);
      const toUp = Math.abs(left - corner);
      const toCorner = Math.abs(left + up - 2 * corner);
      const guess = toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
      row[i] = row[i]! + guess;
    }
  }
  return filter <= 4;
}

/** Writes the pixels of a row as RGB to `out` from `to` on, `step` bytes from one pixel to the next. */
type Write = (row: Uint8Array, columns: number, out: Uint8Array, to: number, step: number) => void;

function writerOf({ depth, colour }: Header, palette: Uint8Array): Write {
  const bytes = depth >> 3;
  if (colour === 2 || colour === 6) return colours(CHANNELS[colour]! * bytes, bytes);
  if (colour === 4) return grays(2 * bytes, (row, at) => row[at]!);
  if (colour === 0 && depth === 16) return grays(2, (row, at) => (row[at] === 0 ? row[at + 1]! : 255));
  if (colour === 3) return indices(depth, palette);
  return indices(depth, grayRamp(depth));
}

function colours(size: number, bytes: number): Write {
  return (row, columns, out, to, step) => {
    for (let x = 0, at = 0; x < columns; x++, at += size, to += step) {
      out[to] = row[at]!;
      out[to + 1] = row[at + bytes]!;
      out[to + 2] = row[at + 2 * bytes]!;
    }
  };
}

function grays(size: number, value: (row: Uint8Array, at: number) => number): Write {
  return (row, columns, out, to, step) => {
    for (let x = 0, at = 0; x < columns; x++, at += size, to += step) {
      const level = value(row, at);
      out[to] = level;
      out[to + 1] = level;
      out[to + 2] = level;
    }
  };
}

/** Pixels of 1, 2, 4 or 8 bits, from the high bit on, as rows of a table of colours. */
function indices(depth: number, table: Uint8Array): Write {
  const mask = (1 << depth) - 1;
  return (row, columns, out, to, step) => {
    for (let x = 0; x < columns; x++, to += step) {
      const bit = x * depth;
      const from = 3 * ((row[bit >> 3]! >> (8 - depth - (bit & 7))) & mask);
      out[to] = table[from]!;
      out[to + 1] = table[from + 1]!;
      out[to + 2] = table[from + 2]!;
    }
  };
}

/** Black to white in 2^depth steps. */
function grayRamp(depth: number): Uint8Array {
  const top = (1 << depth) - 1;
  return Uint8Array.from({ length: 3 * (top + 1) }, (_, i) => (Math.floor(i / 3) * 255) / top);
}
