// How the values of a column lie in a sample: one row per encoding of the format, both directions. Bytes that
// do not fit their encoding are an Error in plain words; the shard says where.

import { decode as decodeUtf8 } from '../byte-cursor.ts';
import { arrayEncoding } from './arrays.ts';
import { pythonFloat, pythonJson, readPythonJson } from './python-text.ts';
import type { MdsImage, MdsPixels, MdsValue } from './values.ts';

export interface MdsEncoding {
  /** Bytes of every value, or null where each sample says its own. */
  readonly size: number | null;
  /** `bytes` has `size` bytes where that is a number. Bytes in the result are views of it. */
  decode(bytes: Uint8Array): MdsValue;
  /** The bytes of a value; a value of another kind is an Error. */
  encode(value: MdsValue): Uint8Array;
}

/** An encoding by its name in an index, or why there is none. */
export function encodingOf(name: string): MdsEncoding | { readonly refused: string } {
  const known = cache.get(name);
  if (known) return known;
  const found = findEncoding(name);
  if (!('refused' in found)) cache.set(name, found);
  return found;
}

/** Few names in real data; hostile ones are longer than that and are not kept. */
const cache = new Map<string, MdsEncoding>();

function findEncoding(name: string): MdsEncoding | { readonly refused: string } {
  const quoted = JSON.stringify(name.slice(0, 40));
  if (name === 'pkl') {
    return { refused: 'is encoded as pkl, a Python pickle, which could run code when it is read' };
  }
  if (Object.hasOwn(PLAIN, name)) return PLAIN[name]!;
  const [kind, ...rest] = name.split(':');
  if (kind === 'jpeg' && rest.length === 1 && /^\d{1,3}$/.test(rest[0]!) && Number(rest[0]) <= 100) {
    return PLAIN.jpeg!;
  }
  const array = kind === 'ndarray' ? arrayEncoding(rest) : undefined;
  return array ?? { refused: `has encoding ${quoted}, which is not known` };
}

// Numbers ------------------------------------------------------------------------------------------------

function scalar(
  size: number,
  get: (view: DataView) => number | bigint,
  set: (view: DataView, value: number) => void,
): MdsEncoding {
  return {
    size,
    decode: (bytes) => get(new DataView(bytes.buffer, bytes.byteOffset, size)),
    encode(value) {
      if (typeof value !== 'number') throw new Error(`needs a number, not ${kindOf(value)}`);
      const bytes = new Uint8Array(size);
      set(new DataView(bytes.buffer), value);
      return bytes;
    },
  };
}

function integer(
  size: number,
  signed: boolean,
  get: (view: DataView) => number,
  set: (view: DataView, value: number) => void,
): MdsEncoding {
  const [least, most] = signed ? [-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1] : [0, 2 ** (8 * size) - 1];
  return scalar(size, get, (view, value) => {
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new Error(`${value} is not an integer from ${least} to ${most}`);
    }
    set(view, value);
  });
}

function wide(signed: boolean): MdsEncoding {
  return {
    size: 8,
    decode(bytes) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
      return signed ? view.getBigInt64(0, true) : view.getBigUint64(0, true);
    },
    encode(value) {
      const whole = wholeNumber(value);
      const fits = signed ? BigInt.asIntN(64, whole) === whole : BigInt.asUintN(64, whole) === whole;
      if (!fits) throw new Error(`${whole} does not fit ${signed ? 'int64' : 'uint64'}`);
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, whole), true);
      return bytes;
    },
  };
}

function wholeNumber(value: MdsValue): bigint {
  if (typeof value === 'bigint') return value;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return BigInt(value);
  throw new Error(`needs an integer, not ${typeof value === 'number' ? value : kindOf(value)}`);
}

// Text ---------------------------------------------------------------------------------------------------

/** Python reads no longer integers from text either. */
const MAX_DIGITS = 4300;
const FLOAT = /^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?<word>inf(?:inity)?|nan))$/i;
const DECIMAL = /^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|s?nan\d*)$/i;

