// Safetensors: round trips, conversions, and files that are damaged in every way we could think of.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bytesOf } from '../../src/io/dtype.ts';
import { Failure } from '../../src/io/failure.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { safetensorsBytes, type TensorToWrite, writeSafetensors } from '../../src/io/safetensors_write.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microdiff-safetensors-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SMALL: TensorToWrite[] = [
  { name: '10', dtype: 'F32', shape: [2, 3], data: Float32Array.of(1, -2, 3.5, 0, NaN, -Infinity) },
  { name: '2', dtype: 'I64', shape: [2], data: BigInt64Array.of(5n, -6n) },
  { name: 'a.bf16', dtype: 'BF16', shape: [3], data: Float32Array.of(1, 2.5, -3) },
  { name: 'b.f16', dtype: 'F16', shape: [1, 2], data: Float32Array.of(0.5, 65504) },
  { name: 'flag', dtype: 'BOOL', shape: [3], data: Uint8Array.of(1, 0, 1) },
  { name: 'scalar', dtype: 'F64', shape: [], data: Float64Array.of(Math.PI) },
  { name: 'nothing', dtype: 'F32', shape: [0, 7], data: new Float32Array(0) },
  { name: 'i32', dtype: 'I32', shape: [2], data: Int32Array.of(7, -(2 ** 31)) },
  { name: 'i16', dtype: 'I16', shape: [1], data: Int16Array.of(-3) },
  { name: 'i8', dtype: 'I8', shape: [2], data: Int8Array.of(-128, 127) },
  { name: 'u16', dtype: 'U16', shape: [1], data: Uint16Array.of(65535) },
  { name: 'u32', dtype: 'U32', shape: [1], data: Uint32Array.of(2 ** 32 - 1) },
  { name: 'u64', dtype: 'U64', shape: [1], data: BigUint64Array.of(2n ** 53n) },
  { name: 'u8', dtype: 'U8', shape: [1], data: Uint8Array.of(255) },
];

/** A file made by hand, so that the writer cannot share a mistake with the reader. */
function handmade(header: string | object, data = 0, length?: bigint): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + text.length + data);
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  file.set(text, 8);
  return file;
}

function message(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(Failure);
    return (error as Failure).message;
  }
  throw new Error('it was accepted');
}

