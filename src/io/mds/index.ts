// index.json of a set of shards (MosaicML's MDS, version 2): which shards there are, their columns, sizes and
// hashes. Everything is checked before anything is used; a Failure names the file, the shard and the reason.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../failure.ts';
import { osCode, osFailure } from '../oserror.ts';
import { type Compression, compressionOf } from './compression.ts';
import { encodingOf } from './encodings.ts';

export const INDEX_NAME = 'index.json';

export interface MdsColumn {
  readonly name: string;
  /** "str", "bytes", "ndarray:float16", ... */
  readonly encoding: string;
  /** Bytes of every value, or null where each sample says its own. */
  readonly size: number | null;
}

export interface MdsFile {
  /** Relative to the folder of the index, with `/`; never outside it. */
  readonly basename: string;
  readonly bytes: number;
  /** By algorithm, in hexadecimal digits. */
  readonly hashes: Readonly<Record<string, string>>;
}

export interface MdsShardInfo {
  readonly index: number;
  readonly samples: number;
  /** Number in the set of its first sample. */
  readonly first: number;
  /** In the order of the samples' bytes; the same object in all shards of the same columns. */
  readonly columns: readonly MdsColumn[];
  /** The shard itself. */
  readonly raw: MdsFile;
  /** The file that holds it compressed. */
  readonly zip: MdsFile | null;
  /** As the index names it: "zstd:7". */
  readonly compression: string | null;
}

/** The largest file that is read: 37 M samples take about 60 MB. */
const MAX_INDEX_BYTES = 2 ** 29;
/** What takes most memory for its bytes: an entry of a shard has a dozen of them in 600 bytes. */
const BRACKETS = { free: 2 ** 20, perByte: 1 / 16 };
/** A packed shard is unpacked in memory: bytes for each packed one, beyond the usual size of a shard. */
const UNPACKED = { free: 2 ** 26, perByte: 2000 };
/** Offsets in a shard have 32 bits. */
const MAX_SHARD_BYTES = 2 ** 32 - 1;

export class MdsIndex {
  /** Samples of all shards. */
  readonly count: number;

  private constructor(
    /** The folder that basenames are relative to. */
    readonly folder: string,
    readonly shards: readonly MdsShardInfo[],
  ) {
    const last = shards.at(-1);
    this.count = last ? last.first + last.samples : 0;
  }

  /** Reads `folder`/index.json; of merged folders, that of the merge. */
  static read(folder: string): MdsIndex {
    return MdsIndex.parse(readIndexFile(folder), folder, join(folder, INDEX_NAME));
  }

  /** The same for bytes at hand; `path` stands in messages. */
  static parse(bytes: Uint8Array, folder: string, path = join(folder, INDEX_NAME)): MdsIndex {
    return new MdsIndex(folder, new IndexReader(path).shards(bytes));
  }

  /** Which shard a sample is in, and its number there. */
  locate(sample: number): { shard: number; sample: number } {
    if (!Number.isInteger(sample) || sample < 0 || sample >= this.count) {
      throw new RangeError(`sample ${sample} of ${this.count}`);
    }
    let [low, high] = [0, this.shards.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.shards[middle]!.first <= sample) low = middle;
      else high = middle - 1;
    }
    return { shard: low, sample: sample - this.shards[low]!.first };
  }
}

function readIndexFile(folder: string): Uint8Array {
  const path = join(folder, INDEX_NAME);
  try {
    const stat = statSync(path);
    const wrong = !stat.isFile() ? 'not a regular file' : stat.size > MAX_INDEX_BYTES ? 'too large' : '';
    if (wrong) throw new Failure({ what: path, why: `${wrong} for an index of shards (${stat.size} bytes)` });
    return readFileSync(path);
  } catch (error) {
    const parts = existsSync(path) ? [] : partsOf(folder);
    if (parts.length > 0) {
      const why = `no ${INDEX_NAME}, but its folders ${parts.slice(0, 3).join(', ')} have one each`;
      throw new Failure({ what: folder, why, fix: 'Merge them: microdiff data merge' });
    }
    if (existsSync(folder) && osCode(error) === 'ENOENT') {
      const why = `no ${INDEX_NAME}, so no set of shards`;
      throw new Failure({ what: folder, why, fix: 'Make one of pictures: microdiff prepare' });
    }
    throw osFailure(error, path, 'read');
  }
}

