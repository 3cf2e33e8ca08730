// Tar archives as the system's tar writes them, in pieces of any size, packed or not; damaged and hostile
// ones; samples of WebDataset.
import { afterAll, describe, expect, test } from 'bun:test';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { webSamples } from '../../src/data/webdataset.ts';
import { Failure } from '../../src/io/failure.ts';
import { TAR_END, tarEntry } from '../../src/io/tar.ts';
import { readTar, type TarEntry, tarEntries, type TarOptions } from '../../src/io/tar_read.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-tar-'));
afterAll(() => rmSync(folder, { recursive: true }));

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 255);
const LONG = `${'deep/'.repeat(30)}${'n'.repeat(90)}.jpg`; // more than ustar's two fields hold
const FILES: Readonly<Record<string, Uint8Array>> = {
  'a.txt': Buffer.from('a caption'),
  'empty.txt': new Uint8Array(0),
  'block.bin': bytesOf(512),
  'odd/größe 猫.jpg': bytesOf(1300),
  [`${'x'.repeat(60)}/${'y'.repeat(80)}.png`]: bytesOf(513),
  [LONG]: bytesOf(70_000),
};
for (const [name, content] of Object.entries(FILES)) {
  mkdirSync(join(folder, 'in', dirname(name)), { recursive: true });
  writeFileSync(join(folder, 'in', name), content);
}

/** Runs the system's tar in `in/`; returns the archive. */
function tar(...args: string[]): Buffer {
  const path = join(folder, 'out.tar');
  const { exitCode, stderr } = Bun.spawnSync(['tar', '-cf', path, ...args], { cwd: join(folder, 'in') });
  if (exitCode !== 0) throw new Error(stderr.toString());
  return readFileSync(path);
}

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.slice(at, at + size);
}

const read = (bytes: Uint8Array, size = 4096, options: TarOptions = {}): Promise<TarEntry[]> =>
  Array.fromAsync(tarEntries(pieces(bytes, size), 'x.tar', options));

const filesOf = (entries: readonly TarEntry[]) =>
  Object.fromEntries(entries.flatMap(({ name, content }) => (content ? [[name, Buffer.from(content)]] : [])));
const expected = (names: readonly string[]) =>
  Object.fromEntries(names.map((name) => [name, Buffer.from(FILES[name]!)]));

describe('the system tar', () => {
  const fits: Readonly<Record<string, readonly string[]>> = {
    gnu: Object.keys(FILES),
    pax: Object.keys(FILES),
    ustar: Object.keys(FILES).filter((name) => name !== LONG),
    v7: ['a.txt', 'empty.txt', 'block.bin', 'odd/größe 猫.jpg'],
  };
  for (const [format, names] of Object.entries(fits)) {
    test(format, async () => {
      const archive = tar(`--format=${format}`, ...names);
      for (const size of [1, 511, 512, 100_000]) {
        expect(filesOf(await read(archive, size))).toEqual(expected(names));
      }
    });
  }

  test('a whole folder: "./" is taken off, folders are told', async () => {
    const entries = await read(tar('--format=pax', '.'));
    expect(filesOf(entries)).toEqual(expected(Object.keys(FILES)));
    expect(entries.filter(({ kind }) => kind === 'folder').length).toBe(33);
  });

  test('links are told, sparse files refused by name, the rest goes on', async () => {
    symlinkSync('a.txt', join(folder, 'in/link.txt'));
    const sparse = join(folder, 'in/sparse.bin');
    // 40 pieces: more than GNU's header and one block after it name.
    const fd = openSync(sparse, 'w');
    for (let i = 0; i < 40; i++) writeSync(fd, 'data', i * 65_536);
    closeSync(fd);
    for (const format of ['gnu', 'pax']) {
      const archive = tar(`--format=${format}`, '-S', 'link.txt', 'sparse.bin', 'a.txt');
      expect(archive.length).toBeLessThan(400_000); // of 2.5 million
      const entries = await read(archive);
      expect(entries.map(({ name, kind }) => [name, kind])).toEqual([
        ['link.txt', 'link'],
        ['sparse.bin', 'file'],
        ['a.txt', 'file'],
      ]);
      expect(entries[1]).toMatchObject({ content: null, refused: expect.stringContaining('sparse') });
      expect(entries[2]!.content).toEqual(new Uint8Array(FILES['a.txt']!));
    }
  });

  test('packed with gzip and zstd, in several members, told by content', async () => {
    const archive = tar('--format=gnu', 'a.txt', LONG);
    const [left, right] = [archive.subarray(0, 5000), archive.subarray(5000)];
    const packed = {
      gzip: Buffer.concat([gzipSync(left), gzipSync(right)]),
      zstd: Buffer.concat([Bun.zstdCompressSync(left), Bun.zstdCompressSync(right)]),
    };
    for (const [packing, bytes] of Object.entries(packed)) {
      for (const size of [3, 1000]) {
        expect(filesOf(await read(bytes, size))).toEqual(expected(['a.txt', LONG]));
      }
      const path = join(folder, 'x.anything');
      writeFileSync(path, bytes);
      expect(filesOf(await Array.fromAsync(readTar(path)))).toEqual(expected(['a.txt', LONG]));
      await expect(read(bytes.subarray(0, bytes.length >> 1))).rejects.toThrow(Failure);
      const broken = Buffer.from(bytes).fill(0x55, 40, 60);
      await expect(read(broken)).rejects.toThrow(
        packing === 'gzip' ? 'x.tar: it cannot be unpacked' : Failure,
      );
    }
  });
});

