// `verify` of shard sets: golden sets pass, and what is not as expected is seen.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GroupResult } from '../../../src/eval/conformance.ts';
import { verifyMds } from '../../../src/eval/mds.ts';
import { MdsSet } from '../../../src/io/mds/set.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';

const GOLDENS = 'test/goldens/mds';

let folder: string;
let made = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microdiff-verify-mds-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function groups(path: string): Promise<Record<string, string>> {
  const results: GroupResult[] = await Array.fromAsync(verifyMds(path));
  return Object.fromEntries(results.map(({ group, status, note }) => [group, `${status}: ${note}`]));
}

/** Groups that do not pass, of a copy of some sets that was changed. */
async function faults(change: (path: string) => void, ...sets: string[]): Promise<Record<string, string>> {
  const path = join(folder, String(made++));
  mkdirSync(path);
  for (const name of sets) {
    for (const end of ['', '.expected.json', '.expected.safetensors']) {
      if (existsSync(join(GOLDENS, name + end))) {
        cpSync(join(GOLDENS, name + end), join(path, name + end), { recursive: true });
      }
    }
  }
  change(path);
  const all = await groups(path);
  return Object.fromEntries(Object.entries(all).filter(([, text]) => !text.startsWith('pass')));
}

const edit = (path: string, from: string | RegExp, to: string) => {
  const text = readFileSync(path, 'latin1');
  expect(text).toMatch(from);
  writeFileSync(path, text.replace(from, to), 'latin1');
};

test('golden sets pass', async () => {
  const all = await groups(GOLDENS);
  const kinds = 'samples texts bytes arrays numbers json pictures'.split(' ').map((kind) => `types ${kind}`);
  const others = ['types JPEG pixels', 'zstd hashes', 'merged texts'];
  const again = ['types', 'zstd', 'merged'].map((name) => `${name} written again`);
  expect(Object.keys(all)).toEqual(expect.arrayContaining([...kinds, ...others, ...again]));
  for (const text of Object.values(all)) expect(text).toStartWith('pass');
});

describe('what differs is named', () => {
  const types = (path: string) => join(path, 'types.expected.json');
  const CASES: readonly [string, (path: string) => void, string, RegExp][] = [
    ['a number', (p) => edit(types(p), '"e_u8": 192', '"e_u8": 193'), 'types numbers', /e_u8 of sample 1/],
    [
      'a bit of a double',
      (p) => edit(types(p), '3cd1306ec0000000', '3cd1306ec0000001'),
      'types numbers',
      /b_f32/,
    ],
    [
      'a wide integer',
      (p) => edit(types(p), /9007199254740993/, '9007199254740992'),
      'types numbers',
      /k_u64|a_int/,
    ],
    ['a decimal', (p) => edit(types(p), '"0.10"', '"0.1"'), 'types numbers', /x_str_dec of sample 0/],
    ['a text', (p) => edit(types(p), 'photo', 'phöto'), 'types texts', /t_str of sample 0/],
    ['JSON', (p) => edit(types(p), '1.5', '1.25'), 'types json', /s_json of sample 0/],
    ['bytes', (p) => edit(types(p), 'jQ==', 'jA=='), 'types bytes', /u_bytes of sample 1/],
    [
      'a shape',
      (p) => edit(types(p), /"shape": \[\s*3\s*\]/, '"shape": [1, 3]'),
      'types arrays',
      /shape of m_nd/,
    ],
    ['a mode', (p) => edit(types(p), /"CMYK"/, '"RGBA"'), 'types pictures', /mode of r_pil of sample 3/],
    [
      'a caption',
      (p) => edit(join(p, 'zstd.expected.json'), 'chess', 'chets'),
      'zstd texts',
      /caption of sample 2/,
    ],
    [
      'a count',
      (p) => edit(join(p, 'zstd.expected.json'), '"",\n', ''),
      'zstd samples',
      /12 samples, 11 expected/,
    ],
    ['a lost set', (p) => rmSync(join(p, 'zstd'), { recursive: true }), 'zstd', /no such file/],
  ];
  for (const [name, change, group, note] of CASES) {
    test(name, async () => {
      const changed = await faults(change, group.split(' ')[0]!);
      expect(changed[group]).toMatch(note);
      expect(changed[group]).toStartWith('fail');
    });
  }

  test('rows of a tensor', async () => {
    const column = (path: string) => {
      using set = MdsSet.open(join(path, 'merged'));
      const rows = Array.from({ length: set.count }, (_, i) => set.columnBytes(i, 'latents_256'));
      return new Uint16Array(Uint8Array.from(Buffer.concat(rows)).buffer);
    };
    const write = (path: string, shape: number[], data: Uint16Array) => {
      const tensor = { name: 'latents_256', dtype: 'U16', shape, data } as const;
      writeSafetensors(join(path, 'merged.expected.safetensors'), [tensor]);
    };
    expect(await faults((path) => write(path, [13, 4, 8, 8], column(path)), 'merged')).toEqual({});
    const other = (path: string) => write(path, [13, 4, 8, 8], column(path).with(7 * 256 + 5, 1));
    expect((await faults(other, 'merged'))['merged bytes']).toMatch(/latents_256 of sample 7/);
    const fewer = (path: string) => write(path, [12, 4, 8, 8], column(path).slice(256));
    const short = await faults(fewer, 'merged');
    expect(short['merged samples']).toMatch(/13 samples, 12 rows of latents_256/);
  });

  test('pixels', async () => {
    const flip = (path: string) => {
      const file = join(path, 'types.expected.safetensors');
      const bytes = readFileSync(file);
      for (let i = bytes.length - 4000; i < bytes.length; i++) bytes[i]! ^= 0x10;
      writeFileSync(file, bytes);
    };
    const changed = await faults(flip, 'types');
    expect(Object.keys(changed).some((group) => /pictures|JPEG|arrays/.test(group))).toBe(true);
  });
});

