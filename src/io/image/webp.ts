// The structure of a WebP file, and its first picture alone, opaque: a decoder that blends or premultiplies
// would change the colours below alpha. Container: RFC 9649, sections 2.3 to 2.7.
import { orientationOf } from './exif.ts';
import { checkSize, ImageFailure, type Limits } from './rgb.ts';

export interface BareWebp {
  /** A file with one picture and without alpha, metadata and colour profile. */
  readonly file: Uint8Array;
  /** Of the canvas; the picture lies on it at left, top. */
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly top: number;
  readonly orientation: number;
}

interface Chunk {
  readonly type: string;
  readonly body: Buffer;
}

/** The first frame of a still or animated file; ImageFailure where it is damaged or beyond the limits. */
export function bareWebp(webp: Uint8Array, name: string, limits: Limits): BareWebp {
  const file = Buffer.from(webp.buffer, webp.byteOffset, webp.length);
  const outer = chunksOf(file.subarray(12, 8 + file.readUInt32LE(4)), name); // what follows is not of it
  const frame = outer.find(({ type }) => type === 'ANMF')?.body;
  if (frame && frame.length < 16) throw new ImageFailure(name, 'damaged', 'its first frame has no header');
  const inner = frame ? chunksOf(frame.subarray(16), name) : outer;
  const picture = inner.find(({ type }) => type === 'VP8 ' || type === 'VP8L');
  if (!picture) throw new ImageFailure(name, 'damaged', 'it has no picture');
  const size = sizeOf(picture, name);
  const canvas = outer.find(({ type }) => type === 'VP8X')?.body;
  const width = canvas && canvas.length >= 10 ? canvas.readUIntLE(4, 3) + 1 : size.width;
  const height = canvas && canvas.length >= 10 ? canvas.readUIntLE(7, 3) + 1 : size.height;
  checkSize(name, width, height, limits);
  checkSize(name, size.width, size.height, limits);
  const left = frame ? frame.readUIntLE(0, 3) * 2 : 0;
  const top = frame ? frame.readUIntLE(3, 3) * 2 : 0;
  if (left + size.width > width || top + size.height > height) {
    throw new ImageFailure(name, 'damaged', 'its picture is larger than its canvas');
  }
  const exif = outer.find(({ type }) => type === 'EXIF')?.body;
  const orientation = exif ? orientationOf(exif) : 1;
  return { file: alone(picture), width, height, left, top, orientation };
}

function chunksOf(bytes: Buffer, name: string): Chunk[] {
  const chunks: Chunk[] = [];
  for (let at = 0; at + 8 <= bytes.length; ) {
    const type = bytes.toString('latin1', at, at + 4);
    const length = bytes.readUInt32LE(at + 4);
    if (at + 8 + length > bytes.length) {
      throw new ImageFailure(name, 'damaged', `the file is cut off in its ${type.trim()} chunk`);
    }
    chunks.push({ type, body: bytes.subarray(at + 8, at + 8 + length) });
    at += 8 + length + (length & 1);
  }
  return chunks;
}

/** Size of a frame: RFC 6386, section 9.1 (lossy), RFC 9649, section 3.4 (lossless). */
function sizeOf({ type, body }: Chunk, name: string): { width: number; height: number } {
  if (type === 'VP8 ' && body.length >= 10 && body.readUIntBE(3, 3) === 0x9d012a) {
    return { width: body.readUInt16LE(6) & 0x3fff, height: body.readUInt16LE(8) & 0x3fff };
  }
  if (type === 'VP8L' && body.length >= 5 && body[0] === 0x2f) {
    const bits = body.readUInt32LE(1);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  }
  throw new ImageFailure(name, 'damaged', 'its picture has no size');
}

/** A file of one chunk. Of a lossless one the hint is cleared that alpha matters; its colours stay. */
function alone({ type, body }: Chunk): Uint8Array {
  const padded = body.length + (body.length & 1);
  const file = Buffer.alloc(20 + padded);
  file.write('RIFF', 0, 'latin1');
  file.writeUInt32LE(12 + padded, 4);
  file.write(`WEBP${type}`, 8, 'latin1');
  file.writeUInt32LE(body.length, 16);
  file.set(body, 20);
  if (type === 'VP8L') file[24] = file[24]! & ~0x10;
  return file;
}
