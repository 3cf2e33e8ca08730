// Captions as rows of the word table, in the buffers of a batch.
import { PADDING, ROWS_PER_WORD, rowsOf, wordsOf } from '../text/words.ts';

export interface CaptionShape {
  /** Words of a caption, S. */
  readonly length: number;
  /** Rows of the word table, V. */
  readonly rows: number;
}

/** Rows of the first S words of a text, without padding. */
export function rowsOfText(text: string, shape: CaptionShape): Int32Array {
  const words = wordsOf(text).slice(0, shape.length);
  return Int32Array.from(words.flatMap((word) => rowsOf(word, shape.rows)));
}

/** Writes rows into `out` at `offset`, padded to S words. */
export function writeRows(rows: Int32Array, length: number, out: Int32Array, offset: number): void {
  out.set(rows, offset);
  out.fill(PADDING, offset + rows.length, offset + length * ROWS_PER_WORD);
}
