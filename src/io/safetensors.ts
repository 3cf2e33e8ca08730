// Reads .safetensors files: the header is checked in full before any tensor is touched, and tensors are read
// one at a time from the file, so that a model of many gigabytes never lies in memory twice.

import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { bf16ToFloat32, bytesOf, DTYPE_BYTES, type Dtype, f16ToFloat32 } from './dtype.ts';
import { Failure } from './failure.ts';
import { osFailure } from './oserror.ts';
import { parseHeader, type TensorEntry } from './safetensors_header.ts';

export type { TensorEntry } from './safetensors_header.ts';

/** One tensor as it lies in the file: little-endian, row-major. */
export interface RawTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Freshly allocated, so that typed arrays over its buffer are aligned. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

type Numbers = Float32Array | Float64Array | Int32Array;

/** Bytes read at a time where a conversion stands between file and target. */
const CHUNK_BYTES = 4 * 2 ** 20;

/** Largest single read: the kernel gives at most 2 GiB - 4 KiB in one call. */
const READ_BYTES = 2 ** 30;

/** Where the bytes come from: an open file, or memory (a file embedded in the executable). */
interface Source {
  readonly size: number;
  read(into: Uint8Array, position: number): number;
  close(): void;
}

/** An open .safetensors file. `using file = Safetensors.open(path)` closes it. */
export class Safetensors implements Disposable {
  /** By name, in the order of the data. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** The file's `__metadata__`, empty if it has none. */
  readonly metadata: ReadonlyMap<string, string>;

  private constructor(
    readonly path: string,
    private readonly source: Source,
  ) {
    try {
      const header = parseHeader(path, source.size, (into, position) => this.fill(into, position));
      this.tensors = header.tensors;
      this.metadata = header.metadata;
    } catch (error) {
      source.close();
      throw error;
    }
  }

  /** Opens and checks a file; anything wrong with it is a Failure that names the file and what is wrong. */
  static open(path: string): Safetensors {
    // Files inside the executable have a path, but no file descriptor.
    if (path.startsWith('/$bunfs/')) return Safetensors.fromBytes(readFileSync(path), basename(path));
    return new Safetensors(path, openFile(path));
  }

  /** The same for bytes in memory; `name` stands in messages. */
  static fromBytes(bytes: Uint8Array, name: string): Safetensors {
    const read = (into: Uint8Array, position: number) => {
      const part = bytes.subarray(position, position + into.length);
      into.set(part);
      return part.length;
    };
    return new Safetensors(name, { size: bytes.length, read, close: () => {} });
  }

  /** dtype, shape and place of a tensor; Failure if the file has none of that name. */
  entry(name: string): TensorEntry {
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
    this.fill(bytes, entry.position);
    return { dtype: entry.dtype, shape: entry.shape, bytes };
  }

  /** The tensor's own bytes into `target`, which has exactly their size. */
  readInto(name: string, target: ArrayBufferView): void {
    const entry = this.entry(name);
    if (target.byteLength !== entry.bytes) {
      throw new RangeError(`readInto ${name}: ${entry.bytes} bytes into ${target.byteLength}`);
    }
    this.fill(bytesOf(target), entry.position);
  }

  /** Values as float32 (from float64: rounded), in `into` (as many elements) or a new array. */
  readFloat32(name: string, into?: Float32Array): Float32Array {
    const entry = this.entry(name);
    return this.convert(name, entry, into ?? new Float32Array(count(entry)));
  }

  /** Values as float64, in `into` (as many elements) or a new array. */
  readFloat64(name: string, into?: Float64Array): Float64Array {
    const entry = this.entry(name);
    return this.convert(name, entry, into ?? new Float64Array(count(entry)));
  }

  /**
   * Values of an integer or boolean tensor as int32; a float tensor or a value that does not fit is a
   * Failure.
   */
  readInt32(name: string, into?: Int32Array): Int32Array {
    const entry = this.entry(name);
    return this.convert(name, entry, into ?? new Int32Array(count(entry)));
  }

  close(): void {
    this.source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private convert<T extends Numbers>(name: string, entry: TensorEntry, out: T): T {
    const elements = count(entry);
    if (out.length !== elements)
      throw new RangeError(`read ${name}: ${elements} elements into ${out.length}`);
    if (sameFormat(entry.dtype, out)) {
      this.fill(bytesOf(out), entry.position);
      return out;
    }
    const size = DTYPE_BYTES[entry.dtype];
    const step = CHUNK_BYTES / size;
    const chunk = new Uint8Array(Math.min(entry.bytes, CHUNK_BYTES));
    for (let at = 0; at < elements; at += step) {
      const end = Math.min(at + step, elements);
      const part = chunk.subarray(0, (end - at) * size);
      this.fill(part, entry.position + at * size);
      convertChunk(part, entry.dtype, out.subarray(at, end), (why) => {
        return new Failure({
          what: this.path,
          why: `tensor ${JSON.stringify(name)} (${entry.dtype}) ${why}`,
          fix: 'Use a file of this model',
        });
      });
    }
    return out;
  }

  private fill(into: Uint8Array, position: number): void {
    for (let at = 0; at < into.length; ) {
      const part = into.subarray(at, at + READ_BYTES);
      let got: number;
      try {
        got = this.source.read(part, position + at);
      } catch (error) {
        throw osFailure(error, this.path, 'read');
      }
      if (got === 0) {
        throw new Failure({
          what: this.path,
          why: 'the file ends too early',
          fix: 'Copy or download it again',
        });
      }
      at += got;
    }
  }
}

/** Elements of a tensor: the product of its shape, 1 for a scalar. */
export function count(entry: { readonly shape: readonly number[] }): number {
  return entry.shape.reduce((product, length) => product * length, 1);
}

function openFile(path: string): Source {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    const stat = fstatSync(fd);
    if (!stat.isFile()) {
      throw new Failure({ what: path, why: 'this is not a regular file', fix: 'Name a .safetensors file' });
    }
    let open: number | undefined = fd;
    return {
      size: stat.size,
      read: (into, position) => readSync(fd!, into, 0, into.length, position),
      close: () => {
        if (open !== undefined) closeSync(open);
        open = undefined;
      },
    };
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    throw osFailure(error, path, 'read');
  }
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

function convertChunk(bytes: Uint8Array, dtype: Dtype, out: Numbers, fail: (why: string) => Failure): void {
  if (
    out instanceof Int32Array &&
    (dtype === 'F64' || dtype === 'F32' || dtype === 'F16' || dtype === 'BF16')
  ) {
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
  const exact = DTYPE_BYTES[dtype] >= 4 && dtype !== 'F32' && dtype !== 'F64';
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    out[i] = Number(value);
    if (exact && BigInt(out[i]!) !== BigInt(value)) throw fail(`holds ${value}, which does not fit`);
  }
}
