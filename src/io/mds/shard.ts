// One shard of a set: [count: u32][offsets: u32 each, one more than samples][config as JSON][samples]. A
// sample is one u32 per column of varying size, then the bytes of all columns. Bytes are given out as views.

import { Failure } from '../failure.ts';
import { Source } from '../source.ts';
import { encodingOf, type MdsEncoding } from './encodings.ts';
import type { MdsColumn, MdsShardInfo } from './index.ts';
import type { MdsSample, MdsValue } from './values.ts';

/** Most bytes of a description of the columns. */
const MAX_CONFIG = 2 ** 24;

/** Place of a column's bytes in the (uncompressed) shard. */
export interface MdsRange {
  readonly begin: number;
  readonly end: number;
}

/** An open shard. From memory everything is a view of it; from a file each sample is read when asked for. */
export class MdsShard implements Disposable {
  /** Count and offsets. */
  private readonly head: DataView;
  private readonly encodings: readonly MdsEncoding[];
  /** Bytes of the sizes before each sample. */
  private readonly prefix: number;
  /** The last sample, of a shard that is not in memory. */
  private last: { sample: number; bytes: Uint8Array } | undefined;

  private constructor(
    /** The whole shard, or the file that it is read from. */
    private readonly source: Uint8Array | Source,
    private readonly info: MdsShardInfo,
    /** As it stands in messages. */
    readonly path: string,
  ) {
    const bytes = source instanceof Source ? source.size : source.length;
    if (bytes !== info.raw.bytes) {
      throw this.refuse(`has ${bytes} bytes where the index says ${info.raw.bytes}`);
    }
    const offsets = 4 + 4 * (info.samples + 1);
    if (bytes < offsets + 2) throw this.refuse(`has ${bytes} bytes, too few for ${info.samples} samples`);
    this.checkStart(offsets);
    this.head = viewOf(this.read(0, offsets));
    this.checkHead(offsets);
    this.encodings = info.columns.map((column) => this.encoding(column));
    this.prefix = 4 * info.columns.filter(({ size }) => size === null).length;
  }

  /**
   * Checks the head of a shard against the index: size, count, every offset, the columns. `path` stands in
   * messages. A shard from a Source takes it over and closes it.
   */
  static open(source: Uint8Array | Source, info: MdsShardInfo, path?: string): MdsShard {
    try {
      return new MdsShard(source, info, path ?? (source instanceof Source ? source.path : info.raw.basename));
    } catch (error) {
      if (source instanceof Source) source.close();
      throw error;
    }
  }

  get count(): number {
    return this.info.samples;
  }

  get columns(): readonly MdsColumn[] {
    return this.info.columns;
  }

  /** The encoded bytes of a column of sample 0..count-1: a view, good as long as the shard is open. */
  columnBytes(sample: number, column: number): Uint8Array {
    const bytes = this.sampleBytes(sample);
    const { begin, end } = this.inSample(bytes, sample, column);
    return bytes.subarray(begin, end);
  }

  /** Where those bytes lie in the shard; what a reader of byte ranges needs. */
  columnRange(sample: number, column: number): MdsRange {
    const { begin, end } = this.inSample(this.sampleBytes(sample), sample, column);
    const origin = this.offset(sample);
    return { begin: origin + begin, end: origin + end };
  }

  /** Place of a whole sample in the shard. */
  sampleRange(sample: number): MdsRange {
    this.checkNumber(sample);
    return { begin: this.offset(sample), end: this.offset(sample + 1) };
  }

  /** The decoded value of a column. A Failure names sample, column and reason. */
  value(sample: number, column: number): MdsValue {
    const bytes = this.columnBytes(sample, column);
    try {
      return this.encodings[column]!.decode(bytes);
    } catch (error) {
      throw this.refuseColumn(sample, column, error instanceof Error ? error.message : String(error));
    }
  }

  /** All columns of a sample, decoded. */
  sample(sample: number): MdsSample {
    return Object.fromEntries(this.columns.map(({ name }, i) => [name, this.value(sample, i)]));
  }

  /** A Failure about a sample; `sample` as in this shard. */
  refuseSample(sample: number, why: string): Failure {
    const { first, index } = this.info;
    return this.refuse(`sample ${sample} of shard ${index} (${first + sample} of the set) ${why}`);
  }

