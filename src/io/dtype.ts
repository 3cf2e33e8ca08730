// Number formats of files: their names and sizes (safetensors' names), and conversions between the bits of
// float32 and of bfloat16 / float16, rounded to the nearest, ties to even.

/**
 * Bytes of one element, by the name that safetensors uses. Everything is little-endian, as are our machines.
 */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type Dtype = keyof typeof DTYPE_BYTES;

export const DTYPES = Object.keys(DTYPE_BYTES) as readonly Dtype[];

export function isDtype(name: unknown): name is Dtype {
  return typeof name === 'string' && Object.hasOwn(DTYPE_BYTES, name);
}

/** The bytes of any typed array, without a copy. */
export function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** out[i] = the float32 with the bits of bfloat16 bits[i]; exact. */
export function bf16ToFloat32(bits: Uint16Array, out: Float32Array): void {
  sameLength('bf16ToFloat32', bits, out);
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}

/**
 * out[i] = bfloat16 bits of values[i], to nearest even; too large becomes infinite, NaN stays NaN (quiet).
 */
export function float32ToBf16(values: Float32Array, out: Uint16Array): void {
  sameLength('float32ToBf16', values, out);
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const nan = (word & 0x7fffffff) > 0x7f800000;
    out[i] = nan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

/** out[i] = the float32 with the value of float16 bits[i]; exact. */
export function f16ToFloat32(bits: Uint16Array, out: Float32Array): void {
  sameLength('f16ToFloat32', bits, out);
  out.set(new Float16Array(bits.buffer, bits.byteOffset, bits.length));
}

/** out[i] = float16 bits of values[i], to nearest even; above 65519.99 becomes infinite. */
export function float32ToF16(values: Float32Array, out: Uint16Array): void {
  sameLength('float32ToF16', values, out);
  new Float16Array(out.buffer, out.byteOffset, out.length).set(values);
}

function sameLength(name: string, a: { length: number }, b: { length: number }): void {
  if (a.length !== b.length) throw new RangeError(`${name}: ${a.length} values into ${b.length}`);
}
