// Reads tar archives as a stream: ustar, pax, GNU and old ones, plain or packed with gzip or zstd (told by
// their bytes). One entry is in memory at a time. Formats: POSIX.1-2017, pax; GNU tar manual, appendix D.
import { createReadStream } from 'node:fs';
import { pipeline, Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { Failure } from './failure.ts';
import { osCode, osFailure } from './oserror.ts';

/** One entry of an archive, in its order. */
export interface TarEntry {
  /** As it stands in the archive, a leading "./" taken off. */
  readonly name: string;
  readonly kind: 'file' | 'folder' | 'link' | 'other';
  /** Bytes of the content. */
  readonly size: number;
  /** The content of a file; null for other kinds, what was not wanted and what was refused. */
  readonly content: Uint8Array | null;
  /** Why a file has no content: its size, its name, sparse. */
  readonly refused?: string;
}

export interface TarOptions {
  /** Whether the content of a file is read; else it is passed over. */
  readonly wanted?: (name: string, size: number) => boolean;
  /** Largest content of a file in bytes; a larger one is refused, the others are not harmed. 256 MiB. */
  readonly maxBytes?: number;
}

const BLOCK = 512;
const MAX_BYTES = 256 * 2 ** 20;
/** Names and attributes that stand before an entry. */
const MAX_ATTRIBUTES = 2 ** 20;
const READ_BYTES = 2 ** 20;

/** All entries of a file; see `tarEntries`. */
export function readTar(path: string, options: TarOptions = {}): AsyncGenerator<TarEntry> {
  return tarEntries(createReadStream(path, { highWaterMark: READ_BYTES }), path, options);
}

/**
 * All entries of a stream of bytes; `name` stands in messages. Throws a Failure where the archive is damaged
 * or cut off, after the entries before; a leading part of an archive without its end mark is whole.
 */
export async function* tarEntries(
  stream: AsyncIterable<Uint8Array>,
  name: string,
  options: TarOptions = {},
): AsyncGenerator<TarEntry> {
  const bytes = new ByteStream(unpacked(stream, name), name);
  try {
    yield* entriesOf(bytes, name, options);
  } catch (error) {
    throw osFailure(error, name, 'read');
  } finally {
    await bytes.end();
  }
}

type Attributes = ReadonlyMap<string, string>;

async function* entriesOf(
  bytes: ByteStream,
  name: string,
  { wanted = () => true, maxBytes = MAX_BYTES }: TarOptions,
): AsyncGenerator<TarEntry> {
  let shared: Attributes = new Map();
  let own: Attributes = new Map();
  let longName: string | null = null;
  for (let number = 0; ; number++) {
    const at = bytes.position;
    const block = await bytes.atMost(BLOCK);
    if (block.length === 0 && number > 0) return;
    if (block.length === 0) throw damaged(name, 'the archive is empty');
    if (block.length < BLOCK) throw cutOff(name, bytes.position);
    if (block.every((byte) => byte === 0)) return;
    const header = headerOf(block, name, at);
    if ('xgLK'.includes(header.type)) {
      if (header.size > MAX_ATTRIBUTES) {
        throw damaged(
          name,
          `${header.size} bytes of attributes at byte ${at} are more than ${MAX_ATTRIBUTES}`,
        );
      }
      const body = await bytes.exactly(header.size);
      await bytes.skip(padding(header.size));
      if (header.type === 'x') own = attributesOf(body, name, at);
      else if (header.type === 'g') shared = new Map([...shared, ...attributesOf(body, name, at)]);
      else if (header.type === 'L') longName = textOf(body);
      continue;
    }
    const attributes = new Map([...shared, ...own]);
    const path = attributes.get('path') ?? longName ?? header.name;
    const size = sizeFrom(attributes.get('size'), name, at) ?? header.size;
    own = new Map();
    longName = null;
    const sparse = header.type === 'S' || attributes.has(SPARSE);
    // GNU's sparse files have their map in blocks of its own, each with a mark that another follows.
    let more = header.type === 'S' && block[482] !== 0;
    while (more) more = (await bytes.exactly(BLOCK))[504] !== 0;
    const kind = kindOf(header.type, path);
    const entry = { name: path.replace(/^(\.\/+)+/, ''), kind, size };
    const stored = kind === 'file' ? size : 0;
    const refused = kind === 'file' ? refusalOf(entry.name, size, sparse, maxBytes) : undefined;
    if (refused !== undefined || stored === 0 || !wanted(entry.name, size)) {
      await bytes.skip(stored + padding(stored));
      const content = refused === undefined && kind === 'file' && size === 0 ? new Uint8Array(0) : null;
      yield { ...entry, content, ...(refused === undefined ? {} : { refused }) };
      continue;
    }
    const content = await bytes.exactly(size);
    await bytes.skip(padding(size));
    yield { ...entry, content };
  }
}

/** Zeros up to a whole block. */
const padding = (size: number) => (BLOCK - (size % BLOCK)) % BLOCK;

/** Types that are not known are files, as POSIX wants it; old archives mark folders by their name alone. */
function kindOf(type: string, path: string): TarEntry['kind'] {
  if (type === '1' || type === '2') return 'link';
  if (type === '5' || type === 'D') return 'folder';
  if ('346VMN'.includes(type)) return 'other';
  return (type === '0' || type === '\0') && path.endsWith('/') ? 'folder' : 'file';
}

function refusalOf(path: string, size: number, sparse: boolean, maxBytes: number): string | undefined {
  if (sparse) return 'sparse files in tar archives are not read';
  if (size > maxBytes) return `${size} bytes are more than ${maxBytes}`;
  if (path === '' || path.includes('\0')) return 'its name is none';
  if (path.startsWith('/') || path.split('/').includes('..')) return 'its name leads out of the archive';
  return undefined;
}

interface Header {
  readonly name: string;
  readonly type: string;
  readonly size: number;
}

function headerOf(block: Uint8Array, archive: string, at: number): Header {
  const header = Buffer.from(block.buffer, block.byteOffset, BLOCK);
  const sum = octal(header.subarray(148, 156));
  // The sum counts its own field as spaces; some old programs summed signed bytes.
  const summed = (byteAt: (i: number) => number) => {
    let total = 0;
    for (let i = 0; i < BLOCK; i++) total += i >= 148 && i < 156 ? 32 : byteAt(i);
    return total;
  };
  if (sum !== summed((i) => header[i]!) && sum !== summed((i) => header.readInt8(i))) {
    const why = at === 0 ? 'this is no tar archive' : `it is damaged: no header at byte ${at}`;
    throw damaged(archive, why);
  }
  const type = String.fromCharCode(header[156]!);
  const size = sizeField(header.subarray(124, 136), archive, at);
  const own = textOf(header.subarray(0, 100));
  // GNU's archives keep other things in the place of the prefix.
  const posix = header.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = posix ? textOf(header.subarray(345, 500)) : '';
  return { name: prefix ? `${prefix}/${own}` : own, type, size };
}

/** Octal digits, or a binary number with its highest bit set. */
function sizeField(field: Buffer, archive: string, at: number): number {
  let size: number | null;
  if (field[0]! & 0x80) {
    size = field[0]! & 0x7f;
    for (const byte of field.subarray(1)) size = size * 256 + byte;
  } else {
    size = octal(field);
  }
  if (size === null || !Number.isSafeInteger(size)) {
    throw damaged(archive, `the size of the entry at byte ${at} is no number`);
  }
  return size;
}

/** Digits between spaces and zeros; null for anything else. */
function octal(field: Buffer): number | null {
  const text = field.toString('latin1').replaceAll('\0', ' ').trim();
  if (text === '') return 0;
  return /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : null;
}

function sizeFrom(text: string | undefined, archive: string, at: number): number | null {
  if (text === undefined) return null;
  const size = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(size)) return size;
  throw damaged(archive, `the size of the entry at byte ${at} is no number`);
}

