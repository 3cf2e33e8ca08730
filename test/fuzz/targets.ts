// The readers that are fuzzed: a name, sound inputs, what is done with a changed one. A new reader of files
// that others wrote gets a row here.

import { readdirSync, readFileSync } from 'node:fs';
import { brotliCompressSync, constants, crc32, gzipSync } from 'node:zlib';
import { decodeImage } from '../../src/io/image/decode.ts';
import { encodingOf } from '../../src/io/mds/encodings.ts';
import { MdsIndex, type MdsShardInfo } from '../../src/io/mds/index.ts';
import { unpackShard } from '../../src/io/mds/open.ts';
import { MdsShard } from '../../src/io/mds/shard.ts';
import { Failure } from '../../src/io/failure.ts';
import { tarEntries } from '../../src/io/tar_read.ts';
import { TAR_END, tarEntry } from '../../src/io/tar.ts';
import { webSamples } from '../../src/data/webdataset.ts';
import { entryOf, shardOf, TWO, twoSamples } from '../null/mds-case.ts';
import type { FuzzTarget, Random } from './fuzz.ts';
import { mended, packedAgain, sumOf } from './packing.ts';
import { TABLE_TARGETS } from './tables.ts';

const MDS = 'test/goldens/mds';

const golden = (name: string) => new Uint8Array(readFileSync(`${MDS}/${name}`));

const indexes = ['types/index.json', 'zstd/index.json', 'merged/index.json'];

/** What the index says of a golden shard. */
const infoOf = (set: string, shard: number) =>
  MdsIndex.parse(golden(`${set}/index.json`), set).shards[shard]!;

/** The shards that are changed, and what their index says. */
const SHARDS: readonly { bytes: () => Uint8Array; info: () => MdsShardInfo }[] = [
  ...[0, 2].map((i) => ({ bytes: () => golden(`types/shard.0000${i}.mds`), info: () => infoOf('types', i) })),
  { bytes: () => golden('merged/0/shard.00001.mds'), info: () => infoOf('merged', 1) },
  {
    bytes: () => shardOf(TWO, twoSamples(5)),
    info: () => {
      const bytes = shardOf(TWO, twoSamples(5));
      const text = JSON.stringify({ version: 2, shards: [entryOf(TWO, 5, bytes.length)] });
      return MdsIndex.parse(new TextEncoder().encode(text), '.').shards[0]!;
    },
  },
];

/** Every value of every sample, though one after another is refused. */
function readShard(bytes: Uint8Array, info: MdsShardInfo): void {
  // The size is what the file has: otherwise most changes would end at the first check.
  const shard = MdsShard.open(bytes, { ...info, raw: { ...info.raw, bytes: bytes.length } });
  let failure: unknown;
  for (let i = 0; i < shard.count; i++) {
    for (let c = 0; c < shard.columns.length; c++) {
      try {
        shard.value(i, c);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        failure = error;
      }
    }
  }
  if (failure) throw failure;
}

const NAMES =
  'int str bytes json jpeg png pil ndarray ndarray:float16 str_int str_float str_decimal uint64'.split(' ');

/** Values of the golden shard, each after a byte that says its encoding. */
const VALUES: readonly Uint8Array[] = NAMES.flatMap((name, n) => {
  const info = infoOf('types', 0);
  const shard = MdsShard.open(golden('types/shard.00000.mds'), info);
  const column = info.columns.findIndex(({ encoding }) => encoding === name);
  return Array.from({ length: 3 }, (_, i) => Uint8Array.of(n, ...shard.columnBytes(i, column)));
});

function readValue(input: Uint8Array, random: Random): void {
  const encoding = encodingOf(NAMES[input[0]! % NAMES.length] ?? NAMES[random(NAMES.length)]!);
  if ('refused' in encoding) throw new Error(encoding.refused);
  const bytes = input.subarray(1);
  if (encoding.size !== null && bytes.length !== encoding.size) return;
  let value: ReturnType<typeof encoding.decode>;
  try {
    value = encoding.decode(bytes);
  } catch {
    return; // an Error in words, which the shard turns into a Failure
  }
  // What can be read can be written, and reads as the same; shapes with zeros are read alone.
  if (typeof value === 'object' && 'kind' in value && value.kind === 'ndarray') {
    if (value.shape.length === 0 || value.shape.includes(0)) return;
  }
  if (!Bun.deepEquals(encoding.decode(encoding.encode(value)), value))
    throw new Error('reads otherwise when written');
}

const packed: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array>> = {
  zstd: (bytes) => Bun.zstdCompressSync(bytes, { level: 1 }),
  gz: (bytes) => gzipSync(bytes, { level: 1 }),
  br: (bytes) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } }),
};

