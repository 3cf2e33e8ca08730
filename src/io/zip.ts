// The directory of a zip archive, zip64 included: entries stored as torch.save writes them, or deflated as
// numpy's savez_compressed does, where the caller takes such. Every size and place is checked against the
// others before anything is believed: entries that overlap, that stand there twice or that lie outside the
// file are refused.

import { crc32, inflateRawSync } from 'node:zlib';
import { decode } from './byte-cursor.ts';
import { Failure } from './failure.ts';
import type { Source } from './source.ts';

export interface ZipEntry {
  readonly name: string;
  readonly bytes: number;
  /** CRC-32 that the directory gives. */
  readonly crc: number;
  /** Where the bytes begin, counted from the beginning of the file. */
  readonly position: number;
  /** As many as `bytes` where they are stored as they are; else deflated. */
  readonly packed: number;
  readonly deflated: boolean;
}

export interface ZipOptions {
  /** Entries may be deflated; else one such is refused. */
  readonly deflated?: boolean;
}

const STORED = 0;
const DEFLATED = 8;

const SIGNATURE = {
  local: 0x04034b50,
  central: 0x02014b50,
  end: 0x06054b50,
  end64: 0x06064b50,
  at64: 0x07064b50,
};
const SIZE = { local: 30, central: 46, end: 22, end64: 56, at64: 20 };
/** The longest comment at the end of an archive. */
const MAX_COMMENT = 2 ** 16 - 1;
const MAX_ENTRIES = 2 ** 18;
const MAX_DIRECTORY = 2 ** 26;
const ENCRYPTED = 1;
const CHUNK_BYTES = 2 ** 22;

interface Directory {
  readonly entries: number;
  readonly bytes: number;
  readonly position: number;
  /** Where the records after the directory begin. */
  readonly end: number;
}

/** Reads the directory; the names in its order. */
export function readZip(source: Source, { deflated = false }: ZipOptions = {}): Map<string, ZipEntry> {
  const directory = findDirectory(source);
  const { position, bytes, entries } = directory;
  if (position + bytes > directory.end) throw refuse(source, 'its directory does not lie where it says');
  if (entries > MAX_ENTRIES || bytes > MAX_DIRECTORY) {
    throw refuse(source, `its directory announces ${entries} entries in ${bytes} bytes, which is too much`);
  }
  if (entries * SIZE.central > bytes) throw refuse(source, `${entries} entries do not fit its directory`);
  const table = view(source, position, bytes);
  const found = new Map<string, ZipEntry>();
  const places: [begin: number, end: number, name: string][] = [];
  let at = 0;
  for (let i = 0; i < entries; i++) {
    const record = readRecord(source, table, at, deflated);
    at = record.next;
    const { name } = record;
    if (found.has(name)) throw refuse(source, `${JSON.stringify(name)} stands twice in its directory`);
    const data = checkLocal(source, record, directory.position);
    const { bytes: whole, crc, packed, method } = record;
    found.set(name, { name, bytes: whole, crc, position: data, packed, deflated: method === DEFLATED });
    places.push([record.local, data + packed, name]);
  }
  if (at !== bytes) throw refuse(source, `its directory has ${bytes - at} bytes more than its entries`);
  places.sort((a, b) => a[0] - b[0]);
  for (const [i, [begin, , name]] of places.entries()) {
    const before = places[i - 1];
    if (before && begin < before[1]) {
      throw refuse(source, `its entries ${JSON.stringify(before[2])} and ${JSON.stringify(name)} overlap`);
    }
  }
  return found;
}

/** Reads an entry through and compares its checksum. */
export function checkEntry(source: Source, entry: ZipEntry): void {
  const chunk = new Uint8Array(Math.min(entry.bytes, CHUNK_BYTES));
  let crc = 0;
  for (let at = 0; at < entry.bytes; at += chunk.length) {
    const part = chunk.subarray(0, Math.min(chunk.length, entry.bytes - at));
    source.fill(part, entry.position + at);
    crc = crc32(part, crc);
  }
  compareCrc(source, entry, crc);
}