  close(): void {
    this.last = undefined;
    if (this.source instanceof Source) this.source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private sampleBytes(sample: number): Uint8Array {
    this.checkNumber(sample);
    const [begin, end] = [this.offset(sample), this.offset(sample + 1)];
    if (!(this.source instanceof Source)) return this.source.subarray(begin, end);
    if (this.last?.sample !== sample) this.last = { sample, bytes: this.read(begin, end) };
    return this.last.bytes;
  }

  /** Checks the sizes of all columns of a sample and finds one of them. */
  private inSample(bytes: Uint8Array, sample: number, column: number): MdsRange {
    const { columns } = this.info;
    if (!columns[column]) throw new RangeError(`column ${column} of ${columns.length}`);
    if (bytes.length < this.prefix) {
      throw this.refuseSample(
        sample,
        `has ${bytes.length} bytes; the sizes of its columns take ${this.prefix}`,
      );
    }
    let at = this.prefix;
    let place = 0;
    let [begin, end] = [0, 0];
    for (let i = 0; i < columns.length; i++) {
      let size = columns[i]!.size;
      if (size === null) {
        size = uint32(bytes, place);
        place += 4;
      }
      if (at + size > bytes.length) {
        throw this.refuseColumn(
          sample,
          i,
          `claims ${size} bytes; ${bytes.length - at} are left in the sample`,
        );
      }
      if (i === column) [begin, end] = [at, at + size];
      at += size;
    }
    if (at !== bytes.length) {
      throw this.refuseSample(sample, `has ${bytes.length} bytes where its columns take ${at}`);
    }
    return { begin, end };
  }

  /** Before all offsets are read: a file of holes takes no disk and would take much memory. */
  private checkStart(offsets: number): void {
    const { samples, raw } = this.info;
    const start = viewOf(this.read(0, 8));
    const [count, data] = [start.getUint32(0, true), start.getUint32(4, true)];
    if (count !== samples) throw this.refuse(`holds ${count} samples where the index says ${samples}`);
    if (data < offsets || data > raw.bytes) {
      throw this.refuse(`says that its samples begin at byte ${data} of ${raw.bytes}`);
    }
    const end = offsets > MAX_CONFIG ? viewOf(this.read(offsets - 4, offsets)).getUint32(0, true) : raw.bytes;
    if (end !== raw.bytes) throw this.refuse(`has its last sample end at byte ${end} of ${raw.bytes}`);
    if (data - offsets > MAX_CONFIG) throw this.refuse(`has ${data - offsets} bytes of JSON in its head`);
  }

  private checkHead(offsets: number): void {
    const { samples, raw } = this.info;
    for (let i = 0; i < samples; i++) {
      const [begin, end] = [this.offset(i), this.offset(i + 1)];
      if (end < begin || end > raw.bytes) {
        throw this.refuseSample(i, `lies from byte ${begin} to ${end} of ${raw.bytes}`);
      }
    }
    const end = this.offset(samples);
    if (end !== raw.bytes) throw this.refuse(`has ${raw.bytes - end} bytes after its last sample`);
    this.checkConfig(this.read(offsets, this.offset(0)));
  }

  /** What the shard says of its columns must be what the index says. */
  private checkConfig(bytes: Uint8Array): void {
    let config: unknown;
    try {
      config = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    } catch (error) {
      throw this.refuse(`has broken JSON in its head: ${error instanceof Error ? error.message : error}`);
    }
    const { columns } = this.info;
    const own = {
      column_names: columns.map(({ name }) => name),
      column_encodings: columns.map(({ encoding }) => encoding),
      column_sizes: columns.map(({ size }) => size),
    };
    for (const [key, list] of Object.entries(own)) {
      const said: unknown =
        typeof config === 'object' && config !== null ? Reflect.get(config, key) : undefined;
      if (JSON.stringify(said) !== JSON.stringify(list)) {
        throw this.refuse(`has other ${key} than the index: ${JSON.stringify(said ?? null).slice(0, 100)}`);
      }
    }
  }

  private encoding({ name, encoding }: MdsColumn): MdsEncoding {
    const found = encodingOf(encoding);
    if ('refused' in found) throw this.refuse(`column ${JSON.stringify(name)} ${found.refused}`);
    return found;
  }

  private checkNumber(sample: number): void {
    if (!Number.isInteger(sample) || sample < 0 || sample >= this.count) {
      throw new RangeError(`sample ${sample} of ${this.count}`);
    }
  }

  private offset(sample: number): number {
    return this.head.getUint32(4 + 4 * sample, true);
  }

  private read(begin: number, end: number): Uint8Array {
    if (!(this.source instanceof Source)) return this.source.subarray(begin, end);
    const bytes = new Uint8Array(end - begin);
    this.source.fill(bytes, begin);
    return bytes;
  }

  private refuseColumn(sample: number, column: number, why: string): Failure {
    return this.refuseSample(sample, `column ${JSON.stringify(this.columns[column]!.name)} ${why}`);
  }

  private refuse(why: string): Failure {
    return new Failure({ what: this.path, why, fix: 'Copy or download this shard again' });
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function uint32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}
