// Planes to RGB bytes, and pictures made larger.
import { expect, test } from 'bun:test';
import { enlarge, pixelsOf } from '../../../src/sample/pixels.ts';

test('planes in [-1, 1] become bytes, clamped and rounded', () => {
  const images = new Float64Array(2 * 3 * 4).fill(-1);
  images.set([-1, 0, 1, 7], 12); // red of picture 1
  images.set([-9, 0.5, -0.5, 1 / 127.5 - 1], 16); // green
  const pixels = pixelsOf(images, 1, 2)!;
  expect([pixels.width, pixels.height, pixels.channels]).toEqual([2, 2, 3]);
  expect([...pixels.data]).toEqual([0, 0, 0, 128, 191, 0, 255, 64, 0, 255, 1, 0]);
});

test('pictures that are not square', () => {
  const images = Float32Array.from({ length: 2 * 3 * 6 }, (_, i) => (i % 6) / 2.5 - 1);
  const pixels = pixelsOf(images, 1, 3, 2)!;
  expect([pixels.width, pixels.height]).toEqual([3, 2]);
  expect([...pixels.data]).toEqual([0, 51, 102, 153, 204, 255].flatMap((v) => [v, v, v]));
});

test('bytes go to [-1, 1] and back unchanged', () => {
  const images = Float32Array.from({ length: 3 * 256 }, (_, i) => (i % 256) / 127.5 - 1);
  expect([...pixelsOf(images, 0, 16)!.data]).toEqual(
    Array.from({ length: 768 }, (_, i) => Math.floor(i / 3)),
  );
});

test('what is not finite is no picture, and harms no other', () => {
  const images = new Float32Array(2 * 3 * 4);
  images[20] = Number.NaN;
  expect(pixelsOf(images, 0, 2)).not.toBeNull();
  expect(pixelsOf(images, 1, 2)).toBeNull();
  images[20] = Number.POSITIVE_INFINITY;
  expect(pixelsOf(images, 1, 2)).toBeNull();
});

test('enlarged pictures have squares for pixels', () => {
  const pixels = { width: 2, height: 1, channels: 3 as const, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
  const row = [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6];
  expect(enlarge(pixels, 2)).toEqual({
    width: 4,
    height: 2,
    channels: 3,
    data: Uint8Array.from([...row, ...row]),
  });
  expect(enlarge(pixels, 1)).toBe(pixels);
});
