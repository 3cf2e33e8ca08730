// From what the sampler leaves, planes in [-1, 1], to RGB bytes.
import type { Pixels } from '../io/png.ts';

/**
 * Picture n of images [N, 3, height, width] as RGB bytes, values clamped and rounded; null when a value is
 * not finite, which no file may hide.
 */
export function pixelsOf(images: ArrayLike<number>, n: number, width: number, height = width): Pixels | null {
  const area = width * height;
  const data = new Uint8Array(3 * area);
  for (let c = 0; c < 3; c++) {
    const plane = (n * 3 + c) * area;
    for (let i = 0; i < area; i++) {
      const value = images[plane + i]!;
      if (!Number.isFinite(value)) return null;
      data[3 * i + c] = Math.min(255, Math.max(0, Math.round((value + 1) * 127.5)));
    }
  }
  return { width, height, channels: 3, data };
}

/** Every pixel as a square of `factor` x `factor`: larger for the eye, and no value changes. */
export function enlarge(pixels: Pixels, factor: number): Pixels {
  if (factor === 1) return pixels;
  const { width, height, channels, data } = pixels;
  const row = width * factor * channels;
  const out = new Uint8Array(row * height * factor);
  for (let y = 0; y < height; y++) {
    const first = y * factor * row;
    for (let x = 0; x < width * factor; x++) {
      const from = (y * width + Math.floor(x / factor)) * channels;
      for (let c = 0; c < channels; c++) out[first + x * channels + c] = data[from + c]!;
    }
    for (let k = 1; k < factor; k++) out.copyWithin(first + k * row, first, first + row);
  }
  return { width: width * factor, height: height * factor, channels, data: out };
}

/** Pictures of one size side by side, in as square a sheet as they make; what is left over is black. */
export function sheetOf(pictures: readonly Pixels[]): Pixels {
  const [first] = pictures;
  if (!first || pictures.length === 1)
    return first ?? { width: 1, height: 1, channels: 3, data: new Uint8Array(3) };
  const { width, height, channels } = first;
  const columns = Math.ceil(Math.sqrt(pictures.length));
  const row = width * channels;
  const data = new Uint8Array(row * columns * height * Math.ceil(pictures.length / columns));
  for (const [n, picture] of pictures.entries()) {
    const corner = Math.floor(n / columns) * height * columns * row + (n % columns) * row;
    for (let y = 0; y < height; y++) {
      data.set(picture.data.subarray(y * row, (y + 1) * row), corner + y * columns * row);
    }
  }
  return { width: width * columns, height: data.length / (row * columns), channels, data };
}
