// PNG: writes 8-bit RGB and RGBA pictures with text chunks, adds text to pictures made elsewhere, and reads
// text back from files that may be hostile. (Decoding pixels for training is the business of src/data.)

import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { crc32, deflateSync, inflateSync } from 'node:zlib';
import { Failure } from './failure.ts';
import { osFailure } from './oserror.ts';

/** A text chunk. The keyword has 1 to 79 Latin-1 characters. */
export interface PngText {
  readonly keyword: string;
  readonly text: string;
}

/**
 * 8-bit pixels, rows from the top, without padding: [height, width, channels], straight (not
 * premultiplied) alpha.
 */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly channels: 3 | 4;
  readonly data: Uint8Array | Uint8ClampedArray;
}

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

/**
 * Most text that is read from one file, unpacked; real ones have a few kilobytes, some carry whole
 * workflows.
 */
const MAX_TEXT_BYTES = 16 * 2 ** 20;

const MAX_CHUNKS = 1_000_000;

/**
 * Encodes a picture, each row with the filter that leaves the smallest differences, and `texts` before the
 * pixels.
 */
export function encodePng(pixels: Pixels, texts: readonly PngText[] = []): Uint8Array {
  const { width, height, channels, data } = pixels;
  const valid = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!valid || data.length !== width * height * channels) {
    throw new RangeError(`encodePng: ${data.length} bytes for ${width} x ${height} x ${channels}`);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, channels === 3 ? 2 : 6);
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', new Uint8Array(header.buffer)),
    ...texts.map(textChunk),
    chunk('IDAT', deflateSync(filterRows(pixels), { level: 6 })),
    chunk('IEND', new Uint8Array(0)),
  ]);
}

/** The same picture with `texts` added before its first IDAT chunk. */
export function insertPngText(png: Uint8Array, texts: readonly PngText[]): Uint8Array {
  for (const { type, begin } of chunks('picture', png.length, (at, length) =>
    png.subarray(at, at + length),
  )) {
    if (type === 'IDAT')
      return Buffer.concat([png.subarray(0, begin), ...texts.map(textChunk), png.subarray(begin)]);
  }
  throw new Failure({ what: 'picture', why: 'this PNG has no pixels', fix: 'Use another file' });
}

