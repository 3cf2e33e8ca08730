// Brings one shard to this machine: reads or downloads its file, checks size and hashes, unpacks it and puts
// it under its name in a cache when all of it is there.
import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { writeWholeFile } from '../../io/atomic.ts';
import { Failure } from '../../io/failure.ts';
import { takeLock } from '../../io/hub/lock.ts';
import { isKnownHash } from '../../io/mds/hashes.ts';
import type { MdsShardInfo } from '../../io/mds/index.ts';
import { checkHashes, unpackShard, wholeShardFile } from '../../io/mds/open.ts';
import { isRemote, Remote, type RemoteSettings } from '../../io/remote.ts';

export interface BringJob {
  /** The set's folder or address. */
  readonly base: string;
  readonly info: MdsShardInfo;
  /** Where the shard goes, uncompressed. */
  readonly target: string;
  /** Held meanwhile, so that of several processes one brings it. */
  readonly lock: string;
  readonly remote: RemoteSettings | undefined;
}

/**
 * The lock is taken here, in the Worker: a process that holds one must get on, and the thread that trains may
 * be waiting for another rank, which waits for this very shard.
 */
export async function bring(job: BringJob): Promise<void> {
  const lock = await takeLock(job.lock, undefined, undefined, 'Choose a cache on another disk');
  try {
    const there = statSync(job.target, { throwIfNoEntry: false })?.size === job.info.raw.bytes;
    if (!there) await fetchShard(job);
  } finally {
    // Whoever waits for this very file takes it and finds the shard; others make a new one.
    rmSync(job.lock, { force: true });
    lock.release();
  }
}

async function fetchShard({ base, info, target, remote }: BringJob): Promise<void> {
  const file = info.zip ?? info.raw;
  const from = isRemote(base) ? new Remote(base, remote) : undefined;
  const address = from?.address(file.basename) ?? join(base, file.basename);
  const bytes = from ? await from.range(file.basename, 0, file.bytes) : wholeShardFile(address, file);
  if (bytes.length !== file.bytes) {
    const why = `has ${bytes.length} bytes where the index says ${file.bytes}`;
    throw new Failure({ what: address, why, fix: 'Copy or download this shard again' });
  }
  if (Object.keys(file.hashes).some(isKnownHash)) checkHashes(address, bytes, file);
  writeWholeFile(target, info.zip ? unpackShard(bytes, info, address) : bytes);
}
