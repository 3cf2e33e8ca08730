// Sheets and charts: what stands where on the picture, read back pixel by pixel; smoothing, thinning, axes.

import { expect, test } from 'bun:test';
import { createCanvas, loadImage } from '@napi-rs/canvas';
import { Failure } from '../../src/io/failure.ts';
import { drawChart } from '../../src/io/figure/chart.ts';
import { fontOf, useFont, wrapText } from '../../src/io/figure/font.ts';
import {
  boundsOf,
  seriesOf,
  shortNumber,
  smoothLine,
  thinOut,
  tickLabel,
} from '../../src/io/figure/series.ts';
import { drawSheet } from '../../src/io/figure/sheet.ts';
import { type Pixels, pngTextOf } from '../../src/io/png.ts';

function flat(width: number, height: number, colour: readonly number[]): Pixels {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => colour[i % 3]!);
  return { width, height, channels: 3, data };
}

async function decode(png: Uint8Array) {
  const image = await loadImage(Buffer.from(png));
  const canvas = createCanvas(image.width, image.height);
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, image.width, image.height);
  const at = (x: number, y: number) => [...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 3)];
  /** Pixels of about this colour in a part of the picture. */
  const count = ([r, g, b]: readonly number[], [x0, y0, x1, y1] = [0, 0, width, height], within = 12) => {
    let found = 0;
    for (let y = y0!; y < y1!; y++) {
      for (let i = 4 * (y * width + x0!); i < 4 * (y * width + x1!); i += 4) {
        const near = Math.abs(data[i]! - r!) <= within && Math.abs(data[i + 1]! - g!) <= within;
        if (near && Math.abs(data[i + 2]! - b!) <= within) found++;
      }
    }
    return found;
  };
  return { width, height, at, count };
}

const RED = [220, 30, 40];
const BLUE = [37, 99, 235];
const ORANGE = [234, 88, 12];

test('a sheet shows every image enlarged in its place, captions below', async () => {
  const images = [RED, [10, 200, 90], BLUE, [1, 2, 3]].map((colour) => ({ pixels: flat(32, 32, colour) }));
  const texts = [{ keyword: 'parameters', text: 'x' }];
  const bare = await decode(drawSheet(images, { columns: 2 }));
  expect([bare.width, bare.height]).toEqual([24 + 128 + 16 + 128 + 24, 24 + 128 + 16 + 128 + 24]);
  expect(bare.at(24, 24)).toEqual(RED);
  expect(bare.at(24 + 127, 24 + 127)).toEqual(RED);
  expect(bare.at(24 + 144, 24)).toEqual([10, 200, 90]);
  expect(bare.at(24 + 143 + 128, 24 + 143 + 128)).toEqual([1, 2, 3]);
  expect(bare.at(5, 5)).toEqual([255, 255, 255]);

  const captioned = images.map((image) => ({ ...image, caption: 'Żółty Привет αβγ Việt' }));
  const png = drawSheet(captioned, { columns: 4, title: 'Step 100', subtitle: 'quiet', texts });
  expect(pngTextOf(png, 'x').texts).toEqual(texts);
  const sheet = await decode(png);
  expect(sheet.width).toBe(48 + 4 * 144 - 16);
  expect(sheet.count([24, 24, 27], [24, 24, 200, 50], 60)).toBeGreaterThan(60);
  expect(sheet.count([82, 82, 91], [24, sheet.height - 60, 152, sheet.height], 60)).toBeGreaterThan(60);
});

test('a sheet of nothing, of unequal images, of too many', () => {
  expect(() => drawSheet([])).toThrow('sample sheet: there is no image for it. Make at least one');
  const unequal = [{ pixels: flat(8, 8, RED) }, { pixels: flat(8, 9, RED) }];
  expect(() => drawSheet(unequal)).toThrow(RangeError);
  const pixels = flat(512, 512, RED);
  expect(() => drawSheet(new Array(2000).fill({ pixels }))).toThrow(Failure);
  expect(() => drawSheet(new Array(2000).fill({ pixels }))).toThrow('Put fewer images on it');
});