describe('damaged sets', () => {
  /** A case made of a copy of `merged/1` or of the zstd set. */
  const damaged = (from: string, bad: unknown, change: (path: string) => void, name = 'case') =>
    faults((path) => {
      const sets = {
        [name]: { what: 'x', must: 'an error', ...(bad === undefined ? {} : { bad_samples: bad }) },
      };
      cpSync(join(path, from), join(path, 'damaged', name), { recursive: true });
      writeFileSync(join(path, 'damaged', 'damaged.json'), JSON.stringify({ sets }));
      change(join(path, 'damaged', name));
    }, from);
  const flip = (path: string, back = 1) => {
    const bytes = readFileSync(path);
    bytes[bytes.length - back]! ^= 1;
    writeFileSync(path, bytes);
  };

  test('refused samples pass, whatever else is refused with them', async () => {
    const cut = (path: string) => writeFileSync(join(path, '0/shard.00000.mds'), '');
    expect(await damaged('merged', [3], cut)).toEqual({});
    expect(await damaged('merged', 'all of shard 0', cut)).toEqual({});
    expect(await damaged('merged', undefined, cut)).toEqual({});
    expect(await damaged('merged', [], () => {})).toEqual({});
  });

  test('samples that are given out all the same do not', async () => {
    const found = await damaged('merged', [3, 12], () => {});
    expect(found['damaged case']).toBe('fail: sample 3 should be refused');
    const nothing = await damaged('merged', undefined, () => {});
    expect(nothing['damaged case']).toBe('fail: nothing was refused');
  });

  test('other bytes than those of the sound set do not', async () => {
    const found = await damaged('merged', [], (path) => flip(join(path, '1/shard.00000.mds')));
    expect(found['damaged case']).toBe('fail: sample 12 has other bytes');
  });

  test('hashes are compared where there are any', async () => {
    const wrong = (path: string) => edit(join(path, 'index.json'), 'e8ef6850', 'e8ef6851');
    expect(await damaged('zstd', undefined, wrong, 'hash_mismatch_zstd')).toEqual({});
    const broken = (path: string) => flip(join(path, 'shard.00001.mds.zstd'), 15777);
    const found = await damaged('zstd', undefined, broken, 'hash_broken');
    expect(found['damaged hash_broken']).toMatch(/sample 7 is sound and was refused/);
  });
});
