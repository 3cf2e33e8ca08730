// Sources as people have them: links, large letters, what Python writes as JSON, small pictures in base64,
// archives that were cut off, changes between two sittings. What cannot be used is an item with a reason.
import { afterAll, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MdsWriter } from '../../src/io/mds/writer.ts';
import { encodePng } from '../../src/io/png.ts';
import { tarEntry } from '../../src/io/tar.ts';
import { decodersOf } from '../../src/prepare/decoders.ts';
import type { ItemSettings } from '../../src/prepare/item.ts';
import { prepareItem } from '../../src/prepare/picture.ts';
import { prepareSet } from '../../src/prepare/run.ts';
import { itemsOf } from '../../src/prepare/sources.ts';

const folder = mkdtempSync(join(tmpdir(), 'sources '));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (...names: string[]) => join(folder, ...names);
const png = encodePng({ width: 2, height: 2, channels: 3, data: new Uint8Array(12).fill(7) });
const base64 = Buffer.from(png).toString('base64');

const SETTINGS: ItemSettings = {
  ...{ sizes: [2], minSize: 0, exif: false, captions: 'join', clean: 'none', seed: 0 },
  ...{ allowUrls: false, urlBytes: 0, urlSeconds: 0 },
};

/** Of every item its captions, or why it is left out. */
async function found(name: string): Promise<string[]> {
  const out: string[] = [];
  for await (const item of itemsOf([at(name)], {})) {
    const result = await prepareItem(item, SETTINGS);
    out.push('prepared' in result ? result.prepared.captions.join() : result.dropped.reason);
  }
  return out;
}

test('folders: links to others, each once; endings in large letters; kinds that are not read', async () => {
  for (const name of ['here', 'there']) mkdirSync(at(name));
  symlinkSync('../there', at('here/a'));
  symlinkSync('../here', at('there/back'));
  symlinkSync('nowhere', at('here/b.tar'));
  const put = (name: string, ending: string, text: string) => {
    writeFileSync(at(name), png);
    writeFileSync(at(name.replace(/\.\w+$/, ending)), text);
  };
  put('there/1.png', '.txt', 'linked');
  put('here/2.PNG', '.TXT', 'large');
  put('here/3.jfif', '.json', '{"caption": "", "text": "of Python", "score": NaN}');
  put('here/4.tiff', '.txt', 'TIFF');
  writeFileSync(at('here/4.tiff'), 'II*\0');
  expect(await found('here')).toEqual(['large', 'of Python', 'unsupported', 'linked']);
});

test('rows: small pictures in base64, NaN, keys without a value', async () => {
  writeFileSync(at('1.png'), png);
  const rows = [`"image": "${base64}"`, '"image": null, "path": "1.png"', '"path": "1.png", "score": NaN'];
  const lines = rows.map((row, i) => `{${row}, "caption": "row ${i}"}\n`);
  writeFileSync(at('rows.jsonl'), lines.join(''));
  expect(base64.length).toBeLessThan(200);
  expect(await found('rows.jsonl')).toEqual(['row 0', 'row 1', 'row 2']);
});

test('an archive that is cut off is an item too, and what is before and behind it counts', async () => {
  mkdirSync(at('tars'));
  const files = [tarEntry('a.png', png), tarEntry('a.txt', new TextEncoder().encode('inside'))];
  const tar = Buffer.concat([...files, tarEntry('b.txt', png), tarEntry('b.png', png)]);
  writeFileSync(at('tars/1.tar'), tar.subarray(0, -100));
  writeFileSync(at('tars/2.tar'), 'no archive at all');
  writeFileSync(at('tars/3.tar'), Buffer.concat(files));
  expect(await found('tars')).toEqual(['inside', 'damaged', 'damaged', 'inside']);
});

test.each([
  ['json', { kind: 'json', value: ['one', 'two'] }, 'one two'],
  ['bytes', new TextEncoder().encode('text'), 'text'],
] as const)('shards with captions as %s', async (encoding, caption, want) => {
  using writer = MdsWriter.open(at(encoding), { jpg: 'png', caption: encoding });
  writer.write({ jpg: { kind: 'image', format: 'png', bytes: png }, caption });
  writer.finish();
  expect(await found(encoding)).toEqual([want]);
});

test('broken off and gone on with: sources that have changed meanwhile are refused', async () => {
  mkdirSync(at('set'));
  const put = (name: string) => {
    writeFileSync(at('set', `${name}.png`), png);
    writeFileSync(at('set', `${name}.txt`), name);
  };
  for (const name of ['b', 'c', 'd', 'e']) put(name);
  const sitting = (most: number) => {
    const interrupt = { stopRequested: false };
    return prepareSet({
      ...{ sources: [at('set')], folder: at('out'), fingerprint: {}, keepDuplicates: true, largest: 2 },
      ...{ part: { index: 0, count: 1 }, compression: null, hashes: [], shardBytes: 1, interrupt },
      decoders: decodersOf(1, SETTINGS),
      pictures: { encodings: {}, batch: 1, values: (all) => all.map(() => ({})), free() {} },
      captions: {
        ...{ encodings: { caption: 'str' }, batch: 1, free() {} },
        values: (all) => all.map((caption) => ({ caption })),
      },
      onItem: (done) => {
        interrupt.stopRequested = done >= most;
      },
    });
  };
  expect((await sitting(3)).finished).toBe(false);
  put('a');
  await expect(sitting(9)).rejects.toThrow(
    /sources have changed since it was begun: .*c.png was where .*b.png/,
  );
  rmSync(at('set/a.png'));
  put('f');
  expect(await sitting(9)).toMatchObject({ finished: true, report: { items: 5, written: 5 } });
});
