// Parquet files that lie about their counts: each is refused with one line, at once and without the memory
// that it asks for. They are put together here from Thrift's compact protocol.
import { describe, expect, test } from 'bun:test';
import { gzipSync } from 'node:zlib';
import { ParquetFile } from '../../src/io/parquet.ts';
import { Source } from '../../src/io/source.ts';

type Bytes = readonly number[];
/** Fields by number: integers, texts, structures and lists of one type. */
type Field = {
  i32?: number;
  i64?: bigint;
  text?: string;
  struct?: Bytes;
  list?: readonly Bytes[];
  of?: number;
};

function varint(value: bigint): Bytes {
  return value < 128n ? [Number(value)] : [Number(value & 127n) | 128, ...varint(value >> 7n)];
}
const zigzag = (value: number | bigint) =>
  varint(BigInt(value) < 0n ? -2n * BigInt(value) - 1n : 2n * BigInt(value));
const string = (text: string) => [...varint(BigInt(text.length)), ...Buffer.from(text)];

function struct(fields: Readonly<Record<number, Field>>): Bytes {
  let last = 0;
  const body = Object.entries(fields).flatMap(([key, { i32, i64, text, struct, list, of = 12 }]) => {
    const far = Number(key) - last > 15;
    const head = (type: number) =>
      far ? [type, ...zigzag(Number(key))] : [((Number(key) - last) << 4) | type];
    const bytes =
      i32 !== undefined
        ? [...head(5), ...zigzag(i32)]
        : i64 !== undefined
          ? [...head(6), ...zigzag(i64)]
          : text !== undefined
            ? [...head(8), ...string(text)]
            : struct
              ? [...head(12), ...struct]
              : [...head(9), (15 << 4) | of, ...varint(BigInt(list!.length)), ...list!.flat()];
    last = Number(key);
    return bytes;
  });
  return [...body, 0];
}

interface Parts {
  /** Head and content of each page. */
  readonly pages?: readonly { readonly head: Bytes; readonly body: Uint8Array }[];
  readonly rows?: number | bigint;
  readonly values?: number | bigint;
  /** 0: none, 1: snappy, 2: gzip. */
  readonly codec?: number;
  readonly length?: number;
  /** How often the row group is listed. */
  readonly groups?: number;
  readonly schema?: readonly Bytes[];
  readonly footer?: Uint8Array;
  /** Of the logical type of the column. */
  readonly logical?: number;
}

/** A file of one column of optional texts. */
function file({
  pages = [],
  rows = 3,
  values = rows,
  codec = 0,
  schema,
  footer,
  length,
  groups = 1,
  logical = 1,
}: Parts): Uint8Array {
  const data = Buffer.concat(pages.flatMap(({ head, body }) => [Uint8Array.from(head), body]));
  const column = struct({
    1: { i32: 6 },
    3: { i32: 1 },
    4: { text: 'caption' },
    10: { struct: struct({ [logical]: { struct: struct({}) } }) },
  });
  const meta = struct({
    1: { i32: 6 },
    2: { list: [zigzag(0)], of: 5 },
    3: { list: [string('caption')], of: 8 },
    4: { i32: codec },
    5: { i64: BigInt(values) },
    6: { i64: BigInt(data.length) },
    7: { i64: BigInt(length ?? data.length) },
    9: { i64: 4n },
  });
  const group = struct({
    1: { list: [struct({ 2: { i64: 4n }, 3: { struct: meta } })] },
    2: { i64: 9n },
    3: { i64: BigInt(rows) },
  });
  const root = struct({ 4: { text: 'schema' }, 5: { i32: 1 } });
  const metadata =
    footer ??
    Uint8Array.from(
      struct({
        1: { i32: 1 },
        2: { list: schema ?? [root, column] },
        3: { i64: BigInt(rows) },
        4: { list: Array(groups).fill(group) },
      }),
    );
  const tail = Buffer.from('\0\0\0\0PAR1');
  tail.writeUInt32LE(metadata.length);
  return new Uint8Array(Buffer.concat([Buffer.from('PAR1'), data, metadata, tail]));
}

interface Page {
  readonly count?: number;
  readonly encoding?: number;
  readonly packed?: number;
  readonly whole?: number;
}

/** A page of version 1: `levels` are the runs of its definition levels. */
function page(
  levels: Bytes,
  values: Bytes | Uint8Array,
  { count = 3, encoding = 0, packed, whole }: Page = {},
) {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(levels.length);
  const body = Buffer.concat([size, Uint8Array.from(levels), Uint8Array.from(values)]);
  const counts = struct({ 1: { i32: count }, 2: { i32: encoding }, 3: { i32: 3 }, 4: { i32: 3 } });
  const sizes = { 2: { i32: whole ?? body.length }, 3: { i32: packed ?? body.length } };
  return { head: struct({ 1: { i32: 0 }, ...sizes, 5: { struct: counts } }), body };
}

/** A run of `count` equal levels. */
const run = (count: number, level = 1): Bytes => [...varint(2n * BigInt(count)), level];
const ABC = ['a', 'bc', 'd'].flatMap((text) => [text.length, 0, 0, 0, ...Buffer.from(text)]);

