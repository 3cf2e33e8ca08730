// An image as Inception sees it: RGB bytes enlarged or reduced to 299 x 299 by bilinear interpolation without
// antialiasing (PyTorch's interpolate with align_corners=False), in [0, 1]; the network wants [-1, 1].

export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** [height, width, 3] */
  readonly data: Uint8Array;
}

interface Tap {
  readonly low: number;
  readonly high: number;
  /** Share of `high`. */
  readonly share: number;
}

/** Where `to` pixels of a side lie among `from` pixels. */
function taps(from: number, to: number): Tap[] {
  return Array.from({ length: to }, (_, i) => {
    const at = Math.max(0, ((i + 0.5) * from) / to - 0.5);
    const low = Math.min(Math.floor(at), from - 1);
    return { low, high: Math.min(low + 1, from - 1), share: at - low };
  });
}

/**
 * Writes `scale` v + `shift` of the image at side x side, v in [0, 1], as [side, side, 3] into `out`, from
 * `at` on.
 */
export function resizeBilinear(
  { width, height, data }: RgbImage,
  side: number,
  out: Float32Array,
  { at = 0, scale = 1, shift = 0 } = {},
): void {
  const columns = taps(width, side);
  const factor = scale / 255;
  let to = at;
  for (const { low, high, share } of taps(height, side)) {
    const [upper, lower] = [low * width * 3, high * width * 3];
    for (const column of columns) {
      const [left, right] = [column.low * 3, column.high * 3];
      for (let c = 0; c < 3; c++) {
        const [a, b] = [data[upper + left + c]!, data[upper + right + c]!];
        const [p, q] = [data[lower + left + c]!, data[lower + right + c]!];
        const top = a + (b - a) * column.share;
        const value = top + (p + (q - p) * column.share - top) * share;
        out[to++] = value * factor + shift;
      }
    }
  }
}