function text(
  read: (text: string) => MdsValue | undefined,
  write: (value: MdsValue) => string,
  what: string,
): MdsEncoding {
  return {
    size: null,
    decode(bytes) {
      const string = decodeUtf8(bytes);
      if (string === undefined) throw new Error('is not UTF-8');
      const value = read(string);
      if (value === undefined) throw new Error(`${JSON.stringify(string.slice(0, 40))} is not ${what}`);
      return value;
    },
    encode: (value) => new TextEncoder().encode(write(value)),
  };
}

function readFloat(string: string): number | undefined {
  const match = FLOAT.exec(string.trim());
  if (!match) return undefined;
  const word = match.groups?.word?.toLowerCase();
  if (word === undefined) return Number(string);
  if (word === 'nan') return Number.NaN;
  return string.trim().startsWith('-') ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

function readWhole(string: string): bigint | undefined {
  return string.length <= MAX_DIGITS && /^[+-]?\d+$/.test(string) ? BigInt(string) : undefined;
}

function readJson(string: string): MdsValue | undefined {
  try {
    return { kind: 'json', value: readPythonJson(string) };
  } catch {
    return undefined; // broken, or nested deeper than the stack
  }
}

function writeString(value: MdsValue): string {
  if (typeof value !== 'string') throw new Error(`needs a text, not ${kindOf(value)}`);
  if (!value.isWellFormed()) throw new Error('holds half a character (a lone surrogate)');
  return value;
}

function writeDecimal(value: MdsValue): string {
  const string = writeString(value);
  if (!DECIMAL.test(string))
    throw new Error(`${JSON.stringify(string.slice(0, 40))} is not a decimal number`);
  return string;
}

function writeFloat(value: MdsValue): string {
  if (typeof value !== 'number') throw new Error(`needs a number, not ${kindOf(value)}`);
  return pythonFloat(value);
}

function writeJson(value: MdsValue): string {
  if (!isKind(value, 'json')) throw new Error(`needs { kind: 'json', value }, not ${kindOf(value)}`);
  return pythonJson(value.value);
}

// Bytes and pictures -------------------------------------------------------------------------------------

const BYTES: MdsEncoding = {
  size: null,
  decode: (bytes) => bytes,
  encode(value) {
    if (!(value instanceof Uint8Array)) throw new Error(`needs bytes, not ${kindOf(value)}`);
    return value;
  },
};

const SIGNATURES = {
  jpeg: [0xff, 0xd8, 0xff],
  png: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a],
} as const;

function image(format: MdsImage['format']): MdsEncoding {
  const check = (bytes: Uint8Array) => {
    if (!SIGNATURES[format].every((byte, i) => bytes[i] === byte)) throw new Error(`is not a ${format} file`);
    return bytes;
  };
  return {
    size: null,
    decode: (bytes) => ({ kind: 'image', format, bytes: check(bytes) }),
    encode(value) {
      if (!isKind(value, 'image') || value.format !== format) {
        throw new Error(`needs a ${format} file, not ${kindOf(value)}`);
      }
      return check(value.bytes);
    },
  };
}

/** Bits of a pixel by Pillow's modes; rows of "1" are padded to whole bytes. */
const MODE_BITS: Readonly<Record<string, number>> = {
  '1': 1,
  L: 8,
  P: 8,
  LA: 16,
  PA: 16,
  La: 16,
  'I;16': 16,
  'I;16B': 16,
  'I;16L': 16,
  RGB: 24,
  YCbCr: 24,
  LAB: 24,
  HSV: 24,
  RGBA: 32,
  RGBa: 32,
  RGBX: 32,
  CMYK: 32,
  I: 32,
  F: 32,
};

function pixelBytes(width: number, height: number, mode: string): number {
  if (!Object.hasOwn(MODE_BITS, mode)) throw new Error(`has mode ${JSON.stringify(mode.slice(0, 20))}`);
  return Math.ceil((width * MODE_BITS[mode]!) / 8) * height;
}

