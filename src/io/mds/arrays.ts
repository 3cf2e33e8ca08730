// The column encoding `ndarray`: [dtype: 1][axes << 2 | log2 of the width of a length: 1][lengths][values],
// the dtype or the shape left out where the encoding names them ("ndarray:float16", "ndarray:float32:2,3").

import type { MdsEncoding } from './encodings.ts';
import type { MdsArray, MdsDtype, MdsValue } from './values.ts';

/** Code and bytes of an element. */
const DTYPES: Readonly<Record<MdsDtype, readonly [code: number, bytes: number]>> = {
  uint8: [8, 1],
  int8: [9, 1],
  uint16: [16, 2],
  int16: [17, 2],
  float16: [18, 2],
  uint32: [32, 4],
  int32: [33, 4],
  float32: [34, 4],
  uint64: [64, 8],
  int64: [65, 8],
  float64: [66, 8],
};

const BY_CODE: ReadonlyMap<number, MdsDtype> = new Map(
  Object.entries(DTYPES).flatMap(([name, [code]]) => (isMdsDtype(name) ? [[code, name]] : [])),
);

const MAX_AXES = 63;
const MAX_LENGTH = 2 ** 32 - 1;

export function isMdsDtype(name: string): name is MdsDtype {
  return Object.hasOwn(DTYPES, name);
}

/** Bytes of an element. */
export function dtypeBytes(dtype: MdsDtype): number {
  return DTYPES[dtype][1];
}

/** The encoding whose name goes on with `parts` after "ndarray", or undefined where they make none. */
export function arrayEncoding(parts: readonly string[]): MdsEncoding | undefined {
  const [dtype, lengths, ...rest] = parts;
  if (rest.length > 0 || (dtype !== undefined && !isMdsDtype(dtype))) return undefined;
  const shape = lengths === undefined ? undefined : readShape(lengths);
  if (shape === null) return undefined;
  const size = shape && dtype ? product(shape) * dtypeBytes(dtype) : null;
  if (size !== null && size >= 2 ** 32) return undefined;
  return {
    size,
    decode: (bytes) => decodeArray(bytes, dtype, shape),
    encode: (value) => encodeArray(value, dtype, shape),
  };
}

/** "2,3"; null where it is not that. */
function readShape(text: string): number[] | null {
  if (!/^\d{1,10}(,\d{1,10}){0,62}$/.test(text)) return null;
  const shape = text.split(',').map(Number);
  return shape.includes(0) ? null : shape;
}

/** Beyond 2^53 it is more than any shard has, whatever its last digits. */
function product(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

function decodeArray(
  bytes: Uint8Array,
  fixedType: MdsDtype | undefined,
  fixedShape: readonly number[] | undefined,
): MdsArray {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  const need = (count: number) => {
    if (at + count > bytes.length) throw new Error(`is an array cut off in its head (${bytes.length} bytes)`);
    at += count;
    return at - count;
  };
  const dtype = fixedType ?? dtypeOf(view.getUint8(need(1)));
  let shape = fixedShape;
  if (!shape) {
    const head = view.getUint8(need(1));
    const width = 2 ** (head & 3);
    const first = need((head >> 2) * width);
    shape = Array.from({ length: head >> 2 }, (_, i) => readUint(view, first + i * width, width));
  }
  const values = bytes.subarray(at);
  if (product(shape) * dtypeBytes(dtype) !== values.length) {
    throw new Error(`has ${values.length} bytes for ${dtype} [${shape.join(', ')}]`);
  }
  return { kind: 'ndarray', dtype, shape, bytes: values };
}

function dtypeOf(code: number): MdsDtype {
  const dtype = BY_CODE.get(code);
  if (dtype === undefined) throw new Error(`is an array of dtype ${code}, which is not known`);
  return dtype;
}

function readUint(view: DataView, at: number, width: number): number {
  if (width === 1) return view.getUint8(at);
  if (width === 2) return view.getUint16(at, true);
  return width === 4 ? view.getUint32(at, true) : Number(view.getBigUint64(at, true));
}

function encodeArray(
  value: MdsValue,
  fixedType: MdsDtype | undefined,
  fixedShape: readonly number[] | undefined,
): Uint8Array {
  if (typeof value !== 'object' || !('kind' in value) || value.kind !== 'ndarray') {
    throw new Error(`needs { kind: 'ndarray', ... }, not ${typeof value}`);
  }
  const { dtype, shape, bytes } = value;
  if (!isMdsDtype(dtype)) throw new Error(`has dtype ${dtype}, which is not known`);
  if (fixedType && dtype !== fixedType) throw new Error(`is an array of ${dtype}, not of ${fixedType}`);
  const usable = shape.every((n) => Number.isInteger(n) && n >= 1 && n <= MAX_LENGTH);
  if (shape.length === 0 || shape.length > MAX_AXES || !usable) {
    throw new Error(`has shape [${shape.join(', ')}]; 1 to ${MAX_AXES} lengths above zero can be written`);
  }
  if (fixedShape && String(shape) !== String(fixedShape)) {
    throw new Error(`has shape [${shape.join(', ')}], not [${fixedShape.join(', ')}]`);
  }
  if (product(shape) * dtypeBytes(dtype) !== bytes.length) {
    throw new Error(`has ${bytes.length} bytes for ${dtype} [${shape.join(', ')}]`);
  }
  const head = fixedType ? [] : [DTYPES[dtype][0]];
  return Buffer.concat([Uint8Array.from(head), fixedShape ? new Uint8Array(0) : shapeHead(shape), bytes]);
}

function shapeHead(shape: readonly number[]): Uint8Array {
  const log = [2 ** 8, 2 ** 16, 2 ** 32].findIndex((limit) => Math.max(...shape) < limit);
  const width = 2 ** log;
  const view = new DataView(new ArrayBuffer(1 + shape.length * width));
  view.setUint8(0, (shape.length << 2) | log);
  for (const [i, length] of shape.entries()) {
    const at = 1 + i * width;
    if (width === 1) view.setUint8(at, length);
    else if (width === 2) view.setUint16(at, length, true);
    else view.setUint32(at, length, true);
  }
  return new Uint8Array(view.buffer);
}
