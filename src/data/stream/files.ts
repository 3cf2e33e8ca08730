// Where the shards of a set lie: in a folder as they are, or elsewhere, to be brought into a cache first.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../../io/failure.ts';
import { MdsIndex, type MdsShardInfo } from '../../io/mds/index.ts';

export interface ShardFiles {
  /** The folder or address of the set, as it stands in messages. */
  readonly address: string;
  readonly shards: readonly MdsShardInfo[];
  /** The file of a shard, uncompressed, if it is on this machine. */
  path(shard: number): string | undefined;
  /** Brings a shard's file to this machine; several calls at once bring it once. */
  bring(shard: number): Promise<string>;
}

/** A set in a folder. */
export function localFiles(folder: string): ShardFiles {
  const { shards } = MdsIndex.read(folder);
  const plain = (shard: number) => {
    const { raw, zip } = shards[shard]!;
    const path = join(folder, raw.basename);
    // A plain file beside a compressed one, as the format's own library leaves it, is taken.
    return zip === null || statSync(path, { throwIfNoEntry: false })?.size === raw.bytes ? path : undefined;
  };
  return {
    address: folder,
    shards,
    path: plain,
    async bring(shard) {
      const { zip, compression } = shards[shard]!;
      const why = `is compressed (${compression}), and training reads shards as they are`;
      throw new Failure({ what: join(folder, zip?.basename ?? ''), why });
    },
  };
}
