// PNG: pixels judged by another decoder, text chunks there and back, and files that are damaged or hostile.

import { afterAll, expect, test } from 'bun:test';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, deflateSync } from 'node:zlib';
import { createCanvas, loadImage } from '@napi-rs/canvas';
import { Failure } from '../../src/io/failure.ts';
import {
  encodePng,
  insertPngText,
  type Pixels,
  type PngText,
  pngTextOf,
  readPngText,
} from '../../src/io/png.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-png-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Smooth, noisy and flat parts, so that every filter wins somewhere. */
function picture(width: number, height: number, channels: 3 | 4): Pixels {
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < data.length; i++) {
    const x = Math.floor(i / channels) % width;
    const y = Math.floor(i / (channels * width));
    const part = Math.floor((4 * y) / height);
    data[i] = [
      3 * x + y,
      (i * 2654435761) >>> 24,
      7 * y * y,
      128 + 60 * Math.sin(x / 9 + y / 5 + (i % channels)),
    ][part]!;
    if (channels === 4 && i % 4 === 3) data[i] = (x + y) % 3 === 0 ? 0 : 255;
  }
  return { width, height, channels, data };
}

async function decode(png: Uint8Array): Promise<Uint8ClampedArray> {
  const image = await loadImage(Buffer.from(png));
  const context = createCanvas(image.width, image.height).getContext('2d');
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height).data;
}

function message(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(Failure);
    return (error as Failure).message;
  }
  throw new Error('it was accepted');
}

const TEXTS: PngText[] = [
  { keyword: 'parameters', text: 'a "red" café\nSteps: 2' },
  { keyword: 'microdiff', text: '{"prompt":"日本 🍎"}' },
  { keyword: 'Empty', text: '' },
];

test('pixels are those that another decoder sees', async () => {
  for (const [width, height, channels] of [
    [1, 1, 3],
    [1, 9, 4],
    [33, 1, 3],
    [37, 53, 3],
    [64, 40, 4],
  ] as const) {
    const pixels = picture(width, height, channels);
    const seen = await decode(encodePng(pixels, TEXTS));
    expect(seen.length).toBe(width * height * 4);
    for (let i = 0; i < width * height; i++) {
      const alpha = channels === 4 ? pixels.data[4 * i + 3]! : 255;
      expect(seen[4 * i + 3]).toBe(alpha);
      if (alpha === 0) continue;
      const rgb = [...pixels.data.subarray(i * channels, i * channels + 3)];
      if (rgb.some((value, c) => seen[4 * i + c] !== value))
        throw new Error(`pixel ${i} of ${width} x ${height}`);
    }
  }
  const view = picture(20, 20, 3);
  const shifted = new Uint8Array(view.data.length + 5);
  shifted.set(view.data, 5);
  expect(encodePng({ ...view, data: shifted.subarray(5) })).toEqual(encodePng(view));
  expect(() => encodePng({ ...view, width: 19 })).toThrow('encodePng');
});

test('a smooth picture becomes small', () => {
  const data = Uint8Array.from(
    { length: 3 * 256 * 256 },
    (_, i) => (Math.floor(i / 3) % 256) + Math.floor(i / 768),
  );
  expect(encodePng({ width: 256, height: 256, channels: 3, data }).length).toBeLessThan(8_000);
});

test('texts there and back, in files of ours and of others', () => {
  const ours = encodePng(picture(8, 6, 3), TEXTS);
  expect(pngTextOf(ours, 'x')).toEqual({ width: 8, height: 6, texts: TEXTS });
  const path = join(folder, 'ours.png');
  writeFileSync(path, ours);
  expect(readPngText(path)).toEqual({ width: 8, height: 6, texts: TEXTS });

  const canvas = createCanvas(5, 4);
  const theirs = insertPngText(canvas.toBuffer('image/png'), TEXTS);
  expect(pngTextOf(theirs, 'x')).toEqual({ width: 5, height: 4, texts: TEXTS });
  expect(pngTextOf(encodePng(picture(1, 1, 3), [{ keyword: 'k', text: 'a\0b' }]), 'x').texts[0]!.text).toBe(
    'a\ufffdb',
  );
  for (const keyword of ['', ' a', 'a ', 'a\0b', 'ä'.repeat(80), '日']) {
    expect(() => encodePng(picture(1, 1, 3), [{ keyword, text: '' }])).toThrow('not allowed');
  }
});

