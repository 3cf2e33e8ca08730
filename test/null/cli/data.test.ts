// `microdiff data`: what it says of sound sets and of damaged ones, its sheets, merges and exit codes.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readPngText } from '../../../src/io/png.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { spread } from '../../../src/prepare/inspect-shards.ts';
import { guessShape } from '../../../src/prepare/latent-shape.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;
const GOLDENS = 'test/goldens/mds';

let folder: string;
let made = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microdiff-data-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function data(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, '-q', 'data', ...args], {
    env: { PATH: '/bin' },
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

function copyOf(set: string): string {
  const path = join(folder, String(made++));
  cpSync(join(GOLDENS, set), path, { recursive: true });
  return path;
}

describe('data verify', () => {
  test('a sound set: exit 0, what was compared and what could not be', () => {
    const path = copyOf('zstd');
    const index = readFileSync(join(path, 'index.json'), 'utf8');
    // Of a hash that is not known here the set says so; it is not damaged by it.
    const odd = index.replace('"xxh64": "834f2dba827f8772"', '"xxh128": "00"');
    expect(odd).not.toBe(index);
    writeFileSync(join(path, 'index.json'), odd);
    const { code, out } = data('verify', path, '--json');
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual({
      ...{ folder: path, samples: 12, shards: 2, bytes: 37598, hashes: { sha1: 2, xxh64: 1 } },
      ...{ unchecked: { xxh128: 1 }, without_hashes: 0, damaged: [], passed: true },
    });
    expect(data('verify', path).out).toContain('unchecked   xxh128 of 1 shards\nresult      sound\n');
  });

  test('damage: exit 1, shard by shard, and the rest is read all the same', () => {
    const path = copyOf('merged');
    writeFileSync(join(path, '0/shard.00001.mds'), 'x');
    const last = join(path, '1/shard.00000.mds');
    const bytes = readFileSync(last);
    const offset = bytes.readUInt32LE(8);
    bytes.writeUInt32LE(0x7fffffff, offset + 4);
    writeFileSync(last, bytes);
    const { code, out, err } = data('verify', path);
    expect(code).toBe(1);
    expect(err).toContain('2 of 3 shards damaged');
    expect(out).toMatch(/^damaged {2}shard 1, 1 samples: .*0\/shard.00001.mds: has 1 bytes where/m);
    expect(out).toMatch(
      /^damaged {2}shard 2, 1 samples: .*sample 1 of shard 2 \(9 of the set\) column "caption_lat/m,
    );
    const report = JSON.parse(data('verify', path, '--json').out);
    expect(report).toMatchObject({ passed: false, damaged: [{ shard: 1 }, { shard: 2, samples: 1 }] });
  });

  test('a picture that cannot be decoded, an index that is broken', () => {
    const path = join(folder, String(made++));
    using writer = MdsWriter.open(path, { picture: 'png' });
    const head = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
    writer.write({ picture: { kind: 'image', format: 'png', bytes: Uint8Array.of(...head, 1, 2, 3) } });
    writer.finish();
    expect(data('verify', path).out).toMatch(/damaged {2}shard 0, 1 samples: .*sample 0 of shard 0/);
    writeFileSync(join(path, 'index.json'), '{');
    const { code, out } = data('verify', path, '--json');
    expect([code, JSON.parse(out).damaged[0].shard]).toEqual([1, null]);
  });
});

describe('data inspect', () => {
  test('columns in numbers', () => {
    const path = join(folder, String(made++));
    using writer = MdsWriter.open(path, {
      caption: 'str',
      latents_256: 'bytes',
      score: 'float32',
      n: 'ndarray',
    });
    const latent = new Float16Array(4 * 6 * 6).fill(1);
    for (let i = 0; i < 4; i++) {
      latent[0] = [Number.NaN, 3, Number.POSITIVE_INFINITY, 1][i]!;
      const n = {
        kind: 'ndarray',
        dtype: 'int16',
        shape: [1 + (i % 2)],
        bytes: new Uint8Array(2 + 2 * (i % 2)),
      } as const;
      const caption = i === 3 ? 'cat '.repeat(100) : 'a cat';
      writer.write({ caption, latents_256: new Uint8Array(latent.buffer), score: i, n });
    }
    writer.finish();
    const { code, out } = data('inspect', path, '--json');
    expect(code).toBe(0);
    const { columns, ...about } = JSON.parse(out);
    expect(about).toMatchObject({ samples: 4, shards: 1, compression: { none: 1 }, looked_at: 4 });
    const by = Object.fromEntries(columns.map((column: { name: string }) => [column.name, column]));
    expect(by.caption.text).toEqual({
      empty: 0,
      characters: { min: 5, mean: 103.75, max: 400 },
      tokens: { min: 4, mean: 28.5, max: 102 },
      context: 77,
      truncated: 0.25,
    });
    expect(by.latents_256.guess).toEqual({ kind: 'latent', dtype: 'float16', shape: [4, 6, 6] });
    const numbers = by.latents_256.numbers;
    expect(numbers).toMatchObject({ type: 'float16', count: 576, nan: 1, infinite: 1, min: 1, max: 3 });
    expect(numbers.mean).toBeCloseTo((573 + 3) / 574, 12);
    expect(by.score.numbers).toMatchObject({ min: 0, mean: 1.5, max: 3, std: Math.sqrt(1.25) });
    expect(by.n.shapes).toEqual({ 'int16 [1]': 2, 'int16 [2]': 2 });
    const page = data('inspect', path, '--samples', '2').out;
    expect(page).toContain('samples       4, 2 of them looked at\n');
    expect(page).toContain('  taken for latent float16 [4, 6, 6] (a guess)\n');
    expect(page).toMatch(/float16 from 1 to 1, mean 1, deviation 0, 1 NaN, 1 infinite/);
  });

  test('every encoding has its line', () => {
    const { code, out } = data('inspect', `${GOLDENS}/types`);
    expect(code).toBe(0);
    for (const { name } of JSON.parse(data('inspect', `${GOLDENS}/types`, '--json').out).columns) {
      expect(out).toMatch(new RegExp(`^${name}  `, 'm'));
    }
  });

  test('a sheet of pictures, and of latents that are not decoded', () => {
    const file = join(folder, 'sheet.png');
    const pictures = data('inspect', `${GOLDENS}/types`, '--json', '-o', file, '--pictures', '4');
    expect(JSON.parse(pictures.out).sheet).toEqual({ file, column: 'p_jpg', how: 'jpeg', pictures: 4 });
    expect(readPngText(file).width).toBeGreaterThan(192);
    const latents = data('inspect', `${GOLDENS}/zstd`, '-o', file, '--pictures', '3');
    expect(latents.out).toMatch(
      /^sheet .*not decoded: channels 0 to 2 as red, green and blue \(shape guessed: 4 x 8 x 8\)/m,
    );
  });

  test('samples are spread over the set', () => {
    expect(spread(10, 0)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(spread(10, 4)).toEqual([0, 2, 5, 7]);
    expect(spread(3, 10)).toEqual([0, 1, 2]);
    expect(spread(0, 10)).toEqual([]);
  });

  test('shapes that are guessed', () => {
    expect(guessShape('latents_256', 2 * 4 * 32 * 32)?.shape).toEqual([4, 32, 32]);
    expect(guessShape('caption_latents', 2 * 77 * 1024)?.shape).toEqual([77, 1024]);
    expect(guessShape('latents', 2 * 8 * 6 * 6)?.shape).toEqual([8, 6, 6]);
    const ids = { kind: 'token ids', dtype: 'uint16', shape: [77] } as const;
    expect(guessShape('caption_tokens', 2 * 77)).toEqual(ids);
    for (const [name, bytes] of [
      ['latents', 9],
      ['latents', 0],
      ['latents', 14],
      ['jpg', 8192],
    ] as const) {
      expect(guessShape(name, bytes)).toBeNull();
    }
  });
});

describe('data merge', () => {
  test('one index over the folders, once', () => {
    const path = copyOf('merged');
    rmSync(join(path, 'index.json'));
    expect(data('inspect', path).err).toContain('Merge them: microdiff data merge');
    const { code, out } = data('merge', path, '--json');
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual({ folder: path, parts: ['0', '1'], samples: 13, shards: 3 });
    expect(readFileSync(join(path, 'index.json'))).toEqual(readFileSync(`${GOLDENS}/merged/index.json`));
    expect(data('merge', path)).toMatchObject({ code: 2, out: '' });
    rmSync(join(path, 'index.json'));
    rmSync(join(path, '1/index.json'));
    writeFileSync(join(path, '1/shards.unfinished.jsonl'), '');
    expect(data('merge', path).err).toContain('1: this part is not finished');
    rmSync(join(path, '0'), { recursive: true });
    rmSync(join(path, '1'), { recursive: true });
    expect(data('merge', path)).toMatchObject({ code: 2, out: '' });
    expect(existsSync(join(path, 'index.json'))).toBe(false);
  });
});

test('slips on the command line', () => {
  expect(data('verfy', GOLDENS).err).toContain('Did you mean verify?');
  expect(data('verify', GOLDENS, '--samples', '3')).toMatchObject({ code: 2, out: '' });
  expect(data('inspect', GOLDENS, '--pictures', '3').err).toContain('Add --sheet FILE');
  expect(data('inspect', join(folder, 'none'))).toMatchObject({ code: 1, out: '' });
  expect(data('verify', join(folder, 'none'))).toMatchObject({ code: 1, out: '' });
  expect(data('verify', '.').err).toContain('no index.json, so no set of shards. Make one of pictures');
  expect(data('merge', GOLDENS, '-o', 'x').err).toContain('--sheet (-o): belongs to data inspect');
});
