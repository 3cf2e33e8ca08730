// The training stream: bytes delivered unchanged in an order of seed and place alone, whatever the threads,
// batches, ranks and kills; damaged shards named.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import {
  copyFileSync,
  cpSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StreamOptions } from '../../../src/data/stream/sets.ts';
import { ShardStream } from '../../../src/data/stream/stream.ts';
import { ShardCache } from '../../../src/data/stream/cache.ts';
import { MdsIndex } from '../../../src/io/mds/index.ts';
import { arraysFor, captionOf, itemsOf, streamed, writeSet } from './stream-sets.ts';

const folder = mkdtempSync(join(tmpdir(), 'stream-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SMALL = [
  { column: 'caption_latents', bytes: 96 },
  { column: 'latents_256', bytes: 64 },
];
const LARGE = [
  { column: 'latents_256', bytes: 40_008 },
  { column: 'caption_latents', bytes: 20_004 },
];
const COUNTS = [700, 250, 61];
let small: string[] = [];
let large = '';
beforeAll(() => {
  small = COUNTS.map((count, set) => writeSet(folder, set, { count, columns: SMALL, limit: 4000 }));
  large = writeSet(folder, 9, { count: 101, columns: LARGE, limit: 500_000 });
});

const open = (options: Partial<StreamOptions> = {}, weights?: number[]) =>
  ShardStream.open(
    small.map((path, i) => ({ path, weight: weights?.[i] })),
    SMALL,
    { seed: 5, window: 4, ...options },
  );

async function failureOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'no failure',
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

describe('order', () => {
  test('each sample once an epoch, the same for any threads, batches and ranks', async () => {
    const total = COUNTS.reduce((a, b) => a + b);
    const whole = await streamed(await open({ workers: 1 }), SMALL, 0, total);
    expect(whole.toSorted()).toEqual(
      COUNTS.flatMap((count, set) => Array.from({ length: count }, (_, i) => `${set}.${i}`)).toSorted(),
    );
    expect(await streamed(await open({ workers: 4 }), SMALL, 0, total, 37)).toEqual(whole);
    expect(await streamed(await open(), SMALL, 900, 100, 100)).toEqual(whole.slice(900, 1000));
    for (const ranks of [2, 3, 8]) {
      const got: string[] = [];
      for (let rank = 0; rank < ranks; rank++) {
        const stream = await open({ ranks, rank });
        const places = new Float64Array(11);
        for (let first = 0; first + 11 * ranks <= total; first += 11 * ranks) {
          const into = arraysFor(SMALL, 11);
          await stream.fill(into, places, first);
          expect([...places]).toEqual(Array.from({ length: 11 }, (_, i) => first + rank + i * ranks));
          for (const [i, item] of itemsOf(into, SMALL).entries()) got[places[i]!] = item;
        }
        await stream.close();
      }
      expect(got).toEqual(whole.slice(0, got.length));
      expect(got.length).toBeGreaterThan(total - 11 * ranks);
    }
  });

  test('weights mix the sets; captions and epochs are those of the place', async () => {
    const stream = await open({}, [0.5, 0.4, 0.1]);
    const items = await streamed(stream, SMALL, 0, 1000, 250);
    const drawn = [0, 1, 2].map((set) => items.filter((item) => item.startsWith(`${set}.`)));
    expect(drawn.map((list) => list.length)).toEqual([500, 400, 100]);
    expect(new Set(drawn[1]!.slice(0, 250)).size).toBe(250);
    expect(new Set(drawn[1]!.slice(250)).size).toBe(150);
    const place = items.lastIndexOf(drawn[1]!.at(-1)!);
    expect([stream.epochOf(0), stream.epochOf(place)]).toEqual([0, 1]);
    for (const at of [0, 17, 999]) {
      const [set, item] = items[at]!.split('.').map(Number);
      expect(await stream.captionAt(at)).toBe(captionOf(set!, item!));
    }
    await stream.close();
  });

  test('a part of a set is its first samples', async () => {
    const stream = await ShardStream.open([{ path: small[0]!, count: 123 }], SMALL, { seed: 1, window: 4 });
    expect(stream.count).toBe(123);
    const items = await streamed(stream, SMALL, 123, 123);
    expect(items.toSorted()).toEqual(Array.from({ length: 123 }, (_, i) => `0.${i}`).toSorted());
    await stream.close();
  });

  test('a set is known by its bytes, wherever it lies', async () => {
    const parts = { count: 9, columns: SMALL, limit: 4000, hashes: ['sha1'] };
    const [one, other] = [20, 21].map((set) => writeSet(folder, set, parts));
    cpSync(one!, join(folder, 'moved'), { recursive: true });
    const hashes = [one!, other!, join(folder, 'moved')].map(async (path) => {
      const stream = await ShardStream.open([{ path }], SMALL, { seed: 1 });
      await stream.close();
      return stream.hash;
    });
    const [first, second, moved] = await Promise.all(hashes);
    expect(moved).toBe(first!);
    expect(second).not.toBe(first!); // of equal sizes and names
  });

  test('samples of any size, read or from mappings, are delivered unchanged', async () => {
    const stream = await ShardStream.open([{ path: large }], LARGE, { seed: 2, window: 3 });
    for (let epoch = 0; epoch < 3; epoch++) {
      const items = await streamed(stream, LARGE, epoch * 101, 101, 20);
      expect(items.toSorted()).toEqual(Array.from({ length: 101 }, (_, i) => `9.${i}`).toSorted());
    }
    await stream.close();
  });

  test('batches may be asked for before earlier ones are there', async () => {
    const stream = await ShardStream.open([{ path: large }], LARGE, { seed: 2 });
    const expected = await streamed(stream, LARGE, 0, 100);
    const parts = Array.from({ length: 10 }, () => arraysFor(LARGE, 10));
    const fills = parts.map((into, i) => stream.fill(into, new Float64Array(10), 10 * i));
    await Promise.all(fills.toReversed());
    expect(parts.flatMap((into) => itemsOf(into, LARGE))).toEqual(expected);
    await stream.close();
  });

  test('killed at any moment and gone on with, by every rank', async () => {
    const sets = small.map((path) => ({ path }));
    const end = 960;
    for (const ranks of [1, 2]) {
      const whole = await streamed(await open({ seed: 8 }), SMALL, 0, end);
      const got: string[] = [];
      for (let rank = 0; rank < ranks; rank++) {
        const log = join(folder, `log-${ranks}-${rank}`);
        writeFileSync(log, '');
        const options = { seed: 8, window: 4, ranks, rank };
        let first = 0;
        for (let life = 0; first < end; life++) {
          const parts = { sets, columns: SMALL, options, log, first, end, batch: 4 };
          const child = Bun.spawn(
            [process.execPath, join(import.meta.dir, 'stream-child.ts'), JSON.stringify(parts)],
            {
              stdout: 'inherit',
              stderr: 'inherit',
            },
          );
          // As soon as it has got some way in this life, wherever it is by then.
          const goal = life < 3 ? first + 60 * (life + 1) : Infinity;
          while (child.exitCode === null && child.signalCode === null) {
            const lines = readFileSync(log, 'utf8').split('\n').slice(0, -1);
            first = lines.length * 4 * ranks;
            if (first >= goal) child.kill('SIGKILL');
            await Promise.race([child.exited, Bun.sleep(1)]);
          }
          const lines = readFileSync(log, 'utf8').split('\n').slice(0, -1);
          first = lines.length * 4 * ranks;
          // A line that was cut off by the kill is not done.
          writeFileSync(log, lines.map((line) => `${line}\n`).join(''));
          if (life > 20) throw new Error('the child makes no way');
        }
        for (const line of readFileSync(log, 'utf8').split('\n').slice(0, -1)) {
          const [place, ...items] = line.split(' ');
          for (const [i, item] of items.entries()) got[Number(place) + rank + i * ranks] = item;
        }
      }
      expect(got.slice(0, end)).toEqual(whole);
    }
  });
});

describe('refused', () => {
  /** A copy of a set, with one of its shards changed. */
  function damaged(name: string, path: string, change: (shard: string, bytes: Buffer) => void): string {
    const copy = join(folder, name);
    cpSync(path, copy, { recursive: true });
    const shard = join(copy, 'shard.00001.mds');
    change(shard, readFileSync(shard));
    return copy;
  }
  const read = async (path: string, columns = LARGE) => {
    return failureOf(
      ShardStream.open([{ path }], columns, { seed: 2, window: 3 }).then(async (stream) => {
        await streamed(stream, columns, 0, 101).finally(() => stream.close());
      }),
    );
  };

  test('what is not there', async () => {
    expect(await failureOf(ShardStream.open([{ path: join(folder, 'none') }], SMALL, { seed: 1 }))).toMatch(
      /^Failure: .*none.*index\.json: cannot read: no such file/,
    );
    const gone = damaged('gone', large, (shard) => rmSync(shard));
    expect(await read(gone)).toMatch(/^Failure: .*gone.shard\.00001\.mds: cannot read: no such file/);
  });

  test('columns of another size, and columns that are not there', async () => {
    const other = [{ column: 'latents_256', bytes: 40_000 }];
    expect(await read(large, other)).toMatch(
      /set-9.shard\.\d+\.mds: sample \d+ of shard \d+ \(\d+ of the set, place 0\) has 40008 bytes /,
    );
    expect(await read(large, [{ column: 'number', bytes: 4 }])).toMatch(
      /^Failure: .*set-9: column number of shard 0 has 8 bytes, the model takes 4$/,
    );
    expect(await read(large, [{ column: 'latents', bytes: 4 }])).toMatch(
      /^Failure: .*set-9: has no column latents\. It has caption, caption_latents, extra, /,
    );
    expect(await failureOf(ShardStream.open([{ path: large, count: 102 }], LARGE, { seed: 1 }))).toContain(
      '102 samples are wanted of its 101',
    );
  });

  test('damaged shards, by shard and sample', async () => {
    const shrunk = damaged('shrunk', large, (shard, bytes) => truncateSync(shard, bytes.length - 1));
    expect(await read(shrunk)).toMatch(
      /^Failure: .*shrunk.shard\.00001\.mds: has \d+ bytes where the index says/,
    );
    const offsets = damaged('offsets', large, (shard, bytes) => {
      bytes.writeUInt32LE(7, 4 + 4 * 3);
      writeFileSync(shard, bytes);
    });
    expect(await read(offsets)).toMatch(/^Failure: .*offsets.shard\.00001\.mds: sample 2 of shard 1 /);
    const sizes = damaged('sizes', large, (shard, bytes) => {
      const begin = bytes.readUInt32LE(4 + 4 * 3);
      bytes.writeUInt32LE(bytes.readUInt32LE(begin) + 1, begin);
      writeFileSync(shard, bytes);
    });
    expect(await read(sizes)).toMatch(
      /sizes.shard\.00001\.mds: sample 3 of shard 1 .* has \d+ bytes, and its columns add up to \d+\./,
    );
  });

  test.each(['read', 'mapped'])('shards that are cut off or changed while they are %s', async (way) => {
    const [path, columns] = way === 'read' ? [small[0]!, SMALL] : [large, LARGE];
    const copy = damaged(`changing-${way}`, path, () => {});
    const stream = await ShardStream.open([{ path: copy }], columns, { seed: 2 });
    const { count } = stream;
    for (let i = 0; i < 3; i++) await streamed(stream, columns, 0, count);
    const shard = join(copy, 'shard.00001.mds');
    truncateSync(shard, 900);
    expect(await failureOf(streamed(stream, columns, 0, count))).toMatch(
      /^Failure: .*shard\.00001\.mds: sample \d+ of shard 1 .* is cut off: the file ends at byte 900/,
    );
    copyFileSync(join(path, 'shard.00001.mds'), shard);
    expect((await streamed(stream, columns, 0, count)).some((item) => item.startsWith('damaged'))).toBe(
      false,
    );
    await stream.close();
  });

  test('arrays that do not fit, ranks that are not there', async () => {
    const stream = await open();
    expect(() => stream.fill(arraysFor(SMALL, 3), new Float64Array(4), 0)).toThrow(
      'do not hold 4 samples of 96',
    );
    expect(() => stream.fill([], new Float64Array(4), 0)).toThrow('caption_latents');
    await stream.close();
    expect(await failureOf(open({ ranks: 2, rank: 2 }))).toContain('there is no rank 2 of 2');
    expect(await failureOf(open({ window: 0 }))).toContain('a window of 0 shards');
  });
});

test('a process that shares the cache and stands still holds nobody up', async () => {
  const cache = join(folder, 'shared-cache');
  const args = [process.execPath, join(import.meta.dir, 'cache-child.ts'), small[0]!, cache];
  const child = Bun.spawn(args, { stdout: 'pipe', stderr: 'inherit' });
  for await (const _ of child.stdout) break;
  const { shards } = MdsIndex.read(small[0]!);
  expect(shards.length).toBeGreaterThan(20); // more than Workers take at a time
  const own = new ShardCache({ folder: cache });
  const paths = await Promise.all(shards.map((info) => own.bring(`key-${info.index}`, small[0]!, info)));
  own.close();
  expect(child.exitCode).toBeNull();
  child.kill('SIGKILL');
  for (const [i, path] of paths.entries()) expect(Bun.file(path).size).toBe(shards[i]!.raw.bytes);
});
