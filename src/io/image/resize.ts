// Pillow's bicubic resize to the bit, fused with the crop of the middle square: only what the crop keeps is
// computed. Written from the description of its algorithm: kernel a = -0.5, widened by the scale when
// shrinking; weights in fixed point with 22 bits; two passes, horizontal first, each rounded and clipped to
// 8 bits.
import type { Rgb } from './rgb.ts';

const BITS = 22;
const ONE = 2 ** BITS;
const HALF = 2 ** (BITS - 1);
const SUPPORT = 2;

/** Weights of a run of output pixels along one side. */
interface Taps {
  /** First input pixel of each output pixel. */
  readonly first: Int32Array;
  /** How many input pixels each output pixel takes. */
  readonly count: Int32Array;
  /** [outputs, width], in units of 2^-22. */
  readonly weights: Int32Array;
  readonly width: number;
}

/** A part of the resized picture, in its pixels. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/**
 * The window of `image` resized to width x height, as planes [3, window.height, window.width]. What lies
 * outside of the window is not computed, so a size that is itself beyond all memory costs nothing.
 */
export function resizeInto(image: Rgb, width: number, height: number, window: Window): Uint8Array {
  const down = tapsOf(image.height, height, window.top, window.height);
  const across = tapsOf(image.width, width, window.left, window.width);
  // Rows of the picture that the second pass reads.
  const last = window.height - 1;
  const top = down.first[0]!;
  const rows = down.first[last]! + down.count[last]! - top;
  const wide = new Uint8ClampedArray(rows * window.width * 3);
  horizontal(image, top, rows, across, window.width, wide);
  const planes = new Uint8ClampedArray(3 * window.width * window.height);
  vertical(wide, top, down, window, planes);
  return new Uint8Array(planes.buffer);
}

/** Rows [top, top + rows) of the picture to `columns` columns: out [rows, columns, 3]. */
function horizontal(
  image: Rgb,
  top: number,
  rows: number,
  taps: Taps,
  columns: number,
  out: Uint8ClampedArray,
): void {
  const { data } = image;
  const { first, count, weights, width } = taps;
  const stride = image.width * 3;
  let to = 0;
  for (let y = top; y < top + rows; y++) {
    const row = y * stride;
    for (let x = 0; x < columns; x++) {
      let at = row + first[x]! * 3;
      let weight = x * width;
      const end = weight + count[x]!;
      let r = HALF;
      let g = HALF;
      let b = HALF;
      for (; weight < end; weight++) {
        const w = weights[weight]!;
        r = (r + Math.imul(data[at]!, w)) | 0;
        g = (g + Math.imul(data[at + 1]!, w)) | 0;
        b = (b + Math.imul(data[at + 2]!, w)) | 0;
        at += 3;
      }
      out[to] = r >> BITS;
      out[to + 1] = g >> BITS;
      out[to + 2] = b >> BITS;
      to += 3;
    }
  }
}

/**
 * [rows, columns, 3] to planes [3, height, columns]. `top`: the row of the picture at which `wide` begins.
 */
function vertical(
  wide: Uint8ClampedArray,
  top: number,
  taps: Taps,
  window: Window,
  planes: Uint8ClampedArray,
): void {
  const { first, count, weights, width } = taps;
  const stride = window.width * 3;
  const area = window.width * window.height;
  for (let y = 0; y < window.height; y++) {
    const from = (first[y]! - top) * stride;
    const begin = y * width;
    const end = begin + count[y]!;
    for (let x = 0; x < window.width; x++) {
      let at = from + x * 3;
      let r = HALF;
      let g = HALF;
      let b = HALF;
      for (let weight = begin; weight < end; weight++) {
        const w = weights[weight]!;
        r = (r + Math.imul(wide[at]!, w)) | 0;
        g = (g + Math.imul(wide[at + 1]!, w)) | 0;
        b = (b + Math.imul(wide[at + 2]!, w)) | 0;
        at += stride;
      }
      const to = y * window.width + x;
      planes[to] = r >> BITS;
      planes[area + to] = g >> BITS;
      planes[2 * area + to] = b >> BITS;
    }
  }
}

/** Weights of output pixels [from, from + outputs) where `size` pixels become `resized`. */
function tapsOf(size: number, resized: number, from: number, outputs: number): Taps {
  const scale = size / resized;
  const widening = Math.max(scale, 1);
  const support = SUPPORT * widening;
  const width = Math.min(size, Math.ceil(support) * 2 + 1);
  const first = new Int32Array(outputs);
  const count = new Int32Array(outputs);
  const weights = new Int32Array(outputs * width);
  const exact = new Float64Array(width);
  const narrowing = 1 / widening;
  for (let i = 0; i < outputs; i++) {
    const centre = (from + i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(centre - support + 0.5));
    const taps = Math.min(size, Math.trunc(centre + support + 0.5)) - begin;
    let sum = 0;
    for (let k = 0; k < taps; k++) {
      exact[k] = bicubic((k + begin - centre + 0.5) * narrowing);
      sum += exact[k]!;
    }
    for (let k = 0; k < taps; k++) {
      const weight = (sum === 0 ? exact[k]! : exact[k]! / sum) * ONE;
      weights[i * width + k] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    first[i] = begin;
    count[i] = taps;
  }
  return { first, count, weights, width };
}

/** Keys' cubic kernel with a = -0.5. */
function bicubic(distance: number): number {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
