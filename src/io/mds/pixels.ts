// Pixels as `pil` columns hold them, in Pillow's modes, as RGB.

import type { MdsPixels } from './values.ts';

export interface RgbPixels {
  readonly width: number;
  readonly height: number;
  /** [height, width, 3] */
  readonly data: Uint8Array;
}

/**
 * RGB as Pillow converts it, alpha dropped; null for modes whose colours are not in the value (P) or rare.
 */
export function rgbOfPixels({ width, height, mode, bytes }: MdsPixels): RgbPixels | null {
  const of = Object.hasOwn(READERS, mode) ? READERS[mode]! : null;
  if (!of) return null;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) of(bytes, i, data);
  return { width, height, data };
}

type Reader = (bytes: Uint8Array, i: number, out: Uint8Array) => void;

const gray =
  (channels: number): Reader =>
  (bytes, i, out) => {
    out.fill(bytes[channels * i]!, 3 * i, 3 * i + 3);
  };
const colour =
  (channels: number): Reader =>
  (bytes, i, out) => {
    for (let c = 0; c < 3; c++) out[3 * i + c] = bytes[channels * i + c]!;
  };

const READERS: Readonly<Record<string, Reader>> = {
  L: gray(1),
  LA: gray(2),
  RGB: colour(3),
  RGBA: colour(4),
  RGBX: colour(4),
  /** (255 - k) less its share c of it, rounded as Pillow does (Convert.c, cmyk2rgb). */
  CMYK: (bytes, i, out) => {
    const light = 255 - bytes[4 * i + 3]!;
    for (let c = 0; c < 3; c++) {
      const product = bytes[4 * i + c]! * light + 128;
      out[3 * i + c] = Math.min(255, Math.max(0, light - (((product >> 8) + product) >> 8)));
    }
  },
};
