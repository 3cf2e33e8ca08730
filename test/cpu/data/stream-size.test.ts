// The order of the stream on shards, as training processes meet it: five sets of uneven sizes, read by 1, 2,
// 3 and 8 ranks with different numbers of threads, each killed (SIGKILL) and gone on with from a place at or
// before the last one that it told.
//
//   ORDER_SAMPLES=1000003 bun test --timeout 3600000 test/cpu/data/stream-size.test.ts
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardStream } from '../../../src/data/stream/stream.ts';
import { randomOf } from '../../fuzz/fuzz.ts';
import { streamed, writeSet } from './stream-sets.ts';

const TOTAL = Number(process.env.ORDER_SAMPLES ?? 10_003);
const FULL = TOTAL > 100_000;
const COLUMNS = [
  { column: 'caption_latents', bytes: 24 },
  { column: 'latents_256', bytes: 16 },
];
/** As 600,003, 250,000, 149,000, 999 and 1 of 1,000,003. */
const COUNTS = (() => {
  const [b, c, d, e] = [0.25, 0.149, 0.000999, 1e-6].map((part) => Math.max(1, Math.floor(TOTAL * part)));
  return [TOTAL - b! - c! - d! - e!, b!, c!, d!, e!];
})();
const WEIGHTS = [1, 3, 0.5, 0.01, 0.001];
const WINDOW = 16;
const BATCH = FULL ? 250 : 5;
/** What the last batches read beyond the epoch. */
const END = TOTAL + 8 * BATCH;
const random = randomOf(FULL ? Date.now() : 1);

const folder = mkdtempSync(join(tmpdir(), 'stream-size-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let sets: string[] = [];
beforeAll(() => {
  const limits = [1, 0.4, 0.7, 0.05, 1].map((part) => Math.ceil((FULL ? 800_000 : 30_000) * part));
  sets = COUNTS.map((count, set) => writeSet(folder, set, { count, columns: COLUMNS, limit: limits[set]! }));
}, 600_000);

/** "set.item" as one number. */
function numberOf(item: string): number {
  const [set, number] = item.split('.').map(Number);
  return set! * 2 ** 24 + number!;
}

const setsWith = (weights?: readonly number[]) => sets.map((path, i) => ({ path, weight: weights?.[i] }));

/** What one process reads without a break. */
async function undisturbed(weights: readonly number[] | undefined): Promise<Uint32Array> {
  const stream = await ShardStream.open(setsWith(weights), COLUMNS, { seed: 5, window: WINDOW, workers: 1 });
  const out = new Uint32Array(END);
  for (let place = 0; place < END; place += 1000) {
    const items = await streamed(stream, COLUMNS, place, Math.min(1000, END - place));
    out.set(items.map(numberOf), place);
  }
  await stream.close();
  return out;
}

interface Rank {
  readonly ranks: number;
  readonly rank: number;
  readonly workers: number;
  /** Lives before the last, which is not killed. */
  readonly kills: number;
  readonly weights: readonly number[] | undefined;
}

/** Reads a rank's share into `got`, a life after the other; returns where the later ones began. */
async function lives({ ranks, rank, workers, kills, weights }: Rank, got: Uint32Array): Promise<number[]> {
  const log = join(folder, 'log');
  writeFileSync(log, '');
  const options = { seed: 5, window: WINDOW, ranks, rank, workers };
  const common = { sets: setsWith(weights), columns: COLUMNS, options, log, end: TOTAL, batch: BATCH };
  const bytes = (TOTAL / ranks) * 8.5; // of the whole log, about
  const begun: number[] = [];
  let lines: string[] = [];
  for (let life = 0; life <= kills; life++) {
    const first = lines.length * BATCH * ranks;
    if (life > 0) begun.push(first);
    const child = Bun.spawn(
      [process.execPath, join(import.meta.dir, 'stream-child.ts'), JSON.stringify({ ...common, first })],
      { stdout: 'inherit', stderr: 'inherit' },
    );
    const goal =
      life < kills ? statSync(log).size + 1 + random(((FULL ? 1.5 : 0.5) * bytes) / (kills + 1)) : Infinity;
    while (child.exitCode === null && child.signalCode === null) {
      if (statSync(log).size >= goal) child.kill('SIGKILL');
      await Promise.race([child.exited, Bun.sleep(2)]);
    }
    if (child.signalCode === null) expect(child.exitCode).toBe(0);
    lines = readFileSync(log, 'utf8').split('\n').slice(0, -1); // without the line that was cut off
    if (child.signalCode === null) break;
    // A checkpoint may be older than the last batch.
    lines.length -= random(Math.min(lines.length, FULL ? 200 : 10) + 1);
    truncateSync(
      log,
      lines.reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0),
    );
  }
  for (const [i, line] of lines.entries()) {
    const [place, ...items] = line.split(' ');
    expect(Number(place)).toBe(i * BATCH * ranks);
    for (const [row, item] of items.entries()) got[Number(place) + rank + row * ranks] = numberOf(item);
  }
  return begun;
}

let killed = 0;

describe.each([[undefined], [WEIGHTS]])(`${TOTAL} samples of five sets, weights %j`, (weights) => {
  let whole: Uint32Array = new Uint32Array();
  beforeAll(async () => {
    whole = await undisturbed(weights);
  }, 600_000);

  test('each sample comes once an epoch of its set', () => {
    const seen = COUNTS.map((count) => new Uint8Array(count));
    const drawn = COUNTS.map(() => 0);
    for (const key of whole.subarray(0, TOTAL)) {
      const [set, item] = [key >>> 24, key & 0xffffff];
      if (drawn[set]!++ % COUNTS[set]! === 0) seen[set]!.fill(0);
      expect(seen[set]![item]!++ === 0 || `${set}.${item} twice`).toBe(true);
    }
    expect(drawn.reduce((sum, count) => sum + count)).toBe(TOTAL);
    if (!weights) expect(drawn).toEqual(COUNTS);
    else expect(drawn[1]! / drawn[0]!).toBeCloseTo(3, 2);
  });

  test.each(weights && !FULL ? [3] : [1, 2, 3, 8])(
    'read by %d ranks, killed and gone on with',
    async (ranks) => {
      const got = new Uint32Array(END).fill(0xffffffff);
      const begun: number[] = [];
      for (let rank = 0; rank < ranks; rank++) {
        const kills = FULL ? 3 : rank % 3 === 0 ? 1 : 0;
        begun.push(...(await lives({ ranks, rank, workers: 1 + ((rank + ranks) % 4), kills, weights }, got)));
      }
      killed += begun.length;
      expect(Bun.hash(got.subarray(0, TOTAL))).toBe(Bun.hash(whole.subarray(0, TOTAL)));
      if (FULL) {
        console.log(`${ranks} ranks: ${TOTAL} places equal, gone on from ${begun.join(' ')}`);
      }
    },
  );
});

test('some of them were killed on the way', () => expect(killed).toBeGreaterThan(0));
