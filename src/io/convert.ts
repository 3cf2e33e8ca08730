// Copies a file of tensors to a .safetensors file, part by part: names cut, numbers in another format.

import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { cleanLeftovers, requireFreeBytes } from './atomic.ts';
import { DTYPE_BYTES, type Dtype } from './dtype.ts';
import { Failure } from './failure.ts';
import { UNUSABLE_NAMES } from './safetensors_header.ts';
import { safetensorsBytes, safetensorsSteps, type TensorToWrite } from './safetensors_write.ts';
import { convertPart, isFloat, type TensorFile, type TensorInfo } from './tensor-file.ts';

export interface ConvertOptions {
  /** Format of the floating-point tensors; left out, each keeps its own. Integers always keep theirs. */
  readonly dtype?: 'F32' | 'BF16' | 'F16';
  /** Takes the tensors whose names begin so, and cuts it off. */
  readonly prefix?: string;
}

export interface Converted {
  readonly tensors: number;
  readonly bytes: number;
  /** Names that do not begin with the prefix. */
  readonly left: readonly string[];
}

/** From this size on a finite number would become infinite: half a step above the largest one. */
const TOO_LARGE = { F32: 2 ** 128 * (1 - 2 ** -25), BF16: 2 ** 128 * (1 - 2 ** -9), F16: 65520 };

/**
 * Writes `path`, whole or not at all, in steps between which the caller may look up; who leaves them
 * unfinished leaves nothing behind. Leftovers of killed runs in the same folder are removed. float64 goes
 * through float32 to the shorter formats. A finite number
 * that the format cannot hold is a Failure that names the tensor.
 */
export function* convertTensors(
  file: TensorFile,
  path: string,
  options: ConvertOptions = {},
): Generator<void, Converted> {
  const { dtype, prefix = '' } = options;
  const entries = [...file.tensors.values()];
  const taken = entries.filter(({ name }) => name.startsWith(prefix));
  if (taken.length === 0) {
    const why = prefix === '' ? 'holds no tensors' : `no name begins with ${JSON.stringify(prefix)}`;
    throw new Failure({ what: file.path, why, fix: 'See the names with microdiff info FILE --tensors' });
  }
  const tensors = taken.map((entry): TensorToWrite => {
    const name = entry.name.slice(prefix.length);
    if (UNUSABLE_NAMES.has(name)) {
      const why = `tensor ${JSON.stringify(entry.name)} would be named ${JSON.stringify(name)}`;
      throw new Failure({ what: file.path, why, fix: 'Choose another prefix' });
    }
    const target = dtype !== undefined && isFloat(entry.dtype) ? dtype : entry.dtype;
    const data = () => (target === entry.dtype ? file.parts(entry.name) : rounded(file, entry, target));
    return { name, dtype: target, shape: entry.shape, data };
  });
  const metadata = { format: 'pt', ...Object.fromEntries(file.metadata) };
  const settings = { metadata, order: 'wide-first' } as const;
  const bytes = safetensorsBytes(tensors, settings);
  if (existsSync(dirname(path))) cleanLeftovers(dirname(path));
  requireFreeBytes(path, bytes, 'this file');
  yield* safetensorsSteps(path, tensors, settings);
  const left = entries.map(({ name }) => name).filter((name) => !name.startsWith(prefix));
  return { tensors: tensors.length, bytes, left };
}

/** A tensor's values as float32, checked against what `target` holds; the writer rounds them. */
function* rounded(file: TensorFile, { name, dtype }: TensorInfo, target: Dtype): Generator<Float32Array> {
  const limit = target in TOO_LARGE ? TOO_LARGE[target as keyof typeof TOO_LARGE] : Number.POSITIVE_INFINITY;
  const refuse = (why: string) => {
    const fix = target === 'F16' ? 'Use --dtype bf16 or f32' : 'Leave --dtype out';
    return new Failure({ what: file.path, why: `tensor ${JSON.stringify(name)} ${why}`, fix });
  };
  for (const part of file.parts(name)) {
    const elements = part.length / DTYPE_BYTES[dtype];
    const values = dtype === 'F64' ? new Float64Array(elements) : new Float32Array(elements);
    convertPart(part, dtype, values, refuse);
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      if (Math.abs(value) >= limit && Number.isFinite(value)) {
        throw refuse(`holds ${value}, which ${target} cannot hold`);
      }
    }
    yield values instanceof Float32Array ? values : Float32Array.from(values);
  }
}
