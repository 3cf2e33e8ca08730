// Data sets that are compressed or behind an address: brought into a cache of limited size, by several
// processes, from servers that fail.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StreamOptions } from '../../../src/data/stream/sets.ts';
import { ShardStream } from '../../../src/data/stream/stream.ts';
import { streamed, writeSet } from './stream-sets.ts';

const COLUMNS = [
  { column: 'caption_latents', bytes: 996 },
  { column: 'latents_256', bytes: 640 },
];
const COUNT = 300;
const folder = mkdtempSync(join(tmpdir(), 'stream remote '));
const plain = writeSet(folder, 0, { count: COUNT, columns: COLUMNS, limit: 20_000 });
const packed = writeSet(join(folder, 'zstd'), 0, {
  ...{ count: COUNT, columns: COLUMNS, limit: 20_000 },
  ...{ compression: 'zstd', hashes: ['sha1', 'xxh64'] },
});
let expected: string[] = [];

type Misdeed = (name: string, range: string | null, count: number) => Response | undefined;
let misdeed: Misdeed = () => undefined;
const seen: string[] = [];
const server = Bun.serve({
  port: 0,
  fetch(request) {
    const url = new URL(request.url);
    const name = decodeURIComponent(url.pathname);
    const range = request.headers.get('range');
    seen.push(`${name} ${range}`);
    const wrong = misdeed(name, range, seen.filter((one) => one === `${name} ${range}`).length);
    if (wrong) return wrong;
    const path = join(folder, name.replace('/bucket', ''));
    if (!existsSync(path)) return new Response('no', { status: 404 });
    const bytes = readFileSync(path);
    const match = /^bytes=(\d+)-(\d+)$/.exec(range ?? '');
    if (!match) return new Response(bytes);
    const [begin, end] = [Number(match[1]), Number(match[2]) + 1];
    const headers = { 'content-range': `bytes ${begin}-${end - 1}/${bytes.length}` };
    return new Response(bytes.subarray(begin, end), { status: 206, headers });
  },
});
const base = `http://127.0.0.1:${server.port}`;

let caches = 0;
const cacheOf = (bytes?: number) => ({
  ...{ folder: join(folder, `cache-${caches}`), bytes },
  remote: { stallMs: 2000, retryMs: 5 },
});
const options = (more: Partial<StreamOptions> = {}): StreamOptions => ({
  ...{ seed: 4, window: 3, cache: cacheOf() },
  ...more,
});
beforeAll(async () => {
  const stream = await ShardStream.open([{ path: plain }], COLUMNS, options());
  expected = await streamed(stream, COLUMNS, 0, 2 * COUNT);
  await stream.close();
});
beforeEach(() => {
  caches++;
  seen.length = 0;
  misdeed = () => undefined;
});
afterAll(async () => {
  await server.stop(true);
  rmSync(folder, { recursive: true, force: true });
});

async function failureOf(path: string, more: Partial<StreamOptions> = {}, count = COUNT): Promise<string> {
  let stream: ShardStream | undefined;
  try {
    stream = await ShardStream.open([{ path }], COLUMNS, options(more));
    return (await streamed(stream, COLUMNS, 0, count, 30)).join(' ');
  } catch (error) {
    return String(error);
  } finally {
    await stream?.close();
  }
}

/** Files under way when a stream is closed are finished, not left. */
async function noneHalfWritten(folder: string): Promise<void> {
  const left = () => readdirSync(folder).filter((name) => name.startsWith('.') || name.endsWith('.lock'));
  for (let tries = 0; left().length > 0 && tries < 200; tries++) await Bun.sleep(25);
  expect(left()).toEqual([]);
}