test('lines of text are no wider than they may be', () => {
  useFont();
  const context = createCanvas(1, 1).getContext('2d');
  context.font = fontOf(12);
  for (const text of [
    'a red apple, fluent 3d style',
    'Donaudampfschifffahrtsgesellschaftskapitän',
    'x'.repeat(1_000_000),
    '👩‍👩‍👧‍👦'.repeat(40),
    'tabs\tand\nlines\r\nand \u0000 more words than fit',
    ' ',
    '',
  ]) {
    for (const lines of [1, 2, 3]) {
      const wrapped = wrapText(context, text, 100, lines);
      expect(wrapped.length).toBeLessThanOrEqual(lines);
      for (const line of wrapped) {
        expect(context.measureText(line).width).toBeLessThanOrEqual(100);
        expect(line).not.toMatch(/[\p{Cc}]|\ud83d$/u);
      }
    }
  }
  expect(wrapText(context, 'one two', 1000, 2)).toEqual(['one two']);
  expect(wrapText(context, 'one two three four five six', 60, 1)[0]).toEndWith('…');
});

test('the font in the program is the one that draws', () => {
  useFont();
  const context = createCanvas(1, 1).getContext('2d');
  const width = (font: string, text: string) => {
    context.font = font;
    return context.measureText(text).width;
  };
  // Advance widths of Inter; another font would give others.
  expect(width(fontOf(100), 'a red apple')).toBeCloseTo(
    width('400 100px "microdiff latin"', 'a red apple'),
    3,
  );
  expect(width(fontOf(100), 'Привет')).toBeCloseTo(width('400 100px "microdiff cyrillic"', 'Привет'), 3);
  expect(width(fontOf(100, true), 'red')).toBeGreaterThan(width(fontOf(100), 'red'));
});

const RECORDS = Array.from({ length: 300 }, (_, i) => ({
  step: 10 * (i + 1),
  loss: i === 77 ? 'NaN' : 1 / (i + 1) + 0.1,
  lr: 1e-4,
  images_per_s: 100 + (i % 7),
}));

test('a chart of one run, of two, of the quantities that are there', async () => {
  const one = await decode(drawChart([{ label: 'run', records: RECORDS }]));
  expect(one.width).toBe(2 * (48 + 2 * 560 + 28));
  expect(one.count(BLUE)).toBeGreaterThan(2000);
  expect(one.count(ORANGE)).toBe(0);
  expect(one.count([220, 38, 38])).toBeGreaterThan(20); // "1 not finite"
  const two = await decode(
    drawChart([
      { label: 'a', records: RECORDS.map(({ loss, step }) => ({ loss, step })) },
      { label: 'b', records: RECORDS.map(({ step }) => ({ loss: 0.5, step })) },
    ]),
  );
  expect(two.width).toBe(2 * (48 + 560));
  expect(two.count(BLUE)).toBeGreaterThan(500);
  expect(two.count(ORANGE)).toBeGreaterThan(500);
  const only = await decode(drawChart([{ label: 'x', records: [{ step: 1, loss: 1 }, { event: 'end' }] }]));
  expect(only.count(BLUE)).toBeGreaterThan(20);
  drawChart([{ label: 'x', records: [{ step: 1, loss: 'Infinity' }] }]);
  expect(() => drawChart([{ label: 'runs/a', records: [{ event: 'start' }] }])).toThrow(
    'runs/a: there are no metrics to draw yet. Train some steps first',
  );
});

test('nine runs: the legend has a row more, names are whole, the ninth line is dashed', async () => {
  const records = (loss: number) => [1, 2, 3].map((i) => ({ step: i / 4, loss: loss + i / 1000 }));
  const runs = (names: readonly string[]) =>
    names.map((label, i) => ({ label, records: records(0.476 + i / 1000) }));
  const names = Array.from({ length: 9 }, (_, i) => `a-long-name-${i}`);
  const panels = [{ key: 'loss', title: 'Loss', noisy: false, mayLog: true }];
  const [two, nine] = await Promise.all(
    [names.slice(0, 2), names].map((some) => decode(drawChart(runs(some), { panels }))),
  );
  const rows = (nine!.height - two!.height) / 2 / 20;
  expect(rows).toBeGreaterThanOrEqual(2);
  // The first line's colour stands in the legend twice: whole, and with a gap.
  const strip = (row: number) => {
    const y = 2 * (24 + 44 + 4 + 20 * row - 5);
    return nine!.count(BLUE, [0, y, nine!.width, y + 2]);
  };
  const strips = Array.from({ length: rows + 1 }, (_, row) => strip(row)).filter((n) => n > 0);
  expect(strips).toEqual([2 * 16 * 2, 2 * 12 * 2]);
});

