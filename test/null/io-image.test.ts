// Pictures to pixels: what Pillow made of the same files, sizes and corners, orientation, limits, files that
// are damaged, hostile or of another kind.
import { describe, expect, test } from 'bun:test';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, deflateSync } from 'node:zlib';
import { createCanvas } from '@napi-rs/canvas';
import { verifyImages } from '../../src/eval/images.ts';
import { cropCorner, middleSquare, resizedSize, shrink, toSigned } from '../../src/io/image/crop.ts';
import { decodeImage, readImage } from '../../src/io/image/decode.ts';
import { upright } from '../../src/io/image/exif.ts';
import { resizeInto } from '../../src/io/image/resize.ts';
import { ImageFailure, type Rgb } from '../../src/io/image/rgb.ts';
import { encodePng } from '../../src/io/png.ts';

const KINDS = 'test/goldens/images-kinds';
const FILES = readdirSync(KINDS).filter((file) => /\.(png|jpg|webp|gif|bmp)$/.test(file));

/** Even pixels of a seed. */
function noise(width: number, height: number, seed = 1): Rgb {
  let state = seed;
  const data = Uint8Array.from({ length: width * height * 3 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
  return { width, height, data };
}

/** How a file ends up: 'picture', the reason of its refusal, or another error as it is. */
async function fate(bytes: Uint8Array, limits?: { bytes: number; pixels: number }): Promise<string> {
  try {
    const { width, height, data } = await decodeImage(bytes, 'x', limits ? { limits } : {});
    return data.length === width * height * 3 ? 'picture' : `${data.length} bytes`;
  } catch (error) {
    if (error instanceof ImageFailure) return error.reason;
    throw error;
  }
}

describe('as Pillow does it', () => {
  for (const dir of ['test/goldens/images', KINDS]) {
    test(dir, async () => {
      const groups = await verifyImages(dir);
      expect(groups.length).toBeGreaterThan(4);
      // Closer than the golden's bounds: equal to the bit, since the decoders are of the same family.
      expect(groups.filter(({ error, status }) => error !== 0 || status !== 'pass')).toEqual([]);
    });
  }

  test('bytes behind the end of a WebP file', async () => {
    for (const file of FILES.filter((name) => name.endsWith('.webp'))) {
      const bytes = readFileSync(join(KINDS, file));
      const longer = Buffer.concat([bytes, Buffer.alloc(99, 'behind')]);
      expect(await decodeImage(longer, file)).toEqual(await decodeImage(bytes, file));
    }
  });

  test('one wrong value, one missing file', async () => {
    const dir = join(import.meta.dir, '../../build', `images-${process.pid}`);
    const { cpSync, rmSync, writeFileSync } = await import('node:fs');
    cpSync(KINDS, dir, { recursive: true });
    try {
      const path = join(dir, 'expected.safetensors');
      const bytes = readFileSync(path);
      bytes[bytes.length - 1]! ^= 8; // the last square of the last file, a PNG
      writeFileSync(path, bytes);
      rmSync(join(dir, 'gray.jpg'));
      const bad = (await verifyImages(dir)).filter(({ status }) => status !== 'pass');
      expect(bad.map(({ group }) => group)).toEqual([
        ...['resized', 'resized, share above 1', 'end to end'],
        'gray.jpg',
      ]);
      expect(bad[3]!.note).toBe('gray.jpg: is missing');
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe('sizes', () => {
  test('the longer edge is cut off, corners are rounded to even', () => {
    expect(resizedSize(433, 300, 256)).toEqual({ width: 369, height: 256 });
    expect(resizedSize(300, 508, 256)).toEqual({ width: 256, height: 433 });
    expect(resizedSize(300, 501, 256)).toEqual({ width: 256, height: 427 }); // 427.52
    expect([433, 435, 437, 64].map((edge) => cropCorner(edge, 256))).toEqual([88, 90, 90, -96]);
    expect(cropCorner(108, 64)).toBe(22);
  });

  test('a part is that part of the whole, up and down', () => {
    const image = noise(37, 53);
    for (const [width, height] of [
      [20, 31],
      [90, 140],
      [37, 20],
    ] as const) {
      const whole = resizeInto(image, width, height, { left: 0, top: 0, width, height });
      const part = { left: 5, top: 7, width: 11, height: 9 };
      const planes = resizeInto(image, width, height, part);
      const cut = Uint8Array.from({ length: planes.length }, (_, i) => {
        const [c, y, x] = [Math.floor(i / 99), Math.floor((i % 99) / 11), i % 11];
        return whole[(c * height + y + part.top) * width + x + part.left]!;
      });
      expect(planes).toEqual(cut);
    }
  });

  test('the same size is the picture itself; an even picture stays even', () => {
    const image = noise(16, 16);
    const planes = middleSquare(image, 16);
    expect([planes[0], planes[256], planes[512]]).toEqual([...image.data.subarray(0, 3)]);
    expect(planes[255]).toBe(image.data[255 * 3]!);
    const even = { width: 301, height: 203, data: new Uint8Array(301 * 203 * 3).fill(200) };
    expect(middleSquare(even, 64).every((value) => value === 200)).toBe(true);
  });

  test('a strip that would grow beyond all memory', () => {
    const planes = middleSquare(noise(1, 60_000), 256); // whole: 256 x 15,360,000
    expect(planes.length).toBe(3 * 256 * 256);
  });

  test('shrinking beforehand', () => {
    const image = noise(60, 90);
    expect(shrink(image, 60)).toBe(image);
    const small = shrink(image, 30);
    expect([small.width, small.height, small.data.length]).toEqual([30, 45, 30 * 45 * 3]);
    expect(middleSquare(small, 16)).not.toEqual(middleSquare(image, 16));
  });

  test('bytes to [-1, 1]', () => {
    expect([...toSigned(Uint8Array.of(0, 255))]).toEqual([-1, 1]);
    const out = new Float32Array(3);
    expect(toSigned(Uint8Array.of(51), out, 1)).toBe(out);
    expect(out[1]).toBeCloseTo(-0.6, 6);
  });
});

describe('orientation', () => {
  // 1 2 3 / 4 5 6 as a picture, and upright for each orientation of EXIF.
  const image = { width: 3, height: 2, data: Uint8Array.from([1, 2, 3, 4, 5, 6].flatMap((v) => [v, v, v])) };
  const turned = ['123456', '321654', '654321', '456123', '142536', '415263', '635241', '362514'];
  test.each(turned.map((pixels, i) => [i + 1, pixels] as const))('%d', (orientation, pixels) => {
    const { width, height, data } = upright(image, orientation);
    expect([width, height]).toEqual(orientation > 4 ? [2, 3] : [3, 2]);
    expect(data.filter((_, i) => i % 3 === 0).join('')).toBe(pixels);
  });

  test('of a file: ignored unless asked', async () => {
    const path = 'test/goldens/images/exif6.jpg';
    const plain = await readImage(path);
    expect([plain.width, plain.height, plain.orientation]).toEqual([360, 270, 6]);
    const asked = await readImage(path, { exif: true });
    expect([asked.width, asked.height]).toEqual([270, 360]);
    expect(asked.data).toEqual(upright(plain, 6).data);
  });
});

/** EXIF of one entry: the orientation, as a number of two or four bytes, in either order of bytes. */
function exif(orientation: number, type: 3 | 4 | 1, little: boolean): Uint8Array {
  const view = new DataView(new ArrayBuffer(26));
  view.setUint16(0, little ? 0x4949 : 0x4d4d);
  view.setUint16(2, 42, little);
  view.setUint32(4, 8, little);
  view.setUint16(8, 1, little);
  view.setUint16(10, 0x0112, little);
  view.setUint16(12, type, little);
  view.setUint32(14, 1, little);
  if (type === 3) view.setUint16(18, orientation, little);
  else if (type === 4) view.setUint32(18, orientation, little);
  else view.setUint8(18, orientation);
  return new Uint8Array(view.buffer);
}

test('orientation of a PNG, before its pixels and behind them, as Pillow reads it', async () => {
  const head = ['IHDR', header(1, 2)] as const;
  const pixels = ['IDAT', deflateSync(Uint8Array.of(0, 1, 2, 3, 0, 4, 5, 6))] as const;
  const end = ['IEND', new Uint8Array(0)] as const;
  const oriented = async (...chunks: readonly PngChunk[]) =>
    (await decodeImage(pngOf(head, ...chunks, end), 'x')).orientation;
  for (const little of [true, false]) {
    expect(await oriented(['eXIf', exif(6, 3, little)], pixels)).toBe(6);
    expect(await oriented(pixels, ['tIME', new Uint8Array(7)], ['eXIf', exif(8, 4, little)])).toBe(8);
    expect(await oriented(['eXIf', exif(6, 1, little)], pixels)).toBe(1); // a type that Pillow passes over
    expect(await oriented(['eXIf', exif(9, 3, little)], pixels)).toBe(1);
  }
  expect(await oriented(pixels)).toBe(1);
});

type PngChunk = readonly [type: string, body: Uint8Array];

/** A PNG of these chunks, each with the checksum that belongs to it. */
function pngOf(...chunks: readonly PngChunk[]): Buffer {
  const parts = chunks.map(([type, body]) => {
    const typed = Buffer.concat([Buffer.from(type, 'latin1'), body]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(body.length);
    sum.writeUInt32BE(crc32(typed));
    return Buffer.concat([length, typed, sum]);
  });
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), ...parts]);
}

function header(width: number, height: number, depth = 8, colour = 2): Buffer {
  const body = Buffer.alloc(13);
  body.writeUInt32BE(width);
  body.writeUInt32BE(height, 4);
  body.set([depth, colour], 8);
  return body;
}

describe('limits', () => {
  test('of the file, and of the size that its header names', async () => {
    const small = encodePng({ ...noise(8, 8), channels: 3 });
    expect(await fate(small, { bytes: small.length, pixels: 64 })).toBe('picture');
    expect(await fate(small, { bytes: small.length - 1, pixels: 64 })).toBe('too large');
    for (const file of FILES) {
      const bytes = readFileSync(join(KINDS, file));
      expect([file, await fate(bytes, { bytes: 1e6, pixels: 40 })]).toEqual([file, 'too large']);
    }
    const huge = pngOf(['IHDR', header(60_000, 60_000)], ['IDAT', deflateSync(new Uint8Array(9))]);
    expect(await fate(huge)).toBe('too large');
  });

  test('pixels that cannot be in so few bytes, and more of them than the size needs', async () => {
    const sparse = pngOf(['IHDR', header(9000, 9000)], ['IDAT', deflateSync(new Uint8Array(9))]);
    await expect(decodeImage(sparse, 'x')).rejects.toThrow('bytes cannot hold its 243009000 bytes');
    const bomb = deflateSync(new Uint8Array(64 * 2 ** 20));
    expect(await fate(pngOf(['IHDR', header(2, 2)], ['IDAT', bomb]))).toBe('damaged');
    const spare = deflateSync(new Uint8Array(100));
    expect(await fate(pngOf(['IHDR', header(2, 2)], ['IDAT', spare]))).toBe('picture');
  });

  test('a file on disk is measured before it is read', async () => {
    const limits = { bytes: 1000, pixels: 1e6 };
    await expect(readImage('test/goldens/images/photo.jpg', { limits })).rejects.toThrow('more than 1000');
  });
});

describe('other files', () => {
  test('other kinds are refused by name', async () => {
    const kinds = {
      TIFF: 'II*\0\x08\0\0\0',
      HEIF: '\0\0\0\x18ftypheic\0\0\0\0mif1heic',
      'JPEG XL': '\xff\x0a....',
      SVG: '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">',
      'a web page': '<!DOCTYPE html><html>',
      'an empty file': '',
    };
    for (const [kind, text] of Object.entries(kinds)) {
      const read = decodeImage(Buffer.from(text, 'latin1'), 'x.png');
      await expect(read).rejects.toThrow(`x.png: ${kind} is not read. Use PNG, JPEG`);
    }
    await expect(decodeImage(Buffer.from('hello'), 'x')).rejects.toThrow('no picture that is known here');
  });

  test('AVIF keeps the colours below its alpha', async () => {
    const canvas = createCanvas(40, 30);
    const context = canvas.getContext('2d');
    context.fillStyle = 'rgba(200, 40, 20, 0.5)';
    context.fillRect(0, 0, 40, 30);
    const { format, data } = await decodeImage(canvas.toBuffer('image/avif'), 'x');
    expect(format).toBe('AVIF');
    for (const [i, value] of [200, 40, 20].entries()) expect(Math.abs(data[i]! - value)).toBeLessThan(8);
  });

  test('a GIF that leaves a part of its screen free shows its transparent colour there', async () => {
    const gif = (control: readonly number[]) =>
      Uint8Array.from([
        ...Buffer.from('GIF89a'),
        ...[2, 0, 1, 0, 0x80, 0, 0], // 2 x 1, two colours
        ...[1, 2, 3, 4, 5, 6],
        ...control,
        ...[0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0], // one pixel at the left
        ...[2, 2, 0x44, 0x01, 0], // clear, colour 0, end
        0x3b,
      ]);
    const transparent = [0x21, 0xf9, 4, 1, 0, 0, 1, 0];
    expect([...(await decodeImage(gif([]), 'x')).data]).toEqual([1, 2, 3, 1, 2, 3]);
    expect([...(await decodeImage(gif(transparent), 'x')).data]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test('chunks out of order, wrong checksums, unknown filters', async () => {
    const pixels = ['IDAT', deflateSync(new Uint8Array(14))] as const;
    const good = pngOf(['IHDR', header(2, 2)], pixels);
    expect(await fate(good)).toBe('picture');
    expect(await fate(pngOf(pixels, ['IHDR', header(2, 2)]))).toBe('damaged');
    expect(await fate(pngOf(['IHDR', header(2, 2)], ['IEND', new Uint8Array(0)]))).toBe('damaged');
    for (const [depth, colour] of [
      [16, 3],
      [4, 2],
      [8, 5],
      [3, 0],
    ] as const) {
      expect(await fate(pngOf(['IHDR', header(2, 2, depth, colour)], pixels))).toBe('damaged');
    }
    expect(await fate(good.subarray(0, -6))).toBe('picture'); // all pixels, half of their checksum
    const wrong = Buffer.from(good);
    wrong[wrong.length - 1]! ^= 1;
    expect(await fate(wrong)).toBe('damaged');
    const filter = deflateSync(new Uint8Array(14).fill(5));
    expect(await fate(pngOf(['IHDR', header(2, 2)], ['IDAT', filter]))).toBe('damaged');
  });

  test('every kind cut off at every place is refused, unless every pixel is there', async () => {
    for (const file of FILES) {
      const bytes = readFileSync(join(KINDS, file));
      const { data } = await decodeImage(bytes, file);
      const step = Math.ceil(bytes.length / 40);
      for (let length = 0; length < bytes.length; length += step) {
        const part = bytes.subarray(0, length);
        const result = await fate(part);
        if (result !== 'picture') continue;
        expect([file, length > 0.6 * bytes.length]).toEqual([file, true]);
        expect((await decodeImage(part, file)).data).toEqual(data);
      }
    }
  });

  test('flipped bytes never do more than spoil or refuse a picture', async () => {
    let state = 7;
    const random = (n: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * n);
    };
    const fates = new Set<string>();
    for (const file of FILES) {
      for (let round = 0; round < 12; round++) {
        const bytes = readFileSync(join(KINDS, file));
        for (let i = 0; i < 3; i++) bytes[random(bytes.length)] = random(256);
        fates.add(await fate(bytes, { bytes: 1e6, pixels: 1e6 }));
      }
    }
    expect([...fates].sort()).toEqual(['damaged', 'picture', 'too large', 'unsupported']);
  });
});