/**
 * All bytes of an entry, inflated where they are deflated, their checksum compared. An entry of more than
 * `most` bytes is a Failure.
 */
export function readEntry(source: Source, entry: ZipEntry, most: number): Uint8Array<ArrayBuffer> {
  if (entry.bytes > most || entry.packed > most) {
    throw refuse(source, `${JSON.stringify(entry.name)} has ${entry.bytes} bytes, more than ${most}`);
  }
  let bytes = new Uint8Array(entry.packed);
  source.fill(bytes, entry.position);
  if (entry.deflated) {
    const broken = () => refuse(source, `${JSON.stringify(entry.name)} cannot be inflated`);
    try {
      bytes = new Uint8Array(inflateRawSync(bytes, { maxOutputLength: Math.max(1, entry.bytes) }));
    } catch {
      throw broken(); // zlib's own words name neither file nor entry
    }
    if (bytes.length !== entry.bytes) throw broken();
  }
  compareCrc(source, entry, crc32(bytes));
  return bytes;
}

/** Failure where the checksum of what was read is not that of the directory. */
export function compareCrc(source: Source, entry: ZipEntry, crc: number): void {
  if (crc === entry.crc) return;
  throw refuse(source, `the checksum of ${JSON.stringify(entry.name)} does not fit its bytes (CRC-32)`);
}

function refuse(source: Source, why: string, fix = 'Copy or download it again'): Failure {
  return new Failure({ what: source.path, why: `damaged zip archive: ${why}`, fix });
}

function view(source: Source, position: number, bytes: number): DataView<ArrayBuffer> {
  if (position + bytes > source.size) throw refuse(source, 'it points outside the file');
  const buffer = new Uint8Array(bytes);
  source.fill(buffer, position);
  return new DataView(buffer.buffer);
}

/** A number of 8 bytes; beyond 2^53 it is more than any file has, whatever its last digits. */
const uint64 = (table: DataView, at: number) => Number(table.getBigUint64(at, true));

function findDirectory(source: Source): Directory {
  const span = Math.min(source.size, SIZE.end + MAX_COMMENT);
  const tail = view(source, source.size - span, span);
  for (let at = span - SIZE.end; at >= 0; at--) {
    if (tail.getUint32(at, true) !== SIGNATURE.end) continue;
    if (at + SIZE.end + tail.getUint16(at + 20, true) !== span) continue;
    return readEnd(source, tail, at, source.size - span + at);
  }
  throw refuse(source, 'it has no directory at its end: the file was cut off');
}

/** The record at the end, or the zip64 one before it, which counts where there is one. */
function readEnd(source: Source, tail: DataView, at: number, place: number): Directory {
  if (tail.getUint16(at + 4, true) !== 0 || tail.getUint16(at + 6, true) !== 0) {
    throw refuse(source, 'it is split over several files', 'Join the parts first');
  }
  const plain = {
    entries: tail.getUint16(at + 10, true),
    bytes: tail.getUint32(at + 12, true),
    position: tail.getUint32(at + 16, true),
    end: place,
  };
  const large = plain.entries === 0xffff || plain.bytes === 0xffffffff || plain.position === 0xffffffff;
  const locator = place >= SIZE.at64 ? view(source, place - SIZE.at64, SIZE.at64) : undefined;
  if (locator?.getUint32(0, true) !== SIGNATURE.at64) {
    if (large) throw refuse(source, 'its zip64 record is missing');
    return plain;
  }
  const position = uint64(locator, 8);
  const record = view(source, position, SIZE.end64);
  if (record.getUint32(0, true) !== SIGNATURE.end64) throw refuse(source, 'its zip64 record is missing');
  return {
    entries: uint64(record, 32),
    bytes: uint64(record, 40),
    position: uint64(record, 48),
    end: position,
  };
}

