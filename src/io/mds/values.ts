// What the columns of a sample hold, once decoded.

/** Number types of arrays, by the format's names. */
export type MdsDtype =
  | 'uint8'
  | 'int8'
  | 'uint16'
  | 'int16'
  | 'float16'
  | 'uint32'
  | 'int32'
  | 'float32'
  | 'uint64'
  | 'int64'
  | 'float64';

/** `ndarray`: numbers in C order, little-endian. */
export interface MdsArray {
  readonly kind: 'ndarray';
  readonly dtype: MdsDtype;
  readonly shape: readonly number[];
  /** Not aligned. */
  readonly bytes: Uint8Array;
}

/** `jpeg`, `png`: a whole file; nothing in it has been looked at. */
export interface MdsImage {
  readonly kind: 'image';
  readonly format: 'jpeg' | 'png';
  readonly bytes: Uint8Array;
}

/** `pil`: pixels in rows from the top, in one of Pillow's modes. */
export interface MdsPixels {
  readonly kind: 'pixels';
  readonly width: number;
  readonly height: number;
  /** Pillow's name: "RGB", "L", "CMYK", "1" (eight to a byte, rows padded), ... */
  readonly mode: string;
  readonly bytes: Uint8Array;
}

/** `json` */
export interface MdsJson {
  readonly kind: 'json';
  readonly value: unknown;
}

/**
 * A decoded column: text for `str` and `str_decimal`; bigint for `int`, `int64`, `uint64` and `str_int`;
 * number for shorter integers, floats and `str_float`; bytes for `bytes`. Bytes are views of the shard.
 */
export type MdsValue = string | number | bigint | Uint8Array | MdsArray | MdsImage | MdsPixels | MdsJson;

export type MdsSample = Readonly<Record<string, MdsValue>>;
