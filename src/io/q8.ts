// Numbers in 8 bits: blocks of 32 with a scale each, in half the space of halves. A block: d, a half, then up
// to 32 signed bytes q; the numbers are d q. The last block has as many as are left.
// The same layout is read by cuda/gather.cpp, straight into batches.

/** What follows the name of a column whose numbers are in 8 bits. */
export const Q8_SUFFIX = '_q8';

const BLOCK = 32;
const LARGEST = 127;
/** The largest half of which 127 times is still one. */
const MAX_SCALE = 515.5;

/** Bytes of so many numbers. */
export const q8Bytes = (count: number): number => count + 2 * Math.ceil(count / BLOCK);

/** How many numbers so many bytes hold; null where no number of them takes as many. */
export function q8Count(bytes: number): number | null {
  const rest = bytes % (BLOCK + 2);
  if (rest === 1 || rest === 2) return null;
  return bytes - 2 * Math.ceil(bytes / (BLOCK + 2));
}

/**
 * Of numbers that are finite as halves; each is within half of d of what it was, where d is a 127th of the
 * largest of its block.
 */
export function toQ8(values: Float32Array): Uint8Array {
  const out = new Uint8Array(q8Bytes(values.length));
  const view = new DataView(out.buffer);
  for (let first = 0, at = 0; first < values.length; first += BLOCK) {
    const block = values.subarray(first, first + BLOCK);
    const largest = block.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    view.setFloat16(at, Math.min(largest / LARGEST, MAX_SCALE), true);
    const d = view.getFloat16(at, true);
    at += 2;
    for (const x of block) {
      const q = d === 0 ? 0 : Math.round(x / d);
      view.setInt8(at++, Math.max(-LARGEST, Math.min(LARGEST, q)));
    }
  }
  return out;
}

/** The numbers, as halves. `bytes` is of a length that q8Count knows. */
export function fromQ8(bytes: Uint8Array): Uint16Array {
  const count = q8Count(bytes.length);
  if (count === null) throw new RangeError(`${bytes.length} bytes are no blocks of 8-bit numbers`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const out = new Float16Array(count);
  for (let first = 0, at = 0; first < count; first += BLOCK) {
    const d = view.getFloat16(at, true);
    at += 2;
    const end = Math.min(count, first + BLOCK);
    for (let i = first; i < end; i++) out[i] = d * view.getInt8(at++);
  }
  return new Uint16Array(out.buffer);
}
