// The header of a .safetensors file, read with suspicion: every length, type, shape and offset is checked
// against the others and against the size of the file before anything is believed.

import { DTYPE_BYTES, DTYPES, type Dtype, isDtype } from './dtype.ts';
import { Failure } from './failure.ts';

export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Size of the data. */
  readonly bytes: number;
  /** Where the data begin, counted from the beginning of the file. */
  readonly position: number;
}

export interface Header {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The format's own limit on the header's length. */
const MAX_HEADER_BYTES = 100_000_000;

/** More axes than any model has; keeps a hostile shape short. */
const MAX_AXES = 16;

/** Names that no tensor may have: they mean something else to the format or to JavaScript. */
export const UNUSABLE_NAMES: ReadonlySet<string> = new Set([
  '__metadata__',
  '__proto__',
  'constructor',
  'prototype',
  '',
]);

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/**
 * Reads and checks the header of a file of `size` bytes. `read(into, position)` fills `into` or throws.
 * Failure names `path` and the first thing that is wrong.
 */
export function parseHeader(
  path: string,
  size: number,
  read: (into: Uint8Array, at: number) => void,
): Header {
  const refuse = (why: string) => new Failure({ what: path, why, fix: 'Copy or download it again' });
  if (size < 8) throw refuse(`not a safetensors file: it has ${size} bytes, a header alone needs 8`);
  const prefix = new Uint8Array(8);
  read(prefix, 0);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw refuse(`not a safetensors file: it announces a header of ${length} bytes`);
  }
  const start = 8 + Number(length);
  if (start > size) throw refuse(`truncated: the header ends at byte ${start}, the file at ${size}`);
  const bytes = new Uint8Array(Number(length));
  read(bytes, 8);
  const text = decode(bytes);
  if (text === undefined) throw refuse('not a safetensors file: its header is not UTF-8');
  const root = parseObject(text, refuse);

  const tensors: TensorEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') metadata = readMetadata(value, refuse);
    else tensors.push(readEntry(name, value, start, refuse));
  }
  tensors.sort((a, b) => a.position - b.position || a.bytes - b.bytes);
  checkTiling(tensors, start, size, refuse);
  return { tensors: new Map(tensors.map((entry) => [entry.name, entry])), metadata };
}

type Refuse = (why: string) => Failure;

function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function parseObject(text: string, refuse: Refuse): Record<string, Json> {
  let root: Json;
  try {
    root = JSON.parse(text);
  } catch {
    throw refuse('not a safetensors file: its header is not JSON');
  }
  if (!text.startsWith('{') || !isObject(root)) {
    throw refuse('not a safetensors file: its header is not a JSON object');
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw refuse(`damaged header: ${JSON.stringify(twice)} stands there twice`);
  return root;
}

/**
 * The first key that stands twice in one object of `text`, which is valid JSON; JSON.parse keeps the last.
 */
function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  let expectKey = false;
  // Strings, brackets and commas are all that matter here; everything else is passed over.
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '{' || char === '[') {
      open.push(char === '{' ? new Set() : undefined);
      expectKey = char === '{';
    } else if (char === '}' || char === ']') {
      open.pop();
      expectKey = false;
    } else if (char === ',') {
      expectKey = open.at(-1) !== undefined;
    } else if (char === '"') {
      const begin = i++;
      while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
      if (!expectKey) continue;
      expectKey = false;
      const key: string = JSON.parse(text.slice(begin, i + 1));
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

function readMetadata(value: Json, refuse: Refuse): ReadonlyMap<string, string> {
  if (!isObject(value)) throw refuse('damaged header: "__metadata__" is not an object');
  const metadata = new Map<string, string>();
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string')
      throw refuse(`damaged header: metadata ${JSON.stringify(key)} is not a string`);
    metadata.set(key, text);
  }
  return metadata;
}

function readEntry(name: string, value: Json, start: number, refuse: Refuse): TensorEntry {
  const wrong = (why: string) =>
    refuse(`damaged header: tensor ${JSON.stringify(name.slice(0, 200))} ${why}`);
  if (UNUSABLE_NAMES.has(name)) throw wrong('has a name that is not allowed');
  if (!isObject(value)) throw wrong('is not an object');
  for (const key of Object.keys(value)) {
    if (key !== 'dtype' && key !== 'shape' && key !== 'data_offsets') {
      throw wrong(`has an unknown key ${JSON.stringify(key.slice(0, 200))}`);
    }
  }
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) {
    throw wrong(`has dtype ${JSON.stringify(dtype ?? null).slice(0, 40)}; known are ${DTYPES.join(' ')}`);
  }
  if (!isSizes(shape) || shape.length > MAX_AXES)
    throw wrong('has a shape that is not a short list of sizes');
  if (!isSizes(offsets) || offsets.length !== 2) throw wrong('has data_offsets that are not two places');
  const [begin, end] = offsets as [number, number];
  const bytes = shape.reduce((product, length) => product * length, DTYPE_BYTES[dtype]);
  if (end - begin !== bytes) {
    throw wrong(`takes ${end - begin} bytes where ${dtype} [${shape.join(', ')}] needs ${bytes}`);
  }
  return { name, dtype, shape, bytes, position: start + begin };
}

/** The tensors, sorted by position, must cover the bytes from `start` to `size` without gap or overlap. */
function checkTiling(tensors: readonly TensorEntry[], start: number, size: number, refuse: Refuse): void {
  let at = start;
  for (const { name, position, bytes } of tensors) {
    if (position < at) throw refuse(`damaged header: tensor ${JSON.stringify(name)} overlaps another`);
    if (position > at)
      throw refuse(`damaged header: ${position - at} bytes before ${JSON.stringify(name)} are unused`);
    at += bytes;
  }
  if (at > size) throw refuse(`truncated: the tensors end at byte ${at}, the file at ${size}`);
  if (at < size) throw refuse(`damaged: ${size - at} bytes follow the last tensor`);
}

function isObject(value: Json): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: Json | undefined): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);
}
