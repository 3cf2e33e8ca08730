// Shards (MDS), written: golden sets come out byte for byte, random sets are read back as they were, and sets
// that were broken off are gone on with.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { appendFileSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { dtypeBytes, isMdsDtype } from '../../src/io/mds/arrays.ts';
import { mergeIndexes } from '../../src/io/mds/merge.ts';
import { pythonFloat, pythonJson, readPythonJson } from '../../src/io/mds/python-text.ts';
import { MdsSet } from '../../src/io/mds/set.ts';
import type { MdsDtype, MdsSample, MdsValue } from '../../src/io/mds/values.ts';
import { JOURNAL_NAME, MdsWriter, type MdsWriterOptions } from '../../src/io/mds/writer.ts';

const GOLDENS = 'test/goldens/mds';

let folder: string;
let made = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microdiff-mds-writer-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const newFolder = () => join(folder, `set-${made++}`);

/** What the writer of a set was told, from its index. */
function settingsOf(path: string): { columns: Record<string, string>; options: MdsWriterOptions } {
  const [entry] = JSON.parse(readFileSync(join(path, 'index.json'), 'utf8')).shards;
  const names: string[] = entry.column_names;
  return {
    columns: Object.fromEntries(names.map((name, i) => [name, entry.column_encodings[i]])),
    options: { compression: entry.compression, hashes: entry.hashes, sizeLimit: entry.size_limit },
  };
}

function write(
  path: string,
  columns: Record<string, string>,
  samples: readonly MdsSample[],
  options = {},
): string {
  using writer = MdsWriter.open(path, columns, options);
  for (const sample of samples) writer.write(sample);
  writer.finish();
  return path;
}

function read(path: string): MdsSample[] {
  using set = MdsSet.open(path);
  return Array.from({ length: set.count }, (_, i) => set.sample(i));
}

/** Names and contents of all files of a folder. */
function filesOf(path: string): Record<string, string> {
  const names = readdirSync(path).sort();
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(path, name), 'base64')]));
}

describe('golden sets written again', () => {
  for (const name of ['types', 'merged/0', 'merged/1']) {
    test(`${name}: the same bytes`, () => {
      const { columns, options } = settingsOf(`${GOLDENS}/${name}`);
      const path = write(newFolder(), columns, read(`${GOLDENS}/${name}`), options);
      expect(filesOf(path)).toEqual(filesOf(`${GOLDENS}/${name}`));
    });
  }

  test('zstd: the same shards and hashes; packed bytes are the library’s own', () => {
    const { columns, options } = settingsOf(`${GOLDENS}/zstd`);
    const path = write(newFolder(), columns, read(`${GOLDENS}/zstd`), options);
    const index = (from: string) => JSON.parse(readFileSync(join(from, 'index.json'), 'utf8'));
    const [ours, theirs] = [index(path), index(`${GOLDENS}/zstd`)];
    for (const [i, entry] of theirs.shards.entries()) {
      const { basename } = entry.zip_data;
      const raw = (from: string) => Bun.zstdDecompressSync(readFileSync(join(from, basename)));
      expect(Buffer.compare(raw(path), raw(`${GOLDENS}/zstd`))).toBe(0);
      expect({ ...ours.shards[i], zip_data: null }).toEqual({ ...entry, zip_data: null });
    }
    using set = MdsSet.open(path, { hashes: true });
    expect(set.sample(11).caption).toBe('line one\nline two #11');
  });

  test('merged: the same index', () => {
    const path = newFolder();
    cpSync(`${GOLDENS}/merged`, path, { recursive: true });
    rmSync(join(path, 'index.json'));
    expect(mergeIndexes(path, ['0', '1']).count).toBe(13);
    expect(readFileSync(join(path, 'index.json'))).toEqual(readFileSync(`${GOLDENS}/merged/index.json`));
    // A merge of merges.
    mergeIndexes(dirname(path), [path.slice(dirname(path).length + 1)]);
    expect(read(dirname(path))).toEqual(read(path));
    rmSync(join(dirname(path), 'index.json'));
    for (const part of ['../x', '/x', '.', 'none']) expect(() => mergeIndexes(path, [part])).toThrow();
  });
});

