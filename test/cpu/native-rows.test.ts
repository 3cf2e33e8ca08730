// With image_rows, the rows of an image are equal to the bit whichever image of the batch it is and however
// many images there are; and, with or without it, at 1, 2 and 3 threads.

import { describe, expect, test } from 'bun:test';
import { join } from 'node:path';
import { openNative } from '../../ffi/native.ts';
import { gemm, noise, run } from './native-commands.ts';

const native = await openNative();
native.init(2);

const ROWS = [
  1, 2, 3, 5, 7, 8, 11, 12, 13, 16, 17, 31, 33, 48, 63, 64, 65, 77, 96, 100, 129, 154, 199, 256, 300,
];
const WIDTHS = [
  [1, 1],
  [5, 3],
  [16, 32],
  [33, 77],
  [64, 64],
  [130, 65],
  [511, 129],
  [512, 512],
  [1030, 257],
  [96, 1025],
] as const;
const IMAGES = 9;

/** C of a product whose rows are those of images in the order of `order`, one Uint32Array (bits) an image. */
function images(
  order: readonly number[],
  rows: number,
  N: number,
  K: number,
  transB: boolean,
  bias: boolean,
) {
  const next = noise(7);
  const perImage = Array.from({ length: IMAGES }, () => Float32Array.from({ length: rows * K }, next));
  using A = native.alloc(4 * order.length * rows * K);
  using B = native.alloc(4 * N * K);
  using C = native.alloc(4 * order.length * rows * N);
  using biases = native.alloc(4 * N);
  for (const memory of [B, biases]) {
    const all = memory.f32();
    for (let i = 0; i < all.length; i++) all[i] = next();
  }
  order.forEach((image, i) => {
    A.f32(4 * i * rows * K, rows * K).set(perImage[image]!);
  });
  const product = { M: order.length * rows, N, K, transB, imageRows: rows };
  run(native, [gemm(native, product, A.address, B.address, C.address, bias ? biases.address : 0)]);
  return order.map((_, i) => Bun.hash(C.u8(4 * i * rows * N, 4 * rows * N)));
}

describe.each([
  ['B^T', true],
  ['B', false],
] as const)('%s', (_, transB) => {
  test.each(ROWS)('%d rows an image', (rows) => {
    for (const [i, [N, K]] of WIDTHS.entries()) {
      if (rows > 40 && N * K > 260_000) continue;
      if (!transB && i % 2) continue;
      const bias = (N + K + rows) % 2 === 0;
      const alone = Array.from({ length: IMAGES }, (_, i) => images([i], rows, N, K, transB, bias)[0]!);
      for (const order of [
        [0, 1],
        [8, 3, 0],
        [5, 5, 1, 7, 2],
        [8, 7, 6, 5, 4, 3, 2, 1, 0],
      ]) {
        const together = images(order, rows, N, K, transB, bias);
        expect({ rows, N, K, together }).toEqual({ rows, N, K, together: order.map((i) => alone[i]!) });
      }
    }
  });
});

test('equal bits at 1, 2 and 3 threads, free tiles and tiles by image', () => {
  const hashes = [1, 2, 3].map((threads) => {
    const child = Bun.spawnSync([
      process.execPath,
      join(import.meta.dir, 'native-rows-child.ts'),
      String(threads),
    ]);
    expect(child.stderr.toString()).toBe('');
    return child.stdout.toString().trim();
  });
  expect(hashes[0]).toMatch(/^[0-9a-f]{16,}$/);
  expect(new Set(hashes).size).toBe(1);
}, 300_000);