const PIL: MdsEncoding = {
  size: null,
  decode(bytes): MdsPixels {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length < 12) throw new Error('is shorter than the head of a picture');
    const [width, height, length] = [
      view.getUint32(0, true),
      view.getUint32(4, true),
      view.getUint32(8, true),
    ];
    if (length > 16 || 12 + length > bytes.length) throw new Error(`has a mode of ${length} bytes`);
    const mode = decodeUtf8(bytes.subarray(12, 12 + length)) ?? '?';
    const pixels = bytes.subarray(12 + length);
    checkPixels({ width, height, mode, bytes: pixels });
    return { kind: 'pixels', width, height, mode, bytes: pixels };
  },
  encode(value) {
    if (!isKind(value, 'pixels')) throw new Error(`needs { kind: 'pixels', ... }, not ${kindOf(value)}`);
    const { width, height } = value;
    const whole = [width, height].every((side) => Number.isInteger(side) && side >= 0 && side < 2 ** 32);
    if (!whole) throw new Error(`has ${width} x ${height} pixels`);
    checkPixels(value);
    const mode = new TextEncoder().encode(value.mode);
    const head = new DataView(new ArrayBuffer(12));
    for (const [i, n] of [width, height, mode.length].entries()) head.setUint32(4 * i, n, true);
    return Buffer.concat([new Uint8Array(head.buffer), mode, value.bytes]);
  },
};

function checkPixels({ width, height, mode, bytes }: Omit<MdsPixels, 'kind'>): void {
  if (bytes.length !== pixelBytes(width, height, mode)) {
    throw new Error(`has ${bytes.length} bytes for ${width} x ${height} pixels of mode ${mode}`);
  }
}

// The table ----------------------------------------------------------------------------------------------

const LE = true;

const PLAIN: Readonly<Record<string, MdsEncoding>> = {
  bytes: BYTES,
  str: text((s) => s, writeString, 'text'),
  int: wide(true),
  int64: wide(true),
  uint64: wide(false),
  uint8: integer(
    1,
    false,
    (v) => v.getUint8(0),
    (v, n) => v.setUint8(0, n),
  ),
  int8: integer(
    1,
    true,
    (v) => v.getInt8(0),
    (v, n) => v.setInt8(0, n),
  ),
  uint16: integer(
    2,
    false,
    (v) => v.getUint16(0, LE),
    (v, n) => v.setUint16(0, n, LE),
  ),
  int16: integer(
    2,
    true,
    (v) => v.getInt16(0, LE),
    (v, n) => v.setInt16(0, n, LE),
  ),
  uint32: integer(
    4,
    false,
    (v) => v.getUint32(0, LE),
    (v, n) => v.setUint32(0, n, LE),
  ),
  int32: integer(
    4,
    true,
    (v) => v.getInt32(0, LE),
    (v, n) => v.setInt32(0, n, LE),
  ),
  float16: scalar(
    2,
    (v) => v.getFloat16(0, LE),
    (v, n) => v.setFloat16(0, n, LE),
  ),
  float32: scalar(
    4,
    (v) => v.getFloat32(0, LE),
    (v, n) => v.setFloat32(0, n, LE),
  ),
  float64: scalar(
    8,
    (v) => v.getFloat64(0, LE),
    (v, n) => v.setFloat64(0, n, LE),
  ),
  str_int: text(readWhole, (value) => String(wholeNumber(value)), 'an integer'),
  str_float: text(readFloat, writeFloat, 'a number'),
  str_decimal: text((s) => (DECIMAL.test(s) ? s : undefined), writeDecimal, 'a decimal number'),
  json: text(readJson, writeJson, 'JSON'),
  jpeg: image('jpeg'),
  png: image('png'),
  pil: PIL,
};

type Kinded = Extract<MdsValue, { kind: string }>;

/** Whether a value is of one of the kinds that are objects. */
export function isKind<K extends Kinded['kind']>(
  value: MdsValue,
  kind: K,
): value is Extract<Kinded, { kind: K }> {
  return typeof value === 'object' && 'kind' in value && value.kind === kind;
}

function kindOf(value: MdsValue | undefined | null): string {
  if (typeof value !== 'object' || value === null) return typeof value;
  if (value instanceof Uint8Array) return 'bytes';
  return 'kind' in value ? value.kind : 'an object';
}
