// Golden shards written again from their decoded values: the same bytes, but for how they are compressed.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { encodingOf } from '../io/mds/encodings.ts';
import { INDEX_NAME, type MdsShardInfo } from '../io/mds/index.ts';
import { unpackShard } from '../io/mds/open.ts';
import { MdsSet } from '../io/mds/set.ts';
import { MdsWriter } from '../io/mds/writer.ts';
import { differing, Group, type GroupResult, skipped } from './conformance.ts';
import { JsonObject } from './json-file.ts';

/** One result for a set; merged ones are written folder by folder. */
export function writeAgain(path: string, name: string): GroupResult | null {
  const group = new Group(`${name} written again`, 0);
  using set = MdsSet.open(path);
  const temporary = mkdtempSync(join(tmpdir(), 'microdiff-verify-'));
  try {
    const folders = Map.groupBy(set.index.shards, ({ raw }) => dirname(raw.basename));
    for (const [folder, shards] of folders) {
      const why = cannotBe(set, shards);
      if (why) return skipped(`${name} written again`, why);
      compareFolder(group, set, shards, join(temporary, folder));
    }
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  return group.result();
}

function compareFolder(group: Group, set: MdsSet, shards: readonly MdsShardInfo[], folder: string): void {
  {
    const { columns, ...options } = settingsOf(set, shards[0]!);
    using writer = MdsWriter.open(folder, columns, options);
    for (const { first, samples } of shards) {
      for (let i = first; i < first + samples; i++) writer.write(set.sample(i));
    }
    writer.finish();
  }
  using again = MdsSet.open(folder);
  group.add(Math.abs(again.index.shards.length - shards.length), `${again.index.shards.length} shards`);
  for (const [i, info] of shards.entries()) {
    const ours = again.index.shards[i];
    if (ours) group.add(differing(rawBytes(again, ours), rawBytes(set, info)), info.raw.basename);
  }
}

/** What its writer was told. */
function settingsOf(set: MdsSet, info: MdsShardInfo) {
  const index = JsonObject.read(join(set.index.folder, INDEX_NAME)).get('shards');
  const entry: unknown = Array.isArray(index) ? index[info.index] : undefined;
  const limit: unknown =
    typeof entry === 'object' && entry !== null ? Reflect.get(entry, 'size_limit') : null;
  return {
    columns: Object.fromEntries(info.columns.map(({ name, encoding }) => [name, encoding])),
    compression: info.compression,
    hashes: Object.keys(info.raw.hashes),
    sizeLimit: typeof limit === 'number' ? limit : null,
  };
}

/** A shard without its compression, whose bytes are those of each library. */
function rawBytes({ index }: MdsSet, info: MdsShardInfo): Uint8Array {
  const path = join(index.folder, (info.zip ?? info.raw).basename);
  return info.zip ? unpackShard(readFileSync(path), info, path) : readFileSync(path);
}

/** Why a set cannot come out the same, or null. */
function cannotBe(set: MdsSet, shards: readonly MdsShardInfo[]): string | null {
  if (shards.some(({ samples }) => samples === 0))
    return 'it has shards without samples, which are not written';
  for (const info of shards) {
    const shard = set.shard(info.index);
    for (const [c, { encoding, name }] of info.columns.entries()) {
      const found = encodingOf(encoding);
      if (encoding !== 'json' || 'refused' in found) continue;
      for (let i = 0; i < info.samples; i++) {
        if (Buffer.compare(found.encode(shard.value(i, c)), shard.columnBytes(i, c)) !== 0) {
          return `${name} of sample ${info.first + i} tells 1.0 from 1, which is lost in reading`;
        }
      }
    }
  }
  return null;
}
