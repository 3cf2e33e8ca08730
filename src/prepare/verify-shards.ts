// The check of a set of shards, to the last value: sizes, hashes, offsets, every column of every sample
// decoded, pictures too.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT, Failure } from '../io/failure.ts';
import { decodeImage } from '../io/image/decode.ts';
import { isKind } from '../io/mds/encodings.ts';
import { isKnownHash } from '../io/mds/hashes.ts';
import { INDEX_NAME, MdsIndex, type MdsShardInfo } from '../io/mds/index.ts';
import { openShard } from '../io/mds/open.ts';
import type { MdsShard } from '../io/mds/shard.ts';

export interface ShardDamage {
  /** Number of the shard; null where the index itself is damaged. */
  readonly shard: number | null;
  readonly file: string;
  /** Samples that cannot be had: all of them where the shard as a whole is refused. */
  readonly samples: number;
  /** The first thing that is wrong with it. */
  readonly reason: string;
}

export interface ShardReport {
  readonly folder: string;
  readonly samples: number;
  readonly shards: number;
  /** Of the files that are read. */
  readonly bytes: number;
  /** By algorithm: shards whose hash was compared. */
  readonly hashes: Readonly<Record<string, number>>;
  /** By algorithm: shards whose hash is of a kind that is not known here. */
  readonly unchecked: Readonly<Record<string, number>>;
  /** Shards without any hash. */
  readonly without_hashes: number;
  readonly damaged: readonly ShardDamage[];
  readonly passed: boolean;
}

/** Reads a set through; a Failure where there is none. `onShard` hears how many shards are done. */
export async function verifyShards(
  folder: string,
  onShard: (done: number, total: number) => void = () => {},
): Promise<ShardReport> {
  let index: MdsIndex;
  try {
    index = MdsIndex.read(folder);
  } catch (error) {
    if (!existsSync(join(folder, INDEX_NAME))) throw error; // no set at all
    const damage = { shard: null, file: join(folder, INDEX_NAME), samples: 0, reason: reasonOf(error) };
    return { ...NOTHING, folder, damaged: [damage] };
  }
  const hashes: Record<string, number> = {};
  const unchecked: Record<string, number> = {};
  const damaged: ShardDamage[] = [];
  let [bytes, without] = [0, 0];
  for (const info of index.shards) {
    const file = info.zip ?? info.raw;
    bytes += file.bytes;
    const names = Object.keys(file.hashes);
    const known = names.filter(isKnownHash);
    for (const name of known) hashes[name] = (hashes[name] ?? 0) + 1;
    for (const name of names) if (!isKnownHash(name)) unchecked[name] = (unchecked[name] ?? 0) + 1;
    if (names.length === 0) without += 1;
    const damage = await checkShard(index, info, known.length > 0);
    if (damage) damaged.push(damage);
    onShard(info.index + 1, index.shards.length);
  }
  const { count: samples, shards } = index;
  const counts = { samples, shards: shards.length, bytes, hashes, unchecked, without_hashes: without };
  return { folder, ...counts, damaged, passed: damaged.length === 0 };
}

const NOTHING = {
  samples: 0,
  shards: 0,
  bytes: 0,
  hashes: {},
  unchecked: {},
  without_hashes: 0,
  passed: false,
};

/** What is wrong with a shard, or null. */
async function checkShard(index: MdsIndex, info: MdsShardInfo, hashes: boolean): Promise<ShardDamage | null> {
  const { index: shard, samples } = info;
  const file = join(index.folder, (info.zip ?? info.raw).basename);
  let open: MdsShard;
  try {
    open = openShard(index, info, { hashes });
  } catch (error) {
    return { shard, file, samples, reason: reasonOf(error) };
  }
  using opened = open;
  let [bad, reason] = [0, ''];
  for (let i = 0; i < samples; i++) {
    try {
      await checkSample(opened, i);
    } catch (error) {
      bad += 1;
      reason ||= reasonOf(error);
    }
  }
  return bad === 0 ? null : { shard, file, samples: bad, reason };
}

async function checkSample(shard: MdsShard, i: number): Promise<void> {
  for (const [name, value] of Object.entries(shard.sample(i))) {
    if (!isKind(value, 'image')) continue;
    try {
      await decodeImage(value.bytes, `column ${JSON.stringify(name)}`);
    } catch (error) {
      throw shard.refuseSample(i, reasonOf(error));
    }
  }
}

/**
 * A Failure of the data in words; anything else (a library that is missing, a fault of the program) ends
 * it.
 */
function reasonOf(error: unknown): string {
  if (error instanceof Failure && error.code !== EXIT.missing) return error.message;
  throw error;
}
