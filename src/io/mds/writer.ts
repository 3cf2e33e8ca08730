// Writes sets of shards, byte for byte as the format's own library does. Every shard appears whole under its
// name, the index comes last, and what is finished stays: a set that was broken off is gone on with.

import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { cleanLeftovers, makeFolder, writeWholeFile } from '../atomic.ts';
import { EXIT, Failure } from '../failure.ts';
import { type JsonRecord, MetricsLog, readRecords } from '../jsonl.ts';
import { type Compression, compressionOf } from './compression.ts';
import { encodingOf, type MdsEncoding } from './encodings.ts';
import { HASH_NAMES, hashOf, isKnownHash } from './hashes.ts';
import { INDEX_NAME } from './index.ts';
import { byCodePoint, pythonJson } from './python-text.ts';
import type { MdsSample } from './values.ts';

/** The finished shards of a set that has no index yet, one a line. */
export const JOURNAL_NAME = 'shards.unfinished.jsonl';

const MAX_SHARD_BYTES = 2 ** 32 - 1;

export interface MdsWriterOptions {
  /** "zstd", "zstd:7", "gz:1", "br", ...; none when left out. */
  readonly compression?: string | null;
  /** Names of hashes to put into the index: "sha1", "xxh64", ... */
  readonly hashes?: readonly string[];
  /** Bytes that no shard exceeds unless one sample does, 64 MiB when left out; null for one shard. */
  readonly sizeLimit?: number | null;
  /** Goes on with the finished shards of a set that was broken off. */
  readonly resume?: boolean;
}

/** What a set that was broken off had on the disk. */
export interface MdsKept {
  readonly shards: number;
  readonly samples: number;
  /** What was said with the last sample in them; undefined where nothing was. */
  readonly mark: unknown;
}

interface Column {
  readonly name: string;
  readonly encoding: MdsEncoding;
}

/**
 * `using writer = MdsWriter.open(...)`; without `finish` there is no index, and the set can be gone on
 * with.
 */
export class MdsWriter implements Disposable {
  /** Entries of the index. */
  private readonly shards: JsonRecord[] = [];
  private samples: Uint8Array[] = [];
  private bytes: number;
  private mark: unknown;
  private journal: MetricsLog | undefined;
  /** What of the set was there when it was opened. */
  readonly kept: MdsKept;

  private constructor(
    readonly folder: string,
    private readonly columns: readonly Column[],
    private readonly config: JsonRecord,
    private readonly head: Uint8Array,
    private readonly compression: Compression | null,
    resume: boolean,
  ) {
    this.bytes = this.emptyBytes;
    const { journal, entries, mark } = openJournal(folder, config, resume);
    this.journal = journal;
    this.shards.push(...entries);
    this.kept = { shards: entries.length, samples: samplesOf(entries), mark };
  }

  /**
   * Begins a set, or goes on with one. `columns`: encodings by name. A folder with another set in it is a
   * Failure, as are unknown encodings, compressions and hashes.
   */
  static open(
    folder: string,
    columns: Readonly<Record<string, string>>,
    options: MdsWriterOptions = {},
  ): MdsWriter {
    const { compression = null, hashes = [], sizeLimit = 2 ** 26, resume = false } = options;
    const names = Object.keys(columns).sort(byCodePoint);
    if (names.length === 0) throw wrong(folder, 'a set needs a column');
    const list = names.map((name) => ({ name, encoding: encodingFor(folder, name, columns[name]!) }));
    const config = {
      version: 2,
      format: 'mds',
      compression,
      hashes: sortedHashes(folder, hashes),
      size_limit: checkLimit(folder, sizeLimit),
      column_names: names,
      column_encodings: names.map((name) => columns[name]),
      column_sizes: list.map(({ encoding }) => encoding.size),
    };
    const packed = compression === null ? null : compressionFor(folder, compression);
    const head = new TextEncoder().encode(pythonJson(config, true));
    makeFolder(folder);
    return new MdsWriter(folder, list, config, head, packed, resume);
  }

  /** Samples written so far, with those kept. */
  get count(): number {
    return samplesOf(this.shards) + this.samples.length;
  }

