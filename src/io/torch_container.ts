// The two formats of torch.save, down to the value of the pickle: a zip archive with one entry per storage,
// and (before torch 1.6) pickles in a row with the storages behind them. Storages stay in the file.

import { ByteCursor } from './byte-cursor.ts';
import { DTYPE_BYTES, type Dtype } from './dtype.ts';
import { Failure } from './failure.ts';
import { brief, Dict, Name, readPickle } from './pickle.ts';
import type { Source } from './source.ts';
import { type Root, STORAGES, Storage, torchNames } from './torch_names.ts';
import { checkEntry, readZip, type ZipEntry } from './zip.ts';

/** Where a root lies. */
export interface Place {
  readonly position: number;
  /** The zip entry whose checksum covers it. */
  readonly entry: ZipEntry | null;
}

export interface Container {
  readonly format: 'torch (zip)' | 'torch (legacy)';
  /** What was saved. */
  readonly value: unknown;
  place(root: Root): Place;
}

/** Opens either format, told by its first bytes. */
export function readContainer(source: Source): Container {
  const start = new Uint8Array(Math.min(source.size, 512));
  source.fill(start, 0);
  if (startsWith(start, [0x50, 0x4b, 0x03, 0x04])) return readZipped(source);
  if (start[0] === 0x80) return readLegacy(source);
  const tar = String.fromCharCode(...start.subarray(257, 262)) === 'ustar';
  const why = tar ? 'the tar format of torch before 0.1.10 is not read' : 'not a file of torch.save';
  throw failure(source, why, 'Save it again with a torch of today, or as safetensors');
}

/** Whether a file begins like one of torch.save. */
export function isTorch(start: Uint8Array): boolean {
  return startsWith(start, [0x50, 0x4b, 0x03, 0x04]) || start[0] === 0x80;
}

function startsWith(bytes: Uint8Array, prefix: readonly number[]): boolean {
  return prefix.every((byte, i) => bytes[i] === byte);
}

function failure(source: Source, why: string, fix = 'Copy or download it again'): Failure {
  return new Failure({ what: source.path, why, fix });
}

/** A storage as a persistent id names it. */
interface StorageId {
  readonly dtype: Dtype | null;
  readonly key: string;
  readonly bytes: number;
  /** The view of the legacy format: key, first element, elements. */
  readonly view: unknown;
}

/** ('storage', class, key, device, elements[, view]) */
function readStorageId(id: unknown, refuse: (why: string) => Failure): StorageId {
  if (!Array.isArray(id) || id[0] !== 'storage') {
    throw refuse(`refers to ${Array.isArray(id) ? brief(id[0]) : 'something'} where a storage is expected`);
  }
  const [, kind, key, , elements, view] = id as unknown[];
  const dtype = kind instanceof Name ? STORAGES.get(kind.text) : undefined;
  if (dtype === undefined) throw refuse(`has a storage of the unknown kind ${brief(kind)}`);
  if (typeof key !== 'string') throw refuse('has a storage whose key is no text');
  const size = dtype === null ? 1 : DTYPE_BYTES[dtype];
  if (typeof elements !== 'number' || !Number.isSafeInteger(elements * size) || elements < 0) {
    throw refuse(`has a storage of ${brief(elements)} elements`);
  }
  return { dtype, key, bytes: elements * size, view };
}

