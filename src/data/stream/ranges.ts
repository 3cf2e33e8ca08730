// Single samples of shards behind an address, by byte ranges: what a run begins with while whole shards are
// on their way into the cache.
import type { GatherFault } from '../../../ffi/gather.ts';
import { bytesOf } from '../../io/dtype.ts';
import type { MdsShardInfo } from '../../io/mds/index.ts';
import { fromQ8 } from '../../io/q8.ts';
import type { Remote } from '../../io/remote.ts';
import { type ColumnSpec, columnIn } from './columns.ts';

/** Requests under way at once. */
const AT_ONCE = 32;
/** Offsets of shards with so many samples are asked for one by one. */
const MANY_SAMPLES = 2 ** 16;
/** Shards whose offsets are kept. */
const KEPT = 256;

export class Ranges {
  private readonly offsets = new Map<string, Promise<DataView>>();
  private running = 0;
  private readonly queue: (() => void)[] = [];

  constructor(private readonly remote: Remote) {}

  address(info: MdsShardInfo): string {
    return this.remote.address(info.raw.basename);
  }

  /** Reads the columns of a sample into row `row` of `into`; what is wrong with the sample comes back. */
  async read(
    info: MdsShardInfo,
    sample: number,
    columns: readonly ColumnSpec[],
    into: readonly Uint8Array[],
    row: number,
  ): Promise<GatherFault | undefined> {
    const [begin, end] = await this.edges(info, sample);
    const prefix = 4 * info.columns.filter(({ size }) => size === null).length;
    if (begin < 4 * (info.samples + 2) || end < begin + prefix || end > info.raw.bytes) {
      return { kind: 'offsets', request: row, begin, end };
    }
    const bytes = await this.limited(() => this.remote.range(info.raw.basename, begin, end));
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let variable = 0;
    const sizes = info.columns.map(({ size }) => size ?? view.getUint32(4 * variable++, true));
    const sum = sizes.reduce((total, size) => total + size, prefix);
    const found = columns.map((column) => columnIn(info.columns, column, this.address(info)));
    for (const [wanted, { index, bytes: expected }] of found.entries()) {
      const size = sizes[index]!;
      if (size !== expected) return { kind: 'column', request: row, wanted, bytes: size };
    }
    if (sum !== bytes.length) return { kind: 'sizes', request: row, sum, bytes: bytes.length };
    let at = prefix;
    for (const [i, size] of sizes.entries()) {
      const wanted = found.findIndex(({ index }) => index === i);
      if (wanted >= 0) {
        const here = bytes.subarray(at, at + size);
        const whole = found[wanted]!.packed ? bytesOf(fromQ8(here)) : here;
        into[wanted]!.set(whole, row * whole.length);
      }
      at += size;
    }
    return undefined;
  }

  /** Where a sample begins and ends in its shard. */
  private async edges(info: MdsShardInfo, sample: number): Promise<[number, number]> {
    const name = info.raw.basename;
    const few = info.samples <= MANY_SAMPLES;
    const first = few ? 4 : 4 + 4 * sample;
    const get = () =>
      this.limited(() => this.remote.range(name, first, few ? 4 * (info.samples + 2) : first + 8)).then(
        (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
      );
    let table = this.offsets.get(name);
    if (!few) table = get();
    else if (!table) {
      table = get();
      this.offsets.set(name, table);
      table.catch(() => this.offsets.delete(name));
      if (this.offsets.size > KEPT) this.offsets.delete(this.offsets.keys().next().value!);
    }
    const view = await table;
    const at = few ? 4 * sample : 0;
    return [view.getUint32(at, true), view.getUint32(at + 4, true)];
  }

  private async limited<T>(action: () => Promise<T>): Promise<T> {
    if (this.running >= AT_ONCE) await new Promise<void>((go) => this.queue.push(go));
    else this.running++;
    try {
      return await action();
    } finally {
      const next = this.queue.shift();
      if (next) next();
      else this.running--;
    }
  }
}