test('numbers and JSON as Python writes them', () => {
  const floats: [number, string][] = [
    [0.1, '0.1'],
    [3, '3.0'],
    [-0, '-0.0'],
    [0, '0.0'],
    [1e16, '1e+16'],
    [123456789012345680, '1.2345678901234568e+17'],
    [1234567890123456, '1234567890123456.0'],
    [0.0001, '0.0001'],
    [0.00001234, '1.234e-05'],
    [-1e300, '-1e+300'],
    [5e-324, '5e-324'],
    [100.25, '100.25'],
    [0.012, '0.012'],
    [Number.NaN, 'nan'],
    [Number.NEGATIVE_INFINITY, '-inf'],
  ];
  for (const [value, written] of floats) expect(pythonFloat(value)).toBe(written);
  const json = { b: [1, 1.5, null, true, -0, 1e22], a: 'ü🐱"\\\n\u007f', ä: {}, e: [] };
  const written = '{"b": [1, 1.5, null, true, -0.0, 1e+22], "a": "\\u00fc\\ud83d\\udc31\\"\\\\\\n\u007f", ';
  expect(pythonJson(json)).toBe(`${written}"\\u00e4": {}, "e": []}`);
  expect(pythonJson(json, true)).toStartWith('{"a": ');
  const odd = { a: [Number.NaN, Number.NEGATIVE_INFINITY], 'NaN "': 'Infinity', b: Number.POSITIVE_INFINITY };
  expect(pythonJson(odd)).toBe('{"a": [NaN, -Infinity], "NaN \\"": "Infinity", "b": Infinity}');
  expect(readPythonJson(pythonJson(odd))).toEqual(odd);
  for (const broken of ['NaNx', '[NaN', 'Inf', '"NaN', '{NaN: 1}', ''])
    expect(() => readPythonJson(broken)).toThrow();
});

// Random sets -------------------------------------------------------------------------------------------

/** Numbers that repeat. */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

type Random = ReturnType<typeof randomOf>;

const bytesOf = (random: Random, length: number) => Uint8Array.from({ length }, () => random(256));
const whole = (random: Random, bits: bigint) => {
  const n = BigInt(random(2 ** 32)) * 2n ** 32n + BigInt(random(2 ** 32));
  return bits > 0n ? BigInt.asUintN(Number(bits), n) : BigInt.asIntN(Number(-bits), n);
};
const float = (random: Random) => (random(2001) - 1000) * 10 ** (random(30) - 15);
const string = (random: Random) =>
  Array.from({ length: random(20) }, () => 'aé一🐱 \n"\\\0'.at(random(9))).join('');

function array(random: Random, dtype: MdsDtype, shape?: readonly number[]): MdsValue {
  const lengths = shape ?? Array.from({ length: 1 + random(4) }, () => 1 + random(random(9) === 0 ? 300 : 5));
  const count = lengths.reduce((a, b) => a * b, 1);
  return { kind: 'ndarray', dtype, shape: lengths, bytes: bytesOf(random, count * dtypeBytes(dtype)) };
}

const DTYPES = 'uint8 int8 uint16 int16 float16 uint32 int32 float32 uint64 int64 float64'
  .split(' ')
  .filter(isMdsDtype);

