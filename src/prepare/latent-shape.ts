// What shape the numbers of a column without any head have, and their type: the format does not say it, so it
// is guessed from the name and the size, and every use says that it was.

import { Q8_SUFFIX, q8Count } from '../io/q8.ts';
import { CLIP_CONTEXT } from '../text/bpe.ts';

export interface ShapeGuess {
  readonly kind: 'latent' | 'caption states' | 'token ids';
  /** q8: blocks of 8-bit numbers (src/io/q8.ts). */
  readonly dtype: 'float16' | 'uint16' | 'q8';
  /** [channels, height, width], [tokens, width] or [tokens]. */
  readonly shape: readonly number[];
}

/** Channels of the autoencoders in use. */
const CHANNELS = [4, 16, 8, 32];

/** A guess for values of `bytes` bytes each, or null. `known`: how many channels latents have. */
export function guessShape(name: string, bytes: number, known?: number): ShapeGuess | null {
  const packed = name.endsWith(Q8_SUFFIX);
  const count = packed ? (q8Count(bytes) ?? 0) : bytes / 2;
  if (!Number.isInteger(count) || count === 0 || !/latent|moment|caption|text|clip/i.test(name)) return null;
  if (/caption|text|clip/i.test(name)) {
    if (count % CLIP_CONTEXT !== 0) return null;
    if (count === CLIP_CONTEXT && !packed) return { kind: 'token ids', dtype: 'uint16', shape: [count] };
    const dtype = packed ? 'q8' : 'float16';
    return { kind: 'caption states', dtype, shape: [CLIP_CONTEXT, count / CLIP_CONTEXT] };
  }
  if (packed) return null;
  for (const channels of known === undefined ? CHANNELS : [known]) {
    const side = Math.sqrt(count / channels);
    if (Number.isInteger(side)) return { kind: 'latent', dtype: 'float16', shape: [channels, side, side] };
  }
  return null;
}
