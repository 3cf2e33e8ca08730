// The header of a BMP file: its size, whether it is whole, and the same file without alpha.
import { checkSize, ImageFailure, type Limits } from './rgb.ts';

/** Where a header of version 3 or later keeps the bits of alpha. */
const ALPHA_MASK = 66;
/** Compressions 0 and 3 leave the pixels as they are. */
const PLAIN = [0, 3];

export function bareBmp(bmp: Uint8Array, name: string, limits: Limits): Uint8Array {
  const file = Buffer.from(bmp); // a copy: the mask is changed
  const cutOff = () => new ImageFailure(name, 'damaged', `the file is cut off at byte ${file.length}`);
  if (file.length < 34) throw cutOff();
  const header = file.readUInt32LE(14);
  const old = header === 12;
  const width = old ? file.readUInt16LE(18) : file.readInt32LE(18);
  const height = old ? file.readUInt16LE(20) : Math.abs(file.readInt32LE(22));
  const bits = file.readUInt16LE(old ? 24 : 28);
  checkSize(name, width, height, limits);
  if (old || PLAIN.includes(file.readUInt32LE(30))) {
    const stride = Math.ceil((width * bits) / 32) * 4;
    const end = file.readUInt32LE(10) + stride * (height - 1) + Math.ceil((width * bits) / 8);
    if (end > file.length) throw cutOff();
  }
  if (header >= 56 && file.length >= ALPHA_MASK + 4) file.writeUInt32LE(0, ALPHA_MASK);
  return file;
}
