// Tar archives (POSIX ustar) as a stream of entries: the same bytes for the same files, since neither time
// nor owner stands in them.
import { Failure } from './failure.ts';

const BLOCK = 512;

/**
 * Longest name in bytes; the field after it, which would take longer ones apart at a slash, is left empty.
 */
export const TAR_NAME_BYTES = 100;

/** What ends an archive: two empty blocks. */
export const TAR_END = new Uint8Array(2 * BLOCK);

/** One file of an archive: header, content, and zeros up to a whole block. */
export function tarEntry(name: string, content: Uint8Array): Uint8Array {
  const encoded = new TextEncoder().encode(name);
  if (encoded.length === 0 || encoded.length > TAR_NAME_BYTES || encoded.includes(0)) {
    throw new Failure({ what: name, why: `names in a tar archive have 1 to ${TAR_NAME_BYTES} bytes` });
  }
  const entry = new Uint8Array(BLOCK + Math.ceil(content.length / BLOCK) * BLOCK);
  const text = (value: string, at: number) => entry.set(new TextEncoder().encode(value), at);
  const octal = (value: number, at: number, digits: number) =>
    text(value.toString(8).padStart(digits, '0'), at);
  entry.set(encoded);
  octal(0o644, 100, 7);
  octal(0, 108, 7); // owner
  octal(0, 116, 7); // group
  octal(content.length, 124, 11);
  octal(0, 136, 11); // time
  text(' '.repeat(8), 148); // the sum counts its own field as spaces
  text('0', 156); // a plain file
  text('ustar\x0000', 257);
  const sum = entry.subarray(0, BLOCK).reduce((total, byte) => total + byte, 0);
  text(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  entry.set(content, BLOCK);
  return entry;
}