/** Subfolders that hold an index of their own. */
function partsOf(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => existsSync(join(folder, name, INDEX_NAME)));
  } catch {
    return []; // the error of reading the index itself says what is wrong with the folder
  }
}

type Json = Readonly<Record<string, unknown>>;

class IndexReader {
  private where = '';
  /** Columns by their JSON, so that shards share them. */
  private readonly known = new Map<string, readonly MdsColumn[]>();
  private readonly compressions = new Map<string, Compression>();
  /** By file name, which shard it is. */
  private readonly files = new Map<string, number>();

  constructor(private readonly path: string) {}

  shards(bytes: Uint8Array): MdsShardInfo[] {
    const root = this.object(this.parse(bytes), 'the file');
    const { shards, version } = root;
    if (version !== 2) throw this.refuse(`has version ${short(version)}; 2 is read`);
    if (!Array.isArray(shards)) throw this.refuse('has no list of shards');
    const list: MdsShardInfo[] = [];
    let first = 0;
    for (const [index, value] of shards.entries()) {
      this.where = `shard ${index} `;
      const info = this.shard(this.object(value, 'it'), index, first);
      first += info.samples;
      if (!Number.isSafeInteger(first)) throw this.refuse('brings the samples above 2^53');
      list.push(info);
    }
    return list;
  }

  private parse(bytes: Uint8Array): unknown {
    let brackets = 0;
    for (const code of [0x5b, 0x7b]) {
      for (let at = bytes.indexOf(code); at >= 0; at = bytes.indexOf(code, at + 1)) brackets++;
    }
    if (brackets > BRACKETS.free + BRACKETS.perByte * bytes.length) {
      throw this.refuse(`has ${brackets} brackets in ${bytes.length} bytes, which no index of shards has`);
    }
    try {
      return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    } catch (error) {
      throw this.refuse(`is broken JSON: ${error instanceof Error ? error.message : error}`);
    }
  }

  private shard(json: Json, index: number, first: number): MdsShardInfo {
    if (json.version !== 2) throw this.refuse(`has version ${short(json.version)}; 2 is read`);
    if (json.format !== 'mds') throw this.refuse(`has format ${short(json.format)}; "mds" is read`);
    const raw = this.file(json.raw_data, 'raw_data');
    const compression = this.compression(json.compression ?? null);
    const zip =
      json.zip_data === null || json.zip_data === undefined ? null : this.file(json.zip_data, 'zip_data');
    if ((compression === null) !== (zip === null)) {
      throw this.refuse(`has compression ${short(compression)} and ${zip ? 'a' : 'no'} compressed file`);
    }
    for (const { basename } of zip ? [raw, zip] : [raw]) {
      const other = this.files.get(basename);
      if (other !== undefined)
        throw this.refuse(`has the file ${short(basename)}, and so has shard ${other}`);
      this.files.set(basename, index);
    }
    if (zip && raw.bytes > UNPACKED.free + UNPACKED.perByte * zip.bytes) {
      throw this.refuse(`would become ${raw.bytes} bytes out of ${zip.bytes}, which no shard does`);
    }
    const samples = this.size(json.samples, 'samples', MAX_SHARD_BYTES);
    // Its head alone: the count, the offsets and two bytes of JSON.
    const least = 4 + 4 * (samples + 1) + 2;
    if (raw.bytes < least) {
      throw this.refuse(`has ${samples} samples in ${raw.bytes} bytes; its offsets alone take ${least}`);
    }
    return { index, samples, first, columns: this.columns(json), raw, zip, compression };
  }

