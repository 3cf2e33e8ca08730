// Sin-cos positions of a square grid of patches (reference: get_2d_sincos_pos_embed).

/**
 * Values [grid * grid, dim], token = y * grid + x. The first half of the channels belongs to x, the second
 * to y;
 * each half is (sines, cosines). Position = index / (grid / baseSize) / scale, in float32 as the reference.
 */
export function sinCosPositions(dim: number, grid: number, scale: number, baseSize: number): Float64Array {
  const quarter = dim / 4;
  const values = new Float64Array(grid * grid * dim);
  const position = (i: number) => Math.fround(Math.fround(i / (grid / baseSize)) / scale);
  for (let y = 0; y < grid; y++) {
    for (let x = 0; x < grid; x++) {
      const row = (y * grid + x) * dim;
      for (let c = 0; c < quarter; c++) {
        const omega = 1 / 10000 ** (c / quarter);
        values[row + c] = Math.sin(position(x) * omega);
        values[row + quarter + c] = Math.cos(position(x) * omega);
        values[row + 2 * quarter + c] = Math.sin(position(y) * omega);
        values[row + 3 * quarter + c] = Math.cos(position(y) * omega);
      }
    }
  }
  return values;
}