interface CentralRecord {
  readonly name: string;
  readonly bytes: number;
  readonly packed: number;
  readonly method: number;
  readonly crc: number;
  /** Place of the local header. */
  readonly local: number;
  /** Place of the next record in the directory. */
  readonly next: number;
}

function readRecord(
  source: Source,
  table: DataView<ArrayBuffer>,
  at: number,
  deflated: boolean,
): CentralRecord {
  const left = table.byteLength - at;
  if (left < SIZE.central || table.getUint32(at, true) !== SIGNATURE.central) {
    throw refuse(source, `its directory is broken at entry byte ${at}`);
  }
  const nameBytes = table.getUint16(at + 28, true);
  const extraBytes = table.getUint16(at + 30, true);
  const next = at + SIZE.central + nameBytes + extraBytes + table.getUint16(at + 32, true);
  if (next > table.byteLength) throw refuse(source, `its directory is broken at entry byte ${at}`);
  const name = decode(new Uint8Array(table.buffer, at + SIZE.central, nameBytes));
  if (name === undefined || name === '') throw refuse(source, 'an entry has no name in UTF-8');
  const quoted = JSON.stringify(name.slice(0, 200));
  if (table.getUint16(at + 8, true) & ENCRYPTED) {
    throw refuse(source, `${quoted} is encrypted`, 'Decrypt it first');
  }
  const method = table.getUint16(at + 10, true);
  if (method !== STORED && !(deflated && method === DEFLATED)) {
    throw refuse(source, `${quoted} is compressed (method ${method})`, 'Pack it again uncompressed: zip -0');
  }
  const sizes = {
    bytes: table.getUint32(at + 24, true),
    packed: table.getUint32(at + 20, true),
    local: table.getUint32(at + 42, true),
  };
  widen(sizes, table, at + SIZE.central + nameBytes, extraBytes, () =>
    refuse(source, `${quoted} lacks its sizes`),
  );
  if (method === STORED && sizes.bytes !== sizes.packed) {
    throw refuse(source, `${quoted} has ${sizes.packed} bytes that stand for ${sizes.bytes}`);
  }
  return { name, method, ...sizes, crc: table.getUint32(at + 16, true), next };
}

/** Puts in the 64-bit numbers of the zip64 field for those that are all ones. */
function widen(
  sizes: Record<'bytes' | 'packed' | 'local', number>,
  table: DataView,
  begin: number,
  length: number,
  missing: () => Failure,
): void {
  const wanted = (['bytes', 'packed', 'local'] as const).filter((key) => sizes[key] === 0xffffffff);
  if (wanted.length === 0) return;
  for (let at = begin; at + 4 <= begin + length; ) {
    const size = table.getUint16(at + 2, true);
    const end = at + 4 + size;
    if (end > begin + length) throw missing();
    if (table.getUint16(at, true) === 1) {
      if (size < 8 * wanted.length) throw missing();
      for (const [i, key] of wanted.entries()) sizes[key] = uint64(table, at + 4 + 8 * i);
      return;
    }
    at = end;
  }
  throw missing();
}

/** Compares the header before an entry's bytes with the directory; returns where the bytes begin. */
function checkLocal(source: Source, record: CentralRecord, directory: number): number {
  const { name, packed, method, local } = record;
  const quoted = JSON.stringify(name.slice(0, 200));
  const lies = () => refuse(source, `${quoted} does not lie where the directory says`);
  if (local + SIZE.local > directory) throw lies();
  const header = view(source, local, SIZE.local);
  if (header.getUint32(0, true) !== SIGNATURE.local) throw lies();
  const nameBytes = header.getUint16(26, true);
  const data = local + SIZE.local + nameBytes + header.getUint16(28, true);
  if (data + packed > directory) throw lies();
  const own = decode(new Uint8Array(view(source, local + SIZE.local, nameBytes).buffer));
  if (own !== name || header.getUint16(8, true) !== method) {
    throw refuse(source, `the header of ${quoted} does not fit the directory`);
  }
  return data;
}
