// The header of a BMP file: its size, and the same file without alpha.
import { checkSize, ImageFailure, type Limits } from './rgb.ts';

/** Where a header of version 3 or later keeps the bits of alpha. */
const ALPHA_MASK = 66;

export function bareBmp(bmp: Uint8Array, name: string, limits: Limits): Uint8Array {
  const file = Buffer.from(bmp); // a copy: the mask is changed
  if (file.length < 26) throw new ImageFailure(name, 'damaged', `the file is cut off at byte ${file.length}`);
  const header = file.readUInt32LE(14);
  const old = header === 12;
  const width = old ? file.readUInt16LE(18) : file.readInt32LE(18);
  const height = old ? file.readUInt16LE(20) : Math.abs(file.readInt32LE(22));
  checkSize(name, width, height, limits);
  if (header >= 56 && file.length >= ALPHA_MASK + 4) file.writeUInt32LE(0, ALPHA_MASK);
  return file;
}