function readZipped(source: Source): Container {
  const entries = readZip(source);
  const pickles = [...entries.values()].filter(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (!pickle || pickles.length > 1) {
    const why = `a zip archive with ${pickles.length} entries data.pkl, torch.save writes one`;
    throw failure(source, why, 'Name a file of torch.save');
  }
  const root = pickle.name.slice(0, -'data.pkl'.length);
  checkByteOrder(source, entries.get(`${root}byteorder`));
  checkEntry(source, pickle);

  const cursor = new ByteCursor(source, pickle.position, pickle.position + pickle.bytes, 'its pickle');
  const refuse = (why: string) => cursor.refuse(why);
  const storages = new Map<string, Storage>();
  const persistent = (id: unknown): Storage => {
    const { dtype, key, bytes } = readStorageId(id, refuse);
    const known = storages.get(key);
    if (known && (known.dtype !== dtype || known.bytes !== bytes)) {
      throw refuse(`describes storage ${brief(key)} in two ways`);
    }
    const entry = entries.get(`${root}data/${key}`);
    if (!entry) throw refuse(`needs the storage ${brief(key)}, which is not in the archive`);
    if (entry.bytes < bytes)
      throw refuse(`needs ${bytes} bytes of ${brief(entry.name)}, which has ${entry.bytes}`);
    const storage = known ?? new Storage({ key, bytes: entry.bytes }, dtype, 0, bytes);
    storages.set(key, storage);
    return storage;
  };
  const value = readPickle(cursor, { names: torchNames(refuse), persistent });
  const place = ({ key }: Root): Place => {
    const entry = entries.get(`${root}data/${key}`)!;
    return { position: entry.position, entry };
  };
  return { format: 'torch (zip)', value, place };
}

/** Newer files say in which order the bytes of a number stand; older ones were written little-endian. */
function checkByteOrder(source: Source, entry: ZipEntry | undefined): void {
  if (!entry) return;
  checkEntry(source, entry);
  const bytes = new Uint8Array(Math.min(entry.bytes, 16));
  source.fill(bytes, entry.position);
  const order = String.fromCharCode(...bytes).trim();
  if (order === 'little') return;
  throw failure(
    source,
    `its byte order is ${brief(order)}, only little is read`,
    'Save it again on x86 or ARM',
  );
}

/** The first pickle of the legacy format. */
const MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_VERSION = 1001;

function readLegacy(source: Source): Container {
  const cursor = new ByteCursor(source, 0, source.size, 'its pickle');
  const refuse = (why: string) => cursor.refuse(why);
  const names = torchNames(refuse);
  const noStorages = (): never => {
    throw refuse('refers to a storage before there are any');
  };
  const next = () => readPickle(cursor, { names, persistent: noStorages });
  if (next() !== MAGIC)
    throw failure(source, 'a pickle, but not one of torch.save', 'Name a file of torch.save');
  const version = next();
  if (version !== LEGACY_VERSION)
    throw failure(source, `version ${brief(version)} of torch.save is not known`);
  const system = next();
  if (!(system instanceof Dict) || system.get('little_endian') !== true) {
    throw failure(source, 'it is not little-endian', 'Save it again on x86 or ARM');
  }

  const roots = new Map<string, Root & { readonly dtype: Dtype; readonly elements: number }>();
  const persistent = (id: unknown): Storage => {
    const { dtype, key, bytes, view } = readStorageId(id, refuse);
    if (dtype === null) throw refuse('has a storage of plain bytes, which this format never had');
    const size = DTYPE_BYTES[dtype];
    const known = roots.get(key);
    if (known && (known.bytes !== bytes || known.dtype !== dtype)) {
      throw refuse(`describes storage ${brief(key)} in two ways`);
    }
    const root = known ?? { key, bytes, dtype, elements: bytes / size };
    roots.set(key, root);
    if (view === null || view === undefined) return new Storage(root, dtype, 0, bytes);
    const [, first, elements] = Array.isArray(view) ? view : [];
    const inside = [first, elements].every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!inside || first + elements > root.elements) throw refuse(`has a view outside storage ${brief(key)}`);
    return new Storage(root, dtype, first * size, elements * size);
  };
  const value = readPickle(cursor, { names, persistent });
  const keys = next();
  if (!Array.isArray(keys)) throw refuse('does not list its storages');

  const places = new Map<string, number>();
  let at = cursor.position;
  for (const key of keys) {
    const root = roots.get(key);
    if (!root || places.has(key))
      throw refuse(`lists the storage ${brief(key)}, which is not known or not new`);
    const prefix = new Uint8Array(8);
    source.fill(prefix, at);
    const elements = Number(new DataView(prefix.buffer).getBigInt64(0, true));
    if (elements !== root.elements) {
      throw failure(
        source,
        `storage ${brief(key)} has ${elements} elements, its pickle says ${root.elements}`,
      );
    }
    places.set(key, at + 8);
    at += 8 + root.bytes;
    if (at > source.size) {
      throw failure(
        source,
        `truncated: storage ${brief(key)} ends at byte ${at}, the file at ${source.size}`,
      );
    }
  }
  const absent = [...roots.keys()].find((key) => !places.has(key));
  if (absent !== undefined) throw failure(source, `storage ${brief(absent)} is missing`);
  if (at < source.size) throw failure(source, `damaged: ${source.size - at} bytes follow the last storage`);
  const format = 'torch (legacy)';
  return { format, value, place: ({ key }) => ({ position: places.get(key)!, entry: null }) };
}
