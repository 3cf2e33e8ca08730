// Where pictures and captions come from: folders, tables (CSV, TSV, JSONL, Parquet), WebDataset archives and
// sets of shards, told by what is in them; each gives its items in an order of its own that never changes.
import { closeSync, createReadStream, type Dirent, existsSync, openSync } from 'node:fs';
import { readdirSync, readSync, realpathSync, type Stats, statSync } from 'node:fs';
import { dirname, extname, join, resolve } from 'node:path';
import { CAPTION_NAMES } from '../data/shard-picture.ts';
import { webSamples } from '../data/webdataset.ts';
import { type Row, readCsv } from '../io/csv.ts';
import { EXIT, Failure } from '../io/failure.ts';
import type { JsonRecord } from '../io/jsonl.ts';
import { readLines } from '../io/lines.ts';
import { isKind } from '../io/mds/encodings.ts';
import { INDEX_NAME, MdsIndex } from '../io/mds/index.ts';
import { rgbOfPixels } from '../io/mds/pixels.ts';
import { readPythonJson } from '../io/mds/python-text.ts';
import { MdsSet } from '../io/mds/set.ts';
import type { MdsValue } from '../io/mds/values.ts';
import { osFailure } from '../io/oserror.ts';
import { isParquet, ParquetFile } from '../io/parquet.ts';
import { readTar } from '../io/tar_read.ts';
import { CAPTION_ENDINGS, captionsIn, captionsOfBytes, textsOf } from './captions.ts';
import type { CaptionRef, Dropped, ImageRef, Item } from './item.ts';

/** Columns to read; the usual names are tried where none is given. */
export interface SourceOptions {
  readonly imageColumn?: string | undefined;
  readonly captionColumn?: string | undefined;
}

/** An item without its place, which counts over all sources. */
export type Found = Omit<Item, 'place'>;

/** The last ones are of pictures that are not read, so that the report names them. */
const IMAGE_ENDINGS = [
  ...['.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.avif', '.jfif', '.jpe'],
  ...['.tif', '.tiff', '.heic', '.heif', '.jxl', '.jp2'],
];
const IMAGE_NAMES = [
  ...['image', 'jpg', 'jpeg', 'png', 'webp', 'img', 'picture', 'image_path', 'path', 'file', 'file_name'],
  ...['filename', 'filepath', 'image_url', 'url', 'image_base64', 'bytes'],
];
/** Longest row of a table: a picture may stand in it as base64. */
const ROW_CHARACTERS = 2 ** 27;

/** All items of the sources, with their places. */
export async function* itemsOf(paths: readonly string[], options: SourceOptions): AsyncGenerator<Item> {
  let place = 0;
  for (const path of paths)
    for await (const found of itemsIn(path, options)) yield { ...found, place: place++ };
}

/** How many items the sources have, where that is told without reading all of them. */
export async function countItems(paths: readonly string[]): Promise<number | undefined> {
  let count = 0;
  for (const path of paths) {
    const found = await countIn(path);
    if (found === undefined) return undefined;
    count += found;
  }
  return count;
}

async function countIn(path: string): Promise<number | undefined> {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    if (existsSync(join(path, INDEX_NAME))) return MdsIndex.read(path).count;
    let count = 0;
    for (const file of filesBelow(path)) {
      const ending = extname(file).toLowerCase();
      if (ending === '.tar') return undefined;
      if (IMAGE_ENDINGS.includes(ending)) count += 1;
    }
    return count;
  }
  if (!isParquet(headOf(path))) return undefined;
  using file = await ParquetFile.open(path);
  return file.rowCount;
}

