// Inputs that are packed: damaged before they are packed, so that what is inside gets read, or after it, or
// both; and checksums made right again, so that most changes are not caught by them.

import { changed, type Random } from './fuzz.ts';

/** Bytes packed by `pack`; in a third of the cases what comes out is damaged as well. */
export function packedAgain(
  bytes: Uint8Array,
  random: Random,
  pack: (bytes: Uint8Array) => Uint8Array,
): Uint8Array {
  const whole = pack(bytes);
  return random(3) === 0 ? changed([new Uint8Array(whole)], random, []) : whole;
}

/** The sum in the head of an entry of a tar archive, which counts its own field as spaces. */
export function sumOf(entry: Uint8Array): string {
  const sum = entry.subarray(0, 512).reduce((s, b, i) => s + (i >= 148 && i < 156 ? 32 : b), 0);
  return `${sum.toString(8).padStart(6, '0')}\0 `;
}

/** A tar archive with the sums that its heads should have. */
export function mended(bytes: Uint8Array): Uint8Array {
  for (let at = 0; at + 512 <= bytes.length; at += 512) {
    const block = bytes.subarray(at, at + 512);
    if (String.fromCharCode(...block.subarray(257, 262)) === 'ustar')
      block.set(Buffer.from(sumOf(block)), 148);
  }
  return bytes;
}