  /**
   * Adds a sample with a value for every column; may write a shard first. `mark` (JSON) says where its source
   * stands: after a break `kept.mark` is that of the last sample on the disk.
   */
  write(sample: MdsSample, mark?: unknown): void {
    if (!this.journal) throw new RangeError('write: the set is closed');
    const bytes = this.encode(sample);
    const limit = this.config.size_limit as number | null;
    const needed = this.bytes + bytes.length + 4;
    if (this.samples.length > 0 && limit !== null && limit < needed) this.flush();
    if (this.bytes + bytes.length + 4 > MAX_SHARD_BYTES) {
      const why = 'a shard cannot have 4 GiB or more';
      throw new Failure({ what: this.folder, why, fix: 'Use smaller shards or samples' });
    }
    this.samples.push(bytes);
    this.bytes += bytes.length + 4;
    this.mark = mark;
  }

  /** Writes the last shard and the index: from then on the set is a whole one. */
  finish(): void {
    if (!this.journal) throw new RangeError('finish: the set is closed');
    if (this.samples.length > 0) this.flush();
    const index = pythonJson({ shards: this.shards, version: 2 }, true);
    writeWholeFile(join(this.folder, INDEX_NAME), index);
    this.close();
    rmSync(join(this.folder, JOURNAL_NAME), { force: true });
  }

  /** Leaves the set as it is; samples that are in no shard yet are lost. */
  close(): void {
    this.journal?.close();
    this.journal = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private get emptyBytes(): number {
    return 4 + 4 + this.head.length;
  }

  private encode(sample: MdsSample): Uint8Array {
    const extra = Object.keys(sample).find((name) => !this.columns.some((column) => column.name === name));
    if (extra !== undefined) throw this.refuse(extra, 'is not a column of this set');
    const sizes: number[] = [];
    const values = this.columns.map(({ name, encoding }) => {
      if (!Object.hasOwn(sample, name)) throw this.refuse(name, 'is missing');
      const bytes = this.encodeValue(name, encoding, sample[name]!);
      if (encoding.size === null) sizes.push(bytes.length);
      return bytes;
    });
    const total = values.reduce((sum, bytes) => sum + bytes.length, 4 * sizes.length);
    if (total > MAX_SHARD_BYTES)
      throw this.refuse(this.columns[0]!.name, 'and the others take 4 GiB or more');
    return Buffer.concat([words(sizes), ...values]);
  }

  private encodeValue(name: string, encoding: MdsEncoding, value: MdsSample[string]): Uint8Array {
    try {
      return encoding.encode(value);
    } catch (error) {
      throw this.refuse(name, error instanceof Error ? error.message : String(error));
    }
  }

  private refuse(column: string, why: string): Failure {
    return new Failure({
      what: `${this.folder}: sample ${this.count}, column ${JSON.stringify(column)}`,
      why,
    });
  }

  /** Writes the samples at hand as a shard and notes it as finished. */
  private flush(): void {
    const number = this.shards.length;
    const raw = this.joined();
    const name = `shard.${String(number).padStart(5, '0')}.mds`;
    const zip = this.compression?.compress(raw);
    const zipName = `${name}.${this.compression?.extension}`;
    writeWholeFile(join(this.folder, zip ? zipName : name), zip ?? raw);
    const entry = {
      ...this.config,
      raw_data: this.fileEntry(name, raw),
      zip_data: zip ? this.fileEntry(zipName, zip) : null,
      samples: this.samples.length,
    };
    const mark = this.mark === undefined ? {} : { mark: this.mark };
    this.journal!.append({ step: number, entry, ...mark });
    this.journal!.sync();
    this.shards.push(entry);
    this.samples = [];
    this.bytes = this.emptyBytes;
  }

  private joined(): Uint8Array {
    const { head, samples } = this;
    let at = 4 + 4 * (samples.length + 1) + head.length;
    const offsets = [at];
    for (const sample of samples) {
      at += sample.length;
      offsets.push(at);
    }
    return Buffer.concat([words([samples.length, ...offsets]), head, ...samples]);
  }

  private fileEntry(basename: string, bytes: Uint8Array) {
    const names = this.config.hashes as readonly string[];
    const hashes = Object.fromEntries(names.map((name) => [name, hashOf(name, bytes)]));
    return { basename, bytes: bytes.length, hashes };
  }
}

/** Unsigned 32-bit numbers in a row. */
function words(numbers: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 * numbers.length));
  for (const [i, number] of numbers.entries()) view.setUint32(4 * i, number, true);
  return new Uint8Array(view.buffer);
}