test('packed texts', async () => {
  const body = (head: string, text: string) =>
    Buffer.concat([Buffer.from(head, 'latin1'), deflateSync(Buffer.from(text, 'utf8'))]);
  const png = withChunks([
    ['zTXt', body('old\0\0', 'packed text')],
    ['iTXt', body('new\0\x01\0de\0neu\0', 'übung')],
  ]);
  expect(pngTextOf(png, 'x').texts).toEqual([
    { keyword: 'old', text: 'packed text' },
    { keyword: 'new', text: 'übung' },
  ]);
  await decode(png);
});

test('hostile texts', () => {
  const bomb = deflateSync(Buffer.alloc(64 * 2 ** 20));
  const zText = (data: Uint8Array) => withChunks([['zTXt', Buffer.concat([Buffer.from('k\0\0'), data])]]);
  expect(message(() => pngTextOf(zText(bomb), 'bomb.png'))).toBe(
    'bomb.png: its zTXt chunk cannot be read. Use an undamaged PNG',
  );
  expect(message(() => pngTextOf(zText(Buffer.from('junk')), 'x'))).toContain('cannot be read');
  const megabyte = Buffer.concat([Buffer.from('k\0'), Buffer.alloc(2 ** 20, 'a')]);
  expect(message(() => pngTextOf(withChunks(new Array(17).fill(['tEXt', megabyte])), 'x'))).toContain(
    'more than',
  );
  for (const [type, data] of [
    ['tEXt', 'no end'],
    ['tEXt', '\0no keyword'],
    ['tEXt', `${'k'.repeat(80)}\0`],
    ['zTXt', 'k\0\x07'],
    ['iTXt', 'k\0\x02\0\0\0'],
    ['iTXt', 'k\0\0\0en'],
    ['iTXt', 'k\0\0\0\0\0\xff\xfe'],
  ] as const) {
    expect(message(() => pngTextOf(withChunks([[type, Buffer.from(data, 'latin1')]]), 'x'))).toContain(
      'cannot be read',
    );
  }
});

test('a file cut off at any byte, or with a flipped bit in its texts, is refused', () => {
  const png = encodePng(picture(8, 6, 3), TEXTS);
  for (let length = 0; length < png.length; length++) {
    expect(message(() => pngTextOf(png.subarray(0, length), 'x'))).toMatch(
      /not a PNG file|damaged or cut off/,
    );
  }
  const path = join(folder, 'cut.png');
  writeFileSync(path, png.subarray(0, 60));
  expect(message(() => readPngText(path))).toContain(`${path}: the file is damaged or cut off`);
  expect(message(() => readPngText(join(folder, 'absent.png')))).toContain('no such file');
  expect(message(() => readPngText(folder))).toContain(folder);
  const end = png.length - 12 - 50;
  for (let bit = 0; bit < end * 8; bit += 5) {
    const copy = new Uint8Array(png);
    copy[bit >> 3]! ^= 1 << (bit & 7);
    try {
      // A flip in a length or type may turn a text into another chunk, which is passed over.
      expect(pngTextOf(copy, 'x').texts.every((text) => TEXTS.some((t) => t.text === text.text))).toBe(true);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
    }
  }
});

/** A 1 x 1 picture with chunks of any kind before its pixels. */
function withChunks(extra: [string, Uint8Array][]): Uint8Array {
  const png = Buffer.from(encodePng(picture(1, 1, 3)));
  const made = extra.map(([type, data]) => {
    const out = Buffer.alloc(data.length + 12);
    out.writeUInt32BE(data.length, 0);
    out.write(type, 4, 'latin1');
    out.set(data, 8);
    out.writeUInt32BE(crc32(out.subarray(4, -4)), data.length + 8);
    return out;
  });
  return Buffer.concat([png.subarray(0, 33), ...made, png.subarray(33)]);
}
