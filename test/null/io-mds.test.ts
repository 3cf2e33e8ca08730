// Shards (MDS): the reader against golden sets, and sets that are damaged or lie in every way we could
// think of.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { chmodSync, mkdtempSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { Failure } from '../../src/io/failure.ts';
import { hashOf } from '../../src/io/mds/hashes.ts';
import { MdsIndex } from '../../src/io/mds/index.ts';
import { openShard } from '../../src/io/mds/open.ts';
import { MdsSet, type MdsSetOptions } from '../../src/io/mds/set.ts';
import { MdsShard } from '../../src/io/mds/shard.ts';
import { Source } from '../../src/io/source.ts';
import {
  type Column,
  entryOf,
  type ShardEntry,
  shardOf,
  text,
  TWO,
  twoSamples,
  writeSet,
} from './mds-case.ts';
import { u32 } from './torch-case.ts';

const GOLDENS = 'test/goldens/mds';

let folder: string;
let made = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microdiff-mds-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const newFolder = () => join(folder, `set-${made++}`);

/** A set of one shard, changed before it is written. */
function oneShard(
  change: (entry: ShardEntry, shard: Uint8Array) => Uint8Array | undefined,
  count = 5,
): string {
  const shard = shardOf(TWO, twoSamples(count));
  const entry = entryOf(TWO, count, shard.length);
  const file = change(entry, shard) ?? shard;
  const name = entry.zip_data?.basename ?? 'shard.00000.mds';
  return writeSet(newFolder(), { version: 2, shards: [entry] }, { [name]: file });
}

/** The messages of all samples that cannot be read; of the index where that is refused. */
function faults(path: string, options: MdsSetOptions = {}): string[] {
  const message = (run: () => unknown): string[] => {
    try {
      run();
      return [];
    } catch (error) {
      expect(error).toBeInstanceOf(Failure);
      return [error instanceof Error ? error.message : ''];
    }
  };
  let set: MdsSet | undefined;
  const refused = message(() => {
    set = MdsSet.open(path, options);
  });
  if (!set) return refused;
  using open = set;
  return Array.from({ length: open.count }, (_, i) => message(() => open.sample(i))).flat();
}

describe('golden sets', () => {
  for (const name of ['zstd', 'merged']) {
    for (const options of [{}, { map: true }, { openShards: 1 }]) {
      test(`${name} ${JSON.stringify(options)}`, () => {
        using set = MdsSet.open(`${GOLDENS}/${name}`, options);
        const captions: unknown = JSON.parse(
          readFileSync(`${GOLDENS}/${name}.expected.json`, 'utf8'),
        ).caption;
        const samples = Array.from({ length: set.count }, (_, i) => set.sample(i));
        expect<unknown>(samples.map((sample) => sample.caption)).toEqual(captions);
        for (const sample of samples) expect((sample.latents_256 as Uint8Array).length).toBe(2 * 4 * 8 * 8);
        // In any order, with shards closed in between.
        for (const i of [set.count - 1, 0, set.count - 1, 1]) expect(set.sample(i)).toEqual(samples[i]!);
      });
    }
  }

  test('hashes of compressed shards are checked when asked for', () => {
    expect(faults(`${GOLDENS}/zstd`, { hashes: true })).toEqual([]);
    // Those of the unpacked shard, too.
    const index = readFileSync(`${GOLDENS}/zstd/index.json`, 'utf8').replace('0d79d5b3', '0d79d5b4');
    const { shards } = MdsIndex.parse(text(index), `${GOLDENS}/zstd`);
    const open = () => openShard({ folder: `${GOLDENS}/zstd` }, shards[0]!, { hashes: true });
    expect(open).toThrow(/its sha1 is 0d79d5b3\w+, the index says 0d79d5b4/);
    const [first] = faults(`${GOLDENS}/merged`, { hashes: true });
    expect(first).toContain('the index has none for it');
  });

  test('a column that is not there', () => {
    using set = MdsSet.open(`${GOLDENS}/merged`);
    expect(() => set.columnBytes(0, 'latents')).toThrow(
      /no column "latents". It has caption, caption_latents/,
    );
    expect(() => set.sample(13)).toThrow(RangeError);
  });
});