/** By encoding: a value of it. */
const VALUES: Readonly<Record<string, (random: Random) => MdsValue>> = {
  bytes: (random) => bytesOf(random, random(100)),
  str: (random) => string(random).toWellFormed(),
  int: (random) => whole(random, -64n),
  int64: (random) => whole(random, -64n),
  uint64: (random) => whole(random, 64n),
  uint8: (random) => random(256),
  int8: (random) => random(256) - 128,
  uint16: (random) => random(65536),
  int16: (random) => random(65536) - 32768,
  uint32: (random) => random(2 ** 32),
  int32: (random) => random(2 ** 32) - 2 ** 31,
  float16: (random) => Math.f16round(float(random)),
  float32: (random) => Math.fround(float(random)),
  float64: float,
  str_int: (random) => whole(random, -64n) ** BigInt(random(9)),
  str_float: float,
  str_decimal: (random) => `${random(1000) - 500}.${random(1000)}E${random(100)}`,
  json: (random) => ({
    kind: 'json',
    value: { [string(random).toWellFormed()]: [float(random), null, random(2) > 0] },
  }),
  jpeg: (random) => ({
    kind: 'image',
    format: 'jpeg',
    bytes: Uint8Array.of(255, 216, 255, ...bytesOf(random, 30)),
  }),
  'jpeg:90': (random) => ({
    kind: 'image',
    format: 'jpeg',
    bytes: Uint8Array.of(255, 216, 255, random(256)),
  }),
  png: (random) => {
    const head = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
    return { kind: 'image', format: 'png', bytes: Uint8Array.of(...head, ...bytesOf(random, 9)) };
  },
  pil: (random) => {
    const [width, height] = [random(20), random(20)];
    const modes = { '1': Math.ceil(width / 8), L: width, RGB: 3 * width, CMYK: 4 * width, 'I;16': 2 * width };
    const [mode, row] = Object.entries(modes)[random(5)]!;
    return { kind: 'pixels', width, height, mode, bytes: bytesOf(random, row * height) };
  },
  ndarray: (random) => array(random, DTYPES[random(DTYPES.length)]!),
  'ndarray:float16': (random) => array(random, 'float16'),
  'ndarray:int64:2,1,3': (random) => array(random, 'int64', [2, 1, 3]),
};

describe('random sets', () => {
  const packings: MdsWriterOptions[] = [
    { sizeLimit: null },
    { sizeLimit: 900 },
    { sizeLimit: 1, compression: 'gz:1' },
    { sizeLimit: 5000, compression: 'zstd', hashes: ['xxh64', 'md5'] },
    { sizeLimit: 3000, compression: 'br:1', hashes: ['sha256'] },
  ];
  for (let seed = 0; seed < 20; seed++) {
    test(`of seed ${seed} are read back as they were`, () => {
      const random = randomOf(seed);
      const encodings = Object.keys(VALUES);
      const columns: Record<string, string> = {};
      for (let i = 1 + random(12); i > 0; i--)
        columns[`${string(random)}${i}`] = encodings[random(encodings.length)]!;
      const samples: MdsSample[] = Array.from({ length: random(20) }, () => {
        return Object.fromEntries(
          Object.entries(columns).map(([name, kind]) => [name, VALUES[kind]!(random)]),
        );
      });
      const options = packings[seed % packings.length]!;
      const path = write(newFolder(), columns, samples, options);
      using set = MdsSet.open(path, options.hashes ? { hashes: true } : {});
      expect(set.count).toBe(samples.length);
      for (const [i, sample] of samples.entries()) expect(set.sample(i)).toEqual(sample);
      const limit = options.sizeLimit ?? 2 ** 32;
      for (const { raw, samples: count } of set.index.shards)
        expect(raw.bytes <= limit || count === 1).toBe(true);
    });
  }

  test('every encoding has its value among them', () => {
    const { columns } = settingsOf(`${GOLDENS}/types`);
    expect(Object.values(columns).filter((encoding) => !(encoding.split(':')[0]! in VALUES))).toEqual([]);
  });
});