test('ticks are told apart', () => {
  const labels = (ticks: number[]) => ticks.map((tick) => tickLabel(tick, ticks));
  expect(labels([0.4755, 0.476, 0.4765])).toEqual(['0.4755', '0.4760', '0.4765']);
  expect(labels([0, 0.02, 0.04])).toEqual(['0', '0.02', '0.04']);
  expect(labels([100001, 100002])).toEqual(['100,001', '100,002']);
  expect(labels([0, 1000, 2000])).toEqual(['0', '1k', '2k']);
  expect(labels([1, 1])).toEqual(['1', '1']);
});

test('series', () => {
  const series = seriesOf(RECORDS, 'loss');
  expect([series.x.length, series.broken]).toEqual([299, [780]]);
  expect(seriesOf([{ loss: 1 }, { step: 'x', loss: 1 }, { step: 2, loss: null }], 'loss').x).toEqual([]);
});

test('a smooth line keeps a straight one, does not lag, and quietens noise', () => {
  const x = Array.from({ length: 5000 }, (_, i) => i);
  for (const point of smoothLine(
    x,
    x.map((v) => 3 - v / 1000),
    600,
  )) {
    expect(point.y).toBeCloseTo(3 - point.x / 1000, 9);
  }
  const noisy = smoothLine(
    x,
    x.map((v) => (v % 2 ? 1 : -1) * (1 + Math.sin(v))),
    600,
  );
  expect(Math.max(...noisy.map(({ y }) => Math.abs(y)))).toBeLessThan(0.3);
  expect(smoothLine([], [], 600)).toEqual([]);
  expect(smoothLine([5], [7], 600)).toEqual([{ x: 5, y: 7 }]);
  expect(smoothLine([1, 2, 3], [1, 5, 2], 600).map(({ y }) => y)).toEqual([1, 5, 2]);
});

test('thinning keeps every spike', () => {
  const x = Array.from({ length: 100_000 }, (_, i) => i);
  const y = x.map((v) => (v === 54_321 ? 99 : v === 777 ? -99 : Math.sin(v)));
  const points = thinOut(x, y, 1200);
  expect(points.length).toBeLessThanOrEqual(1202);
  expect(points).toContainEqual({ x: 54_321, y: 99 });
  expect(points).toContainEqual({ x: 777, y: -99 });
  expect(points.every((point, i) => i === 0 || point.x > points[i - 1]!.x)).toBe(true);
  expect(thinOut([1, 2], [3, 4], 1200)).toEqual([
    { x: 1, y: 3 },
    { x: 2, y: 4 },
  ]);
});

test('an axis is not crushed by a spike', () => {
  const values = Array.from({ length: 1000 }, (_, i) => (i === 500 ? 1e6 : 1 + (i % 10) / 10));
  expect(boundsOf(values, [], true).max).toBeLessThan(3);
  expect(boundsOf(values, [50], true).max).toBeGreaterThan(50);
  expect(boundsOf([1, 10, 100, 1000], [], true).log).toBe(true);
  expect(boundsOf([1, 10, 100, 1000], [], false)).toMatchObject({ min: 0, log: false });
  expect(boundsOf([100, 101], [], false).min).toBeGreaterThan(99);
  expect(boundsOf([0, 0], [], true)).toEqual({ min: 0, max: 1, log: false });
  expect(boundsOf([], [], true)).toEqual({ min: 0, max: 1, log: false });
  expect([0, 12000, 1234567, 0.125, 0.00024, -3e9, 999.6].map(shortNumber)).toEqual([
    '0',
    '12k',
    '1.23M',
    '0.125',
    '2.4e-4',
    '-3G',
    '1000',
  ]);
});
