// Parquet: columns by name, every usual codec, row groups one at a time, broken files refused with a line.
import { describe, expect, test } from 'bun:test';
import { brotliCompressSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { isParquet, ParquetFile } from '../../src/io/parquet.ts';
import { Source } from '../../src/io/source.ts';

type Codec = 'UNCOMPRESSED' | 'SNAPPY' | 'GZIP' | 'BROTLI' | 'ZSTD' | 'LZ4_RAW';

const ROWS = 250;
const captions = Array.from({ length: ROWS }, (_, i) => (i === 7 ? null : `a fox, number ${i}, é苹果`));

/** Three columns in row groups of 100. */
function table(codec: Codec = 'SNAPPY'): Uint8Array {
  const bytes = parquetWriteBuffer({
    codec,
    compressors: {
      GZIP: (input) => gzipSync(input),
      BROTLI: (input) => brotliCompressSync(input),
      ZSTD: (input) => zstdCompressSync(input),
      LZ4_RAW: lz4Literals,
    },
    rowGroupSize: 100,
    columnData: [
      { name: 'caption', data: captions, type: 'STRING' },
      { name: 'image', data: captions.map((_, i) => Uint8Array.of(i, 255)), type: 'BYTE_ARRAY' },
      { name: 'width', data: captions.map((_, i) => BigInt(i)), type: 'INT64' },
    ],
  });
  return new Uint8Array(bytes);
}

const open = (bytes: Uint8Array) => ParquetFile.open(Source.ofBytes(bytes, 'table.parquet'));

describe('rows', () => {
  test.each(['UNCOMPRESSED', 'SNAPPY', 'GZIP', 'BROTLI', 'ZSTD', 'LZ4_RAW'] as const)('%s', async (codec) => {
    using file = await open(table(codec));
    expect(file.rowCount).toBe(ROWS);
    expect(file.columns).toEqual([
      { name: 'caption', kind: 'text' },
      { name: 'image', kind: 'bytes' },
      { name: 'width', kind: 'INT64' },
    ]);
    const rows = [];
    for await (const row of file.rows(['image', 'caption'])) rows.push(row);
    expect(rows.map((row) => row.caption)).toEqual(captions);
    expect(rows.map((row) => row.image)).toEqual(captions.map((_, i) => Uint8Array.of(i, 255)));
    expect(Object.keys(rows[0]!).sort()).toEqual(['caption', 'image']);
  });

  test('from a row on, and only the row groups that are asked for are read', async () => {
    const bytes = table();
    const whole = await open(bytes);
    const from = [];
    for await (const row of whole.rows(['width'], 198)) from.push(row.width);
    expect(from).toEqual(captions.map((_, i) => BigInt(i)).slice(198));
    // The second row group is damaged: the first comes, whole.
    const { start, end } = secondGroup(bytes);
    const damaged = bytes.slice().fill(255, start, end);
    const got: unknown[] = [];
    const read = async () => {
      for await (const row of (await open(damaged)).rows(['caption'])) got.push(row.caption);
    };
    await expect(read()).rejects.toThrow(/^table\.parquet: cannot be read as Parquet: /);
    expect(got).toEqual(captions.slice(0, 100));
  });
});

describe('refusals', () => {
  test('a column that is not there', async () => {
    const file = await open(table());
    expect(file.rows(['text']).next()).rejects.toThrow('has no column text. It has caption, image, width');
  });

  test.each([
    ['nothing', new Uint8Array(0)],
    ['the magic alone', Buffer.from('PAR1')],
    ['half of it', table().subarray(0, 3000)],
    ['a footer without its file', table().subarray(-200)],
    ['a length beyond the beginning', Buffer.from('PAR1xxxx\xff\xff\xff\x7fPAR1', 'latin1')],
    ['a footer of nonsense', Buffer.concat([Buffer.from('PAR1'), Buffer.alloc(64, 0x19), footerEnd(64)])],
  ])('%s', async (_, bytes) => {
    const read = async () => {
      for await (const _row of (await open(new Uint8Array(bytes))).rows(['caption']));
    };
    expect(read()).rejects.toThrow(/^table\.parquet: /);
  });

  test('the magic bytes tell a Parquet file', () => {
    expect(isParquet(table())).toBe(true);
    expect([isParquet(Buffer.from('PAR')), isParquet(Buffer.from('id,caption'))]).toEqual([false, false]);
  });
});

/** Where the second row group's texts are: found by the number that begins it. */
function secondGroup(bytes: Uint8Array): { start: number; end: number } {
  const start = Buffer.from(bytes).indexOf('number 100') - 20;
  return { start, end: start + 200 };
}

function footerEnd(length: number): Buffer {
  const end = Buffer.from('\0\0\0\0PAR1');
  end.writeUInt32LE(length, 0);
  return end;
}

/** An LZ4 block of literals alone, which is as valid as one that is smaller. */
function lz4Literals(input: Uint8Array): Uint8Array {
  if (input.length < 15) return Uint8Array.of(input.length << 4, ...input);
  const more = input.length - 15;
  const lengths = [...Array(Math.floor(more / 255)).fill(255), more % 255];
  return Uint8Array.of(0xf0, ...lengths, ...input);
}
