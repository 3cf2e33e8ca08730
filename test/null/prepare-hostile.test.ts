// Sources that are made to do harm: endless files behind names, pipes that nobody writes to, values without
// number. Each is listed or refused with one line, and the rest goes on.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure } from '../../src/io/failure.ts';
import type { ItemSettings } from '../../src/prepare/item.ts';
import { prepareItem } from '../../src/prepare/picture.ts';
import { itemsOf } from '../../src/prepare/sources.ts';

const folder = mkdtempSync(join(tmpdir(), 'hostile-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SETTINGS: ItemSettings = {
  sizes: [8],
  minSize: 1,
  exif: false,
  captions: 'all',
  clean: 'reference',
  seed: 1,
  allowUrls: false,
  urlBytes: 2 ** 20,
  urlSeconds: 1,
};

/** "reason: why" of every item of a source. */
async function drops(name: string, content?: string): Promise<string[]> {
  const path = join(folder, name);
  if (content !== undefined) writeFileSync(path, content);
  const out: string[] = [];
  for await (const item of itemsOf([path], {})) {
    const result = await prepareItem(item, SETTINGS);
    out.push('dropped' in result ? `${result.dropped.reason}: ${result.dropped.why}` : 'prepared');
  }
  return out;
}

function pipe(name: string): void {
  expect(Bun.spawnSync(['mkfifo', join(folder, name)]).exitCode).toBe(0);
}

describe('tables', () => {
  test('paths to what is no picture, or has no end', async () => {
    pipe('pipe.png');
    symlinkSync('/dev/zero', join(folder, 'zero.png'));
    symlinkSync('loop.png', join(folder, 'loop.png'));
    const paths = [
      '/dev/zero',
      'zero.png',
      'pipe.png',
      'loop.png',
      'a\0b',
      'x-'.repeat(2500),
      `${' '.repeat(300_000)}!`,
    ];
    const rows = await drops('paths.csv', `image,caption\n${paths.map((path) => `${path},one\n`).join('')}`);
    expect(rows.length).toBe(paths.length);
    for (const row of rows) expect(row).toMatch(/^(missing|bad row): [^\n]{5,200}$/);
  });

  test('more fields, lines and values than a row can have', async () => {
    const ok = await drops('fields.csv', `image,caption\n${','.repeat(20_000)}\nnone.png,one\n`);
    expect(ok[0]).toMatch(/^bad row: .* 16384 fields/);
    expect(ok[1]).toMatch(/^missing: /);
    const values = JSON.stringify({ image: 'a.png', caption: 'b', more: Array(300_000).fill(1) });
    const nested = `{"image": ${'['.repeat(200_000)}`;
    const lines = await drops('values.jsonl', `${values}\n${nested}\n{"image":"a.png","caption":"b"}\n`);
    expect(lines.map((line) => line.split(':')[0])).toEqual(['bad row', 'bad row', 'missing']);
    const picture = JSON.stringify({ image: 'A'.repeat(2 ** 21), caption: 'b' });
    expect((await drops('base64.jsonl', picture))[0]).toMatch(/^unsupported: this is no picture/);
  });

  test('a head without end is told in a line that has one', async () => {
    const head = Array.from({ length: 16_000 }, (_, i) => `c${i}\r`).join(',');
    const error = await drops('head.csv', `${head}\n1\n`).catch((thrown: Failure) => thrown);
    expect(error).toBeInstanceOf(Failure);
    expect(String(error)).toMatch(/^Failure: .*has no column [^\n\r]{1,600}$/);
    await expect(drops('head.csv', `${','.repeat(20_000)}\n1,2\n`)).rejects.toThrow(
      /its head cannot be read: the row has more than 16384 fields/,
    );
  });
});

test('folders: pipes for archives and captions, links in a circle, captions without end', async () => {
  mkdirSync(join(folder, 'photos'));
  pipe('photos/a.tar');
  pipe('photos/b.txt');
  symlinkSync('.', join(folder, 'photos/self'));
  for (const name of ['b.png', 'c.png', 'd.png']) writeFileSync(join(folder, 'photos', name), 'x');
  writeFileSync(join(folder, 'photos/c.txt'), '');
  truncateSync(join(folder, 'photos/c.txt'), 2 ** 36);
  writeFileSync(join(folder, 'photos/d.txt'), 'a. '.repeat(3000));
  const found = await drops('photos');
  expect(found).toHaveLength(3);
  expect(found[0]).toMatch(/^no caption: the file with it cannot be read: .*not a regular file/);
  expect(found[1]).toMatch(/^no caption: .*68719476736 bytes are more than 16777216/);
  expect(found[2]).toBe('no caption: one of 9000 characters is too long to clean up (8192)');
});

test('a Failure is one line of bounded length that a terminal only shows', () => {
  const { message } = new Failure({ what: `${' '.repeat(10 ** 6)}a\nb`, why: '\x1b[31mred\r\n\u2028\x07' });
  expect(message).toMatch(/^… +a b: \\x1b\[31mred \\x07$/);
  expect(message.length).toBeLessThan(4100);
  expect(new Failure({ what: 'x', why: '\ty\rz' }).message).toBe('x: \\x09y\\x0dz');
});