function itemsIn(path: string, options: SourceOptions): AsyncGenerator<Found> | Generator<Found> {
  let isFolder: boolean;
  try {
    isFolder = statSync(path).isDirectory();
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  if (isFolder)
    return existsSync(join(path, INDEX_NAME)) ? fromShards(path, options) : fromFolder(path, options);
  const head = headOf(path);
  if (isParquet(head)) return fromParquet(path, options);
  const name = path.toLowerCase();
  if (isTar(head, name)) return fromTar(path, options);
  if (/\.(jsonl|ndjson)$/.test(name)) return fromJsonLines(path, options);
  if (/\.(csv|tsv)$/.test(name)) return fromTable(path, name.endsWith('.tsv') ? '\t' : ',', options);
  throw new Failure({
    what: path,
    why: 'is no kind of source that is known',
    fix: 'Give a folder, a .csv, .tsv, .jsonl, Parquet or tar file, or a set of shards',
    code: EXIT.usage,
  });
}

function headOf(path: string): Uint8Array {
  const head = new Uint8Array(512);
  try {
    const file = openSync(path, 'r');
    try {
      return head.subarray(0, readSync(file, head));
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

function isTar(head: Uint8Array, name: string): boolean {
  return (
    /\.(tar|tgz|tar\.gz|tar\.zst|tzst)$/.test(name) ||
    Buffer.from(head).toString('latin1', 257, 262) === 'ustar'
  );
}

/**
 * Files of a folder and those below, by their paths; archives in their places. Links to folders are followed,
 * each folder once.
 */
function* filesBelow(folder: string, seen = new Set<string>()): Generator<string> {
  let entries: Dirent[];
  try {
    const real = realpathSync(folder);
    if (seen.has(real)) return;
    seen.add(real);
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    throw osFailure(error, folder, 'read');
  }
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    const isFolder = entry.isDirectory() || (entry.isSymbolicLink() && statOf(path)?.isDirectory());
    if (isFolder) yield* filesBelow(path, seen);
    else yield path;
  }
}

/** Undefined where a path leads nowhere, as a link may. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

async function* fromFolder(folder: string, options: SourceOptions): AsyncGenerator<Found> {
  for (const path of filesBelow(folder)) {
    const ending = extname(path).toLowerCase();
    if (ending === '.tar' && statOf(path)?.isFile()) yield* fromTar(path, options);
    if (!IMAGE_ENDINGS.includes(ending)) continue;
    const stem = path.slice(0, path.length - ending.length);
    const files = CAPTION_ENDINGS.flatMap((end) => {
      return [end, end.toUpperCase()].map((one) => stem + one).find((file) => existsSync(file)) ?? [];
    });
    const captions: CaptionRef = { files };
    yield { name: path, image: { path }, captions };
  }
}

/** The items of a file up to where it turns out to be damaged, which is an item too. */
async function* upToDamage(path: string, items: AsyncIterable<Found>): AsyncGenerator<Found> {
  try {
    yield* items;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    yield { name: path, image: none('damaged', error.message), captions: { texts: [] } };
  }
}

const fromTar = (path: string, options: SourceOptions) => upToDamage(path, samplesOf(path, options));

async function* samplesOf(path: string, { captionColumn }: SourceOptions): AsyncGenerator<Found> {
  for await (const { key, parts, refused } of webSamples(readTar(path))) {
    const name = `${path}:${key}`;
    const part = IMAGE_ENDINGS.map((end) => parts.get(end.slice(1))).find((bytes) => bytes !== undefined);
    const fault = refused.find((one) => IMAGE_ENDINGS.includes(extname(one.name).toLowerCase()));
    const image: ImageRef = part
      ? { bytes: part }
      : fault
        ? none('damaged', fault.why)
        : none('no picture', `has ${[...parts.keys()].join(', ') || 'nothing'}`);
    yield { name, image, captions: { texts: captionsOfParts(parts, captionColumn) } };
  }
}

function captionsOfParts(parts: ReadonlyMap<string, Uint8Array>, key: string | undefined): string[] {
  const asked = key === undefined ? [] : captionsOfPart(parts, '.json', key);
  if (asked.length > 0) return asked;
  const ending = CAPTION_ENDINGS.find((end) => parts.has(end.slice(1)) && !(key && end === '.json'));
  return ending === undefined ? [] : captionsOfPart(parts, ending);
}

/** Broken JSON is no caption, and is said to be. */
function captionsOfPart(parts: ReadonlyMap<string, Uint8Array>, ending: string, key?: string): string[] {
  try {
    return captionsOfBytes(ending, parts.get(ending.slice(1)) ?? new Uint8Array(), key);
  } catch {
    return [];
  }
}

const none = (reason: Dropped['reason'], why: string): ImageRef => ({ none: { reason, why } });

/** The first of the usual names that a table has, or the one that is asked for. */
function columnOf(
  path: string,
  columns: readonly string[],
  asked: string | undefined,
  usual: readonly string[],
): string {
  const lower = columns.map((name) => name.toLowerCase());
  const found = (asked === undefined ? usual : [asked.toLowerCase()])
    .map((name) => lower.indexOf(name))
    .find((i) => i >= 0);
  if (found !== undefined) return columns[found]!;
  const why =
    asked === undefined ? 'has no column for pictures or captions that is known' : `has no column ${asked}`;
  const some = columns.slice(0, 30).join(', ') + (columns.length > 30 ? ', ...' : '');
  const fix = `It has ${some}: say --image-column and --caption-column`;
  throw new Failure({ what: path, why, fix, code: EXIT.usage });
}

/** A picture out of a value: bytes, base64, an address, or a path beside the table. */
function imageOf(value: unknown, folder: string): ImageRef {
  if (value instanceof Uint8Array) return { bytes: value };
  if (typeof value === 'object' && value !== null && 'bytes' in value && value.bytes instanceof Uint8Array) {
    return { bytes: value.bytes };
  }
  if (typeof value === 'object' && value !== null && 'path' in value) return imageOf(value.path, folder);
  if (typeof value !== 'string' || value === '') return none('no picture', 'the row has none');
  const data = /^data:[^,]*;base64,/.exec(value);
  if (data) return { bytes: Buffer.from(value.slice(data[0].length), 'base64') };
  if (/^https?:\/\//.test(value)) return { url: value };
  const [scheme] = /^[a-z][a-z0-9+.-]*(?=:\/\/)/i.exec(value) ?? [];
  if (scheme !== undefined)
    return none('download', `addresses of ${scheme} are not read, only http and https`);
  if ((value.length > 1024 || BASE64_PICTURE.test(value)) && /^[A-Za-z0-9+/\s]+=*$/.test(value.trimEnd()))
    return { bytes: Buffer.from(value, 'base64') };
  if (value.includes('\0')) return none('bad row', 'its path holds a zero');
  return { path: resolve(folder, value) };
}

/** How base64 of small pictures begins: PNG, JPEG, GIF, WebP, BMP. Paths of such length have a dot. */
const BASE64_PICTURE = /^(iVBORw0KGgo|\/9j\/|R0lGOD|UklGR|Qk)[^.]{36}/;

async function* fromParquet(path: string, options: SourceOptions): AsyncGenerator<Found> {
  using file = await ParquetFile.open(path);
  const names = file.columns.map(({ name }) => name);
  const image = columnOf(path, names, options.imageColumn, IMAGE_NAMES);
  const caption = columnOf(path, names, options.captionColumn, CAPTION_NAMES);
  yield* upToDamage(path, rowsOf(file, image, caption));
}

async function* rowsOf(file: ParquetFile, image: string, caption: string): AsyncGenerator<Found> {
  const { path } = file;
  let row = 0;
  for await (const values of file.rows([image, caption])) {
    yield {
      name: `${path}:${row++}`,
      image: imageOf(values[image], dirname(path)),
      captions: { texts: textsOf(values[caption]) },
    };
  }
}

async function* fromJsonLines(path: string, options: SourceOptions): AsyncGenerator<Found> {
  for await (const line of readLines(createReadStream(path), { maxBytes: ROW_CHARACTERS })) {
    const name = `${path}:${line.index}`;
    const record = 'text' in line && !hasManyValues(line.text) ? rowOf(line.text) : undefined;
    if ('text' in line && line.text.trim() === '') continue;
    if (!record) {
      const why = 'error' in line ? line.error : 'is no JSON object, or one of too many values';
      yield { name, image: none('bad row', why), captions: { texts: [] } };
      continue;
    }
    const keys = new Map(Object.entries(record).map(([key, value]) => [key.toLowerCase(), value]));
    const asked = options.imageColumn === undefined ? IMAGE_NAMES : [options.imageColumn.toLowerCase()];
    const key = asked.find((one) => keys.get(one));
    const image =
      key === undefined ? none('no picture', 'the row has none') : imageOf(keys.get(key), dirname(path));
    yield { name, image, captions: { texts: captionsIn(record, options.captionColumn) } };
  }
}

/** A JSON object as Python writes it, where NaN may stand; undefined for anything else. */
function rowOf(text: string): JsonRecord | undefined {
  try {
    const value = readPythonJson(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/** Most commas and brackets of a row: values cost memory of their own. A picture in base64 has none. */
const MAX_MARKS = 2 ** 18;

function hasManyValues(text: string): boolean {
  if (text.length <= MAX_MARKS) return false;
  let marks = 0;
  for (const mark of [',', '[', '{']) {
    for (let at = text.indexOf(mark); at >= 0 && marks <= MAX_MARKS; at = text.indexOf(mark, at + 1)) marks++;
  }
  return marks > MAX_MARKS;
}

async function* fromTable(
  path: string,
  separator: ',' | '\t',
  options: SourceOptions,
): AsyncGenerator<Found> {
  let head: readonly string[] | null = null;
  let [image, caption] = [-1, -1];
  for await (const row of readCsv(createReadStream(path), { separator, maxCharacters: ROW_CHARACTERS })) {
    const name = `${path}:${row.index}`;
    if ('error' in row && !head) {
      const fix = 'The first row names the columns';
      throw new Failure({ what: path, why: `its head cannot be read: ${row.error}`, fix, code: EXIT.usage });
    }
    if ('error' in row) {
      yield { name, image: none('bad row', row.error), captions: { texts: [] } };
    } else if (!head) {
      head = row.fields.map((field) => field.replace(/^\uFEFF/, '').trim());
      image = head.indexOf(columnOf(path, head, options.imageColumn, IMAGE_NAMES));
      caption = head.indexOf(columnOf(path, head, options.captionColumn, CAPTION_NAMES));
    } else if (row.fields.length > 1 || row.fields[0] !== '') {
      yield rowItem(name, row, head.length, image, caption, dirname(path));
    }
  }
}

function rowItem(
  name: string,
  { fields }: Extract<Row, { fields: unknown }>,
  columns: number,
  image: number,
  caption: number,
  folder: string,
): Found {
  if (fields.length !== columns) {
    return {
      name,
      image: none('bad row', `${fields.length} fields, the head has ${columns}`),
      captions: { texts: [] },
    };
  }
  return { name, image: imageOf(fields[image], folder), captions: { texts: [fields[caption] ?? ''] } };
}

function* fromShards(path: string, options: SourceOptions): Generator<Found> {
  using set = MdsSet.open(path);
  const names = set.index.shards[0]?.columns.map(({ name }) => name) ?? [];
  const image = columnOf(path, names, options.imageColumn, IMAGE_NAMES);
  const caption = columnOf(path, names, options.captionColumn, CAPTION_NAMES);
  for (let i = 0; i < set.count; i++) {
    const name = `${path}:${i}`;
    try {
      const sample = set.sample(i);
      const value = sample[caption]!;
      const texts = isKind(value, 'json') ? captionsIn(value.value) : textsOf(value);
      yield { name, image: imageOfShard(sample[image]!, path), captions: { texts } };
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      yield { name, image: none('damaged', error.message), captions: { texts: [] } };
    }
  }
}

function imageOfShard(value: MdsValue, path: string): ImageRef {
  if (value instanceof Uint8Array) return { bytes: value.slice() };
  if (typeof value === 'string') return imageOf(value, dirname(path));
  if (typeof value !== 'object' || !('kind' in value)) return none('no picture', 'the sample has none');
  if (value.kind === 'image') return { bytes: value.bytes.slice() };
  const rgb = value.kind === 'pixels' ? rgbOfPixels(value) : null;
  return rgb
    ? { rgb: rgb.data, width: rgb.width, height: rgb.height }
    : none('unsupported', 'its kind of pixels');
}
