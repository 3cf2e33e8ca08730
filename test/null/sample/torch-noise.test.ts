// The noise of torch.randn on CUDA: known answers, and the kernel's loop written down plainly.
import { describe, expect, test } from 'bun:test';
import { philox, torchCudaNormals } from '../../../src/sample/torch-noise.ts';

describe('known answers', () => {
  // Random123's file of known answers, philox4x32 10.
  test.each([
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [Array(4).fill(0xffffffff), Array(2).fill(0xffffffff), '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    ],
  ] as [[number, number, number, number], [number, number], string][])('philox %#', (counter, key, words) => {
    const hex = philox(counter, key).map((word) => word.toString(16).padStart(8, '0'));
    expect(hex.join(' ')).toBe(words);
  });

  test('torch.manual_seed(0); torch.randn(12, device="cuda")', () => {
    // As stable-diffusion-webui's generator documents it, with eight digits.
    const known = [
      -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564, -0.62285122, -0.32838709,
      -1.07454231, -0.36314407, -1.67105067, 2.26550497,
    ];
    for (const [i, value] of torchCudaNormals(0, 12).entries()) {
      expect(Math.abs(value - known[i]!)).toBeLessThan(5e-6);
    }
  });
});

describe('the kernel', () => {
  /** distribution_elementwise_grid_stride_kernel, one thread after another, in exact words. */
  function plain(seed: bigint, count: number, resident: number): number[] {
    const grid = Math.min(Math.ceil(count / 256), resident / 256);
    const total = grid * 256;
    const values = new Array<number>(count);
    for (let thread = 0; thread < total; thread++) {
      const rounded = (Math.floor((count - 1) / (total * 4)) + 1) * total * 4;
      let offset = 0n;
      for (let index = thread; index < rounded; index += total * 4) {
        const words = plainPhilox([offset++, 0n, BigInt(thread), 0n], seed);
        const normal = (u: bigint, v: bigint, turn: (x: number) => number) =>
          Math.sqrt(-2 * Math.log((Number(u) + 0.5) / 2 ** 32)) *
          turn(((Number(v) + 0.5) / 2 ** 32) * 2 * Math.PI);
        const four = [
          normal(words[0]!, words[1]!, Math.sin),
          normal(words[0]!, words[1]!, Math.cos),
          normal(words[2]!, words[3]!, Math.sin),
          normal(words[2]!, words[3]!, Math.cos),
        ];
        for (let k = 0; k < 4; k++) if (index + total * k < count) values[index + total * k] = four[k]!;
      }
    }
    return values;
  }

  function plainPhilox(counter: bigint[], seed: bigint): bigint[] {
    const low = (x: bigint) => x & 0xffffffffn;
    let [a, b, c, d] = counter as [bigint, bigint, bigint, bigint];
    let [k0, k1] = [low(seed), seed >> 32n];
    for (let round = 0; round < 10; round++) {
      const [p, q] = [0xd2511f53n * a, 0xcd9e8d57n * c];
      [a, b, c, d] = [(q >> 32n) ^ b ^ k0, low(q), (p >> 32n) ^ d ^ k1, low(p)];
      [k0, k1] = [low(k0 + 0x9e3779b9n), low(k1 + 0xbb67ae85n)];
    }
    return [a, b, c, d];
  }

  test.each([
    ['fewer elements than threads', 700, 2048],
    ['as many', 2048, 2048],
    ['more: a thread gives four', 5000, 1024],
    ['many more: several draws', 9999, 512],
  ])('%s', (_, count, resident) => {
    const seed = 2 ** 53 - 3;
    const ours = torchCudaNormals(seed, count, resident);
    const wanted = plain(BigInt(seed), count, resident);
    expect(wanted.filter((v) => v === undefined)).toEqual([]);
    expect(Math.max(...wanted.map((v, i) => Math.abs(v - ours[i]!)))).toBeLessThan(5e-6);
  });
});