describe('in use', () => {
  const archive = Buffer.concat([tarEntry('a.jpg', bytesOf(900)), tarEntry('b.txt', bytesOf(20)), TAR_END]);

  test('what is not wanted is passed over; what is too large is refused', async () => {
    const few = await read(archive, 100, { wanted: (name) => name.endsWith('.txt') });
    expect(Object.keys(filesOf(few))).toEqual(['b.txt']);
    expect(few.map(({ refused }) => refused)).toEqual([undefined, undefined]);
    const small = await read(archive, 100, { maxBytes: 100 });
    expect(small.map(({ refused }) => refused)).toEqual(['900 bytes are more than 100', undefined]);
    expect(Object.keys(filesOf(small))).toEqual(['b.txt']);
  });

  test('a reader that stops ends the stream', async () => {
    let ended = false;
    async function* stream() {
      try {
        for (;;) yield tarEntry('a', bytesOf(10));
      } finally {
        ended = true;
      }
    }
    for await (const { name } of tarEntries(stream(), 'x')) if (name === 'a') break;
    expect(ended).toBe(true);
  });

  test('without an end mark; a file that is not there', async () => {
    expect((await read(archive.subarray(0, archive.length - 1024))).length).toBe(2);
    await expect(Array.fromAsync(readTar(join(folder, 'none.tar')))).rejects.toThrow(
      'none.tar: cannot read: no such file or folder',
    );
  });
});

/** The archive with bytes put at a place of its first header, and the sum that belongs to it. */
function edited(archive: Uint8Array, at: number, bytes: Uint8Array): Buffer {
  const copy = Buffer.from(archive);
  copy.set(bytes, at);
  copy.fill(' ', 148, 156);
  const sum = copy.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return copy;
}

const paxed = (body: string) => {
  const head = edited(tarEntry('pax', Buffer.from(body)), 156, Buffer.from('x'));
  return Buffer.concat([head, tarEntry('a.txt', bytesOf(5)), TAR_END]);
};

