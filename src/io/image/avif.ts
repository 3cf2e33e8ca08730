// AVIF: the size before anything is decoded, and the same file without its alpha plane.
import { checkSize, ImageFailure, type Limits } from './rgb.ts';

/** Tells a plane of alpha from the picture (ISO/IEC 23000-22, section 7.3.5.2). */
const ALPHA = Buffer.from('auxiliary:alpha\0', 'latin1');
/** As long, and nothing that a decoder knows. */
const UNKNOWN = Buffer.from('auxiliary:other\0', 'latin1');

/** Sizes stand in `ispe` boxes: length, name, version, width, height. */
export function bareAvif(avif: Uint8Array, name: string, limits: Limits): Uint8Array {
  const file = Buffer.from(avif); // a copy: the name of the plane is changed
  let sized = false;
  for (let at = file.indexOf('ispe'); at >= 0; at = file.indexOf('ispe', at + 4)) {
    if (at + 16 > file.length) break;
    checkSize(name, file.readUInt32BE(at + 8), file.readUInt32BE(at + 12), limits);
    sized = true;
  }
  if (!sized) throw new ImageFailure(name, 'damaged', 'its size is missing');
  for (let at = file.indexOf(ALPHA); at >= 0; at = file.indexOf(ALPHA, at + 1)) file.set(UNKNOWN, at);
  return file;
}
