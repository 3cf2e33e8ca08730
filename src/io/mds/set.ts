// A folder of shards as one list of samples; a few shards are kept open.

import { Failure } from '../failure.ts';
import { MdsIndex } from './index.ts';
import { type MdsOpenOptions, openShard } from './open.ts';
import type { MdsShard } from './shard.ts';
import type { MdsSample, MdsValue } from './values.ts';

export interface MdsSetOptions extends MdsOpenOptions {
  /** Shards kept open, 4 when left out; of compressed ones each takes its unpacked size of memory. */
  readonly openShards?: number;
}

/** An open set. `using set = MdsSet.open(folder)` closes it. */
export class MdsSet implements Disposable {
  /** In the order of their last use. */
  private readonly opened = new Map<number, MdsShard>();

  private constructor(
    readonly index: MdsIndex,
    private readonly options: MdsSetOptions,
  ) {}

  /** Reads the index; shards are opened when they are needed. */
  static open(folder: string, options: MdsSetOptions = {}): MdsSet {
    return new MdsSet(MdsIndex.read(folder), options);
  }

  get count(): number {
    return this.index.count;
  }

  /** All columns of sample 0..count-1. Bytes in it are good as long as the set is open. */
  sample(i: number): MdsSample {
    const { shard, sample } = this.index.locate(i);
    return this.shard(shard).sample(sample);
  }

  /** One column of a sample, decoded. */
  value(i: number, column: string): MdsValue {
    const at = this.find(i, column);
    return at.shard.value(at.sample, at.column);
  }

  /** The encoded bytes of one column of a sample. */
  columnBytes(i: number, column: string): Uint8Array {
    const at = this.find(i, column);
    return at.shard.columnBytes(at.sample, at.column);
  }

  /** A shard of the set, open until others have taken its place. */
  shard(number: number): MdsShard {
    let shard = this.opened.get(number);
    if (shard) this.opened.delete(number);
    else {
      const info = this.index.shards[number];
      if (!info) throw new RangeError(`shard ${number} of ${this.index.shards.length}`);
      // Makes room first, so that never more than the limit are in memory.
      for (const [old, other] of this.opened) {
        if (this.opened.size < (this.options.openShards ?? 4)) break;
        this.opened.delete(old);
        other.close();
      }
      shard = openShard(this.index, info, this.options);
    }
    this.opened.set(number, shard);
    return shard;
  }

  close(): void {
    for (const shard of this.opened.values()) shard.close();
    this.opened.clear();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private find(i: number, name: string): { shard: MdsShard; sample: number; column: number } {
    const { shard: number, sample } = this.index.locate(i);
    const shard = this.shard(number);
    const column = shard.columns.findIndex((c) => c.name === name);
    if (column < 0) {
      const names = shard.columns.map((c) => c.name).join(', ');
      throw new Failure({
        what: shard.path,
        why: `no column ${JSON.stringify(name)}`,
        fix: `It has ${names}`,
      });
    }
    return { shard, sample, column };
  }
}
