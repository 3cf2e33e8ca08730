// Event files of TensorBoard, written by hand: records of Event messages (protocol buffers of
// tensorflow/core/util/event.proto) in TFRecord's framing, with scalars and pictures in them.

import { closeSync, fsyncSync, ftruncateSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { osFailure } from './oserror.ts';

/** Files of a run that TensorBoard takes for events have this in their names. */
const MARK = 'events.out.tfevents.';
const OURS = '.microdiff';
/** Bytes of a record beside its data: length (8) with its checksum (4), checksum of the data (4). */
const FRAME = 16;

/** The event file of a run, open for appending. */
export class EventFile {
  private constructor(
    readonly path: string,
    private readonly fd: number,
    private bytes: number,
  ) {}

  /**
   * Opens the event file in `folder`, or makes it. Events of steps after `lastStep` are cut off (they will be
   * done again), and so is a torn end.
   */
  static open(folder: string, lastStep: number): EventFile {
    const known = readdirSync(folder).find((name) => name.startsWith(MARK) && name.endsWith(OURS));
    const begun = String(Math.floor(Date.now() / 1000)).padStart(10, '0');
    const path = join(folder, known ?? `${MARK}${begun}${OURS}`);
    try {
      const kept = known ? keptBytes(readFileSync(path), lastStep) : 0;
      const fd = openSync(path, 'a', 0o666);
      ftruncateSync(fd, kept);
      const file = new EventFile(path, fd, kept);
      if (kept === 0) file.append(text(3, 'brain.Event:2'));
      return file;
    } catch (error) {
      throw osFailure(error, path, 'write');
    }
  }

  /** One value of each name, at a step. */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const summary = Object.entries(values).flatMap(([tag, value]) => [
      message(1, [text(1, tag), float(2, value)]),
    ]);
    if (summary.length > 0) this.append(varint(2, step), message(5, summary));
  }

  /** A picture in PNG. */
  image(step: number, tag: string, png: Uint8Array, width: number, height: number): void {
    const image = [varint(1, height), varint(2, width), varint(3, 3), bytes(4, png)];
    this.append(varint(2, step), message(5, [message(1, [text(1, tag), message(4, image)])]));
  }

  sync(): void {
    fsyncSync(this.fd);
  }

  close(): void {
    closeSync(this.fd);
  }

  /** A full disk is a Failure, and the file ends with the record before. */
  private append(...fields: Uint8Array[]): void {
    const record = frame(join8([double(1, Date.now() / 1000), ...fields]));
    try {
      for (let at = 0; at < record.length; ) at += writeSync(this.fd, record, at);
      this.bytes += record.length;
    } catch (error) {
      ftruncateSync(this.fd, this.bytes);
      throw osFailure(error, this.path, 'write');
    }
  }
}

/** Where the first record begins that is torn, damaged, or of a step after `lastStep`. */
function keptBytes(file: Uint8Array, lastStep: number): number {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  let at = 0;
  while (at + FRAME <= file.length) {
    const length = Number(view.getBigUint64(at, true));
    const end = at + FRAME + length;
    if (view.getUint32(at + 8, true) !== masked(file.subarray(at, at + 8)) || end > file.length) break;
    const data = file.subarray(at + 12, end - 4);
    if (view.getUint32(end - 4, true) !== masked(data) || stepOf(data) > lastStep) break;
    at = end;
  }
  return at;
}

/** The step of an event as this file's writer puts it: behind nine bytes of time; 0 where there is none. */
function stepOf(event: Uint8Array): number {
  if (event[9] !== 0x10) return 0;
  let step = 0;
  for (let i = 10, scale = 1; ; i++, scale *= 128) {
    const byte = event[i] ?? 0;
    step += (byte & 127) * scale;
    if (byte < 128) return step;
  }
}

function frame(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(FRAME + data.length);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, masked(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, masked(data), true);
  return record;
}

// Protocol buffers: a field is its number and wire type in a varint, then the value ------------------

function varint(field: number, value: number): Uint8Array {
  return Uint8Array.from([...base128(8 * field), ...base128(value)]);
}

/** Whole numbers up to 2^53, seven bits a byte, the lowest first. */
function base128(value: number): number[] {
  const out: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) + 128);
  return [...out, value];
}

function double(field: number, value: number): Uint8Array {
  const out = new DataView(new ArrayBuffer(9));
  out.setUint8(0, 8 * field + 1);
  out.setFloat64(1, value, true);
  return new Uint8Array(out.buffer);
}

function float(field: number, value: number): Uint8Array {
  const out = new DataView(new ArrayBuffer(5));
  out.setUint8(0, 8 * field + 5);
  out.setFloat32(1, value, true);
  return new Uint8Array(out.buffer);
}

function bytes(field: number, value: Uint8Array): Uint8Array {
  return join8([Uint8Array.from([8 * field + 2, ...base128(value.length)]), value]);
}

const text = (field: number, value: string) => bytes(field, new TextEncoder().encode(value));
const message = (field: number, parts: readonly Uint8Array[]) => bytes(field, join8(parts));

function join8(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

// Checksums ------------------------------------------------------------------------------------------

/** CRC-32C (Castagnoli), a byte at a time. */
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (let i = 0; i < data.length; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ data[i]!) & 255]!;
  return (crc ^ 0xffffffff) >>> 0;
}

/** Turned and shifted, as TFRecord has it, so that a checksum of checksums is no trouble. */
function masked(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
