// Pictures from a folder: what is read and how, and what is left out.
import { afterAll, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createCanvas } from '@napi-rs/canvas';
import { readFolder } from '../../src/data/folder.ts';
import { openSources } from '../../src/data/source.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-folder-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A picture of vertical stripes of equal width; '' is transparent. */
function striped(width: number, height: number, colours: readonly string[]) {
  const canvas = createCanvas(width, height);
  const context = canvas.getContext('2d');
  for (const [i, colour] of colours.entries()) {
    if (colour === '') continue;
    context.fillStyle = colour;
    context.fillRect((i * width) / colours.length, 0, width / colours.length, height);
  }
  return canvas;
}

function put(name: string, bytes: Uint8Array, caption?: string): void {
  writeFileSync(join(folder, name), bytes);
  if (caption !== undefined) writeFileSync(join(folder, name.replace(/\.\w+$/, '.txt')), caption);
}

put('b.png', striped(8, 8, ['', '#ff0000']).toBuffer('image/png'), '\uFEFF a red\r\n half \n');
put('a.webp', striped(24, 8, ['#ff0000', '#00ff00', '#0000ff']).toBuffer('image/webp', 100), 'green');
put('C.JPG', striped(8, 32, ['#808080']).toBuffer('image/jpeg', 100), 'grey');
put(
  'odd.png',
  striped(5, 5, ['#000000', '#ffffff', '#000000', '#ffffff', '#000000']).toBuffer('image/png'),
  'odd',
);
put('bare.png', striped(8, 8, ['#000000']).toBuffer('image/png'));
put('blank.png', striped(8, 8, ['#000000']).toBuffer('image/png'), ' \n');
put('broken.png', new Uint8Array([137, 80, 78, 71, 1, 2, 3]), 'broken');
put('notes.md', new Uint8Array(3), 'no picture');

const read = async (path = folder, size = 2) => {
  const warnings: string[] = [];
  return { set: await readFolder(path, size, (text) => warnings.push(text)), warnings };
};

test('PNG, JPEG and WebP: middle square, alpha dropped, bicubic; captions beside them', async () => {
  const { set, warnings } = await read();
  expect(set.captions).toEqual(['grey', 'green', 'a red half', 'odd']); // in the order of bytes: C.JPG first
  expect(warnings).toEqual([
    `${folder}: 2 left out without a caption (bare.png, blank.png)`,
    `${folder}: 1 left out that cannot be decoded (broken.png)`,
  ]);
  const near = (item: number, expected: number[]) => {
    for (const [i, value] of set.picture(item).entries())
      expect(Math.abs(value - expected[i]!)).toBeLessThan(4);
  };
  near(0, Array(12).fill(128));
  // The widened kernel reaches into the stripes beside the middle one.
  near(1, [20, 239, 0, 0, 239, 20, 20, 239, 0, 0, 239, 20]);
  // Numbers of Pillow 9.4.
  expect([...set.picture(2)]).toEqual([24, 0, 0, 231, 0, 0, 24, 0, 0, 231, 0, 0]);
  expect([...set.picture(3)]).toEqual(Array(12).fill(113));
});

test('the hash is of names, captions and pictures', async () => {
  const { hash } = (await read()).set;
  expect((await read()).set.hash).toBe(hash);
  expect((await read(folder, 4)).set.hash).not.toBe(hash);
});

test('as a source', async () => {
  const { set } = await read();
  const files = {
    emoji: () => {
      throw new Error('not asked for');
    },
    folder: () => set,
  };
  const shape = { size: 2, length: 4, rows: 64 };
  const [all, two] = openSources(
    [
      { name: 'folder', path: folder },
      { name: 'folder', path: folder, count: 2 },
    ],
    files,
    shape,
    0,
  );
  expect([all!.count, two!.count]).toEqual([4, 2]);
  const out = new Float32Array(12);
  all!.picture(2, out, 0);
  const planes = [24, 231, 24, 231, 0, 0, 0, 0, 0, 0, 0, 0];
  for (const [i, value] of out.entries()) expect(value).toBeCloseTo(planes[i]! / 127.5 - 1, 6);
  expect(all!.caption(2, 77)).toBe('a red half');
  const ids = new Int32Array(8);
  all!.tokens(2, 77, ids, 0);
  expect(ids.filter((id) => id < 0).length).toBe(4); // two words of four, since 'a' is none
});

test('nothing to train on is a Failure with the remedy', async () => {
  mkdirSync(join(folder, 'none'));
  expect(read(join(folder, 'none'))).rejects.toThrow(
    'has no picture that can be trained on (0 files of pictures)',
  );
  expect(read(join(folder, 'nowhere'))).rejects.toThrow('nowhere: cannot read: no such file or folder');
});