describe('round trip', () => {
  test('all types, both orders, metadata', () => {
    for (const order of ['given', 'wide-first'] as const) {
      const path = join(folder, `${order}.safetensors`);
      writeSafetensors(path, SMALL, { metadata: { format: 'pt', __proto__x: 'ü' }, order });
      expect(readFileSync(path).length).toBe(
        safetensorsBytes(SMALL, { metadata: { format: 'pt', __proto__x: 'ü' } }),
      );
      using file = Safetensors.open(path);
      expect(Object.fromEntries(file.metadata)).toEqual({ format: 'pt', __proto__x: 'ü' });
      expect(file.tensors.size).toBe(SMALL.length);
      if (order === 'wide-first') {
        expect([...file.tensors.keys()].slice(0, 2)).toEqual(['2', 'scalar']);
        for (const { dtype, position } of file.tensors.values()) {
          expect(position % (dtype === 'F64' || dtype === 'I64' ? 8 : 1)).toBe(0);
        }
      } else {
        expect([...file.tensors.keys()].filter((n) => n !== 'nothing')).toEqual(
          SMALL.map((t) => t.name).filter((n) => n !== 'nothing'),
        );
      }
      expect([...file.readFloat32('10')]).toEqual([1, -2, 3.5, 0, NaN, -Infinity]);
      expect(file.readInt32('2')).toEqual(Int32Array.of(5, -6));
      expect(file.readFloat32('a.bf16')).toEqual(Float32Array.of(1, 2.5, -3));
      expect(file.readFloat64('b.f16')).toEqual(Float64Array.of(0.5, 65504));
      expect(file.readInt32('flag')).toEqual(Int32Array.of(1, 0, 1));
      expect(file.readFloat64('scalar')).toEqual(Float64Array.of(Math.PI));
      expect(file.readFloat32('scalar')[0]).toBe(Math.fround(Math.PI));
      expect(file.readFloat32('nothing').length).toBe(0);
      expect(file.readInt32('i32')).toEqual(Int32Array.of(7, -(2 ** 31)));
      expect(file.readFloat32('i16')).toEqual(Float32Array.of(-3));
      expect(file.readFloat64('i8')).toEqual(Float64Array.of(-128, 127));
      expect(file.readInt32('u16')).toEqual(Int32Array.of(65535));
      expect(file.readFloat64('u32')).toEqual(Float64Array.of(2 ** 32 - 1));
      expect(file.readFloat32('u64')).toEqual(Float32Array.of(2 ** 53));
      expect(message(() => file.readInt32('u32'))).toContain('does not fit');
      expect(file.readTensor('u8')).toEqual({ dtype: 'U8', shape: [1], bytes: Uint8Array.of(255) });
      const bytes = new Uint8Array(24);
      file.readInto('10', bytes);
      expect(new Float32Array(bytes.buffer)[2]).toBe(3.5);
      const memory = Safetensors.fromBytes(readFileSync(path), 'embedded');
      expect(memory.readFloat32('a.bf16')).toEqual(file.readFloat32('a.bf16'));
    }
  });

  test('tensors larger than one conversion chunk, streamed in parts', () => {
    const n = 5 * 2 ** 20 + 3;
    const values = Float32Array.from({ length: n }, (_, i) => (i % 256) - 128);
    function* parts() {
      yield values.subarray(0, 1000);
      yield values.subarray(1000);
    }
    const path = join(folder, 'large.safetensors');
    writeSafetensors(path, [
      { name: 'half', dtype: 'BF16', shape: [n], data: values },
      { name: 'full', dtype: 'F32', shape: [n], data: parts },
    ]);
    using file = Safetensors.open(path);
    expect(Buffer.compare(bytesOf(file.readFloat32('half')), bytesOf(values))).toBe(0);
    expect(Buffer.compare(bytesOf(file.readFloat32('full')), bytesOf(values))).toBe(0);
    expect(file.readFloat64('half')[n - 1]).toBe(values[n - 1]!);
  });

  test('values that a type cannot hold are refused', () => {
    const path = join(folder, 'values.safetensors');
    writeSafetensors(path, [
      { name: 'big', dtype: 'I64', shape: [1], data: BigInt64Array.of(2n ** 40n) },
      { name: 'odd', dtype: 'I32', shape: [1], data: Int32Array.of(2 ** 24 + 1) },
      { name: 'real', dtype: 'F32', shape: [1], data: Float32Array.of(1) },
    ]);
    using file = Safetensors.open(path);
    expect(message(() => file.readInt32('big'))).toContain('does not fit');
    expect(file.readFloat64('big')[0]).toBe(2 ** 40);
    expect(message(() => file.readFloat32('odd'))).toContain('does not fit');
    expect(message(() => file.readInt32('real'))).toContain('floating-point');
    expect(message(() => file.readTensor('absent'))).toContain('"absent" is missing');
  });

  test('a writer that is given the wrong size leaves no file', () => {
    const path = join(folder, 'wrong.safetensors');
    const tensor: TensorToWrite = { name: 'w', dtype: 'F32', shape: [3], data: new Float32Array(2) };
    expect(() => writeSafetensors(path, [tensor])).toThrow('its shape needs 12');
    expect(() => writeSafetensors(path, [SMALL[0]!, SMALL[0]!])).toThrow('is taken');
    expect(readdirSync(folder).filter((name) => name.includes('wrong'))).toEqual([]);
  });
});

