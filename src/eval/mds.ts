// Conformance of the reader and writer of shards with a folder of golden sets: every value of the sound ones
// compared exactly (pixels of JPEG within three levels), the damaged ones refused where they must be.

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { decodeImage } from '../io/image/decode.ts';
import { isKind } from '../io/mds/encodings.ts';
import { rgbOfPixels } from '../io/mds/pixels.ts';
import { MdsSet } from '../io/mds/set.ts';
import type { MdsPixels, MdsSample, MdsValue } from '../io/mds/values.ts';
import { Safetensors } from '../io/safetensors.ts';
import { attempt, differing, Group, type GroupResult } from './conformance.ts';
import { JsonObject } from './json-file.ts';
import { verifyDamaged } from './mds-damaged.ts';
import { writeAgain } from './mds-written.ts';

/** Levels that a pixel of a JPEG may be off: decoders differ. */
const JPEG_LEVELS = 3;

/** Every group of a folder: `SET.expected.*` beside the set, and the cases of damaged.json. */
export async function* verifyMds(dir: string): AsyncGenerator<GroupResult> {
  const path = join(dir, 'manifest.json');
  const manifest = existsSync(path) ? JsonObject.read(path) : null;
  const sets = setsOf(dir, manifest);
  for (const { name, expected } of sets) {
    yield* await verifySet(dir, name, expected);
    yield* attempt(`${name} written again`, () => [writeAgain(join(dir, name), name)]);
    if (hasHashes(join(dir, name))) yield* attempt(`${name} hashes`, () => [checkHashes(dir, name)]);
  }
  const damaged = manifest?.has('damaged') ? manifest.text('damaged') : 'damaged/damaged.json';
  if (existsSync(join(dir, damaged))) {
    const sound = sets.map(({ name }) => join(dir, name));
    yield* verifyDamaged(join(dir, damaged), sound);
  }
}

interface Named {
  readonly name: string;
  /** Path of the expected files without their ending. */
  readonly expected: string;
}

function setsOf(dir: string, manifest: JsonObject | null): Named[] {
  const sets = manifest?.maybe('sets');
  if (sets) {
    return sets.objects().map(([name, set]) => ({
      name,
      expected: join(dir, set.has('expect') ? set.text('expect') : `${name}.expected`),
    }));
  }
  const files = readdirSync(dir).filter((file) => file.endsWith('.expected.json'));
  return files.map((file) => {
    const name = file.slice(0, -'.expected.json'.length);
    return { name, expected: join(dir, `${name}.expected`) };
  });
}

function hasHashes(path: string): boolean {
  try {
    using set = MdsSet.open(path);
    return set.index.shards.some(({ raw }) => Object.keys(raw.hashes).length > 0);
  } catch {
    return false; // the group of its values says what is wrong
  }
}

/** Reads every shard with its hashes compared. */
function checkHashes(dir: string, name: string): GroupResult | null {
  const group = new Group(`${name} hashes`, 0);
  using set = MdsSet.open(join(dir, name), { hashes: true, openShards: 1 });
  for (const { index } of set.index.shards) {
    set.shard(index);
    group.add(0, `${set.index.shards.length} shards`);
  }
  return group.result();
}

// Values --------------------------------------------------------------------------------------------------

/** Groups of one set; an error on the way fails the set. */
async function verifySet(dir: string, name: string, expected: string): Promise<readonly GroupResult[]> {
  const groups = new Groups(name);
  try {
    using set = MdsSet.open(join(dir, name));
    using tensors = existsSync(`${expected}.safetensors`)
      ? Safetensors.open(`${expected}.safetensors`)
      : null;
    const json = JsonObject.read(`${expected}.json`);
    if (json.has('samples')) await compareSamples(groups, set, json, tensors);
    else compareColumns(groups, set, json, tensors);
    return groups.results();
  } catch (error) {
    const broken = attempt(name, () => {
      throw error;
    });
    return [...broken, ...groups.results()];
  }
}

/** The groups of a set by what is compared. */
class Groups {
  private readonly groups = new Map<string, Group>();

  constructor(private readonly set: string) {}

  /** `error`: 0 where they are equal. */
  add(kind: string, error: number, where: string, bound = 0): void {
    let group = this.groups.get(kind);
    if (!group) {
      group = new Group(`${this.set} ${kind}`, bound);
      this.groups.set(kind, group);
    }
    group.add(error, where);
  }

  results(): GroupResult[] {
    return [...this.groups.values()].flatMap((group) => group.result() ?? []);
  }
}

/** Lists of values by column, and tensors with one row a sample. */
function compareColumns(groups: Groups, set: MdsSet, json: JsonObject, tensors: Safetensors | null): void {
  for (const column of json.keys) {
    const texts = json.get(column);
    const count = Array.isArray(texts) ? texts.length : -1;
    groups.add('samples', Math.abs(count - set.count), `${set.count} samples, ${count} expected`);
    for (let i = 0; i < Math.min(count, set.count); i++) {
      const want: unknown = Array.isArray(texts) ? texts[i] : undefined;
      groups.add('texts', set.value(i, column) === want ? 0 : 1, `${column} of sample ${i}`);
    }
  }
  for (const name of tensors?.tensors.keys() ?? []) {
    const { bytes, shape } = tensors!.readTensor(name);
    const [rows = 0] = shape;
    groups.add('samples', Math.abs(rows - set.count), `${set.count} samples, ${rows} rows of ${name}`);
    const row = bytes.length / rows;
    for (let i = 0; i < Math.min(rows, set.count); i++) {
      const want = bytes.subarray(i * row, (i + 1) * row);
      groups.add('bytes', differing(set.columnBytes(i, name), want), `${name} of sample ${i}`);
    }
  }
}