function samplesOf(entries: readonly JsonRecord[]): number {
  return entries.reduce((sum, entry) => sum + (entry.samples as number), 0);
}

// What is in the folder -----------------------------------------------------------------------------------

interface Opened {
  readonly journal: MetricsLog;
  readonly entries: readonly JsonRecord[];
  readonly mark: unknown;
}

function openJournal(folder: string, config: JsonRecord, resume: boolean): Opened {
  const path = join(folder, JOURNAL_NAME);
  if (existsSync(join(folder, INDEX_NAME))) {
    throw wrong(folder, 'holds a set already', 'Choose another folder');
  }
  cleanLeftovers(folder);
  const begun = existsSync(path);
  const strays = readdirSync(folder).some((name) => /^shard\.\d{5,}\.mds(\.|$)/.test(name));
  if (!resume && (begun || strays)) {
    throw wrong(folder, 'holds shards of a set that was broken off', 'Resume it, or choose another folder');
  }
  if (!begun && strays) throw wrong(folder, 'holds shards that nothing is known of', 'Choose another folder');
  const finished = begun ? finishedShards(folder, path, config) : [];
  const journal = MetricsLog.open(path, finished.length - 1);
  // Its first line, before any shard, says what the set is.
  if (!begun || readRecords(path).length === 0) journal.append({ step: -1, config });
  journal.sync();
  return { journal, entries: finished.map(({ entry }) => entry), mark: finished.at(-1)?.mark };
}

/** The shards that a journal names and that are there, up to the first that is not. */
function finishedShards(
  folder: string,
  path: string,
  config: JsonRecord,
): { entry: JsonRecord; mark: unknown }[] {
  const [first, ...records] = readRecords(path);
  if (!first) return [];
  if (JSON.stringify(first.config) !== JSON.stringify(config)) {
    throw wrong(folder, 'holds a set that was begun with other columns, compression, hashes or sizes');
  }
  const finished: { entry: JsonRecord; mark: unknown }[] = [];
  for (const [i, { step, entry, mark }] of records.entries()) {
    if (step !== i || !isEntry(entry) || !isWhole(folder, entry)) break;
    finished.push({ entry, mark });
  }
  return finished;
}

interface Entry extends JsonRecord {
  readonly raw_data: { readonly basename: string; readonly bytes: number };
  readonly zip_data: { readonly basename: string; readonly bytes: number } | null;
}

function isEntry(value: unknown): value is Entry {
  return typeof value === 'object' && value !== null && 'raw_data' in value && 'zip_data' in value;
}

function isWhole(folder: string, { raw_data, zip_data }: Entry): boolean {
  const file = zip_data ?? raw_data;
  return statSync(join(folder, file.basename), { throwIfNoEntry: false })?.size === file.bytes;
}

// What is asked for ---------------------------------------------------------------------------------------

function encodingFor(folder: string, name: string, encoding: string): MdsEncoding {
  const found = encodingOf(encoding);
  if ('refused' in found) throw wrong(folder, `column ${JSON.stringify(name)} ${found.refused}`);
  return found;
}

function compressionFor(folder: string, name: string): Compression {
  const found = compressionOf(name);
  if ('refused' in found) throw wrong(folder, found.refused);
  return found;
}

function sortedHashes(folder: string, names: readonly string[]): string[] {
  const unknown = names.find((name) => !isKnownHash(name));
  if (unknown !== undefined) {
    throw wrong(folder, `no hash is called ${unknown}`, `Use some of: ${HASH_NAMES.join(', ')}`);
  }
  return [...new Set(names)].sort();
}

function checkLimit(folder: string, limit: number | null): number | null {
  if (limit === null || (Number.isInteger(limit) && limit > 0 && limit <= MAX_SHARD_BYTES)) return limit;
  throw wrong(folder, `shards of ${limit} bytes cannot be written`, 'Give 1 to 4294967295');
}

function wrong(folder: string, why: string, fix?: string): Failure {
  return new Failure({ what: folder, why, ...(fix === undefined ? {} : { fix }), code: EXIT.usage });
}
