// Where the shards of a set lie: in a folder as they are, or compressed or behind an address, from where they
// are brought into a cache.
import { realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT, Failure } from '../../io/failure.ts';
import { INDEX_NAME, MdsIndex, type MdsShardInfo } from '../../io/mds/index.ts';
import { isRemote, Remote } from '../../io/remote.ts';
import type { CacheSettings, ShardCache } from './cache.ts';
import { Ranges } from './ranges.ts';

export interface ShardFiles {
  /** The folder or address of the set, as it stands in messages. */
  readonly address: string;
  readonly shards: readonly MdsShardInfo[];
  /** The file of a shard, uncompressed, if it is on this machine. */
  path(shard: number): string | undefined;
  /** Brings a shard's file to this machine; several calls at once bring it once. */
  bring(shard: number): Promise<string>;
  /** Reads single samples of shards that are not here yet, where that is possible. */
  readonly ranges: Ranges | undefined;
}

/** The largest index that is read. */
const INDEX_BYTES = 2 ** 29;

export async function openFiles(
  path: string,
  cache: ShardCache,
  settings: CacheSettings,
): Promise<ShardFiles> {
  return isRemote(path) ? remoteFiles(path, cache, settings) : localFiles(path, cache);
}

function localFiles(folder: string, cache: ShardCache): ShardFiles {
  const { shards } = MdsIndex.read(folder);
  const keyOf = (info: MdsShardInfo) => {
    const path = join(folder, info.zip!.basename);
    const stat = statSync(path, { throwIfNoEntry: false });
    return keyFor([realpathSync(folder), info, stat?.mtimeMs ?? 0]);
  };
  return {
    address: folder,
    shards,
    path: (shard) => plainPath(folder, shards[shard]!) ?? cache.find(keyOf(shards[shard]!), shards[shard]!),
    bring: (shard) => cache.bring(keyOf(shards[shard]!), folder, shards[shard]!),
    ranges: undefined,
  };
}

async function remoteFiles(base: string, cache: ShardCache, settings: CacheSettings): Promise<ShardFiles> {
  const remote = new Remote(base, settings.remote);
  const bytes = await remote.whole(INDEX_NAME, INDEX_BYTES);
  const address = remote.address('').replace(/\/$/, '');
  const { shards } = MdsIndex.parse(bytes, address, remote.address(INDEX_NAME));
  const keyOf = (info: MdsShardInfo) => keyFor([address, info]);
  // Servers that give whole files alone are known: their shards are waited for instead.
  const first = shards.every(({ zip }) => zip === null) ? shards[0]?.raw.basename : undefined;
  const hasRanges = first !== undefined && (await remote.hasRanges(first));
  return {
    address,
    shards,
    path: (shard) => cache.find(keyOf(shards[shard]!), shards[shard]!),
    bring: (shard) => cache.bring(keyOf(shards[shard]!), base, shards[shard]!),
    ranges: hasRanges ? new Ranges(remote) : undefined,
  };
}

/** A name for a shard in a cache: where it is from and what the index says of it. */
function keyFor(parts: readonly unknown[]): string {
  return new Bun.CryptoHasher('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 40);
}

/** Failure unless a cache holds the present window and the next of every set that needs it. */
export function checkCache(sets: readonly ShardFiles[], window: number, cache: ShardCache): void {
  let wanted = 0;
  for (const { address, shards } of sets) {
    const sizes = shards
      .filter((info) => isRemote(address) || !plainPath(address, info))
      .map(({ raw }) => raw.bytes)
      .sort((a, b) => b - a);
    for (const bytes of sizes.slice(0, 2 * window)) wanted += bytes;
  }
  if (wanted <= cache.limit) return;
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(bytes < 1e9 ? 3 : 1)} GB`;
  throw new Failure({
    what: cache.folder,
    why: `a cache of ${gigabytes(cache.limit)} is too small: two windows take ${gigabytes(wanted)}`,
    fix: 'Allow it more, or make the window smaller',
    code: EXIT.usage,
  });
}

/** A plain file of a local set, also beside a compressed one, as the format's own library leaves it. */
function plainPath(folder: string, { raw, zip }: MdsShardInfo): string | undefined {
  const path = join(folder, raw.basename);
  return zip === null || statSync(path, { throwIfNoEntry: false })?.size === raw.bytes ? path : undefined;
}
