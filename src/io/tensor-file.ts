// A file of named tensors, whatever its format: what loaders need of it. Tensors are read one at a time, in
// parts, so that a model of many gigabytes never lies in memory twice.

import { bf16ToFloat32, bytesOf, DTYPE_BYTES, type Dtype, f16ToFloat32 } from './dtype.ts';
import { Failure } from './failure.ts';

/** What is known of a tensor before its values are read. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Size of the values, row-major without gaps. */
  readonly bytes: number;
}

/** One tensor's values: little-endian, row-major. */
export interface RawTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Freshly allocated, so that typed arrays over its buffer are aligned. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

type Numbers = Float32Array | Float64Array | Int32Array;

/** Bytes read at a time where a conversion or a copy stands between file and target. */
const CHUNK_BYTES = 4 * 2 ** 20;

/** An open file of tensors. `using file = ...` closes it. */
export abstract class TensorFile implements Disposable {
  /** As it stands in messages. */
  abstract readonly path: string;
  /** By name, in the order of the file. */
  abstract readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Texts that the file carries beside the tensors. */
  abstract readonly metadata: ReadonlyMap<string, string>;

  /** In words: "safetensors", "torch (zip)". */
  abstract readonly format: string;

  abstract close(): void;

  /** What stands before the names of the model in question, as in a trainer's checkpoint; else ''. */
  get prefix(): string {
    return '';
  }

  /** Fills `into` with the bytes of a tensor (row-major, without gaps) from its byte `at` on. */
  protected abstract readBytes(entry: TensorInfo, into: Uint8Array, at: number): void;

  /** dtype and shape of a tensor; Failure if the file has none of that name. */
  entry(name: string): TensorInfo {
    const entry = this.tensors.get(name);
    if (entry) return entry;
    throw new Failure({
      what: this.path,
      why: `tensor ${JSON.stringify(name)} is missing (the file holds ${this.tensors.size} others)`,
      fix: 'Use a file of this model',
    });
  }

  /** The tensor's own bytes, in one new array. */
  readTensor(name: string): RawTensor {
    const entry = this.entry(name);
    const bytes = new Uint8Array(entry.bytes);
    this.readBytes(entry, bytes, 0);
    return { dtype: entry.dtype, shape: entry.shape, bytes };
  }

  /** The tensor's own bytes into `target`, which has exactly their size. */
  readInto(name: string, target: ArrayBufferView): void {
    const entry = this.entry(name);
    if (target.byteLength !== entry.bytes) {
      throw new RangeError(`readInto ${name}: ${entry.bytes} bytes into ${target.byteLength}`);
    }
    this.readBytes(entry, bytesOf(target), 0);
  }

  /** The tensor's own bytes in order, in parts of whole elements; each is good until the next. */
  *parts(name: string): Generator<Uint8Array<ArrayBuffer>> {
    const entry = this.entry(name);
    const chunk = new Uint8Array(Math.min(entry.bytes, CHUNK_BYTES));
    for (let at = 0; at < entry.bytes; at += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, entry.bytes - at));
      this.readBytes(entry, part, at);
      yield part;
    }
  }

  /** Values as float32 (from float64: rounded), in `into` (as many elements) or a new array. */
  readFloat32(name: string, into?: Float32Array): Float32Array {
    const entry = this.entry(name);
    return this.convert(entry, into ?? new Float32Array(count(entry)));
  }

  /** Values as float64, in `into` (as many elements) or a new array. */
  readFloat64(name: string, into?: Float64Array): Float64Array {
    const entry = this.entry(name);
    return this.convert(entry, into ?? new Float64Array(count(entry)));
  }

  /**
   * Values of an integer or boolean tensor as int32; a float tensor or a value that does not fit is a
   * Failure.
   */
  readInt32(name: string, into?: Int32Array): Int32Array {
    const entry = this.entry(name);
    return this.convert(entry, into ?? new Int32Array(count(entry)));
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private convert<T extends Numbers>(entry: TensorInfo, out: T): T {
    const { name, dtype } = entry;
    if (out.length !== count(entry)) {
      throw new RangeError(`read ${name}: ${count(entry)} elements into ${out.length}`);
    }
    if (sameFormat(dtype, out)) {
      this.readBytes(entry, bytesOf(out), 0);
      return out;
    }
    const fail = (why: string) => {
      const what = `tensor ${JSON.stringify(name)} (${dtype}) ${why}`;
      return new Failure({ what: this.path, why: what, fix: 'Use a file of this model' });
    };
    let at = 0;
    for (const part of this.parts(name)) {
      const elements = part.length / DTYPE_BYTES[dtype];
      convertPart(part, dtype, out.subarray(at, at + elements), fail);
      at += elements;
    }
    return out;
  }
}

/** Elements of a tensor: the product of its shape, 1 for a scalar. */
export function count(entry: { readonly shape: readonly number[] }): number {
  return entry.shape.reduce((product, length) => product * length, 1);
}

/** Whether a type holds floating-point numbers. */
export function isFloat(dtype: Dtype): boolean {
  return dtype === 'F64' || dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';
}

function sameFormat(dtype: Dtype, out: Numbers): boolean {
  if (out instanceof Float32Array) return dtype === 'F32';
  return out instanceof Float64Array ? dtype === 'F64' : dtype === 'I32';
}

/** The elements of `bytes` (a fresh buffer, hence aligned) as a typed array that JavaScript can read. */
function view(
  bytes: Uint8Array,
  dtype: Exclude<Dtype, 'BF16' | 'F16'>,
): ArrayLike<number> | BigInt64Array | BigUint64Array {
  const { buffer, byteOffset, length } = bytes;
  switch (dtype) {
    case 'F64':
      return new Float64Array(buffer, byteOffset, length / 8);
    case 'F32':
      return new Float32Array(buffer, byteOffset, length / 4);
    case 'I64':
      return new BigInt64Array(buffer, byteOffset, length / 8);
    case 'I32':
      return new Int32Array(buffer, byteOffset, length / 4);
    case 'I16':
      return new Int16Array(buffer, byteOffset, length / 2);
    case 'U64':
      return new BigUint64Array(buffer, byteOffset, length / 8);
    case 'U32':
      return new Uint32Array(buffer, byteOffset, length / 4);
    case 'U16':
      return new Uint16Array(buffer, byteOffset, length / 2);
    case 'I8':
      return new Int8Array(buffer, byteOffset, length);
    case 'U8':
    case 'BOOL':
      return bytes;
  }
}

/** out[i] = the value of element i of `bytes`, which lie in a fresh buffer. */
export function convertPart(
  bytes: Uint8Array,
  dtype: Dtype,
  out: Numbers,
  fail: (why: string) => Failure,
): void {
  if (out instanceof Int32Array && isFloat(dtype)) {
    throw fail('holds floating-point numbers where integers are expected');
  }
  if (dtype === 'BF16' || dtype === 'F16') {
    const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    const values = out instanceof Float32Array ? out : new Float32Array(bits.length);
    if (dtype === 'BF16') bf16ToFloat32(bits, values);
    else f16ToFloat32(bits, values);
    if (values !== out) out.set(values);
    return;
  }
  const values = view(bytes, dtype);
  const exact = DTYPE_BYTES[dtype] >= 4 && !isFloat(dtype);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    out[i] = Number(value);
    if (exact && BigInt(out[i]!) !== BigInt(value)) throw fail(`holds ${value}, which does not fit`);
  }
}