async function read(bytes: Uint8Array): Promise<unknown[]> {
  const rows: unknown[] = [];
  using table = await ParquetFile.open(Source.ofBytes(bytes, 'x.parquet'));
  for await (const { caption } of table.rows(['caption'])) rows.push(caption);
  return rows;
}

const nested = (depth: number): Bytes => [...Array(depth).fill(0x1c), ...Array(depth + 1).fill(0)];
const schemaOf = (depth: number) => [
  ...Array.from({ length: depth }, () => struct({ 4: { text: 'x' }, 5: { i32: 1 } })),
  struct({ 1: { i32: 6 }, 4: { text: 'caption' } }),
];
/** Differences of one block of 128 in 4 parts, all of them the same. */
const deltas = (first: number, step: number): Bytes => [
  ...varint(128n),
  4,
  3,
  ...zigzag(first),
  ...zigzag(step),
  0,
  0,
  0,
  0,
];

describe('parquet files that lie', () => {
  test('the file that the others are made from is read', async () => {
    expect(await read(file({ pages: [page(run(3), ABC)] }))).toEqual(['a', 'bc', 'd']);
    const delta = page(run(3), [...deltas(0, 0), ...deltas(1, 0), 97, 98, 99], { encoding: 7 });
    expect(await read(file({ pages: [delta] }))).toEqual(['a', 'b', 'c']);
  });

  const gzipped = gzipSync(new Uint8Array(2 ** 26));
  test.each<[string, Parts, RegExp]>([
    ['a run beyond its page', { pages: [page(run(2 ** 30), ABC)] }, /a run of 1073741824 values where 3/],
    ['a page of fewer than no bytes', { pages: [page(run(3), ABC, { packed: -40 })] }, /a page of -40 bytes/],
    ['a page beyond the chunk', { pages: [page(run(3), ABC, { packed: 2 ** 30 })] }, /a page of 1073741824/],
    [
      'a page of many values',
      { pages: [page(run(3), ABC, { count: 2 ** 30 })] },
      /page of 1073741824 values/,
    ],
    [
      'more values than rows',
      { pages: [page(run(5), [...ABC, ...ABC], { count: 5 })] },
      /5 values where it says 3/,
    ],
    ['fewer values than rows', { pages: [page(run(3), ABC)], rows: 9, values: 3 }, /3 values in 9 rows/],
    ['rows without end', { pages: [page(run(3), ABC)], rows: 2n ** 40n }, /row group of 1099511627776 rows/],
    ['fewer rows than none', { pages: [page(run(3), ABC)], rows: -1 }, /row group of -1 rows/],
    ['a chunk beyond the file', { pages: [page(run(3), ABC)], length: 2 ** 40 }, /points beyond its end/],
    [
      'few bytes to many, snappy',
      { pages: [page(run(3), ABC, { whole: 2 ** 29 })], codec: 1 },
      /536870912 bytes in/,
    ],
    [
      'few bytes to many, gzip',
      { pages: [{ ...page([], [], { whole: 64, packed: gzipped.length }), body: gzipped }], codec: 2 },
      /larger than|too large|64/i,
    ],
    [
      'values that outgrow their page',
      { pages: [page(run(3), [...deltas(0, 2 ** 29), ...deltas(1, 0), 97, 98, 99], { encoding: 7 })] },
      /values of \d+ bytes in a page/,
    ],
    [
      'a footer of one number',
      { footer: Buffer.concat([Uint8Array.of(0x16), Buffer.alloc(2 ** 21, 0xff)]) },
      /no end/,
    ],
    ['a footer nested a million deep', { footer: Uint8Array.from(nested(10 ** 6)) }, /nested deeper than 64/],
    [
      'a list that is longer than the footer',
      { footer: Uint8Array.of(0x19, 0xfc, 0xff, 0xff, 0xff, 0x7f, 0) },
      /a list of 268435455/,
    ],
    [
      'a long name',
      { schema: [struct({ 4: { text: 'x'.repeat(9000) }, 5: { i32: 0 } })] },
      /text of 9000 bytes/,
    ],
    ['columns nested deep', { schema: schemaOf(5000) }, /nested deeper than 64/],
    ['columns that are not there', { schema: schemaOf(3).slice(0, 2) }, /cut off/],
    [
      'a type that unpacks without bounds',
      { pages: [page(run(3), ABC)], logical: 16 },
      /VARIANT is not read/,
    ],
  ])('%s', async (_, parts, why) => {
    const bytes = file(parts);
    const before = process.resourceUsage().maxRSS;
    const message = await read(bytes).then(
      () => 'it is read',
      (error: Error) => `${error.name}: ${error.message}`,
    );
    expect(message).toMatch(why);
    expect(message).toMatch(/^Failure: x\.parquet: cannot be read as Parquet: [^\n]{1,200}$/);
    expect(process.resourceUsage().maxRSS - before).toBeLessThan(100 * 1024);
  });

  test('five thousand row groups take time in proportion to them', async () => {
    const bytes = file({ pages: [page(run(3), ABC)], groups: 5000 });
    expect((await read(bytes)).length).toBe(15_000);
  });
});