describe('a shard', () => {
  const shard = shardOf(TWO, twoSamples(5));
  const [info] = MdsIndex.parse(text(indexText(entryOf(TWO, 5, shard.length))), '.').shards;

  test('from memory gives views, from a file the same bytes', () => {
    using memory = MdsShard.open(shard, info!);
    using source = MdsShard.open(Source.ofBytes(shard, 'x'), info!);
    for (const [i, values] of twoSamples(5).entries()) {
      for (const [c, value] of values.entries()) {
        const view = memory.columnBytes(i, c);
        expect(view).toEqual(value);
        expect(view.buffer).toBe(shard.buffer);
        expect(source.columnBytes(i, c)).toEqual(value);
        const { begin, end } = source.columnRange(i, c);
        expect<Uint8Array>(shard.subarray(begin, end)).toEqual(value);
      }
    }
    const kept = source.columnBytes(1, 0);
    source.columnBytes(2, 0);
    expect(kept).toEqual(text('caption 1'));
  });

  test('is found by the number of a sample, empty shards or not', () => {
    const entries = [3, 0, 2, 0].map((count, i) => entryOf(TWO, count, 1000, `shard.${i}.mds`));
    const index = MdsIndex.parse(text(indexText(...entries)), '.');
    expect(index.count).toBe(5);
    const places = [0, 2, 3, 4].map((i) => index.locate(i));
    expect(places).toEqual([
      { shard: 0, sample: 0 },
      { shard: 0, sample: 2 },
      { shard: 2, sample: 0 },
      { shard: 2, sample: 1 },
    ]);
    expect(index.shards[0]!.columns).toBe(index.shards[3]!.columns);
  });
});

describe('compression', () => {
  const pack = {
    zstd: (shard: Uint8Array) => Bun.zstdCompressSync(shard),
    gz: (shard: Uint8Array) => gzipSync(shard),
    br: (shard: Uint8Array) => brotliCompressSync(shard, { params: { [constants.BROTLI_PARAM_QUALITY]: 3 } }),
  };
  for (const [kind, compress] of Object.entries(pack)) {
    const compressed = (claim = (bytes: number) => bytes, hash?: string) =>
      oneShard((entry, shard) => {
        const zip = compress(shard);
        const hashes: Record<string, string> =
          hash === undefined ? {} : { [hash]: hashOf(hash, zip) ?? 'none' };
        entry.compression = kind;
        entry.zip_data = { basename: `shard.00000.mds.${kind}`, bytes: zip.length, hashes };
        entry.raw_data.bytes = claim(entry.raw_data.bytes);
        return zip;
      });

    test(`${kind}: read, and never unpacked beyond the size in the index`, () => {
      using set = MdsSet.open(compressed());
      expect(set.sample(3)).toEqual({
        caption: 'caption 3',
        latents_256: twoSamples(5)[3]![1]!,
        seen: 3,
      });
      expect(faults(compressed((bytes) => bytes - 1))[0]).toMatch(/cannot be unpacked/);
      expect(faults(compressed((bytes) => bytes + 1))[0]).toMatch(/cannot be unpacked.*where the index says/);
    });

    test(`${kind}: a few bytes that unpack to a gigabyte are stopped`, () => {
      const path = oneShard((entry) => {
        const zip = compress(new Uint8Array(2 ** 26));
        entry.compression = kind;
        entry.zip_data = { basename: 'bomb', bytes: zip.length, hashes: {} };
        return zip;
      });
      expect(faults(path)[0]).toMatch(/cannot be unpacked/);
    });

    test(`${kind}: hashes of every known kind`, () => {
      for (const hash of ['md5', 'sha1', 'sha256', 'xxh32', 'xxh64', 'xxh3_64']) {
        expect(
          faults(
            compressed((bytes) => bytes, hash),
            { hashes: true },
          ),
        ).toEqual([]);
      }
      const [unknown] = faults(
        compressed((bytes) => bytes, 'xxh128'),
        { hashes: true },
      );
      expect(unknown).toMatch(/its hashes \(xxh128\) cannot be computed here/);
    });
  }

  test('a zstd frame that announces more than the index is refused before it is unpacked', () => {
    const frame = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0xe0, ...u32(0), ...u32(0x4000), 0, 0, 0);
    const path = oneShard((entry) => {
      entry.compression = 'zstd';
      entry.zip_data = { basename: 'lie', bytes: frame.length, hashes: {} };
      return frame;
    });
    expect(faults(path)[0]).toMatch(/announces 70368744177664 bytes/);
  });

  test('a zstd frame that asks for a window of 128 MiB to unpack four bytes is refused', () => {
    const frame = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, (27 - 10) << 3, 1 | (4 << 3), 0, 0, 1, 2, 3, 4);
    const path = oneShard((entry) => {
      entry.compression = 'zstd';
      entry.zip_data = { basename: 'wide', bytes: frame.length, hashes: {} };
      return frame;
    });
    expect(faults(path)[0]).toMatch(/requires too much memory|window/i);
  });

  test('bz2, snappy and what else there is are refused by name', () => {
    for (const name of ['bz2', 'bz2:9', 'snappy', 'lz4', 'zstd:99', 'zstd:', 'gz:1:2', 'toString']) {
      const [fault] = faults(
        oneShard((entry) => {
          entry.compression = name;
          entry.zip_data = { basename: 'x', bytes: 5, hashes: {} };
          return undefined;
        }),
      );
      expect(fault).toContain(name.split(':')[0]!);
    }
  });

  test('a plain file that lies beside is taken in place of the compressed one', () => {
    const path = oneShard((entry) => {
      entry.compression = 'zstd';
      entry.zip_data = { basename: 'gone.zstd', bytes: 9, hashes: {} };
      return undefined;
    });
    expect(faults(path)[0]).toContain('gone.zstd');
    writeSet(path, readFileSync(join(path, 'index.json'), 'utf8'), {
      'shard.00000.mds': shardOf(TWO, twoSamples(5)),
    });
    expect(faults(path)).toEqual([]);
  });
});

