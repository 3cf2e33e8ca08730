// FNV-1a, 32 bit: the stable hash of words (Fowler, Noll, Vo; offset basis and prime as published).

const encoder = new TextEncoder();

/**
 * Hash of the UTF-8 bytes of `text`, 0..2^32-1. Another `seed` gives an unrelated hash; 0 is plain FNV-1a.
 */
export function fnv1a(text: string, seed = 0): number {
  let hash = (0x811c9dc5 ^ seed) >>> 0;
  for (const byte of encoder.encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