  private compression(name: unknown): string | null {
    if (name === null) return null;
    if (typeof name !== 'string') throw this.refuse('has a compression that is not a name');
    if (!this.compressions.has(name)) {
      const found = compressionOf(name);
      if ('refused' in found) throw this.refuse(found.refused, 'Write it again with zstd');
      this.compressions.set(name, found);
    }
    return name;
  }

  private columns(json: Json): readonly MdsColumn[] {
    const { column_names: names, column_encodings: encodings, column_sizes: sizes } = json;
    const key = JSON.stringify([names, encodings, sizes]);
    const known = this.known.get(key);
    if (known) return known;
    if (!Array.isArray(names) || !Array.isArray(encodings) || !Array.isArray(sizes)) {
      throw this.refuse('lacks column_names, column_encodings or column_sizes');
    }
    if (names.length !== encodings.length || names.length !== sizes.length || names.length === 0) {
      const counts = `${names.length} names, ${encodings.length} encodings and ${sizes.length} sizes`;
      throw this.refuse(`has ${counts} of columns`);
    }
    const columns = names.map((name, i) => this.column(name, encodings[i], sizes[i]));
    if (new Set(names).size !== names.length) throw this.refuse('has two columns of one name');
    this.known.set(key, columns);
    return columns;
  }

  private column(name: unknown, encoding: unknown, size: unknown): MdsColumn {
    if (typeof name !== 'string') throw this.refuse(`has a column named ${short(name)}`);
    const quoted = JSON.stringify(name.slice(0, 100));
    if (typeof encoding !== 'string') throw this.refuse(`column ${quoted} has no encoding`);
    const found = encodingOf(encoding);
    if ('refused' in found) {
      throw this.refuse(`column ${quoted} ${found.refused}`, 'Write the set again without it');
    }
    if (found.size !== (size ?? null)) {
      const own = found.size === null ? 'sizes that vary' : `${found.size} bytes`;
      throw this.refuse(`column ${quoted} has size ${short(size)}; ${encoding} has ${own}`);
    }
    return { name, encoding, size: found.size };
  }

  private file(value: unknown, key: string): MdsFile {
    const json = this.object(value, key);
    const { basename, hashes } = json;
    if (typeof basename !== 'string') throw this.refuse(`has no basename in ${key}`);
    const fault = basenameFault(basename);
    if (fault) throw this.refuse(`has the file name ${short(basename)}, which ${fault}`);
    const bytes = this.size(json.bytes, `${key}.bytes`, MAX_SHARD_BYTES);
    const list = Object.entries(hashes === undefined || hashes === null ? {} : this.object(hashes, 'hashes'));
    for (const [name, hash] of list) {
      if (typeof hash !== 'string') throw this.refuse(`has a hash ${short(name)} that is not a text`);
    }
    return {
      basename,
      bytes,
      hashes: list.length === 0 ? NO_HASHES : (Object.fromEntries(list) as MdsFile['hashes']),
    };
  }

  private size(value: unknown, what: string, most: number): number {
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most) return value;
    throw this.refuse(`has ${what} ${short(value)}; a number from 0 to ${most} is read`);
  }

  private object(value: unknown, what: string): Json {
    if (isObject(value)) return value;
    throw this.refuse(`is not as it should be: ${what} is not a JSON object`);
  }

  private refuse(why: string, fix = 'Copy or download it again'): Failure {
    return new Failure({ what: this.path, why: `${this.where}${why}`, fix });
  }
}

const NO_HASHES: MdsFile['hashes'] = {};

/**
 * Why a name must not be opened, or null: it stays in the folder of the index, whatever it is merged into.
 */
export function basenameFault(basename: string): string | null {
  if (basename === '' || basename.length > 4096) return 'is no file name';
  if (/[\0\\]/.test(basename)) return 'has a character that is not allowed';
  if (basename.startsWith('/')) return 'is not relative to the folder';
  const parts = basename.split('/');
  if (parts.includes('..')) return 'leads out of the folder';
  return parts.some((part) => part === '' || part === '.') ? 'is not a plain path' : null;
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value for a message. */
function short(value: unknown): string {
  return (JSON.stringify(value) ?? 'none').slice(0, 80);
}