describe('damaged shards', () => {
  const at = (shard: Uint8Array, place: number, value: number) => {
    const copy = shard.slice();
    copy.set(u32(value), place);
    return copy;
  };
  const first = (shard: Uint8Array) => new DataView(shard.buffer).getUint32(4, true);
  const CASES: readonly [string, (entry: ShardEntry, shard: Uint8Array) => Uint8Array, RegExp, number][] = [
    ['cut off', (_, s) => s.slice(0, -3), /has \d+ bytes where the index says/, 5],
    ['empty', () => new Uint8Array(0), /has 0 bytes/, 5],
    ['another count', (_, s) => at(s, 0, 6), /holds 6 samples where the index says 5/, 5],
    ['a huge count', (_, s) => at(s, 0, 0xffffffff), /holds 4294967295 samples/, 5],
    ['a huge offset', (_, s) => at(s, 12, 0xfffffff0), /sample 1 of shard 0 .* to 4294967280/, 5],
    ['offsets that go back', (_, s) => at(s, 12, 30), /sample 1 of shard 0/, 5],
    ['samples that begin in the head', (_, s) => at(s, 4, 8), /samples begin at byte 8/, 5],
    ['a last offset too early', (_, s) => at(s, 24, first(s) + 120), /sample 4|bytes after its last/, 5],
    [
      'a size beyond the sample',
      (_, s) => at(s, first(s) + 4, 0x7fffffff),
      /"latents_256" claims 2147483647/,
      1,
    ],
    ['a size too small', (_, s) => at(s, first(s), 8), /sample 0 .* where its columns take/, 1],
    ['text that is not UTF-8', (_, s) => at(s, first(s) + 8, 0xffffffff), /"caption" is not UTF-8/, 1],
    ['columns of another name', (_, s) => rename(s), /other column_names/, 5],
    ['a head that is no JSON', (_, s) => at(s, 28, 0), /broken JSON in its head/, 5],
  ];
  function rename(shard: Uint8Array): Uint8Array {
    const copy = Buffer.from(shard);
    copy.write('captiom', copy.indexOf('"caption"') + 1);
    return copy;
  }
  for (const [name, change, message, count] of CASES) {
    test(name, () => {
      for (const options of [{}, { map: true }]) {
        const found = faults(oneShard(change), options);
        expect(found).toHaveLength(count);
        expect(found[0]).toMatch(message);
        expect(found[0]).toContain('shard.00000.mds');
      }
    });
  }

  test('a shard that is not there, a folder in its place', () => {
    const path = oneShard(() => undefined);
    rmSync(join(path, 'shard.00000.mds'));
    expect(faults(path)[0]).toMatch(/shard.00000.mds: cannot read: no such file/);
    writeSet(join(path, 'shard.00000.mds'), '{}', {});
    expect(faults(path)[0]).toMatch(/is not a regular file/);
  });

  test('a bit that flipped is seen by the hash alone', () => {
    for (const hash of ['sha1', 'xxh64']) {
      const path = oneShard((entry, shard) => {
        entry.raw_data.hashes = { [hash]: hashOf(hash, shard)! };
        const copy = shard.slice();
        copy[copy.length - 1]! ^= 1;
        return copy;
      });
      expect(faults(path)).toEqual([]);
      expect(faults(path, { hashes: true })[0]).toMatch(new RegExp(`damaged: its ${hash} is`));
    }
  });

  test('shards that may only be read are read', () => {
    const path = oneShard(() => undefined);
    chmodSync(join(path, 'shard.00000.mds'), 0o444);
    expect(faults(path, { map: true })).toEqual([]);
  });
});

