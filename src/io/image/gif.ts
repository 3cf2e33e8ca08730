// The structure of a GIF file, and its first picture alone with no colour transparent: the palette's colours
// count, as they do for other pictures. GIF89a specification, sections 18 to 25.
import { checkSize, ImageFailure, type Limits } from './rgb.ts';

const EXTENSION = 0x21;
const PICTURE = 0x2c;
const TRAILER = 0x3b;

/** The file up to the end of its first picture, without extensions. */
export function bareGif(gif: Uint8Array, name: string, limits: Limits): Uint8Array {
  const file = Buffer.from(gif.buffer, gif.byteOffset, gif.length);
  const cutOff = () => new ImageFailure(name, 'damaged', `the file is cut off at byte ${file.length}`);
  const byte = (at: number) => {
    const value = file[at];
    if (value === undefined) throw cutOff();
    return value;
  };
  /** Where the sub-blocks end that begin at `at`. */
  const pass = (at: number) => {
    while (byte(at) !== 0) at += 1 + byte(at);
    return at + 1;
  };
  const table = (flags: number) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const head = 13 + table(byte(10));
  for (let at = head; ; ) {
    const kind = byte(at);
    if (kind === EXTENSION) {
      at = pass(at + 2);
    } else if (kind === PICTURE) {
      if (at + 10 > file.length) throw cutOff();
      const right = file.readUInt16LE(at + 1) + file.readUInt16LE(at + 5);
      const bottom = file.readUInt16LE(at + 3) + file.readUInt16LE(at + 7);
      const width = Math.max(right, file.readUInt16LE(6));
      checkSize(name, width, Math.max(bottom, file.readUInt16LE(8)), limits);
      const end = pass(at + 11 + table(byte(at + 9)));
      return Buffer.concat([file.subarray(0, head), file.subarray(at, end), Uint8Array.of(TRAILER)]);
    } else {
      throw kind === TRAILER ? new ImageFailure(name, 'damaged', 'it has no picture') : cutOff();
    }
  }
}
