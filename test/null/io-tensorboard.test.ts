// Event files of TensorBoard: checksums against published ones, a parse by other means, resumes.
import { afterAll, expect, test } from 'bun:test';
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32c, EventFile } from '../../src/io/tensorboard.ts';

const root = mkdtempSync(join(tmpdir(), 'events-'));
afterAll(() => rmSync(root, { recursive: true }));

const fresh = () => mkdtempSync(join(root, 'run-'));
const pathIn = (folder: string) => join(folder, readdirSync(folder)[0]!);

/** RFC 3720, B.4: CRC-32C of 32 bytes. */
test.each([
  ['zeros', () => 0, 0x8a9136aa],
  ['ones', () => 255, 0x62a8ab43],
  ['rising', (i: number) => i, 0x46dd794e],
  ['falling', (i: number) => 31 - i, 0x113fdb5c],
])('CRC-32C of %s', (_, byte, expected) => {
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => byte(i)))).toBe(expected);
});

type Field = { readonly number: number; readonly value: bigint | Buffer };

/** A message's fields by the wire format alone: numbers as they lie there, the rest as bytes. */
function fieldsOf(message: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (length: number) => {
    at += length;
    return message.subarray(at - length, at);
  };
  while (at < message.length) {
    const tag = Number(varint());
    const value = [varint, () => take(8), () => take(Number(varint())), null, null, () => take(4)][
      tag & 7
    ]!();
    fields.push({ number: tag >> 3, value });
  }
  return fields;
}

const only = (message: Buffer, number: number) => {
  const found = fieldsOf(message).filter((field) => field.number === number);
  expect(found.length).toBe(1);
  return found[0]!.value as Buffer;
};

/** The records of a file; their checksums are computed bit by bit here. */
function recordsOf(path: string): Buffer[] {
  const slow = (data: Buffer) => {
    let crc = 0xffffffffn;
    for (const byte of data) {
      crc ^= BigInt(byte);
      for (let bit = 0; bit < 8; bit++) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
    }
    crc ^= 0xffffffffn;
    return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn);
  };
  const file = readFileSync(path);
  const records: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    expect(file.readUInt32LE(at + 8)).toBe(slow(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(file.readUInt32LE(at + 12 + length)).toBe(slow(data));
    records.push(data);
    at += 16 + length;
  }
  return records;
}

const stepsOf = (folder: string) =>
  recordsOf(pathIn(folder))
    .slice(1)
    .map((event) => Number(fieldsOf(event).find(({ number }) => number === 2)?.value));

test('scalars and pictures as event.proto and summary.proto have them', () => {
  const folder = fresh();
  const file = EventFile.open(folder, 0);
  file.scalars(300, { loss: 0.5, lr: Number.NaN });
  file.image(2 ** 40, 'preview', Uint8Array.of(1, 2, 3), 640, 200);
  file.close();
  expect(pathIn(folder)).toMatch(/\/events\.out\.tfevents\.\d{10}\.microdiff$/);
  const [head, scalars, image, ...rest] = recordsOf(pathIn(folder));
  expect(rest).toEqual([]);
  expect(only(head!, 3).toString()).toBe('brain.Event:2');
  const seconds = only(scalars!, 1).readDoubleLE();
  expect(Math.abs(seconds - Date.now() / 1000)).toBeLessThan(60);
  expect(only(scalars!, 2) as unknown).toBe(300n);
  const values = fieldsOf(only(scalars!, 5)).map(({ number, value }) => {
    expect(number).toBe(1);
    return [only(value as Buffer, 1).toString(), only(value as Buffer, 2).readFloatLE()];
  });
  expect(values).toEqual([
    ['loss', 0.5],
    ['lr', Number.NaN],
  ]);
  expect(only(image!, 2) as unknown).toBe(2n ** 40n);
  const value = only(only(image!, 5), 1);
  expect(only(value, 1).toString()).toBe('preview');
  const picture = only(value, 4);
  expect([1, 2, 3].map((n) => only(picture, n) as unknown)).toEqual([200n, 640n, 3n]);
  expect([...only(picture, 4)]).toEqual([1, 2, 3]);
});

test('a resume cuts off later steps, torn and damaged ends, and repeats no step', () => {
  const folder = fresh();
  const write = (from: number, ...steps: number[]) => {
    const file = EventFile.open(folder, from);
    for (const step of steps) file.scalars(step, { loss: step });
    file.close();
  };
  write(0, 100, 200, 300, 400);
  write(250, 300, 400);
  expect(stepsOf(folder)).toEqual([100, 200, 300, 400]);
  const whole = statSync(pathIn(folder)).size;
  write(400);
  expect(statSync(pathIn(folder)).size).toBe(whole);
  appendFileSync(pathIn(folder), Buffer.alloc(9, 7));
  write(400, 500);
  expect(stepsOf(folder)).toEqual([100, 200, 300, 400, 500]);
  const bytes = readFileSync(pathIn(folder));
  bytes[bytes.length - 6]! ^= 1; // in the last event
  writeFileSync(pathIn(folder), bytes);
  write(900, 600);
  expect(stepsOf(folder)).toEqual([100, 200, 300, 400, 600]);
  expect(readdirSync(folder).length).toBe(1);
});