/** One object a sample, its values in the notation of the golden README. */
async function compareSamples(
  groups: Groups,
  set: MdsSet,
  json: JsonObject,
  tensors: Safetensors | null,
): Promise<void> {
  const wanted = json.get('samples');
  if (!Array.isArray(wanted)) throw new Failure({ what: json.at('samples'), why: 'must be a list' });
  groups.add('samples', Math.abs(wanted.length - set.count), `${set.count}, ${wanted.length} expected`);
  const encodings = json.object('columns');
  for (const [i, want] of wanted.slice(0, set.count).entries()) {
    const got = set.sample(i);
    for (const column of encodings.keys) {
      const where = { place: `${column} of sample ${i}`, tensor: `${i}.${column}`, tensors };
      const value = columnOf(got, column);
      await compareValue(groups, encodings.text(column), value, Reflect.get(want, column), where);
    }
  }
}

function columnOf(sample: MdsSample, column: string): MdsValue {
  const value = sample[column];
  if (value !== undefined) return value;
  throw new Failure({ what: 'sample', why: `no column ${JSON.stringify(column)}` });
}

interface Where {
  readonly place: string;
  /** What the tensors of the value begin with. */
  readonly tensor: string;
  readonly tensors: Safetensors | null;
}

async function compareValue(
  groups: Groups,
  encoding: string,
  got: MdsValue,
  want: unknown,
  where: Where,
): Promise<void> {
  const kind = encoding.split(':')[0];
  const exact = (group: string, equal: boolean) => groups.add(group, equal ? 0 : 1, where.place);
  if (kind === 'json') exact('json', isKind(got, 'json') && Bun.deepEquals(got.value, want, true));
  else if (kind === 'ndarray') compareArray(groups, got, want, where);
  else if (kind === 'pil' && isKind(got, 'pixels')) comparePixels(groups, got, want, where);
  else if (isKind(got, 'image')) await compareImage(groups, got.bytes, got.format, want, where);
  else if (got instanceof Uint8Array)
    exact('bytes', Buffer.from(got).toString('base64') === field(want, 'base64'));
  else if (field(want, 'integer') !== undefined) exact('numbers', String(got) === field(want, 'integer'));
  else if (field(want, 'f64_hex') !== undefined) exact('numbers', hexOf(got) === field(want, 'f64_hex'));
  else if (field(want, 'decimal') !== undefined) exact('numbers', got === field(want, 'decimal'));
  else
    exact(
      typeof got === 'string' ? 'texts' : 'numbers',
      typeof got === 'bigint' ? Number(got) === want : got === want,
    );
}

function compareArray(groups: Groups, got: MdsValue, want: unknown, { place, tensor, tensors }: Where): void {
  const same =
    isKind(got, 'ndarray') &&
    got.dtype === field(want, 'dtype') &&
    Bun.deepEquals([...got.shape], field(want, 'shape'), true);
  groups.add('arrays', same ? 0 : 1, `dtype and shape of ${place}`);
  if (!isKind(got, 'ndarray') || !tensors?.tensors.has(tensor)) return;
  groups.add('arrays', differing(got.bytes, tensors.readTensor(tensor).bytes), place);
}

function comparePixels(
  groups: Groups,
  got: MdsPixels,
  want: unknown,
  { place, tensor, tensors }: Where,
): void {
  const same = ['width', 'height', 'mode'].every((key) => Reflect.get(got, key) === field(want, key));
  groups.add('pictures', same ? 0 : 1, `size and mode of ${place}`);
  for (const name of [`${tensor}.decoded`, `${tensor}.raw_cmyk`, `${tensor}.raw_index`]) {
    if (tensors?.tensors.has(name))
      groups.add('pictures', differing(got.bytes, tensors.readTensor(name).bytes), place);
  }
  const name = `${tensor}.decoded_as_rgb`;
  const rgb = tensors?.tensors.has(name) ? rgbOfPixels(got) : null;
  if (rgb) groups.add('pictures', differing(rgb.data, tensors!.readTensor(name).bytes), `${place} as RGB`);
}

/** Colours alone: of pictures with transparency the pipeline drops it. */
async function compareImage(
  groups: Groups,
  bytes: Uint8Array,
  format: 'jpeg' | 'png',
  want: unknown,
  { place, tensor, tensors }: Where,
): Promise<void> {
  const decoded = await decodeImage(bytes, place);
  const same = decoded.width === field(want, 'width') && decoded.height === field(want, 'height');
  groups.add('pictures', same ? 0 : 1, `size of ${place}`);
  const name = [`${tensor}.decoded`, `${tensor}.decoded_as_rgb`].find((n) => tensors?.tensors.has(n));
  if (name === undefined) return;
  const { bytes: pixels, shape } = tensors!.readTensor(name);
  const channels = shape[2] ?? 1;
  let error = 0;
  for (let i = 0; i < decoded.width * decoded.height; i++) {
    for (let c = 0; c < 3; c++) {
      const theirs = pixels[i * channels + Math.min(c, channels - 1)] ?? Number.NaN;
      error = Math.max(error, Math.abs(decoded.data[i * 3 + c]! - theirs));
    }
  }
  if (format === 'jpeg') groups.add('JPEG pixels', error, place, JPEG_LEVELS);
  else groups.add('pictures', error, place);
}

/** The bits of a double, most significant first. */
function hexOf(value: MdsValue): string {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, typeof value === 'number' ? value : Number.NaN);
  return view.getBigUint64(0).toString(16).padStart(16, '0');
}

function field(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined;
}
