// The readers that are fuzzed: a name, sound inputs, what is done with a changed one. A new reader of files
// that
// others wrote gets a row here.

import { readFileSync } from 'node:fs';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { encodingOf } from '../../src/io/mds/encodings.ts';
import { MdsIndex, type MdsShardInfo } from '../../src/io/mds/index.ts';
import { unpackShard } from '../../src/io/mds/open.ts';
import { MdsShard } from '../../src/io/mds/shard.ts';
import { Failure } from '../../src/io/failure.ts';
import { entryOf, shardOf, TWO, twoSamples } from '../null/mds-case.ts';
import type { FuzzTarget, Random } from './fuzz.ts';

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
  zstd: (bytes) => Bun.zstdCompressSync(bytes),
  gz: (bytes) => gzipSync(bytes),
  br: (bytes) => brotliCompressSync(bytes),
};

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
  ...Object.entries(packed).map(([kind, compress]) => ({
    name: `mds ${kind}`,
    variants: SHARDS.length,
    make: (i: number) => compress(SHARDS[i]!.bytes()),
    call: (bytes: Uint8Array) => unpackShard(bytes, { ...SHARDS[0]!.info(), compression: kind }, 'shard'),
  })),
];
