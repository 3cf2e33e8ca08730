// The structure of a JPEG file: its size, whether it is whole, its orientation, and the same file without
// what would make a decoder turn it (EXIF) or change its colours (ICC). ITU T.81, annex B.
import { orientationOf } from './exif.ts';
import { checkSize, ImageFailure, type Limits } from './rgb.ts';

const SOI = 0xd8;
const EOI = 0xd9;
const SOS = 0xda;
const APP0 = 0xe0;
const APP1 = 0xe1;
const APP14 = 0xee;
const APP15 = 0xef;
const COMMENT = 0xfe;
/** Markers that stand alone. */
const isBare = (marker: number) => marker === 0x01 || (marker >= 0xd0 && marker <= SOI);
/** Frame headers: all of C0 to CF but tables of Huffman and arithmetic codes and the reserved one. */
const isFrame = (marker: number) =>
  marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;

export interface BareJpeg {
  /** From the first marker to the end marker, without EXIF, ICC, comments and the like. */
  readonly file: Uint8Array;
  readonly orientation: number;
}

/**
 * The file with only what decoding needs. ImageFailure where it is cut off (no end marker), beyond the
 * limits, or of a kind that Pillow does not read (12 bits, lossless, 2 components).
 */
export function bareJpeg(jpeg: Uint8Array, name: string, limits: Limits): BareJpeg {
  const file = Buffer.from(jpeg.buffer, jpeg.byteOffset, jpeg.length);
  const kept: Uint8Array[] = [file.subarray(0, 2)];
  let orientation = 0;
  let framed = false;
  for (let at = 2; ; ) {
    const begin = file.indexOf(0xff, at); // bytes between segments are passed over, as libjpeg does
    let next = begin + 1;
    while (file[next] === 0xff) next++;
    const marker = file[next];
    if (begin < 0 || marker === undefined) throw cutOff(name, file.length);
    at = next + 1;
    if (isBare(marker) || marker === 0) continue;
    if (marker === EOI) {
      if (!framed) throw new ImageFailure(name, 'damaged', 'it has no picture');
      kept.push(file.subarray(next - 1, at));
      return { file: Buffer.concat(kept), orientation: orientation || 1 };
    }
    if (at + 2 > file.length) throw cutOff(name, file.length);
    const end = at + file.readUInt16BE(at);
    if (end > file.length || end < at + 2) throw cutOff(name, file.length);
    if (marker === APP1) orientation ||= exifOf(file.subarray(at + 2, end));
    if (isFrame(marker)) {
      if (!framed) checkFrame(marker, file.subarray(at + 2, end), name, limits);
      framed = true;
    }
    const isData = marker === SOS;
    const stop = isData ? endOfScan(file, end, name) : end;
    if (isNeeded(marker)) kept.push(file.subarray(next - 1, stop));
    at = stop;
  }
}

/** JFIF and Adobe say how colours are stored; all other application data goes. */
function isNeeded(marker: number): boolean {
  if (marker === COMMENT) return false;
  return marker < APP0 || marker > APP15 || marker === APP0 || marker === APP14;
}

/** Where the coded data ends that begins at `from`: at the next marker that is no restart. */
function endOfScan(file: Buffer, from: number, name: string): number {
  for (let at = from; ; ) {
    const place = file.indexOf(0xff, at);
    if (place < 0 || place + 1 >= file.length) throw cutOff(name, file.length);
    const marker = file[place + 1]!;
    if (marker !== 0 && marker !== 0xff && !(marker >= 0xd0 && marker <= 0xd7)) return place;
    at = place + (marker === 0xff ? 1 : 2);
  }
}

/** Orientation of an APP1 segment; 0 where it is not EXIF. */
function exifOf(body: Buffer): number {
  return body.toString('latin1', 0, 6) === 'Exif\0\0' ? orientationOf(body) : 0;
}

/** SOF: precision, height, width, components. */
function checkFrame(marker: number, body: Buffer, name: string, limits: Limits): void {
  if (body.length < 6) throw new ImageFailure(name, 'damaged', 'its frame header is too short');
  const [precision, components] = [body[0]!, body[5]!];
  const lossless = [0xc3, 0xc5, 0xc6, 0xc7, 0xcb, 0xcd, 0xce, 0xcf].includes(marker);
  const kind = lossless ? 'lossless or hierarchical' : precision !== 8 ? `${precision}-bit` : null;
  if (kind) throw new ImageFailure(name, 'unsupported', `a ${kind} JPEG is not read`);
  if (![1, 3, 4].includes(components)) {
    throw new ImageFailure(name, 'unsupported', `a JPEG of ${components} components is not read`);
  }
  checkSize(name, body.readUInt16BE(3), body.readUInt16BE(1), limits);
}

function cutOff(name: string, length: number): ImageFailure {
  return new ImageFailure(name, 'damaged', `the file is cut off at byte ${length}`);
}
