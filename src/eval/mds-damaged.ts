// Conformance with damaged sets of shards: the samples that damaged.json names are refused, no other bytes
// are ever given out, and refusing a whole shard or set is as good. An error is the number of samples that
// are not treated so.

import { basename, dirname, join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { MdsIndex } from '../io/mds/index.ts';
import { MdsSet } from '../io/mds/set.ts';
import { Group, type GroupResult } from './conformance.ts';
import { JsonObject } from './json-file.ts';

/** A group for every case of `file`. `sound`: folders of sets that the cases were made from. */
export function* verifyDamaged(file: string, sound: readonly string[]): Generator<GroupResult> {
  for (const [name, json] of JsonObject.read(file).object('sets').objects()) {
    const group = new Group(`damaged ${name}`, 0);
    const path = join(dirname(file), name);
    const checker = new Case(group, path, json, sound);
    checker.run();
    yield group.result()!;
  }
}

class Case {
  /** Samples that must be refused; null where the case names none. */
  private readonly bad: unknown;
  private refused = '';

  constructor(
    private readonly group: Group,
    private readonly path: string,
    json: JsonObject,
    private readonly sound: readonly string[],
  ) {
    this.bad = json.get('bad_samples') ?? null;
  }

  run(): void {
    const set = this.open({});
    if (set) {
      using open = set;
      const hashed = open.index.shards.every(({ raw, zip }) => Object.keys((zip ?? raw).hashes).length > 0);
      using like = this.soundLike(open.index);
      this.check(open, like, false, hashed);
      if (hashed) {
        using careful = MdsSet.open(this.path, { hashes: true });
        this.check(careful, like, true, hashed);
      }
    }
    if (this.bad === null && this.refused === '') this.group.add(1, 'nothing was refused');
    else this.group.add(0, this.refused || 'nothing to refuse');
  }

  private open(options: { hashes?: boolean }): MdsSet | null {
    try {
      return MdsSet.open(this.path, options);
    } catch (error) {
      this.note(error);
      return null;
    }
  }

  /**
   * Reads every sample. `careful`: hashes are compared; where there are any, damage may show by them alone.
   */
  private check(set: MdsSet, like: MdsSet | null, careful: boolean, hashed: boolean): void {
    const hashesTell = basename(this.path).startsWith('hash_');
    let wrong = 0;
    let worst = '';
    const fault = (i: number, what: string) => {
      wrong += 1;
      worst ||= `sample ${i} ${what}`;
    };
    for (let i = 0; i < set.count; i++) {
      const bad = this.isBad(set.index, i);
      if (!this.reads(set, i)) {
        if (hashesTell && hashed && !careful && !bad) fault(i, 'is sound and was refused');
        continue;
      }
      if (bad && (careful || !hashesTell)) fault(i, 'should be refused');
      else if (!bad && like && !sameBytes(set, like, i)) fault(i, 'has other bytes');
    }
    if (wrong > 0) this.group.add(wrong, worst);
  }

  private reads(set: MdsSet, i: number): boolean {
    try {
      set.sample(i);
      return true;
    } catch (error) {
      this.note(error);
      return false;
    }
  }

  /** A refusal is a Failure; anything else is a fault of the reader and not caught. */
  private note(error: unknown): void {
    if (!(error instanceof Failure)) throw error;
    this.refused ||= error.message.replaceAll(`${this.path}/`, '');
  }

  /** "all of shard 1", or numbers as the index counts. */
  private isBad(index: MdsIndex, i: number): boolean {
    if (Array.isArray(this.bad)) return this.bad.includes(i);
    const shard = typeof this.bad === 'string' ? /shard (\d+)/.exec(this.bad)?.[1] : undefined;
    return shard !== undefined && index.locate(i).shard === Number(shard);
  }

  /** The sound set that has the most shards of the same size in the same places. */
  private soundLike(index: MdsIndex): MdsSet | null {
    let [best, most] = ['', 0];
    for (const folder of this.sound) {
      const other = MdsIndex.read(folder);
      const same = index.shards.filter((info, i) => {
        const theirs = other.shards[i];
        return theirs?.raw.bytes === info.raw.bytes && theirs.raw.basename === info.raw.basename;
      });
      if (same.length > most) [best, most] = [folder, same.length];
    }
    return most * 2 > index.shards.length ? MdsSet.open(best) : null;
  }
}

/** Whether a sample has the bytes of the sound set, by its place in its shard. */
function sameBytes(set: MdsSet, like: MdsSet, i: number): boolean {
  const { shard, sample } = set.index.locate(i);
  const theirs = like.shard(shard);
  if (sample >= theirs.count) return false;
  return set.index.shards[shard]!.columns.every((_, c) => {
    return Buffer.compare(set.shard(shard).columnBytes(sample, c), theirs.columnBytes(sample, c)) === 0;
  });
}
