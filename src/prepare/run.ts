// From sources to a set of shards: items in their order, decoded and cut, encoded in groups, written; what is
// left out is noted with its reason. A run that was broken off goes on behind the last shard on the disk.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, requireFreeBytes, writeFileAtomically, writeWholeFile } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { eachRecord, encodeRecord, type JsonRecord, MetricsLog, readRecords } from '../io/jsonl.ts';
import { INDEX_NAME } from '../io/mds/index.ts';
import { JOURNAL_NAME, MdsWriter } from '../io/mds/writer.ts';
import type { MdsSample } from '../io/mds/values.ts';
import type { Decoders } from './decoders.ts';
import { type CaptionColumns, type Filled, NotFinite, type PictureColumns } from './encoders.ts';
import type { Dropped, Item, Prepared, Result } from './item.ts';
import { type Report, Tally } from './report.ts';
import { itemsOf, type SourceOptions } from './sources.ts';

export interface PrepareOptions extends SourceOptions {
  readonly sources: readonly string[];
  readonly folder: string;
  /** Everything that decides what is written, as JSON: a folder begun with other options is refused. */
  readonly fingerprint: JsonRecord;
  readonly keepDuplicates: boolean;
  /** Side of the largest square that is made of a picture. */
  readonly largest: number;
  /** This machine's part: items whose place leaves `index` when divided by `count`. */
  readonly part: { readonly index: number; readonly count: number };
  readonly compression: string | null;
  readonly hashes: readonly string[];
  readonly shardBytes: number;
  readonly pictures: PictureColumns;
  readonly captions: CaptionColumns;
  readonly interrupt: { readonly stopRequested: boolean };
  readonly decoders: Decoders;
  onItem(done: number, report: Tally): void;
}

/** What every item came to, until the set is whole. */
const NOTES = 'items.unfinished.jsonl';
const OPTIONS = 'prepare.json';
const LEAST_FREE = 2 ** 24;
/** A group ends with so many items for one picture of a batch, where most are left out. */
const MOST_ITEMS = 4;

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
  const tally = new Tally(options.largest);
  let noted = -1;
  let lastName: unknown;
  for (const note of eachRecord(join(folder, NOTES))) {
    tally.add(note);
    noted = Number(note.step);
    if (noted === from.place) lastName = note.name;
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
      if (item.place === from.place && lastName !== undefined && item.name !== lastName) {
        const why = `its sources have changed since it was begun: ${lastName} was where ${item.name} is`;
        throw new Failure({ what: folder, why, fix: 'Bring back what was there, or choose another -o' });
      }
      const work = options.decoders.decode(item).then((result) => ({ item, result }));
      work.catch(() => {}); // told where it is waited for
      wait.push(work);
      return true;
    }
  };
  const group = new Group(options, tally, from);
  const writeGroup = () => {
    for (const { item, outcome } of group.take()) {
      const note = write(writer, item, outcome, from);
      if (item.place > noted) {
        tally.add(note);
        notes.append(note);
      }
      options.onItem(++done, tally);
    }
  };
  let more = true;
  while (more && wait.length < options.decoders.atOnce) more = await next();
  while (wait.length > 0 && !options.interrupt.stopRequested) {
    group.add(await wait.shift()!);
    if (more) more = await next();
    if (group.full || wait.length === 0) writeGroup();
  }
  if (options.interrupt.stopRequested) {
    notes.sync();
    return { report: tally.report(), finished: false };
  }
  if (tally.written === 0) {
    notes.sync();
    const [first] = eachRecord(join(folder, NOTES));
    const example = first ? ` (${first.name}: ${first.why})` : '';
    const why = `none of ${tally.items} items can be used${example}`;
    throw new Failure({ what: options.sources.join(', '), why, fix: `See ${join(folder, NOTES)}` });
  }
  notes.sync();
  const report = tally.report();
  writeFileAtomically(join(folder, 'dropped.jsonl'), (sink) => {
    for (const { step, ...rest } of eachRecord(join(folder, NOTES))) {
      if (rest.reason !== undefined) sink.write(`${encodeRecord({ place: step, ...rest })}\n`);
    }
  });
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

/** A picture that can be used. */
interface Usable {
  readonly item: Item;
  readonly prepared: Prepared;
}

/** Why an item is not in the set, or its samples, one a caption. */
type Outcome = Dropped | { readonly prepared: Prepared; readonly samples: readonly MdsSample[] };

/** Items in their order until there are enough for a batch; then those that will be written are encoded. */
class Group {
  private works: Work[] = [];
  /** Encoded together: of several with the same bytes the first alone. */
  private readonly fresh = new Map<string, Usable>();

