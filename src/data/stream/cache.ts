// A folder of shards that were brought to this machine, uncompressed, at most so many bytes: what was used
// longest ago makes room. Several processes may share it: one brings a shard, the others wait for it; files
// appear whole or not at all, and one that is removed while it is open stays readable to whoever has it open.
import { readdirSync, rmSync, statSync, utimesSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { cleanLeftovers, makeFolder } from '../../io/atomic.ts';
import { osCode, osFailure } from '../../io/oserror.ts';
import type { MdsShardInfo } from '../../io/mds/index.ts';
import type { RemoteSettings } from '../../io/remote.ts';
import { Bringers } from './bringers.ts';

export interface CacheSettings {
  /** The folder; in the user's cache when left out. */
  readonly folder?: string | undefined;
  /** Bytes of shards at most, 64 GiB when left out. */
  readonly bytes?: number | undefined;
  readonly remote?: RemoteSettings;
}

const USUAL_BYTES = 2 ** 36;
const ENDING = '.mds';

export class ShardCache {
  readonly folder: string;
  readonly limit: number;
  private readonly bringers = new Bringers();
  private readonly coming = new Map<string, Promise<string>>();
  /** Bytes that are being brought, and who waits for some of them to be there. */
  private active = 0;
  private readonly waiting: (() => void)[] = [];
  private made = false;

  constructor(private readonly settings: CacheSettings = {}) {
    const caches = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
    this.folder = settings.folder ?? join(caches, 'microdiff', 'shards');
    this.limit = settings.bytes ?? USUAL_BYTES;
  }

  /** The file of a shard if it is here; it counts as used. `key` tells it from all others. */
  find(key: string, { raw }: MdsShardInfo): string | undefined {
    const path = this.pathOf(key);
    if (statSync(path, { throwIfNoEntry: false })?.size !== raw.bytes) return undefined;
    try {
      utimesSync(path, new Date(), new Date());
    } catch (error) {
      if (osCode(error) === 'ENOENT') return undefined; // another process has just removed it
      throw osFailure(error, path, 'write');
    }
    return path;
  }

  /** Brings a shard of a set. Calls for the same one share the work, between processes too. */
  bring(key: string, base: string, info: MdsShardInfo): Promise<string> {
    const known = this.coming.get(key);
    if (known) return known;
    const done = this.fetch(key, base, info).finally(() => this.coming.delete(key));
    this.coming.set(key, done);
    return done;
  }

  close(): void {
    this.bringers.close();
  }

  private async fetch(key: string, base: string, info: MdsShardInfo): Promise<string> {
    if (!this.made) {
      makeFolder(this.folder);
      cleanLeftovers(this.folder);
      this.made = true;
    }
    const target = this.pathOf(key);
    const lock = join(this.folder, `${key}.lock`);
    await this.withRoom(info.raw.bytes, () =>
      this.bringers.bring({ base, info, target, lock, remote: this.settings.remote }),
    );
    return target;
  }

  /** Brings no more at a time than the cache may hold. */
  private async withRoom(bytes: number, bring: () => Promise<void>): Promise<void> {
    while (this.active > 0 && this.active + bytes > this.limit) {
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
    this.active += bytes;
    try {
      this.makeRoom();
      await bring();
    } finally {
      this.active -= bytes;
      for (const resolve of this.waiting.splice(0)) resolve();
    }
  }

  /** Removes what was used longest ago until all that is coming fits. */
  private makeRoom(): void {
    const files = readdirSync(this.folder)
      .filter((name) => name.endsWith(ENDING) && !name.startsWith('.'))
      .flatMap((name) => {
        const path = join(this.folder, name);
        const stat = statSync(path, { throwIfNoEntry: false }); // another process may have removed it
        return stat ? [{ path, bytes: stat.size, used: stat.mtimeMs }] : [];
      })
      .sort((a, b) => a.used - b.used);
    let total = files.reduce((sum, { bytes }) => sum + bytes, this.active);
    for (const { path, bytes } of files) {
      if (total <= this.limit) return;
      rmSync(path, { force: true });
      total -= bytes;
    }
  }

  private pathOf(key: string): string {
    return join(this.folder, `${key}${ENDING}`);
  }
}