describe('damaged and hostile', () => {
  const plain = Buffer.concat([tarEntry('a.txt', bytesOf(700)), tarEntry('b.txt', bytesOf(700)), TAR_END]);

  test('cut off anywhere but between entries', async () => {
    for (let length = 0; length < 3072; length += 101) {
      await expect(read(plain.subarray(0, length))).rejects.toThrow(
        length === 0 ? 'x.tar: the archive is empty' : `x.tar: it is cut off at byte ${length}`,
      );
    }
  });

  test('no archive, and one that stops being one', async () => {
    await expect(read(bytesOf(5000))).rejects.toThrow('x.tar: this is no tar archive');
    await expect(read(Buffer.from('BZh91AY&SY'))).rejects.toThrow('x.tar: bzip2 is not read. Use a plain');
    const broken = Buffer.from(plain);
    broken[1536 + 3]! ^= 1;
    const seen: string[] = [];
    const all = async () => {
      for await (const { name } of tarEntries(pieces(broken, 99), 'x')) seen.push(name);
    };
    await expect(all()).rejects.toThrow('x: it is damaged: no header at byte 1536');
    expect(seen).toEqual(['a.txt']);
  });

  test('sizes that are none or beyond all files', async () => {
    const sizes = [
      Buffer.from('7777777777x\0'),
      Buffer.from('-0000000001\0'),
      Buffer.alloc(12, 0xff),
      Buffer.from([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ];
    for (const size of sizes) await expect(read(edited(plain, 124, size))).rejects.toThrow('is no number');
    const large = edited(plain, 124, Buffer.from('77777777777\0')); // 8 GiB that are not there
    await expect(read(large)).rejects.toThrow('it is cut off at byte 4096');
    const binary = edited(plain, 124, Buffer.from([0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 188]));
    expect((await read(binary)).map(({ size }) => size)).toEqual([700, 700]);
    for (const size of ['-5', '1e3', '99999999999999999999']) {
      await expect(read(paxed(`${size.length + 9} size=${size}\n`))).rejects.toThrow('is no number');
    }
  });

  test('what GNU keeps in the place of the prefix is no part of the name', async () => {
    const gnu = tar('--format=gnu', 'a.txt');
    const [entry] = await read(edited(gnu, 345, Buffer.from('14000000000')));
    expect(entry!.name).toBe('a.txt');
  });

  test('names that lead out of the archive', async () => {
    for (const name of ['/etc/passwd', '../up.txt', 'a/../../b.txt', '..']) {
      const [entry] = await read(Buffer.concat([tarEntry(name, bytesOf(5)), TAR_END]));
      expect(entry).toMatchObject({ content: null, refused: 'its name leads out of the archive' });
    }
    const zero = await read(paxed('13 path=a\0b.\n'));
    expect(zero[0]).toMatchObject({ content: null, refused: 'its name is none' });
  });

  test('attributes that cannot be read, or too many', async () => {
    const record = '16 path=over.txt\n';
    expect((await read(paxed(`17${record.slice(2)}`)))[0]).toMatchObject({ name: 'over.txt', size: 5 });
    for (const body of [record, 'path=x\n', '99 path=x\n', '7 path\n', '0 p=x\n', 'x p=x\n']) {
      await expect(read(paxed(body))).rejects.toThrow('the attributes at byte 0 cannot be read');
    }
    const long = edited(tarEntry('long', new Uint8Array(2 ** 20 + 1)), 156, Buffer.from('L'));
    await expect(read(long)).rejects.toThrow('1048577 bytes of attributes at byte 0 are more than 1048576');
  });
});

describe('WebDataset', () => {
  const samplesOf = async (files: readonly (readonly [string, number])[], options = {}) => {
    const archive = Buffer.concat([...files.map(([name, size]) => tarEntry(name, bytesOf(size))), TAR_END]);
    return Array.fromAsync(webSamples(tarEntries(pieces(archive, 1000), 'x'), options));
  };

  test('files of one key beside each other', async () => {
    const samples = await samplesOf([
      ['a/0001.JPG', 100],
      ['a/0001.txt', 10],
      ['a/0001.seg.png', 7],
      ['b/0001.jpg', 20],
      ['README', 5],
      ['.hidden.txt', 5],
      ['__meta__.json__', 5],
      ['b/0001.json', 30],
      ['a/0001.txt', 40],
    ]);
    const shape = samples.map(({ index, key, parts }) => [
      index,
      key,
      [...parts].map(([name, content]) => `${name} ${content.length}`).join(', '),
    ]);
    expect(shape).toEqual([
      [0, 'a/0001', 'jpg 100, txt 10, seg.png 7'],
      [1, 'b/0001', 'jpg 20, json 30'],
      [2, 'a/0001', 'txt 40'],
    ]);
    expect(samples.flatMap(({ refused }) => refused)).toEqual([]);
    expect(samples[0]!.parts.get('jpg')).toEqual(bytesOf(100));
  });

  test('the same name twice, too many files, too many bytes', async () => {
    const twice = await samplesOf([
      ['a.txt', 1],
      ['a.TXT', 2],
    ]);
    expect(twice.map(({ parts, refused }) => [parts.get('txt')!.length, refused])).toEqual([
      [1, [{ name: 'a.TXT', why: 'the sample has a file of that name already' }]],
    ]);
    const files = Array.from({ length: 5 }, (_, i) => [`a.${i}`, 100] as const);
    const [many] = await samplesOf(files, { maxParts: 3 });
    expect([many!.parts.size, many!.refused.length]).toEqual([3, 2]);
    const [large] = await samplesOf(files, { maxBytes: 250 });
    expect([large!.parts.size, large!.refused.length]).toEqual([2, 3]);
  });
});