describe('damage', () => {
  test('a file cut off at any byte is refused', () => {
    const path = join(folder, 'cut.safetensors');
    writeSafetensors(path, SMALL, { metadata: { a: 'b' } });
    const whole = readFileSync(path);
    for (let length = 0; length < whole.length; length++) {
      expect(message(() => Safetensors.fromBytes(whole.subarray(0, length), 'cut.safetensors'))).toMatch(
        /^cut\.safetensors: (truncated|not a safetensors file)/,
      );
    }
    truncateSync(path, whole.length - 1);
    expect(message(() => Safetensors.open(path))).toContain(`${path}: truncated`);
    expect(message(() => Safetensors.fromBytes(Buffer.concat([whole, Buffer.of(0)]), 'x'))).toContain(
      'follow',
    );
  });

  test('a file that shrinks after it was opened is refused', () => {
    const path = join(folder, 'shrinks.safetensors');
    writeSafetensors(path, SMALL);
    using file = Safetensors.open(path);
    truncateSync(path, 600);
    expect(message(() => [...file.tensors.keys()].map((name) => file.readTensor(name)))).toContain(
      'ends too early',
    );
  });

  const entry = (
    begin: number,
    end: number,
    shape: unknown = [(end - begin) / 4],
    dtype: unknown = 'F32',
  ) => ({
    dtype,
    shape,
    data_offsets: [begin, end],
  });
  const cases: [string, string | object, number, RegExp][] = [
    ['not JSON', '{"a":', 0, /not JSON/],
    ['array', '[]', 0, /not a JSON object/],
    ['leading space', ' {}', 0, /not a JSON object/],
    ['deep', '['.repeat(200_000), 0, /not JSON/],
    ['overlap', { a: entry(0, 8), b: entry(4, 12) }, 12, /overlaps/],
    ['same place', { a: entry(0, 8), b: entry(0, 8) }, 8, /overlaps/],
    ['gap', { a: entry(0, 4), b: entry(8, 12) }, 12, /unused/],
    ['late start', { a: entry(4, 8) }, 8, /unused/],
    ['beyond the end', { a: entry(0, 16) }, 8, /truncated/],
    ['huge', { a: entry(0, 2 ** 52, [2 ** 50]) }, 8, /truncated/],
    [
      'unsafe',
      '{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,9007199254740993]}}',
      8,
      /shape/,
    ],
    ['overflow', { a: entry(0, 0, [2 ** 40, 2 ** 40]) }, 0, /needs/],
    ['negative', { a: entry(0, 4, [-1]) }, 4, /shape/],
    ['fraction', { a: entry(0, 4, [0.5, 2]) }, 4, /shape/],
    ['text shape', { a: entry(0, 4, '1') }, 4, /shape/],
    ['many axes', { a: entry(0, 4, new Array(100).fill(1)) }, 4, /shape/],
    ['backwards', { a: entry(4, 0, [1]) }, 4, /takes -4/],
    ['dtype', { a: entry(0, 4, [4], 'F8_E4M3') }, 4, /dtype "F8_E4M3"/],
    ['dtype of a prototype', { a: entry(0, 4, [4], 'toString') }, 4, /dtype/],
    ['size', { a: entry(0, 4, [2]) }, 4, /takes 4 bytes where F32 \[2\] needs 8/],
    ['no offsets', { a: { dtype: 'F32', shape: [1] } }, 4, /data_offsets/],
    ['more keys', { a: { ...entry(0, 4), file: '/etc/passwd' } }, 4, /unknown key/],
    ['null entry', { a: null }, 0, /not an object/],
    ['prototype', '{"__proto__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', 0, /not allowed/],
    ['constructor', { constructor: entry(0, 4) }, 4, /not allowed/],
    [
      'twice',
      '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}',
      0,
      /"a" stands there twice/,
    ],
    ['key twice', '{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}', 0, /"dtype" stands/],
    ['metadata', { __metadata__: { a: 1 } }, 0, /metadata "a" is not a string/],
    ['metadata list', { __metadata__: [] }, 0, /not an object/],
  ];
  for (const [name, header, data, expected] of cases) {
    test(name, () => {
      expect(message(() => Safetensors.fromBytes(handmade(header, data), 'f'))).toMatch(expected);
    });
  }

  test('header lengths from zero to 2^64 - 1', () => {
    for (const length of [
      0n,
      1n,
      3n,
      2n ** 27n,
      2n ** 31n,
      2n ** 32n,
      2n ** 53n,
      2n ** 63n,
      2n ** 64n - 1n,
    ]) {
      expect(message(() => Safetensors.fromBytes(handmade('{}', 0, length), 'f'))).toMatch(
        /not a safetensors file|truncated/,
      );
    }
    expect(Safetensors.fromBytes(handmade('{}'), 'f').tensors.size).toBe(0);
  });

  test('bad UTF-8 in the header', () => {
    const file = handmade('{"aa":{}}');
    file[10] = 0xff;
    expect(message(() => Safetensors.fromBytes(file, 'f'))).toContain('not UTF-8');
  });

  test('random bit flips are refused or change nothing but names and numbers', () => {
    const path = join(folder, 'flip.safetensors');
    writeSafetensors(path, SMALL, { metadata: { a: 'b' } });
    const whole = readFileSync(path);
    const headerEnd = 8 + Number(whole.readBigUInt64LE(0));
    let refused = 0;
    for (let bit = 0; bit < headerEnd * 8; bit++) {
      const file = new Uint8Array(whole);
      file[bit >> 3]! ^= 1 << (bit & 7);
      try {
        const read = Safetensors.fromBytes(file, 'f');
        for (const name of read.tensors.keys()) read.readTensor(name);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(headerEnd * 4);
  });

  test('a folder, a missing file and a device are named', () => {
    expect(message(() => Safetensors.open(folder))).toContain(`${folder}: `);
    expect(message(() => Safetensors.open(join(folder, 'absent')))).toContain('no such file');
    expect(message(() => Safetensors.open('/dev/zero'))).toContain('not a regular file');
    const path = join(folder, 'text.safetensors');
    writeFileSync(path, 'version https://git-lfs.github.com/spec/v1\n');
    expect(message(() => Safetensors.open(path))).toContain('not a safetensors file');
  });
});