  constructor(
    private readonly options: PrepareOptions,
    private readonly tally: Tally,
    private readonly from: Mark,
  ) {}

  add(work: Work): void {
    this.works.push(work);
    if (!('prepared' in work.result)) return;
    const usable = { item: work.item, prepared: work.result.prepared };
    const key = this.options.keepDuplicates ? `${work.item.place}` : hashOf(usable.prepared);
    if (this.holder(usable) === undefined && !this.fresh.has(key)) this.fresh.set(key, usable);
  }

  get full(): boolean {
    const { pictures, captions } = this.options;
    const batch = Math.max(pictures.batch, captions.batch);
    return this.fresh.size >= batch || this.works.length >= MOST_ITEMS * batch;
  }

  /** All items and what becomes of them; each is to be noted before the next is taken. */
  *take(): Generator<{ readonly item: Item; readonly outcome: Outcome }> {
    const works = this.works;
    const encoded = this.encode([...this.fresh.values()]);
    this.works = [];
    this.fresh.clear();
    for (const { item, result } of works) {
      if ('dropped' in result) {
        yield { item, outcome: result.dropped };
        continue;
      }
      const usable = { item, prepared: result.prepared };
      const first = this.holder(usable);
      if (first !== undefined) {
        yield { item, outcome: { reason: 'duplicate', why: `the same bytes as ${first}` } };
        continue;
      }
      // Where the first with these bytes was left out after all, this one has not been encoded.
      yield { item, outcome: encoded.get(item) ?? this.encode([usable]).get(item)! };
    }
  }

  /** The item in the set with the same bytes, which came before this one. */
  private holder({ item, prepared }: Usable): string | undefined {
    if (this.options.keepDuplicates || item.place <= this.from.place) return undefined;
    return this.tally.holderOf(hashOf(prepared));
  }

  private encode(usable: readonly Usable[]): Map<Item, Outcome> {
    if (usable.length === 0) return new Map();
    const pictures = this.options.pictures.values(
      usable.map(({ prepared }) => prepared.squares),
      usable.map(({ item }) => item.place),
    );
    const texts = usable.flatMap(({ prepared }) => prepared.captions);
    const captions = this.options.captions.values(texts);
    let at = 0;
    return new Map(
      usable.map(({ item, prepared }, i) => {
        const parts = captions.slice(at, at + prepared.captions.length);
        at += parts.length;
        return [item, outcomeOf(prepared, pictures[i]!, parts)];
      }),
    );
  }
}

function outcomeOf(prepared: Prepared, picture: Filled, captions: readonly Filled[]): Outcome {
  const samples: MdsSample[] = [];
  for (const caption of captions) {
    if (picture instanceof NotFinite) return { reason: 'not finite', why: picture.message };
    if (caption instanceof NotFinite) return { reason: 'not finite', why: caption.message };
    samples.push({ ...picture, ...caption });
  }
  return { prepared, samples };
}

const hashOf = ({ hash }: Prepared) => Buffer.from(hash).toString('hex');

/** Writes the samples of an item; returns what is noted of it. */
function write(writer: MdsWriter, { place, name }: Item, outcome: Outcome, from: Mark): JsonRecord {
  if ('reason' in outcome) return { step: place, name, ...outcome };
  const { prepared, samples } = outcome;
  for (const [caption, sample] of samples.entries()) {
    if (place === from.place && caption <= from.caption) continue;
    writer.write(sample, { place, caption });
  }
  const { width, height, format } = prepared;
  const captions = prepared.captions.map((caption) => caption.length);
  return { step: place, name, hash: hashOf(prepared), width, height, format, captions };
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
  const journal = join(folder, JOURNAL_NAME);
  const shards = existsSync(journal) ? readRecords(journal).filter(({ step }) => Number(step) >= 0) : [];
  if (shards.length === 0 && !existsSync(join(folder, INDEX_NAME))) {
    rmSync(journal, { force: true }); // nothing is written yet: other options may be used
    return;
  }
  const before: JsonRecord = JSON.parse(readFileSync(path, 'utf8'));
  const keys = new Set([...Object.keys(before), ...Object.keys(fingerprint)]);
  const other = [...keys].find((key) => !Bun.deepEquals(before[key], fingerprint[key]));
  if (other === undefined) return;
  const [old, now] = [before[other], fingerprint[other]].map((value) => JSON.stringify(value));
  const why = `was begun with ${other} = ${old}, not ${now}`;
  throw new Failure({ what: folder, why, fix: 'Use the same options, or another -o', code: EXIT.usage });
}
