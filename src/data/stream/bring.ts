// Brings one shard to this machine: reads or downloads its file, checks size and hashes, unpacks it and puts
// it under its name in a cache when all of it is there.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeWholeFile } from '../../io/atomic.ts';
import { Failure } from '../../io/failure.ts';
import { isKnownHash } from '../../io/mds/hashes.ts';
import type { MdsShardInfo } from '../../io/mds/index.ts';
import { checkHashes, unpackShard } from '../../io/mds/open.ts';
import { osFailure } from '../../io/oserror.ts';
import { isRemote, Remote, type RemoteSettings } from '../../io/remote.ts';

export interface BringJob {
  /** The set's folder or address. */
  readonly base: string;
  readonly info: MdsShardInfo;
  /** Where the shard goes, uncompressed. */
  readonly target: string;
  readonly remote: RemoteSettings | undefined;
}

export async function bring({ base, info, target, remote }: BringJob): Promise<void> {
  const file = info.zip ?? info.raw;
  const from = isRemote(base) ? new Remote(base, remote) : undefined;
  const address = from?.address(file.basename) ?? join(base, file.basename);
  const bytes = from ? await from.range(file.basename, 0, file.bytes) : readFile(address);
  if (bytes.length !== file.bytes) {
    const why = `has ${bytes.length} bytes where the index says ${file.bytes}`;
    throw new Failure({ what: address, why, fix: 'Copy or download this shard again' });
  }
  if (Object.keys(file.hashes).some(isKnownHash)) checkHashes(address, bytes, file);
  writeWholeFile(target, info.zip ? unpackShard(bytes, info, address) : bytes);
}

function readFile(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}
