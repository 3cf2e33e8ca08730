// Compression of shards: zstd, gzip and brotli. The size after decompression is known beforehand, and nothing
// is ever unpacked beyond it.

import {
  brotliCompressSync,
  brotliDecompressSync,
  constants,
  gunzipSync,
  gzipSync,
  zstdDecompressSync,
} from 'node:zlib';

interface Method {
  /** Levels from, to, and the one of a name without a level, as the format's own library has them. */
  readonly levels: readonly [least: number, most: number, usual: number];
  readonly compress: (bytes: Uint8Array, level: number) => Uint8Array;
  readonly decompress: (bytes: Uint8Array, size: number) => Uint8Array;
}

/** By the ending of the file name. */
const METHODS: Readonly<Record<string, Method>> = {
  zstd: {
    levels: [1, 22, 3],
    compress: (bytes, level) => Bun.zstdCompressSync(bytes, { level }),
    decompress: unpackZstd,
  },
  gz: {
    levels: [0, 9, 9],
    compress: (bytes, level) => gzipSync(bytes, { level }),
    decompress: (bytes, size) => gunzipSync(bytes, { maxOutputLength: Math.max(1, size) }),
  },
  br: {
    levels: [0, 11, 11],
    compress: (bytes, level) =>
      brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: level } }),
    decompress: (bytes, size) => brotliDecompressSync(bytes, { maxOutputLength: Math.max(1, size) }),
  },
};

/** Compressions of the format that this build does not read. */
const REFUSED = ['bz2', 'snappy'];

export interface Compression {
  /** As in an index: "zstd:7". */
  readonly name: string;
  /** What stands after the last dot of a compressed file: "zstd". */
  readonly extension: string;
  compress(bytes: Uint8Array): Uint8Array;
  /** The `size` bytes that were compressed; throws an Error in plain words where they are not that. */
  decompress(bytes: Uint8Array, size: number): Uint8Array;
}

/** The compression of a name as in an index, or why there is none. */
export function compressionOf(name: string): Compression | { readonly refused: string } {
  const [extension = '', text, ...rest] = name.split(':');
  if (REFUSED.includes(extension))
    return { refused: `is compressed with ${extension}, which is not read here` };
  const method = Object.hasOwn(METHODS, extension) ? METHODS[extension] : undefined;
  const quoted = JSON.stringify(name.slice(0, 40));
  if (!method) return { refused: `has compression ${quoted}; known are zstd, gz and br` };
  const [least, most, usual] = method.levels;
  const level = text === undefined ? usual : Number(text);
  const whole = text === undefined || /^\d{1,2}$/.test(text);
  if (!whole || level < least || level > most || rest.length > 0) {
    return { refused: `has compression ${quoted}; levels of ${extension} are ${least} to ${most}` };
  }
  return {
    name,
    extension,
    compress: (bytes) => method.compress(bytes, level),
    decompress: (bytes, size) => unpack(method, bytes, size),
  };
}

function unpack(method: Method, bytes: Uint8Array, size: number): Uint8Array {
  let raw: Uint8Array;
  try {
    raw = method.decompress(bytes, size);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_BUFFER_TOO_LARGE') {
      throw new Error(`it holds more than the ${size} bytes of the index`);
    }
    throw new Error(error instanceof Error ? error.message : String(error));
  }
  if (raw.length !== size) throw new Error(`it holds ${raw.length} bytes where the index says ${size}`);
  return raw;
}

/**
 * Log2 of the window that a frame may ask a decoder to keep: that of the highest level, and of most others.
 */
const ZSTD_WINDOW = { most: 27, usual: 23 };

/** A frame says at its beginning how long it is: a lie is found before any memory is taken. */
function unpackZstd(bytes: Uint8Array, size: number): Uint8Array {
  const announced = zstdContentSize(bytes);
  if (announced === 'not zstd') throw new Error('it is not zstd');
  if (announced !== undefined && announced > size) {
    throw new Error(`it announces ${announced} bytes where the index says ${size}`);
  }
  // No window is larger than what is packed, but that not every writer knows beforehand.
  const window = Math.min(ZSTD_WINDOW.most, Math.max(ZSTD_WINDOW.usual, Math.ceil(Math.log2(size + 1))));
  return zstdDecompressSync(bytes, {
    maxOutputLength: Math.max(1, size),
    params: { [constants.ZSTD_d_windowLogMax]: window },
  });
}

/** Bytes of content that the first frame announces (RFC 8878, 3.1.1.1); undefined where it does not. */
function zstdContentSize(bytes: Uint8Array): number | undefined | 'not zstd' {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < 6 || view.getUint32(0, true) !== 0xfd2fb528) return 'not zstd';
  const descriptor = bytes[4]!;
  const single = (descriptor & 0x20) !== 0;
  const width = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  const at = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]!;
  if (width === 0) return undefined;
  if (at + width > bytes.length) return 'not zstd';
  if (width === 1) return bytes[at]!;
  if (width === 2) return view.getUint16(at, true) + 256;
  return width === 4 ? view.getUint32(at, true) : Number(view.getBigUint64(at, true));
}