describe('from a server', () => {
  test('the same samples in the same order, the first of them by ranges', async () => {
    const stream = await ShardStream.open([{ path: `${base}/set-0` }], COLUMNS, options());
    expect(await streamed(stream, COLUMNS, 40, 10)).toEqual(expected.slice(40, 50));
    const whole = statSync(join(plain, 'shard.00000.mds')).size;
    const ranges = seen.filter((one) => !one.endsWith('index.json null'));
    expect(ranges.filter((one) => !one.endsWith(`-${whole - 1}`)).length).toBeGreaterThanOrEqual(10);
    expect(await streamed(stream, COLUMNS, 50, 2 * COUNT - 50, 50)).toEqual(expected.slice(50));
    await stream.close();
  });

  test('a cache keeps what was used last, within its limit, and serves the next run', async () => {
    const limit = 7 * 20_000;
    const cache = cacheOf(limit);
    const stream = await ShardStream.open([{ path: `${base}/set-0/` }], COLUMNS, options({ cache }));
    let most = 0;
    const look = () => {
      const files = readdirSync(cache.folder).filter(
        (name) => name.endsWith('.mds') && !name.startsWith('.'),
      );
      const sizes = files.map(
        (name) => statSync(join(cache.folder, name), { throwIfNoEntry: false })?.size ?? 0,
      );
      const all = sizes.reduce((sum, size) => sum + size, 0);
      most = Math.max(most, all);
    };
    for (let place = 0; place < COUNT; place += 20) {
      expect(await streamed(stream, COLUMNS, place, 20)).toEqual(expected.slice(place, place + 20));
      look();
    }
    // What is read ahead arrives by itself.
    for (let tries = 0; most <= limit / 2 && tries < 200; tries++) {
      await Bun.sleep(25);
      look();
    }
    await stream.close();
    await noneHalfWritten(cache.folder);
    expect(most).toBeLessThanOrEqual(limit);
    expect(most).toBeGreaterThan(limit / 2);
    const names = readdirSync(cache.folder);
    expect(names.every((name) => /^[0-9a-f]{40}\.mds$/.test(name))).toBe(true);
    expect(await failureOf(`${base}/set-0`, { cache: cacheOf(5 * 19_000) })).toContain(
      'is too small: two windows',
    );
  });

  test('trouble that passes is waited out: busy servers, broken connections, silence', async () => {
    misdeed = (name, range, count) => {
      if (count === 1) return new Response('busy', { status: 503 });
      if (count > 2 || !range) return undefined;
      const begin = Number(/\d+/.exec(range)![0]);
      const end = Number(/-(\d+)/.exec(range)![1]) + 1;
      const bytes = readFileSync(join(folder, name)).subarray(begin, end);
      const headers = { 'content-range': `bytes ${begin}-${end - 1}/99999` };
      return new Response(bytes.subarray(0, bytes.length >> 1), { status: 206, headers });
    };
    const stream = await ShardStream.open([{ path: `${base}/set-0` }], COLUMNS, options());
    expect(await streamed(stream, COLUMNS, 0, 60, 20)).toEqual(expected.slice(0, 60));
    await stream.close();
  });

  test('a server that gives whole files alone', async () => {
    misdeed = (name, range) => (range ? new Response(readFileSync(join(folder, name))) : undefined);
    const stream = await ShardStream.open([{ path: `${base}/set-0` }], COLUMNS, options());
    expect(await streamed(stream, COLUMNS, 0, 60, 20)).toEqual(expected.slice(0, 60));
    await stream.close();
  });

  test('trouble that stays is named with the address', async () => {
    expect(await failureOf(`${base}/nowhere`)).toMatch(/http:\/\/127.*\/nowhere\/index\.json: .*HTTP 404\./);
    misdeed = (name) => (name.endsWith('.mds') ? new Response('', { status: 500 }) : undefined);
    expect(await failureOf(`${base}/set-0?secret=1`)).toMatch(
      /http:\/\/127\S*\/set-0\/shard\.\d+\.mds: .* says HTTP 500; gave up after 6 tries/,
    );
    misdeed = (name) => (name.endsWith('.mds') ? new Response(Buffer.alloc(9)) : undefined);
    expect(await failureOf(`${base}/set-0`)).toContain('does not give the byte ranges');
    expect(await failureOf('ftp://x/y')).toContain('ftp://x/y: this kind of address is not read');
  });

  test('other bytes than the index says are refused', async () => {
    misdeed = (name, range) => {
      const match = /^bytes=0-(\d+)$/.exec(range ?? '');
      if (!name.endsWith('00001.mds.zstd') || !match) return undefined;
      const bytes = readFileSync(join(folder, name));
      bytes[bytes.length >> 1]! ^= 1;
      const headers = { 'content-range': `bytes 0-${bytes.length - 1}/${bytes.length}` };
      return new Response(bytes, { status: 206, headers });
    };
    expect(await failureOf(`${base}/zstd/set-0`)).toMatch(
      /\/zstd\/set-0\/shard\.00001\.mds\.zstd: damaged: its/,
    );
    await noneHalfWritten(cacheOf().folder);
  });

  test('an S3 address is asked for with a signature of the credentials in the environment', async () => {
    const log = join(folder, 'log');
    writeFileSync(log, '');
    const parts = { sets: [{ path: 's3://bucket/set-0' }], columns: COLUMNS, options: options(), log };
    const run = async (env: Record<string, string>) => {
      const child = Bun.spawn(
        [
          process.execPath,
          join(import.meta.dir, 'stream-child.ts'),
          JSON.stringify({ ...parts, first: 0, end: 20, batch: 10 }),
        ],
        { stderr: 'pipe', env: { PATH: process.env.PATH!, ...env } },
      );
      return (await child.exited) === 0 ? '' : new Response(child.stderr).text();
    };
    const keys = { AWS_ACCESS_KEY_ID: 'someone', AWS_SECRET_ACCESS_KEY: 'secret', S3_ENDPOINT: base };
    expect(await run(keys)).toBe('');
    const items = readFileSync(log, 'utf8').split('\n').slice(0, 2);
    expect(items.flatMap((line) => line.split(' ').slice(1))).toEqual(expected.slice(0, 20));
    // A request of the test before may still be on its way here.
    expect(seen.find((one) => one.startsWith('/bucket/'))).toStartWith('/bucket/set-0/index.json');
    parts.sets[0]!.path = 's3://bucket/100%';
    expect(await run(keys)).toContain('s3://bucket/100%/index.json: ');
    expect(seen.at(-1)).toStartWith('/bucket/100%/index.json');
    parts.sets[0]!.path = 's3://bucket/set-0';
    expect(await run({ S3_ENDPOINT: base })).toMatch(
      /s3:\/\/bucket\/set-0\/index\.json: cannot be signed for: /,
    );
  });
});

