// EXIF orientation: reading it, and turning a picture upright by it. Training ignores it unless asked.
import type { Rgb } from './rgb.ts';

const ORIENTATION = 0x0112;
const MAX_ENTRIES = 1000;

/**
 * Orientation 1 to 8 of EXIF data (a TIFF structure, "Exif\0\0" before it or not); 1 where it says none or
 * cannot be read. EXIF 2.3, section 4.6.
 */
export function orientationOf(exif: Uint8Array): number {
  const prefix = [0x45, 0x78, 0x69, 0x66, 0, 0].every((byte, i) => exif[i] === byte) ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + prefix, exif.length - prefix);
  if (view.byteLength < 8) return 1;
  const mark = view.getUint16(0);
  if (mark !== 0x4949 && mark !== 0x4d4d) return 1;
  const little = mark === 0x4949;
  if (view.getUint16(2, little) !== 42) return 1;
  const start = view.getUint32(4, little);
  if (start + 2 > view.byteLength) return 1;
  const entries = Math.min(view.getUint16(start, little), MAX_ENTRIES);
  for (let at = start + 2; at < start + 2 + 12 * entries && at + 12 <= view.byteLength; at += 12) {
    if (view.getUint16(at, little) !== ORIENTATION) continue;
    const value = valueAt(view, at, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

/** The value of an entry, which has two bytes as a rule; some writers take four. */
function valueAt(view: DataView, entry: number, little: boolean): number {
  const type = view.getUint16(entry + 2, little);
  if (type === 3) return view.getUint16(entry + 8, little);
  return type === 4 ? view.getUint32(entry + 8, little) : 1;
}

/** The picture as its orientation means it: mirrored, turned or both. */
export function upright(image: Rgb, orientation: number): Rgb {
  if (orientation === 1) return image;
  const { width: w, height: h, data } = image;
  const turned = orientation >= 5;
  const [width, height] = turned ? [h, w] : [w, h];
  const flipX = [2, 3, 7, 8].includes(orientation);
  const flipY = [3, 4, 6, 7].includes(orientation);
  const out = new Uint8Array(data.length);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [u, v] = turned ? [y, x] : [x, y];
      const from = ((flipY ? h - 1 - v : v) * w + (flipX ? w - 1 - u : u)) * 3;
      out[to++] = data[from]!;
      out[to++] = data[from + 1]!;
      out[to++] = data[from + 2]!;
    }
  }
  return { width, height, data: out };
}
