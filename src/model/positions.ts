// Sin-cos positions of a grid of patches (reference: get_2d_sincos_pos_embed).

/** Patches of an image, counted. */
export interface Grid {
  readonly rows: number;
  readonly columns: number;
}

/**
 * Values [rows * columns, dim], token = y * columns + x. The first half of the channels belongs to x, the
 * second to y; each half is (sines, cosines). Position = index / (extent / baseSize) / scale along each axis,
 * in float32 as the reference: whatever its shape, a grid spans what the trained one of `baseSize` spans. A
 * number is a square grid.
 */
export function sinCosPositions(
  dim: number,
  grid: number | Grid,
  scale: number,
  baseSize: number,
): Float64Array {
  const { rows, columns } = typeof grid === 'number' ? { rows: grid, columns: grid } : grid;
  const quarter = dim / 4;
  const values = new Float64Array(rows * columns * dim);
  const position = (i: number, extent: number) => Math.fround(Math.fround(i / (extent / baseSize)) / scale);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const row = (y * columns + x) * dim;
      for (let c = 0; c < quarter; c++) {
        const omega = 1 / 10000 ** (c / quarter);
        values[row + c] = Math.sin(position(x, columns) * omega);
        values[row + quarter + c] = Math.cos(position(x, columns) * omega);
        values[row + 2 * quarter + c] = Math.sin(position(y, rows) * omega);
        values[row + 3 * quarter + c] = Math.cos(position(y, rows) * omega);
      }
    }
  }
  return values;
}
