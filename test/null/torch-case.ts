// Pickles, zip archives and legacy files of torch.save made by hand, byte by byte, right and wrong.

import { crc32 } from 'node:zlib';
import { writeFileSync } from 'node:fs';

type Part = string | number | readonly number[] | Uint8Array | ArrayBufferView;

/** Bytes in a row: texts as Latin-1, numbers as single bytes. */
export function bytes(...parts: readonly Part[]): Uint8Array<ArrayBuffer> {
  const arrays = parts.map((part) => {
    if (typeof part === 'string') return Uint8Array.from(part, (char) => char.charCodeAt(0));
    if (typeof part === 'number') return Uint8Array.of(part);
    return ArrayBuffer.isView(part)
      ? new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
      : Uint8Array.from(part);
  });
  const all = new Uint8Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

export const u16 = (n: number) => new Uint8Array(Uint16Array.of(n).buffer);
export const u32 = (n: number) => new Uint8Array(Uint32Array.of(n).buffer);
export const u64 = (n: number | bigint) => new Uint8Array(BigUint64Array.of(BigInt(n)).buffer);

// Words of the pickle machine -------------------------------------------------------------------------

export const PROTO = [0x80, 2];
export const text = (s: string) => {
  const utf8 = new TextEncoder().encode(s);
  return bytes('X', u32(utf8.length), utf8);
};
/** An integer: BININT where it fits, else LONG1 of 8 bytes. */
export const int = (n: number) =>
  Math.abs(n) < 2 ** 31 ? bytes('J', u32(n >>> 0)) : bytes(0x8a, 8, u64(BigInt.asUintN(64, BigInt(n))));
export const global = (module: string, name: string) => bytes('c', module, '\n', name, '\n');
export const tuple = (...items: readonly Part[]) => bytes('(', ...items, 't');
export const dict = (...items: readonly Part[]) => bytes('}(', ...items, 'u');
export const ordered = (...items: readonly Part[]) =>
  bytes(global('collections', 'OrderedDict'), ')R(', ...items, 'u');
export const pickle = (...parts: readonly Part[]) => bytes(PROTO, ...parts, '.');

export interface TensorWords {
  readonly key?: string;
  readonly kind?: string;
  /** Elements of the storage. */
  readonly held?: number;
  readonly offset?: number;
  readonly shape?: readonly number[];
  readonly strides?: readonly number[];
  /** What stands behind the number of elements: the view of legacy files. */
  readonly view?: Part;
}

export function storage({ key = '0', kind = 'FloatStorage', held = 6, view = '' }: TensorWords): Uint8Array {
  return bytes(tuple(text('storage'), global('torch', kind), text(key), text('cpu'), int(held), view), 'Q');
}

/** A call of torch._utils._rebuild_tensor_v2. */
export function tensor(words: TensorWords = {}): Uint8Array {
  const { offset = 0, shape = [2, 3], strides = [3, 1] } = words;
  const sizes = (list: readonly number[]) => tuple(...list.map(int));
  const hooks = bytes(global('collections', 'OrderedDict'), ')R');
  const args = tuple(storage(words), int(offset), sizes(shape), sizes(strides), 0x89, hooks);
  return bytes(global('torch._utils', '_rebuild_tensor_v2'), args, 'R');
}

// Archives --------------------------------------------------------------------------------------------

export interface Entry {
  readonly name: string;
  readonly data: Uint8Array;
  readonly crc?: number;
  readonly method?: number;
  readonly flags?: number;
  /** Size before compression, if it is to differ. */
  readonly size?: number;
  /** Place of the local header that the directory claims. */
  readonly place?: number;
  readonly localName?: string;
  readonly zip64?: boolean;
}

export interface ZipOptions {
  readonly comment?: string;
  readonly zip64?: boolean;
  /** Added to what the end record says. */
  readonly entries?: number;
  readonly directory?: number;
  readonly position?: number;
  readonly disk?: number;
}

/** A zip archive of stored entries, with whatever lies the options ask for. */
export function zip(entries: readonly Entry[], options: ZipOptions = {}): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  const central: Uint8Array[] = [];
  let at = 0;
  for (const entry of entries) {
    const { name, data, crc = crc32(data), method = 0, flags = 0, size = data.length } = entry;
    const own = entry.localName ?? name;
    const pad = bytes('FB', u16(3), 'ZZZ');
    const fixed = [u16(method), u32(0), u32(crc), u32(data.length), u32(size)];
    const local = bytes(
      'PK\x03\x04',
      u16(20),
      u16(flags),
      ...fixed,
      u16(own.length),
      u16(pad.length),
      own,
      pad,
    );
    const place = entry.place ?? at;
    const ones = u32(0xffffffff);
    const extra = entry.zip64 ? bytes(u16(1), u16(24), u64(size), u64(data.length), u64(place)) : bytes();
    const sizes = entry.zip64 ? [ones, ones] : [u32(data.length), u32(size)];
    const words = [u16(20), u16(20), u16(flags), u16(method), u32(0), u32(crc), ...sizes];
    const lengths = [u16(name.length), u16(extra.length), u16(0), u16(0), u16(0), u32(0)];
    central.push(bytes('PK\x01\x02', ...words, ...lengths, entry.zip64 ? ones : u32(place), name, extra));
    parts.push(local, data);
    at += local.length + data.length;
  }
  const directory = bytes(...central);
  const count = entries.length + (options.entries ?? 0);
  const size = directory.length + (options.directory ?? 0);
  const position = at + (options.position ?? 0);
  const { comment = '', disk = 0 } = options;
  const large = options.zip64
    ? bytes(
        ...['PK\x06\x06', u64(44), u16(45), u16(45), u32(0), u32(0)],
        ...[u64(count), u64(count), u64(size), u64(position)],
        ...['PK\x06\x07', u32(0), u64(at + directory.length), u32(1)],
      )
    : bytes();
  const shown = options.zip64 ? [u16(0xffff), u16(0xffff), u32(0xffffffff), u32(0xffffffff)] : undefined;
  const numbers = shown ?? [u16(count), u16(count), u32(size), u32(position)];
  const end = bytes('PK\x05\x06', u16(disk), u16(disk), ...numbers, u16(comment.length), comment);
  return bytes(...parts, directory, large, end);
}

/** The archive of torch.save: a pickle and its storages. */
export function torchZip(
  data: Uint8Array,
  storages: Readonly<Record<string, Uint8Array | ArrayBufferView>> = {},
  more: readonly Entry[] = [],
  options: ZipOptions = {},
): Uint8Array<ArrayBuffer> {
  const files = Object.entries(storages).map(([key, values]) => ({
    name: `m/data/${key}`,
    data: bytes(values),
  }));
  return zip([{ name: 'm/data.pkl', data }, ...files, ...more], options);
}

/** The format before torch 1.6. */
export function torchLegacy(
  data: Uint8Array,
  storages: readonly (readonly [key: string, elements: number, values: ArrayBufferView])[],
  { littleEndian = true, version = 1001 } = {},
): Uint8Array<ArrayBuffer> {
  const magic = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
  const system = dict(text('protocol_version'), int(1001), text('little_endian'), littleEndian ? 0x88 : 0x89);
  const keys = pickle('](', ...storages.map(([key]) => text(key)), 'e');
  const raw = storages.flatMap(([, elements, values]) => [u64(elements), values]);
  return bytes(pickle(0x8a, 10, magic), pickle(int(version)), pickle(system), data, keys, ...raw);
}

/** Writes a file and returns its path. */
export function put(path: string, content: Uint8Array): string {
  writeFileSync(path, content);
  return path;
}