/** A shard packed as the index says, which was damaged before or is after it. */
function unpackAndRead(input: Uint8Array, random: Random, kind: string): void {
  const { info } = SHARDS[random(SHARDS.length)]!;
  const file = packedAgain(input, random, packed[kind]!);
  const said = { ...info(), compression: kind, raw: { ...info().raw, bytes: input.length } };
  readShard(unpackShard(file, said, 'shard'), said);
}

const PICTURES = 'test/goldens/images-kinds';
const pictures = readdirSync(PICTURES).filter(
  (file) => !file.startsWith('expected.') && file !== 'manifest.json',
);
const PICTURE_LIMITS = { bytes: 2 ** 20, pixels: 2 ** 20 };

/** A PNG with the checksums that its chunks should have; other files as they are. */
function withSums(bytes: Uint8Array): Uint8Array {
  const file = Buffer.from(bytes);
  if (file.toString('latin1', 1, 4) !== 'PNG') return bytes;
  for (let at = 8; at + 12 <= file.length; ) {
    const end = at + 8 + file.readUInt32BE(at);
    if (end + 4 > file.length) break;
    file.writeUInt32BE(crc32(file.subarray(at + 4, end)), end);
    at = end + 4;
  }
  return file;
}

/** A pax header before a file, the file, another of the same key. */
const archive = () => {
  const attributes = tarEntry('pax', Buffer.from('23 path=folder/one.jpg\n'));
  attributes[156] = 0x78;
  attributes.set(Buffer.from(sumOf(attributes)), 148);
  const files = ['x', 'folder/one.txt', 'two.seg.png'].map((name, i) =>
    tarEntry(name, new Uint8Array(300 * i)),
  );
  return new Uint8Array(Buffer.concat([attributes, ...files, TAR_END]));
};

async function* inPieces(bytes: Uint8Array, random: Random): AsyncGenerator<Uint8Array> {
  for (let at = 0, end = 0; at < bytes.length; at = end) {
    end = at + 1 + random(1000);
    yield bytes.subarray(at, end);
  }
}

async function readSamples(bytes: Uint8Array, random: Random): Promise<void> {
  const entries = tarEntries(inPieces(bytes, random), 'x.tar', { maxBytes: 2 ** 20 });
  for await (const _ of webSamples(entries));
}

/** The whole table. */
export const TARGETS: readonly FuzzTarget[] = [
  {
    name: 'mds index',
    variants: indexes.length,
    make: (i) => golden(indexes[i]!),
    call: (bytes) => MdsIndex.parse(bytes, '/set'),
    words: [
      '"zstd:7"',
      '"../"',
      '"/etc"',
      '{',
      '[',
      ']',
      '}',
      'null',
      'ndarray:float16:2,3',
      'pkl',
      '\\u0000',
    ],
  },
  {
    name: 'mds shard',
    variants: SHARDS.length,
    make: (i) => SHARDS[i]!.bytes(),
    call: (bytes, random) => readShard(bytes, SHARDS[random(SHARDS.length)]!.info()),
  },
  {
    name: 'mds shard of its index',
    variants: 1,
    make: () => SHARDS[0]!.bytes(),
    call: (bytes) => readShard(bytes, SHARDS[0]!.info()),
  },
  { name: 'mds value', variants: VALUES.length, make: (i) => VALUES[i]!, call: readValue },
  ...Object.keys(packed).map((kind) => ({
    name: `mds ${kind}`,
    variants: SHARDS.length,
    make: (i: number) => SHARDS[i]!.bytes(),
    call: (bytes: Uint8Array, random: Random) => unpackAndRead(bytes, random, kind),
  })),
  {
    name: 'picture',
    variants: pictures.length,
    make: (i) => new Uint8Array(readFileSync(`${PICTURES}/${pictures[i]}`)),
    call: (bytes) => decodeImage(withSums(bytes), 'x', { exif: true, limits: PICTURE_LIMITS }),
    words: ['IHDR', 'PLTE', 'tRNS', 'IDAT', 'eXIf', 'VP8X', 'VP8L', 'ANMF', 'ALPH', 'GIF87a', 'Exif'],
  },
  { name: 'tar', variants: 1, make: archive, call: (bytes, random) => readSamples(mended(bytes), random) },
  {
    name: 'tar, packed',
    variants: 1,
    make: archive,
    call: (bytes, random) => {
      const pack = random(2) ? packed.gz! : packed.zstd!;
      return readSamples(packedAgain(mended(bytes), random, pack), random);
    },
  },
  ...TABLE_TARGETS,
];