/** Width, height and the text chunks (tEXt, zTXt, iTXt, in the order of the file) of a PNG file. */
export function readPngText(path: string): { width: number; height: number; texts: PngText[] } {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    const open = fd;
    return collectText(path, fstatSync(fd).size, (at, length) => {
      const part = new Uint8Array(length);
      return part.subarray(0, readSync(open, part, 0, length, at));
    });
  } catch (error) {
    throw osFailure(error, path, 'read');
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Whether a file begins as PNGs do. */
export function isPng(path: string): boolean {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    const first = new Uint8Array(SIGNATURE.length);
    return readSync(fd, first) === first.length && SIGNATURE.every((byte, i) => first[i] === byte);
  } catch (error) {
    throw osFailure(error, path, 'read');
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Failure unless every chunk of a PNG is there with a checksum that fits. `name` stands in messages. */
export function checkWholePng(png: Uint8Array, name: string): void {
  for (const { type, begin, length } of chunks(name, png.length, (at, n) => png.subarray(at, at + n))) {
    const sum = Buffer.from(png.buffer, png.byteOffset + begin + 8 + length, 4).readUInt32BE(0);
    if (crc32(png.subarray(begin + 4, begin + 8 + length)) !== sum) {
      throw damaged(name, `the checksum of its ${type} chunk is wrong`);
    }
  }
}

/** `readPngText` for bytes in memory; `name` stands in messages. */
export function pngTextOf(
  png: Uint8Array,
  name: string,
): { width: number; height: number; texts: PngText[] } {
  return collectText(name, png.length, (at, length) => png.subarray(at, at + length));
}

/** Gives the bytes from `at`, at most `length` of them. */
type Read = (at: number, length: number) => Uint8Array;

interface Chunk {
  readonly type: string;
  /** Where the chunk begins, with its length field. */
  readonly begin: number;
  readonly length: number;
}

/** All chunks of a file of `size` bytes, without their data; anything that does not fit is a Failure. */
function* chunks(name: string, size: number, read: Read): Generator<Chunk> {
  const first = read(0, 8);
  if (!SIGNATURE.every((byte, i) => first[i] === byte)) {
    throw new Failure({ what: name, why: 'this is not a PNG file', fix: 'Name a PNG' });
  }
  let at = 8;
  for (let number = 0; number < MAX_CHUNKS; number++) {
    const head = Buffer.from(read(at, 8));
    if (head.length < 8) break;
    const length = head.readUInt32BE(0);
    const type = head.toString('latin1', 4, 8);
    if (at + 12 + length > size || !/^[A-Za-z]{4}$/.test(type)) break;
    if (number === 0 && (type !== 'IHDR' || length !== 13)) break;
    yield { type, begin: at, length };
    if (type === 'IEND') return;
    at += 12 + length;
  }
  throw damaged(name, `the file is damaged or cut off at byte ${at}`);
}

function collectText(name: string, size: number, read: Read) {
  const texts: PngText[] = [];
  let width = 0;
  let height = 0;
  let left = MAX_TEXT_BYTES;
  for (const { type, begin, length } of chunks(name, size, read)) {
    const isText = type === 'tEXt' || type === 'zTXt' || type === 'iTXt';
    if (!isText && type !== 'IHDR') continue;
    if (length > left) throw damaged(name, `it holds more than ${MAX_TEXT_BYTES} bytes of text`);
    const body = Buffer.from(read(begin + 4, length + 8));
    if (body.length < length + 8 || crc32(body.subarray(0, length + 4)) !== body.readUInt32BE(length + 4)) {
      throw damaged(name, `the checksum of its ${type} chunk is wrong`);
    }
    const data = body.subarray(4, length + 4);
    if (isText) {
      const text = decodeText(name, type, data, left);
      left -= Math.max(length, text.text.length);
      texts.push(text);
    } else {
      width = data.readUInt32BE(0);
      height = data.readUInt32BE(4);
    }
  }
  return { width, height, texts };
}

function decodeText(name: string, type: string, data: Buffer, limit: number): PngText {
  const wrong = () => damaged(name, `its ${type} chunk cannot be read`);
  const cut = (from: number) => {
    const end = data.indexOf(0, from);
    if (end < 0) throw wrong();
    return end;
  };
  const end = cut(0);
  const keyword = data.toString('latin1', 0, end);
  if (end < 1 || end > 79) throw wrong();
  if (type === 'tEXt') return { keyword, text: data.toString('latin1', end + 1) };
  if (type === 'zTXt') {
    if (data[end + 1] !== 0) throw wrong();
    return { keyword, text: inflate(data.subarray(end + 2), limit, wrong).toString('latin1') };
  }
  const [packed, method] = [data[end + 1], data[end + 2]];
  if ((packed !== 0 && packed !== 1) || method !== 0) throw wrong();
  const language = cut(end + 3);
  const body = data.subarray(cut(language + 1) + 1);
  const bytes = packed ? inflate(body, limit, wrong) : body;
  try {
    return { keyword, text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    throw wrong();
  }
}

function inflate(data: Uint8Array, limit: number, wrong: () => Failure): Buffer {
  try {
    return inflateSync(data, { maxOutputLength: Math.max(limit, 1) });
  } catch {
    throw wrong();
  }
}

function damaged(name: string, why: string): Failure {
  return new Failure({ what: name, why, fix: 'Use an undamaged PNG' });
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const out = Buffer.alloc(12 + data.length);
  out.writeUInt32BE(data.length, 0);
  out.write(type, 4, 'latin1');
  out.set(data, 8);
  out.writeUInt32BE(crc32(out.subarray(4, 8 + data.length)), 8 + data.length);
  return out;
}

/** tEXt where Latin-1 holds the text, else iTXt. A zero byte cannot stand in either; it becomes U+FFFD. */
function textChunk({ keyword, text }: PngText): Uint8Array {
  if (!/^[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa1-\xff]{0,77}[\x21-\x7e\xa1-\xff])?$/.test(keyword)) {
    throw new RangeError(`the PNG keyword ${JSON.stringify(keyword)} is not allowed`);
  }
  const clean = text.replaceAll('\0', '\ufffd');
  const latin1 = /^[\n\r\t\x20-\x7e\xa0-\xff]*$/.test(clean);
  return latin1
    ? chunk('tEXt', Buffer.from(`${keyword}\0${clean}`, 'latin1'))
    : chunk(
        'iTXt',
        Buffer.concat([Buffer.from(`${keyword}\0\0\0\0\0`, 'latin1'), Buffer.from(clean, 'utf8')]),
      );
}

/** Rows with their filter byte: of the five filters, the one with the least sum of absolute differences. */
function filterRows({ width, height, channels, data }: Pixels): Uint8Array {
  const stride = width * channels;
  const out = new Uint8Array(height * (stride + 1));
  const trial = new Uint8Array(stride);
  let above: Uint8Array = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const row = new Uint8Array(data.buffer, data.byteOffset + y * stride, stride);
    const target = out.subarray(y * (stride + 1), (y + 1) * (stride + 1));
    let best = Number.POSITIVE_INFINITY;
    for (let filter = 0; filter < 5; filter++) {
      const cost = filterRow(filter, row, above, channels, trial);
      if (cost >= best) continue;
      best = cost;
      target[0] = filter;
      target.set(trial, 1);
    }
    above = row;
  }
  return out;
}

/**
 * out = row minus its prediction; returns the sum of |difference| as signed bytes. PNG specification,
 * section 9.
 */
function filterRow(
  filter: number,
  row: Uint8Array,
  above: Uint8Array,
  channels: number,
  out: Uint8Array,
): number {
  let cost = 0;
  for (let i = 0; i < row.length; i++) {
    const left = i < channels ? 0 : row[i - channels]!;
    const up = above[i]!;
    let guess = 0;
    if (filter === 1) guess = left;
    else if (filter === 2) guess = up;
    else if (filter === 3) guess = (left + up) >> 1;
    else if (filter === 4) guess = paeth(left, up, i < channels ? 0 : above[i - channels]!);
    const difference = (row[i]! - guess) & 255;
    out[i] = difference;
    cost += difference < 128 ? difference : 256 - difference;
  }
  return cost;
}

function paeth(left: number, up: number, corner: number): number {
  const byLeft = Math.abs(up - corner);
  const byUp = Math.abs(left - corner);
  const byCorner = Math.abs(left + up - 2 * corner);
  if (byLeft <= byUp && byLeft <= byCorner) return left;
  return byUp <= byCorner ? up : corner;
}
