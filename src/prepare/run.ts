// From sources to a set of shards: items in their order, decoded and cut, encoded, written; what is left
// out is
// noted with its reason. A run that was broken off goes on behind the last shard on the disk.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, requireFreeBytes, writeWholeFile } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { encodeRecord, type JsonRecord, MetricsLog, readRecords } from '../io/jsonl.ts';
import { INDEX_NAME } from '../io/mds/index.ts';
import { MdsWriter } from '../io/mds/writer.ts';
import type { captionColumns, latentColumns, pictureColumns } from './encoders.ts';
import { NotFinite, sampleOf } from './encoders.ts';
import type { Decoders } from './decoders.ts';
import type { Dropped, Item, Result } from './item.ts';
import { type Report, Tally } from './report.ts';
import { itemsOf, type SourceOptions } from './sources.ts';

export interface PrepareOptions extends SourceOptions {
  readonly sources: readonly string[];
  readonly folder: string;
  /** Everything that decides what is written, as JSON: a folder begun with other options is refused. */
  readonly fingerprint: JsonRecord;
  readonly keepDuplicates: boolean;
  /** This machine's part: items whose place leaves `index` when divided by `count`. */
  readonly part: { readonly index: number; readonly count: number };
  readonly compression: string | null;
  readonly hashes: readonly string[];
  readonly shardBytes: number;
  readonly pictures: ReturnType<typeof pictureColumns> | ReturnType<typeof latentColumns>;
  readonly captions: ReturnType<typeof captionColumns>;
  readonly interrupt: { readonly stopRequested: boolean };
  readonly decoders: Decoders;
  onItem(done: number, report: Tally): void;
}

/** What every item came to, until the set is whole. */
const NOTES = 'items.unfinished.jsonl';
const OPTIONS = 'prepare.json';
const LEAST_FREE = 2 ** 24;

/** Returns the report; `finished` false where a stop was asked for first. */
export async function prepareSet(options: PrepareOptions): Promise<{ report: Report; finished: boolean }> {
  const { folder, part } = options;
  if (existsSync(join(folder, INDEX_NAME))) {
    checkOptions(options);
    rmSync(join(folder, NOTES), { force: true });
    const report: Report = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8'));
    return { report, finished: true };
  }
  makeFolder(folder);
  checkOptions(options);
  writeWholeFile(join(folder, OPTIONS), `${JSON.stringify(options.fingerprint, null, 2)}\n`);
  requireFreeBytes(folder, options.shardBytes + LEAST_FREE, 'a shard');
  const columns = { ...options.captions.encodings, ...options.pictures.encodings };
  const { compression, hashes, shardBytes: sizeLimit } = options;
  using writer = MdsWriter.open(folder, columns, { compression, hashes, sizeLimit, resume: true });
  const from = markOf(writer.kept.mark);
  using notes = MetricsLog.open(join(folder, NOTES), from.place);
  const tally = new Tally();
  let noted = -1;
  for (const note of readRecords(join(folder, NOTES))) {
    tally.add(note);
    noted = Number(note.step);
  }
  let done = tally.items;
  const wait: Promise<Work>[] = [];
  const items = itemsOf(options.sources, options)[Symbol.asyncIterator]();
  const next = async (): Promise<boolean> => {
    for (;;) {
      const { value, done: ended } = await items.next();
      if (ended) return false;
      const item: Item = value;
      // The item of the last sample on the disk comes once more: others of its captions may be missing.
      if (item.place % part.count !== part.index || item.place < from.place) continue;
      const work = options.decoders.decode(item).then((result) => ({ item, result }));
      work.catch(() => {}); // told where it is waited for
      wait.push(work);
      return true;
    }
  };
  let more = true;
  while (more && wait.length < options.decoders.atOnce) more = await next();
  while (wait.length > 0 && !options.interrupt.stopRequested) {
    const { item, result } = await wait.shift()!;
    if (more) more = await next();
    const note = write(options, writer, tally, item, result, from);
    if (item.place > noted) {
      tally.add(note);
      notes.append(note);
    }
    options.onItem(++done, tally);
  }
  if (options.interrupt.stopRequested) {
    notes.sync();
    return { report: tally.report(), finished: false };
  }
  if (tally.written === 0) {
    const why = `none of ${tally.items} items can be used`;
    throw new Failure({ what: options.sources.join(', '), why, fix: `See ${join(folder, NOTES)}` });
  }
  notes.sync();
  const report = tally.report();
  const dropped = readRecords(join(folder, NOTES)).filter(({ reason }) => reason !== undefined);
  const lines = dropped.map(({ step, ...rest }) => encodeRecord({ place: step, ...rest }));
  writeWholeFile(join(folder, 'dropped.jsonl'), lines.map((line) => `${line}\n`).join(''));
  writeWholeFile(join(folder, 'report.json'), `${JSON.stringify(report, null, 2)}\n`);
  writer.finish();
  rmSync(join(folder, NOTES), { force: true });
  return { report, finished: true };
}

interface Work {
  readonly item: Item;
  readonly result: Result;
}

interface Mark {
  readonly place: number;
  /** Which of its captions. */
  readonly caption: number;
}

function markOf(mark: unknown): Mark {
  const known = typeof mark === 'object' && mark !== null ? (mark as Partial<Mark>) : {};
  return { place: known.place ?? -1, caption: known.caption ?? -1 };
}

/** Writes the samples of an item; returns what is noted of it. */
function write(
  options: PrepareOptions,
  writer: MdsWriter,
  tally: Tally,
  { place, name }: Item,
  result: Work['result'],
  from: Mark,
): JsonRecord {
  const drop = ({ reason, why }: Dropped): JsonRecord => ({ step: place, name, reason, why });
  if ('dropped' in result) return drop(result.dropped);
  const { hash: digest, squares, captions, width, height, format } = result.prepared;
  const hash = Buffer.from(digest).toString('hex');
  const first = options.keepDuplicates ? undefined : tally.holderOf(hash);
  if (first !== undefined && place > from.place) {
    return drop({ reason: 'duplicate', why: `the same bytes as ${first}` });
  }
  try {
    const pictures = options.pictures.values(squares, place);
    const samples = captions.map((caption) => sampleOf(pictures, options.captions.values(caption, place)));
    for (const [caption, sample] of samples.entries()) {
      if (place === from.place && caption <= from.caption) continue;
      writer.write(sample, { place, caption });
    }
  } catch (error) {
    if (error instanceof NotFinite) return drop({ reason: 'not finite', why: error.message });
    throw error;
  }
  const words = captions.map((caption) => caption.length);
  return { step: place, name, hash, width, height, format, captions: words };
}

function checkOptions({ folder, fingerprint }: PrepareOptions): void {
  const path = join(folder, OPTIONS);
  if (!existsSync(path)) {
    if (!existsSync(join(folder, INDEX_NAME))) return;
    throw new Failure({
      what: folder,
      why: 'holds a set of shards',
      fix: 'Choose another -o',
      code: EXIT.usage,
    });
  }
  const before: JsonRecord = JSON.parse(readFileSync(path, 'utf8'));
  const keys = new Set([...Object.keys(before), ...Object.keys(fingerprint)]);
  const other = [...keys].find((key) => !Bun.deepEquals(before[key], fingerprint[key]));
  if (other === undefined) return;
  const [old, now] = [before[other], fingerprint[other]].map((value) => JSON.stringify(value));
  const why = `was begun with ${other} = ${old}, not ${now}`;
  throw new Failure({ what: folder, why, fix: 'Use the same options, or another -o', code: EXIT.usage });
}