describe('compressed', () => {
  test('the same samples in the same order, unpacked once by two processes', async () => {
    const cache = cacheOf();
    const logs = [0, 1].map((rank) => join(folder, `log-${rank}`));
    const children = logs.map((log, rank) => {
      writeFileSync(log, '');
      const own = options({ cache, ranks: 2, rank });
      const sets = [{ path: `${base}/zstd/set-0` }];
      const parts = { sets, columns: COLUMNS, options: own, log, first: 0, end: COUNT, batch: 10 };
      const child = join(import.meta.dir, 'stream-child.ts');
      return Bun.spawn([process.execPath, child, JSON.stringify(parts)], {
        stdout: 'inherit',
        stderr: 'inherit',
      });
    });
    expect(await Promise.all(children.map((child) => child.exited))).toEqual([0, 0]);
    const got: string[] = [];
    for (const [rank, log] of logs.entries()) {
      for (const line of readFileSync(log, 'utf8').split('\n').slice(0, -1)) {
        const [place, ...items] = line.split(' ');
        for (const [i, item] of items.entries()) got[Number(place) + rank + 2 * i] = item;
      }
    }
    expect(got).toEqual(expected.slice(0, COUNT));
    const shards = seen.filter((one) => one.includes('.mds'));
    expect(new Set(shards).size).toBe(shards.length);
  });

  test('removed by another process before it is opened, a shard is brought again', async () => {
    const cache = cacheOf();
    const stream = await ShardStream.open([{ path: packed }], COLUMNS, options({ cache }));
    const { files } = Reflect.get(stream, 'of').sets[0];
    const bring = files.bring;
    let removed = 0;
    files.bring = async (shard: number) => {
      const path = await bring(shard);
      if (removed++ === 0) rmSync(path);
      return path;
    };
    expect(await streamed(stream, COLUMNS, 0, 10)).toEqual(expected.slice(0, 10));
    await stream.close();
  });

  test('in a folder: unpacked into the cache; a damaged one is refused by name', async () => {
    expect(await failureOf(packed)).toBe(expected.slice(0, COUNT).join(' '));
    const shard = join(packed, 'shard.00002.mds.zstd');
    const bytes = readFileSync(shard);
    bytes[bytes.length - 9]! ^= 4;
    writeFileSync(shard, bytes);
    expect(await failureOf(packed)).toMatch(/shard\.00002\.mds\.zstd: damaged: its (sha1|xxh64) is/);
    rmSync(shard);
    caches++;
    expect(await failureOf(packed)).toMatch(/shard\.00002\.mds\.zstd: cannot read: no such file/);
  });
});