/** Up to the first zero; bytes that are not UTF-8 are taken one by one. */
function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const part = end < 0 ? bytes : bytes.subarray(0, end);
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(part);
  } catch {
    return Buffer.from(part).toString('latin1');
  }
}

/** The key under which all keys of GNU's sparse files are kept. */
const SPARSE = 'GNU.sparse';

/**
 * What counts here of records of pax: "LENGTH KEY=VALUE\n", where LENGTH counts the whole record. Other keys
 * are not kept, so that no archive can pile them up.
 */
function attributesOf(body: Uint8Array, archive: string, at: number): Map<string, string> {
  const attributes = new Map<string, string>();
  const wrong = () => damaged(archive, `the attributes at byte ${at} cannot be read`);
  for (let place = 0; place < body.length && body[place] !== 0; ) {
    const space = body.indexOf(0x20, place);
    if (space < 0 || space - place > 10) throw wrong();
    const digits = textOf(body.subarray(place, space));
    const end = place + Number(digits);
    const equals = body.indexOf(0x3d, space);
    if (!/^\d+$/.test(digits) || end > body.length || equals < 0 || equals >= end || body[end - 1] !== 0x0a) {
      throw wrong();
    }
    const key = textOf(body.subarray(space + 1, equals));
    const value = body.subarray(equals + 1, end - 1);
    // A zero inside would end the name for some readers and not for others.
    const text = value.includes(0) ? Buffer.from(value).toString('latin1') : textOf(value);
    if (key === 'path' || key === 'size') attributes.set(key, text);
    else if (key.startsWith(`${SPARSE}.`)) attributes.set(SPARSE, '');
    if (key === `${SPARSE}.name`) attributes.set('path', text);
    place = end;
  }
  return attributes;
}