describe('damaged indexes', () => {
  const entry = () => entryOf(TWO, 5, 1000);
  const refusal = (index: string): string => {
    try {
      MdsIndex.parse(text(index), '/set');
      return 'read';
    } catch (error) {
      expect(error).toBeInstanceOf(Failure);
      return (error as Failure).message;
    }
  };
  const changed = (change: (entry: Record<string, unknown>) => void) => {
    const json: Record<string, unknown> = entry();
    change(json);
    return refusal(JSON.stringify({ version: 2, shards: [entryOf(TWO, 1, 500, 'shard.0.mds'), json] }));
  };

  test('what is not an index', () => {
    for (const index of [
      '',
      '{',
      '[]',
      'null',
      '{"version": 2}',
      '{"shards": []}',
      '{"version": 2, "shards": {}}',
    ]) {
      expect(refusal(index)).toMatch(/^\/set\/index.json: /);
    }
    expect(refusal(indexText())).toBe('read');
    expect(refusal(`${'['.repeat(1e6)}`)).toMatch(/broken JSON/);
    expect(refusal('{"version": 3, "shards": []}')).toMatch(/has version 3/);
  });

  test('numbers that are none', () => {
    for (const bad of [-1, 1.5, 2 ** 32, 1e300, '5', null, [5], true]) {
      expect(changed((json) => (json.samples = bad))).toMatch(/shard 1 has samples/);
      expect(changed((json) => (json.raw_data = { ...entry().raw_data, bytes: bad }))).toMatch(
        /raw_data.bytes/,
      );
    }
    expect(changed((json) => (json.samples = 1000))).toMatch(/1000 samples in 1000 bytes/);
  });

  test('files outside the folder', () => {
    const names = [
      '../x',
      'a/../../x',
      '/etc/passwd',
      '..',
      '.',
      '',
      'a//b',
      './x',
      'a\\..\\b',
      'a\0b',
      'a/.',
      'a/',
    ];
    for (const basename of names) {
      expect(changed((json) => (json.raw_data = { ...entry().raw_data, basename }))).toMatch(
        /shard 1 has the file name/,
      );
      const zip = { basename, bytes: 5, hashes: {} };
      const message = changed((json) => Object.assign(json, { compression: 'gz', zip_data: zip }));
      expect(message).toMatch(/shard 1 has the file name/);
    }
    expect(changed((json) => (json.raw_data = { ...entry().raw_data, basename: 'a/..b/c.mds' }))).toBe(
      'read',
    );
  });

  test('one file for two shards', () => {
    expect(changed((json) => (json.raw_data = { ...entry().raw_data, basename: 'shard.0.mds' }))).toMatch(
      /shard 1 has the file "shard.0.mds", and so has shard 0/,
    );
    const zip = { ...entry().raw_data };
    expect(changed((json) => Object.assign(json, { compression: 'gz', zip_data: zip }))).toMatch(
      /shard 1 has the file "shard.00000.mds", and so has shard 1/,
    );
  });

  test('shards that would unpack to far more than they are', () => {
    const raw_data = { ...entry().raw_data, bytes: 2 ** 32 - 1 };
    const zip_data = { basename: 'x.mds.zstd', bytes: 200_000, hashes: {} };
    expect(changed((json) => Object.assign(json, { compression: 'zstd', raw_data, zip_data }))).toMatch(
      /shard 1 would become 4294967295 bytes out of 200000/,
    );
  });

  test('nothing but brackets', () => {
    expect(
      refusal(
        `{"version": 2, "shards": [${Array(2 ** 21)
          .fill('[]')
          .join(',')}]}`,
      ),
    ).toMatch(/has 2097\d+ brackets in 6291\d+ bytes/);
  });

  test('files of holes are refused before they are read', () => {
    const bytes = 2 ** 32 - 1;
    for (const [samples, begin, why] of [
      [2 ** 29, 0, /its samples begin at byte 0 of/],
      [5, 2 ** 31, /2147483\d+ bytes of JSON in its head/],
    ] as const) {
      const start = new Uint8Array(new Uint32Array([samples, begin]).buffer);
      const index = { version: 2, shards: [entryOf(TWO, samples, bytes)] };
      const holes = writeSet(join(folder, `holes-${samples}`), index, { 'shard.00000.mds': start });
      truncateSync(join(holes, 'shard.00000.mds'), bytes);
      const before = process.resourceUsage().maxRSS;
      const read = MdsIndex.read(holes);
      expect(() => openShard(read, read.shards[0]!)).toThrow(why);
      expect(process.resourceUsage().maxRSS - before).toBeLessThan(50 * 1024);
    }
  });

  test('columns', () => {
    const cases: [Record<string, unknown>, RegExp][] = [
      [{ column_names: ['a', 'b'] }, /2 names, 3 encodings and 3 sizes/],
      [{ column_names: ['a', 'a', 'b'] }, /two columns of one name/],
      [{ column_names: ['a', 1, 'b'] }, /a column named 1/],
      [{ column_names: 'abc' }, /lacks column_names/],
      [{ column_sizes: [null, null, 2] }, /"seen" has size 2; uint8 has 1 bytes/],
      [{ column_sizes: [4, null, 1] }, /"caption" has size 4; str has sizes that vary/],
      [{ column_encodings: ['pkl', 'bytes', 'uint8'] }, /"caption" is encoded as pkl, a Python pickle/],
      [{ column_encodings: ['wavelet', 'bytes', 'uint8'] }, /"caption" has encoding "wavelet"/],
      [{ column_encodings: ['constructor', 'bytes', 'uint8'] }, /"caption" has encoding "constructor"/],
      [{ format: 'csv' }, /has format "csv"/],
      [{ version: 3 }, /shard 1 has version 3/],
      [{ compression: 'zstd' }, /has compression "zstd" and no compressed file/],
      [{ zip_data: { basename: 'x', bytes: 1, hashes: {} } }, /has compression null and a compressed file/],
      [{ raw_data: { basename: 'x', bytes: 1000, hashes: { sha1: 5 } } }, /a hash "sha1" that is not a text/],
    ];
    for (const [change, message] of cases)
      expect(changed((json) => Object.assign(json, change))).toMatch(message);
    for (const encoding of [
      'ndarray:complex64',
      'ndarray:float16:0',
      'ndarray:float16:2:3',
      'ndarray:uint8:9999999999',
    ]) {
      const message = changed((json) => (json.column_encodings = [encoding, 'bytes', 'uint8']));
      expect(message).toContain(`has encoding "${encoding}"`);
    }
  });

  test('folders that wait to be merged are named', () => {
    const path = newFolder();
    for (const part of ['0', '1']) writeSet(join(path, part), { version: 2, shards: [] }, {});
    expect(readdirSync(path)).toHaveLength(2);
    expect(faults(path)[0]).toMatch(/no index.json, but its folders 0, 1 have one each. Merge them/);
    const empty = newFolder();
    mkdirSync(empty);
    expect(faults(empty)[0]).toMatch(/: no index.json, so no set of shards/);
    expect(faults(join(newFolder(), 'none'))[0]).toMatch(/none.index.json: cannot read: no such file/);
  });
});

/** A column that this build does not know must not bring down what is asked of it by name. */
test('names that mean something to JavaScript are columns like others', () => {
  const columns: Column[] = [{ name: '__proto__', encoding: 'str', size: null }];
  const shard = shardOf(columns, [[text('x')]]);
  const path = writeSet(
    newFolder(),
    { version: 2, shards: [entryOf(columns, 1, shard.length)] },
    {
      'shard.00000.mds': shard,
    },
  );
  using set = MdsSet.open(path);
  expect(Object.entries(set.sample(0))).toEqual([['__proto__', 'x']]);
});

function indexText(...shards: readonly ShardEntry[]): string {
  return JSON.stringify({ version: 2, shards });
}
