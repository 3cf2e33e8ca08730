// Writes .safetensors files, tensor by tensor, atomically: the name appears when every byte is on the disk.

import { type Sink, writeFileInSteps } from './atomic.ts';
import { bytesOf, DTYPE_BYTES, type Dtype, float32ToBf16, float32ToF16, isDtype } from './dtype.ts';
import { count } from './safetensors.ts';

/** Elements converted at a time. */
const CHUNK = 2 ** 20;

export interface TensorToWrite {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /**
   * The values: bytes in the file's format (any typed array of that size); or float32 values, which are
   * rounded on the way when dtype is BF16 or F16; or a function that yields such arrays in order, called when
   * their turn comes.
   */
  readonly data: ArrayBufferView | (() => Iterable<ArrayBufferView>);
}

export interface WriteOptions {
  /** The file's `__metadata__`. */
  readonly metadata?: Readonly<Record<string, string>>;
  /**
   * 'given' (default) keeps the order, 'wide-first' puts 8-byte types first, then 4, 2, 1, as the reference
   * does.
   */
  readonly order?: 'given' | 'wide-first';
}

/**
 * Writes `tensors` to `path`. A full disk or forbidden folder is a Failure and leaves nothing half-written.
 */
export function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  options: WriteOptions = {},
): void {
  for (const _ of safetensorsSteps(path, tensors, options));
}

/** The same in steps of at most one part of a tensor; who leaves them unfinished leaves nothing behind. */
export function* safetensorsSteps(
  path: string,
  tensors: readonly TensorToWrite[],
  options: WriteOptions = {},
): Generator<void> {
  const ordered = options.order === 'wide-first' ? wideFirst(tensors) : tensors;
  const header = encodeHeader(ordered, options.metadata);
  yield* writeFileInSteps(path, function* (sink) {
    const length = new DataView(new ArrayBuffer(8));
    length.setBigUint64(0, BigInt(header.length), true);
    sink.write(length);
    sink.write(header);
    for (const tensor of ordered) yield* writeTensor(sink, tensor);
  });
}

/** Size of the file that `writeSafetensors` would write, for a look at the free space before. */
export function safetensorsBytes(tensors: readonly TensorToWrite[], options: WriteOptions = {}): number {
  return 8 + encodeHeader(tensors, options.metadata).length + tensors.reduce((sum, t) => sum + sizeOf(t), 0);
}

function wideFirst(tensors: readonly TensorToWrite[]): TensorToWrite[] {
  return tensors.toSorted((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
}

function sizeOf(tensor: TensorToWrite): number {
  return count(tensor) * DTYPE_BYTES[tensor.dtype];
}

function encodeHeader(
  tensors: readonly TensorToWrite[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: [string, object][] = metadata ? [['__metadata__', metadata]] : [];
  const names = new Set(['__metadata__', '__proto__', 'constructor', 'prototype', '']);
  let at = 0;
  for (const tensor of tensors) {
    const { name, dtype, shape } = tensor;
    if (names.has(name)) throw new RangeError(`writeSafetensors: the name ${JSON.stringify(name)} is taken`);
    names.add(name);
    if (!isDtype(dtype)) throw new RangeError(`writeSafetensors: ${name} has no known dtype`);
    const bytes = sizeOf(tensor);
    if (!Number.isSafeInteger(bytes)) throw new RangeError(`writeSafetensors: ${name} has shape [${shape}]`);
    entries.push([name, { dtype, shape, data_offsets: [at, at + bytes] }]);
    at += bytes;
  }
  // Written entry by entry because an object would move names that look like numbers to the front.
  const members = entries.map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`);
  const text = `{${members.join(',')}}`;
  const bytes = new TextEncoder().encode(text);
  const padded = new Uint8Array(Math.ceil(bytes.length / 8) * 8).fill(0x20);
  padded.set(bytes);
  return padded;
}

function* writeTensor(sink: Sink, tensor: TensorToWrite): Generator<void> {
  const begin = sink.bytes;
  const { data } = tensor;
  for (const part of typeof data === 'function' ? data() : [data]) {
    for (const chunk of inFileFormat(part, tensor.dtype)) sink.write(chunk);
    yield;
  }
  const wrote = sink.bytes - begin;
  if (wrote !== sizeOf(tensor)) {
    throw new RangeError(
      `writeSafetensors: ${tensor.name} gave ${wrote} bytes, its shape needs ${sizeOf(tensor)}`,
    );
  }
}

function* inFileFormat(part: ArrayBufferView, dtype: Dtype): Iterable<ArrayBufferView> {
  const round = dtype === 'BF16' ? float32ToBf16 : dtype === 'F16' ? float32ToF16 : undefined;
  if (!round || !(part instanceof Float32Array)) {
    yield bytesOf(part);
    return;
  }
  const bits = new Uint16Array(Math.min(CHUNK, part.length));
  for (let at = 0; at < part.length; at += CHUNK) {
    const values = part.subarray(at, at + CHUNK);
    const rounded = bits.subarray(0, values.length);
    round(values, rounded);
    yield rounded;
  }
}