test('what a column cannot hold is refused, named, and the set goes on without it', () => {
  const columns = { text: 'str', n: 'uint8', a: 'ndarray:float16:2' };
  const array = { kind: 'ndarray', dtype: 'float16', shape: [2], bytes: new Uint8Array(4) } as const;
  const sound = { text: 'x', n: 1, a: array };
  using writer = MdsWriter.open(newFolder(), columns);
  writer.write(sound);
  const cases: [Record<string, MdsValue>, RegExp][] = [
    [{ ...sound, n: 256 }, /sample 1, column "n": 256 is not an integer from 0 to 255/],
    [{ ...sound, n: 1.5 }, /"n": 1.5 is not an integer/],
    [{ ...sound, n: '1' }, /"n": needs a number, not string/],
    [{ ...sound, text: '\ud800' }, /"text": holds half a character/],
    [{ ...sound, a: { ...array, shape: [1] } }, /"a": has shape \[1\], not \[2\]/],
    [{ ...sound, a: { ...array, bytes: new Uint8Array(3) } }, /"a": has 3 bytes/],
    [{ ...sound, b: 1 }, /"b": is not a column/],
    [{ text: 'x', n: 1 }, /"a": is missing/],
  ];
  for (const [sample, message] of cases) expect(() => writer.write(sample)).toThrow(message);
  writer.write(sound);
  writer.finish();
  expect(read(writer.folder)).toHaveLength(2);
});

describe('a set that was broken off', () => {
  const columns = { text: 'str', n: 'int' };
  const samples = Array.from({ length: 50 }, (_, i) => ({ text: `caption ${i}`, n: BigInt(i) }));
  const options = { sizeLimit: 500, compression: 'gz', hashes: ['sha1'] };

  /** Writes up to `stop`, breaks off, spoils what it likes, goes on, finishes. */
  function interrupted(stop: number, spoil: (path: string) => void, after = 50): string {
    const path = newFolder();
    {
      using writer = MdsWriter.open(path, columns, options);
      for (let i = 0; i < stop; i++) writer.write(samples[i]!, { row: i });
    }
    expect(existsSync(join(path, 'index.json'))).toBe(false);
    spoil(path);
    using writer = MdsWriter.open(path, columns, { ...options, resume: true });
    const { samples: first, mark } = writer.kept;
    expect(mark).toEqual(first === 0 ? undefined : { row: first - 1 });
    for (let i = first; i < after; i++) writer.write(samples[i]!, { row: i });
    writer.finish();
    return path;
  }

  test('is finished as if it had never been, wherever it stopped', () => {
    const whole = filesOf(write(newFolder(), columns, samples, options));
    expect(Object.keys(whole).length).toBeGreaterThan(5);
    const torn = (path: string) => appendFileSync(join(path, JOURNAL_NAME), '{"step": 99, "entr');
    const lost = (path: string) => rmSync(join(path, 'shard.00001.mds.gz'), { force: true });
    const cut = (path: string) => {
      if (existsSync(join(path, 'shard.00000.mds.gz'))) truncateSync(join(path, 'shard.00000.mds.gz'), 9);
    };
    const stray = (path: string) => write(join(path, 'other'), columns, samples.slice(0, 2));
    for (const stop of [0, 17, 50]) {
      for (const spoil of [() => {}, torn, lost, cut])
        expect(filesOf(interrupted(stop, spoil))).toEqual(whole);
    }
    expect(read(interrupted(20, stray))).toEqual(samples);
  });

  test('is gone on with only when asked, and only as it was begun', () => {
    const path = newFolder();
    MdsWriter.open(path, columns, options).close();
    expect(() => MdsWriter.open(path, columns, options)).toThrow(/holds shards of a set that was broken off/);
    const other = { ...options, resume: true, sizeLimit: 600 };
    expect(() => MdsWriter.open(path, columns, other)).toThrow(/begun with other columns/);
    const done = write(newFolder(), columns, samples, options);
    expect(() => MdsWriter.open(done, columns, { ...options, resume: true })).toThrow(/holds a set already/);
    rmSync(join(done, 'index.json'));
    expect(() => MdsWriter.open(done, columns, { ...options, resume: true })).toThrow(/nothing is known of/);
  });
});
