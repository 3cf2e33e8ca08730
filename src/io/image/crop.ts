// From a decoded picture to what an autoencoder gets: shorter edge to the size, the middle square, [-1, 1].
// Sizes and corners as torchvision's Resize and CenterCrop compute them.
import { resizeInto } from './resize.ts';
import type { Rgb } from './rgb.ts';

/** A picture whose shorter edge is `size`; the longer one is cut off, not rounded. */
export function resizedSize(width: number, height: number, size: number): { width: number; height: number } {
  return width <= height
    ? { width: size, height: Math.trunc((size * height) / width) }
    : { width: Math.trunc((size * width) / height), height: size };
}

/** Left or top of a crop of `size` from the middle of `edge`: half of what is over, as Python rounds. */
export function cropCorner(edge: number, size: number): number {
  const half = (edge - size) / 2;
  const floor = Math.floor(half);
  if (half === floor) return half;
  return floor % 2 === 0 ? floor : floor + 1; // exactly between two: the even one
}

/** The middle square of size x size as planes [3, size, size]. */
export function middleSquare(image: Rgb, size: number): Uint8Array {
  const { width, height } = resizedSize(image.width, image.height, size);
  const window = { left: cropCorner(width, size), top: cropCorner(height, size), width: size, height: size };
  return resizeInto(image, width, height, window);
}

/**
 * The picture with its shorter edge at `edge` where it is above, else the picture itself: what the
 * reference's scripts do (512) before they store a picture. They store JPEG then; that loss is not repeated.
 */
export function shrink(image: Rgb, edge: number): Rgb {
  if (Math.min(image.width, image.height) <= edge) return image;
  const { width, height } = resizedSize(image.width, image.height, edge);
  const planes = resizeInto(image, width, height, { left: 0, top: 0, width, height });
  return { width, height, data: interleave(planes, width * height) };
}

/** Bytes to [-1, 1] as float32: (byte / 255 - 0.5) / 0.5, each step rounded to float32 as torch does it. */
export function toSigned(bytes: Uint8Array, out = new Float32Array(bytes.length), offset = 0): Float32Array {
  for (let i = 0; i < bytes.length; i++) out[offset + i] = SIGNED[bytes[i]!]!;
  return out;
}

const SIGNED = Float32Array.from({ length: 256 }, (_, byte) => {
  const { fround } = Math;
  return fround(fround(fround(byte / 255) - 0.5) / 0.5);
});

/** Planes [3, area] to pixels [area, 3]. */
export function interleave(planes: Uint8Array, area: number): Uint8Array {
  const pixels = new Uint8Array(3 * area);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < area; i++) pixels[i * 3 + c] = planes[c * area + i]!;
  }
  return pixels;
}
