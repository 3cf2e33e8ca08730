// WebDataset: tar archives in which the files of one sample stand beside each other and share a name up to
// the first dot after the last slash: a/0001.jpg, a/0001.txt, a/0001.seg.png.
import type { TarEntry } from '../io/tar_read.ts';

export interface WebSample {
  /** Counted from 0 in its archive. */
  readonly index: number;
  /** The shared name, folders with it: "a/0001". */
  readonly key: string;
  /** Contents by what follows the key's dot, in small letters: "jpg", "seg.png". */
  readonly parts: ReadonlyMap<string, Uint8Array>;
  /** Files of this sample that have no content, and why. */
  readonly refused: readonly { readonly name: string; readonly why: string }[];
}

export interface WebOptions {
  /** Most bytes of a sample, 512 MiB; files beyond are refused. */
  readonly maxBytes?: number;
  /** Most files of a sample, 256; further ones are refused. */
  readonly maxParts?: number;
}

const MAX_BYTES = 512 * 2 ** 20;
const MAX_PARTS = 256;

/**
 * Groups the files of an archive into samples: one ends where the next key begins, and a key that comes again
 * later is another sample. Left out, as by the reference library: folders, names without a dot or with
 * nothing before it, and those of the form __name__. A second file of the same name is refused, and so are
 * links.
 */
export async function* webSamples(
  entries: AsyncIterable<TarEntry>,
  { maxBytes = MAX_BYTES, maxParts = MAX_PARTS }: WebOptions = {},
): AsyncGenerator<WebSample> {
  let sample = null as Open | null;
  let index = 0;
  for await (const entry of entries) {
    const name = splitName(entry.name);
    if (!name || entry.kind === 'folder') continue;
    if (sample?.key !== name.key) {
      if (sample) yield closed(sample, index++);
      sample = { key: name.key, parts: new Map(), refused: [], bytes: 0, files: 0 };
    }
    add(sample, entry, name.extension, maxBytes, maxParts);
  }
  if (sample) yield closed(sample, index);
}

interface Open {
  readonly key: string;
  readonly parts: Map<string, Uint8Array>;
  readonly refused: { name: string; why: string }[];
  bytes: number;
  files: number;
}

const closed = ({ key, parts, refused }: Open, index: number): WebSample => ({ index, key, parts, refused });

function add(sample: Open, entry: TarEntry, extension: string, maxBytes: number, maxParts: number): void {
  const { name, content } = entry;
  sample.files++;
  const why = refusalOf(sample, entry, extension, maxBytes, maxParts);
  if (why === null && content !== null) {
    sample.parts.set(extension, content);
    sample.bytes += content.length;
  } else if (why !== null && sample.refused.length < maxParts) {
    sample.refused.push({ name, why });
  }
}

function refusalOf(
  sample: Open,
  { content, kind, refused }: TarEntry,
  extension: string,
  maxBytes: number,
  maxParts: number,
): string | null {
  if (sample.files > maxParts) return `a sample has at most ${maxParts} files`;
  if (refused !== undefined) return refused;
  if (kind !== 'file') return `a ${kind === 'link' ? 'link' : 'device'}, not a file`;
  if (content === null) return null; // was not wanted
  if (sample.parts.has(extension)) return 'the sample has a file of that name already';
  return sample.bytes + content.length > maxBytes ? `a sample has at most ${maxBytes} bytes` : null;
}

/** Key and extension of a name; null for one that belongs to no sample. */
function splitName(path: string): { key: string; extension: string } | null {
  const base = path.slice(path.lastIndexOf('/') + 1);
  const dot = base.indexOf('.');
  if (dot <= 0 || /^__.*__$/.test(base)) return null;
  const key = path.slice(0, path.length - base.length + dot);
  return { key, extension: base.slice(dot + 1).toLowerCase() };
}