function damaged(archive: string, why: string): Failure {
  return new Failure({ what: archive, why, fix: 'Copy or download it again' });
}

function cutOff(archive: string, position: number): Failure {
  return damaged(archive, `it is cut off at byte ${position}`);
}

/** Takes gzip or zstd off a stream that begins as such; other packings are a Failure. */
async function* unpacked(stream: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const iterator = stream[Symbol.asyncIterator]();
  let whole: AsyncIterable<Uint8Array> | null = null;
  try {
    let start: Uint8Array = new Uint8Array(0);
    while (start.length < 4) {
      const { value, done } = await iterator.next();
      if (done) break;
      start = start.length === 0 ? value : Buffer.concat([start, value]);
    }
    whole = { [Symbol.asyncIterator]: () => rest(start, iterator) };
    const packing = packingOf(start);
    if (packing === null) {
      yield* whole;
      return;
    }
    if (packing !== 'gzip' && packing !== 'zstd') {
      const fix = 'Use a plain tar archive, or one packed with gzip or zstd';
      throw new Failure({ what: name, why: `${packing} is not read`, fix });
    }
    const unpack = packing === 'gzip' ? createGunzip() : createZstdDecompress();
    pipeline(Readable.from(whole), unpack, () => {}); // an error comes to the reader of `unpack` as well
    yield* unpack as AsyncIterable<Uint8Array>;
  } finally {
    await iterator.return?.();
  }
}

async function* rest(start: Uint8Array, iterator: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield start;
  for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value;
}

const PACKINGS: Readonly<Record<string, readonly number[]>> = {
  gzip: [0x1f, 0x8b],
  zstd: [0x28, 0xb5, 0x2f, 0xfd],
  bzip2: [0x42, 0x5a, 0x68],
  xz: [0xfd, 0x37, 0x7a, 0x58],
  zip: [0x50, 0x4b, 3, 4],
};

function packingOf(start: Uint8Array): string | null {
  const fits = (bytes: readonly number[]) => bytes.every((byte, i) => start[i] === byte);
  return Object.keys(PACKINGS).find((name) => fits(PACKINGS[name]!)) ?? null;
}

/** Bytes of a stream in counted parts. */
class ByteStream {
  /** Bytes taken so far. */
  position = 0;
  private readonly iterator: AsyncIterator<Uint8Array>;
  private chunk: Uint8Array = new Uint8Array(0);

  constructor(
    stream: AsyncIterable<Uint8Array>,
    private readonly name: string,
  ) {
    this.iterator = stream[Symbol.asyncIterator]();
  }

  /** A copy of the next `length` bytes, or of the last ones where the stream ends before. */
  async atMost(length: number): Promise<Uint8Array> {
    const out = new Uint8Array(length);
    let done = 0;
    while (done < length && (await this.more())) {
      const part = this.take(length - done);
      out.set(part, done);
      done += part.length;
    }
    return out.subarray(0, done);
  }

  async exactly(length: number): Promise<Uint8Array> {
    const bytes = await this.atMost(length);
    if (bytes.length < length) throw cutOff(this.name, this.position);
    return bytes;
  }

  async skip(length: number): Promise<void> {
    for (let left = length; left > 0; ) {
      if (!(await this.more())) throw cutOff(this.name, this.position);
      left -= this.take(left).length;
    }
  }

  async end(): Promise<void> {
    await this.iterator.return?.();
  }

  private take(most: number): Uint8Array {
    const part = this.chunk.subarray(0, most);
    this.chunk = this.chunk.subarray(part.length);
    this.position += part.length;
    return part;
  }

  /** Whether there is a byte to take. */
  private async more(): Promise<boolean> {
    while (this.chunk.length === 0) {
      const next = await this.next();
      if (next === null) return false;
      this.chunk = next;
    }
    return true;
  }

  private async next(): Promise<Uint8Array | null> {
    try {
      const { value, done } = await this.iterator.next();
      return done ? null : value;
    } catch (error) {
      // Errors of the file system have their own words; what is left comes from unpacking.
      if (error instanceof Failure || osMeaning(error)) throw error;
      const why = error instanceof Error ? error.message : String(error);
      throw damaged(this.name, `it cannot be unpacked (${why})`);
    }
  }
}

/** Whether an error is one of a file call rather than of zlib, whose codes are Z_... and ERR_.... */
function osMeaning(error: unknown): boolean {
  const code = osCode(error);
  return code !== undefined && !code.startsWith('ERR_');
}
