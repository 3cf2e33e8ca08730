// The emoji pack: its file layout, how it is put together and how it is read.
// Layout, little endian: 'MDEMOJI1', u32 bytes of the head, head (zstd of JSON, see Head), the coder's tables
// (zstd of u16, one set a style), then the coded pictures, back to back in the order of the pairs.
import { Failure } from '../../io/failure.ts';
import { CONTEXTS, countPicture, decodePicture, encodePicture, Tables } from './codec.ts';

const MAGIC = 'MDEMOJI1';
const SYMBOLS = 256;
export const PICTURE_SIZE = 64;

/** One picture and what is known of it. */
export interface EmojiPair {
  /** Unicode's short name, lower case: 'red apple'. */
  readonly name: string;
  readonly style: string;
  /** Unicode's group: 'Food & Drink'. */
  readonly group: string;
  /** A few words that the name does not say. */
  readonly keywords: readonly string[];
  /** Never trained on. */
  readonly heldOut: boolean;
}

interface Head {
  readonly hash: string;
  readonly pairs: readonly EmojiPair[];
  /** Largest error of a channel value, by style; 0 is lossless. */
  readonly near: Readonly<Record<string, number>>;
  readonly tableBytes: number;
  /** Bytes of each picture. */
  readonly lengths: readonly number[];
}

export interface EmojiSet {
  /** sha256 of names, styles and pictures; a trained model carries it. */
  readonly hash: string;
  readonly pairs: readonly EmojiPair[];
  /** Index of a pair, or -1. */
  find(name: string, style: string): number;
  /**
   * RGB bytes [size, size, 3] on white. 64 px is what is stored; 32, 16 and 8 px are exact box means of it,
   * rounded half up. Throws on another size, an index out of range and damaged data.
   */
  image(index: number, size: number): Uint8Array;
}

/** Codes pictures [64, 64, 3], one a pair, into the bytes of a pack. Same input, same bytes. */
export function packEmoji(
  pairs: readonly EmojiPair[],
  pictures: readonly Uint8Array[],
  near: Readonly<Record<string, number>>,
): Uint8Array {
  const styles = Object.keys(near);
  const tables: Tables[] = [];
  const hasher = new Bun.CryptoHasher('sha256');
  const seen: Uint8Array[] = [];
  for (const style of styles) {
    const counts = new Float64Array(CONTEXTS * SYMBOLS);
    pairs.forEach((pair, i) => {
      if (pair.style === style) seen[i] = countPicture(pictures[i]!, PICTURE_SIZE, near[style]!, counts);
    });
    tables.push(Tables.fromCounts(counts));
  }
  const coded = pairs.map((pair, i) => {
    const style = styles.indexOf(pair.style);
    hasher.update(`${pair.name}\0${pair.style}\0`).update(seen[i]!);
    return encodePicture(pictures[i]!, PICTURE_SIZE, near[pair.style]!, tables[style]!);
  });
  const tableBytes = Bun.zstdCompressSync(joinBytes(tables.map((t) => new Uint8Array(t.frequency.buffer))), {
    level: 19,
  });
  const head: Head = {
    hash: hasher.digest('hex'),
    pairs,
    near,
    tableBytes: tableBytes.length,
    lengths: coded.map((bytes) => bytes.length),
  };
  const headBytes = Bun.zstdCompressSync(JSON.stringify(head), { level: 19 });
  const start = new Uint8Array(MAGIC.length + 4);
  start.set(new TextEncoder().encode(MAGIC));
  new DataView(start.buffer).setUint32(MAGIC.length, headBytes.length, true);
  return joinBytes([start, headBytes, tableBytes, ...coded]);
}

/** Opens the bytes of a pack; pictures are decoded when asked for. Throws a Failure when it is no pack. */
export function openEmoji(bytes: Uint8Array): EmojiSet {
  const magic = new TextDecoder('latin1').decode(bytes.subarray(0, MAGIC.length));
  if (magic !== MAGIC || bytes.length < MAGIC.length + 4) throw damaged('is no emoji pack');
  const headFrom = MAGIC.length + 4;
  const headTo = headFrom + new DataView(bytes.buffer, bytes.byteOffset).getUint32(MAGIC.length, true);
  if (headTo > bytes.length) throw damaged('is cut short');
  const head = JSON.parse(new TextDecoder().decode(unzip(bytes.subarray(headFrom, headTo)))) as Head;
  const picturesFrom = headTo + head.tableBytes;
  const offsets = [picturesFrom];
  for (const length of head.lengths) offsets.push(offsets.at(-1)! + length);
  if (offsets.at(-1) !== bytes.length) throw damaged('is cut short');

  const styles = Object.keys(head.near);
  const raw = unzip(bytes.subarray(headTo, picturesFrom));
  const perStyle = CONTEXTS * SYMBOLS * 2;
  if (raw.length !== styles.length * perStyle) throw damaged('has tables of another version');
  const frequencies = styles.map(
    (_, i) => new Uint16Array(raw.slice(i * perStyle, (i + 1) * perStyle).buffer),
  );
  const tables = new Map<string, Tables>();
  const tablesOf = (style: string): Tables => {
    let found = tables.get(style);
    if (found === undefined) {
      found = new Tables(frequencies[styles.indexOf(style)]!);
      tables.set(style, found);
    }
    return found;
  };

  const places = new Map(head.pairs.map((pair, i) => [`${pair.name}\0${pair.style}`, i]));
  const full = new Uint8Array(PICTURE_SIZE * PICTURE_SIZE * 3);
  return {
    hash: head.hash,
    pairs: head.pairs,
    find: (name, style) => places.get(`${name}\0${style}`) ?? -1,
    image(index, size) {
      const pair = head.pairs[index];
      if (pair === undefined)
        throw new Failure({ what: `emoji ${index}`, why: `there are ${head.pairs.length}` });
      const from = offsets[index]!;
      const near = head.near[pair.style]!;
      decodePicture(bytes, from, offsets[index + 1]!, PICTURE_SIZE, near, tablesOf(pair.style), full);
      return boxReduce(full, size);
    },
  };
}

/** Exact means of k x k squares, rounded half up. rgb [64, 64, 3] -> a new [size, size, 3]. */
function boxReduce(rgb: Uint8Array, size: number): Uint8Array {
  const k = PICTURE_SIZE / size;
  if (k === 1) return rgb.slice();
  if (k !== 2 && k !== 4 && k !== 8) {
    throw new Failure({ what: `emoji at ${size} px`, why: 'sizes are 64, 32, 16 and 8', code: 2 });
  }
  const out = new Uint8Array(size * size * 3);
  const stride = PICTURE_SIZE * 3;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = (k * k) >> 1;
        for (let dy = 0; dy < k; dy++) {
          const row = (y * k + dy) * stride + x * k * 3 + c;
          for (let dx = 0; dx < k; dx++) sum += rgb[row + dx * 3]!;
        }
        out[(y * size + x) * 3 + c] = Math.floor(sum / (k * k));
      }
    }
  }
  return out;
}

function unzip(bytes: Uint8Array): Uint8Array {
  try {
    return new Uint8Array(Bun.zstdDecompressSync(bytes)); // a Buffer's slice would share its memory
  } catch {
    throw damaged('is damaged');
  }
}

function damaged(why: string): Failure {
  return new Failure({
    what: 'emoji pack',
    why,
    fix: 'Build it again: remove build/emoji.pack and run make',
  });
}

function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
