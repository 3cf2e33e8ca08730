// Looks ahead in the order of a stream: shards that will be wanted soon are read into the system's memory, or
// brought to this machine. Those of the present window at once, those of the next one as the present one goes
// by, so that what is held in memory or in a cache stays within two windows of each set.
import { Gather } from '../../../ffi/gather.ts';
import type { Native } from '../../../ffi/native.ts';
import type { StreamOrder } from './order.ts';
import type { OpenShard, ShardSet } from './shard-set.ts';

/** What a set was told to have ready. */
interface Sight {
  /** Turn at which the window that was looked at last begins, and how many of its shards are on their way. */
  first: number;
  shards: number;
}

/** Shards that are being read into memory. */
interface Advice {
  readonly gather: Gather;
  readonly set: ShardSet;
  readonly open: readonly OpenShard[];
  /** Those that will be mapped. */
  readonly reserved: ReadonlySet<OpenShard>;
}

export class Ahead {
  /** Of each set: the present window, or the next one. */
  private readonly sights: Sight[];
  private readonly advising = new Set<Advice>();
  private readonly bringing = new Set<Promise<unknown>>();

  constructor(
    private readonly order: StreamOrder,
    private readonly sets: readonly ShardSet[],
    private readonly native: Native,
  ) {
    this.sights = sets.map(() => ({ first: -1, shards: 0 }));
  }

  /** Places from `place` on come next. */
  look(place: number): void {
    this.reap();
    for (const [number, set] of this.sets.entries()) {
      if (this.order.interleave.shares[number] === 0) continue;
      const turn = this.order.interleave.before(number, place);
      const now = this.order.window(number, turn);
      const next = this.order.window(number, now.end);
      const sight = this.sights[number]!;
      if (sight.first !== now.first && sight.first !== next.first) {
        this.want(set, now.shards);
        this.sights[number] = { first: next.first, shards: 0 };
      } else if (sight.first === now.first) {
        this.want(set, now.shards.slice(sight.shards));
        this.sights[number] = { first: next.first, shards: 0 };
      }
      const part = (turn - now.first) / (now.end - now.first);
      const reach = Math.min(next.shards.length, Math.ceil(part * next.shards.length));
      const seen = this.sights[number]!;
      if (reach > seen.shards) {
        this.want(set, next.shards.slice(seen.shards, reach));
        seen.shards = reach;
      }
    }
  }

  /** Waits for all that is on its way. */
  async close(): Promise<void> {
    await Promise.all(this.bringing);
    while (this.advising.size > 0) {
      await Bun.sleep(1);
      this.reap();
    }
  }

  private want(set: ShardSet, shards: readonly number[]): void {
    const open: OpenShard[] = [];
    for (const shard of shards) {
      if (set.samples[shard] === 0) continue;
      if (set.files.path(shard) === undefined) this.bring(set, shard);
      else {
        const file = this.taken(set, shard);
        if (file) open.push(file);
      }
    }
    if (open.length === 0) return;
    const gather = new Gather(this.native, open.length, []);
    const reserved = new Set(open.filter((file) => set.reserve(file)));
    for (const [i, file] of open.entries()) gather.ready(i, file, reserved.has(file));
    gather.start(open.length, []);
    this.advising.add({ gather, set, open, reserved });
  }

  /** Undefined for a damaged shard: the batch that needs it will say so. */
  private taken(set: ShardSet, shard: number): OpenShard | undefined {
    try {
      return set.take(shard);
    } catch {
      return undefined;
    }
  }

  private bring(set: ShardSet, shard: number): void {
    // What goes wrong here is told by the batch that needs the shard.
    const brought: Promise<unknown> = set.bring(shard).catch(() => undefined);
    this.bringing.add(brought);
    brought.finally(() => this.bringing.delete(brought));
  }

  private reap(): void {
    for (const job of this.advising) {
      if (!job.gather.wait(0)) continue;
      for (const [i, open] of job.open.entries()) {
        if (job.reserved.has(open)) job.set.map(open, job.gather.mapOf(i));
        job.set.release(open);
      }
      this.advising.delete(job);
    }
  }
}
