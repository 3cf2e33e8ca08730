// One data set of a stream: its index, the columns that are wanted of it, and its shards as open files.
import { closeSync, openSync, statfsSync } from 'node:fs';
import { totalmem } from 'node:os';
import { type GatherFile, GatherLayout, MAX_COLUMNS } from '../../../ffi/gather.ts';
import type { Native } from '../../../ffi/native.ts';
import { EXIT, Failure } from '../../io/failure.ts';
import type { MdsColumn, MdsShardInfo } from '../../io/mds/index.ts';
import { MdsShard } from '../../io/mds/shard.ts';
import { osFailure } from '../../io/oserror.ts';
import { Source } from '../../io/source.ts';
import { type ColumnSpec, columnIn, columnIndex } from './columns.ts';
import type { ShardFiles } from './files.ts';

/** An open shard, checked against the index. */
export interface OpenShard extends GatherFile {
  readonly path: string;
  readonly info: MdsShardInfo;
  /** Whether it may be mapped. */
  readonly mappable: boolean;
  map: number;
  /** Batches that are being read from it. */
  uses: number;
}

// What is mapped: shards of large samples, on a disk of this machine. A batch takes three quarters of the
// time, and half where they stay mapped (bench/SPEED.md). Smaller samples are read by calls: nothing of them
// is held.
const LARGE_SAMPLE = 2 ** 15;
/** Bytes that are mapped at once at most, all sets together. */
const MAPPED_BYTES = Math.min(2 ** 35, totalmem() / 2);
let mapped = 0;

export class ShardSet {
  /** Samples of each shard that take part. */
  readonly samples: readonly number[];
  /** In the order of their last use. */
  private readonly opened = new Map<number, OpenShard>();
  /** Shards that could not be brought when it was tried last. */
  readonly broken = new Set<number>();
  private readonly layouts = new Map<readonly MdsColumn[], GatherLayout>();

  /**
   * count: only so many samples, the first of the set. Throws a Failure where a shard lacks a column or has
   * it with another number of bytes, or where `count` is more than there is.
   */
  constructor(
    readonly files: ShardFiles,
    private readonly wanted: readonly ColumnSpec[],
    count: number | undefined,
    /** Shards that stay open, beside those that are being read. */
    private readonly keep: number,
    private readonly native: Native,
  ) {
    const { shards, address } = files;
    const all = shards.reduce((sum, { samples }) => sum + samples, 0);
    if (count !== undefined && !(Number.isInteger(count) && count >= 1 && count <= all)) {
      const why = `${count} samples are wanted of its ${all}`;
      throw new Failure({ what: address, why, fix: 'Ask for fewer', code: EXIT.usage });
    }
    this.samples = shards.map(({ samples, first }) => Math.max(0, Math.min(samples, (count ?? all) - first)));
    for (const info of shards) {
      if (!this.layouts.has(info.columns)) this.layouts.set(info.columns, this.layoutOf(info));
    }
  }

  /** An open shard, if its file is on this machine; `release` gives it back. */
  take(shard: number): OpenShard | undefined {
    let open = this.opened.get(shard);
    if (open) this.opened.delete(shard);
    else {
      const path = this.files.path(shard);
      if (path === undefined) return undefined;
      open = this.open(shard, path);
    }
    this.opened.set(shard, open);
    open.uses++;
    return open;
  }

  release(open: OpenShard): void {
    open.uses--;
    for (const [shard, old] of this.opened) {
      if (this.opened.size <= this.keep) return;
      if (old.uses === 0) {
        this.opened.delete(shard);
        this.shut(old);
      }
    }
  }

  /** Whether a shard is to be mapped: then `map` follows, with the address or 0. */
  reserve(open: OpenShard): boolean {
    if (!open.mappable || open.map !== 0 || mapped + open.bytes > MAPPED_BYTES) return false;
    mapped += open.bytes;
    return true;
  }

  map(open: OpenShard, address: number): void {
    open.map = address;
    if (address === 0) mapped -= open.bytes;
  }

  /** Brings a shard to this machine, so that it can be taken. */
  async bring(shard: number): Promise<void> {
    try {
      await this.files.bring(shard);
      this.broken.delete(shard);
    } catch (error) {
      this.broken.add(shard);
      throw error;
    }
  }

  /** The text of a column of one sample. */
  async text(shard: number, sample: number, column: string): Promise<string> {
    const info = this.files.shards[shard]!;
    const path = this.files.path(shard) ?? (await this.files.bring(shard));
    using open = MdsShard.open(Source.open(path), info);
    const index = columnIndex(info.columns, column, this.files.address);
    const value = open.value(sample, index);
    if (typeof value !== 'string') throw open.refuseSample(sample, `has a ${column} that is no text`);
    return value;
  }

  close(): void {
    for (const open of this.opened.values()) this.shut(open);
    this.opened.clear();
  }

  private shut(open: OpenShard): void {
    closeSync(open.fd);
    if (open.map === 0) return;
    this.native.unmap(open.map, open.bytes);
    this.map(open, 0);
  }

  private open(shard: number, path: string): OpenShard {
    const info = this.files.shards[shard]!;
    // Checks the head, the offsets and the columns of the whole shard.
    MdsShard.open(Source.open(path), info).close();
    let fd: number;
    try {
      fd = openSync(path, 'r');
    } catch (error) {
      throw osFailure(error, path, 'read');
    }
    const { samples, raw } = info;
    const large = raw.bytes >= LARGE_SAMPLE * samples;
    const mappable = large && LOCAL_DISKS.has(statfsSync(path).type);
    const layout = this.layouts.get(info.columns)!;
    return { fd, bytes: raw.bytes, samples, layout, path, info, mappable, map: 0, uses: 0 };
  }

  private layoutOf({ columns, index }: MdsShardInfo): GatherLayout {
    const { address } = this.files;
    if (columns.length > MAX_COLUMNS) {
      const why = `shard ${index} has ${columns.length} columns, more than ${MAX_COLUMNS}`;
      throw new Failure({ what: address, why });
    }
    const found = this.wanted.map((spec) => {
      const one = columnIn(columns, spec, address);
      const { size } = columns[one.index]!;
      if (size !== null && size !== one.bytes) {
        const why = `column ${one.name} of shard ${index} has ${size} bytes, the model takes ${one.bytes}`;
        throw new Failure({ what: address, why, code: EXIT.usage });
      }
      return one;
    });
    return new GatherLayout(
      columns.map(({ size }, place) => {
        const wanted = found.findIndex((one) => one.index === place);
        return { bytes: size, wanted, packed: found[wanted]?.packed ?? false };
      }),
    );
  }
}

/** File systems by their magic numbers: ext2-4, XFS, Btrfs, tmpfs, overlayfs, F2FS, ZFS. */
const LOCAL_DISKS = new Set([0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x794c7630, 0xf2f52010, 0x2fc12fc1]);
