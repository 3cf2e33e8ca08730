// Numbers in 8 bits: sizes, how near they come, and the ends of the range.
import { describe, expect, test } from 'bun:test';
import { fromQ8, q8Bytes, q8Count, toQ8 } from '../../src/io/q8.ts';

const numbers = (count: number, scale = 1) =>
  Float32Array.from({ length: count }, (_, i) => scale * Math.sin(i * 12.9898) * Math.exp(Math.cos(i * 7.3)));
const back = (values: Float32Array) => new Float16Array(fromQ8(toQ8(values)).buffer);

describe('numbers in 8 bits', () => {
  test('so many numbers take so many bytes, and the other way round', () => {
    expect([0, 1, 31, 32, 33, 77 * 1024].map(q8Bytes)).toEqual([0, 3, 33, 34, 37, 83_776]);
    const known = new Map(Array.from({ length: 200 }, (_, count) => [q8Bytes(count), count]));
    for (let bytes = 0; bytes < 200; bytes++) expect(q8Count(bytes)).toBe(known.get(bytes) ?? null);
    expect(() => fromQ8(new Uint8Array(35))).toThrow('35 bytes are no blocks of 8-bit numbers');
  });

  test.each([1e-3, 1, 300])('each is within half a 127th of the largest of its block, times %p', (scale) => {
    for (const count of [1, 5, 32, 64, 77, 1000]) {
      const values = numbers(count, scale);
      const got = back(values);
      expect(got.length).toBe(count);
      for (let first = 0; first < count; first += 32) {
        const block = values.subarray(first, first + 32);
        const largest = Math.max(...block.map(Math.abs));
        // The scale is rounded to a half, and so is what comes back.
        const bound = largest * (0.5 / 127 + 2 ** -11) * 1.01 + 127 * 2 ** -25;
        for (const [i, x] of block.entries())
          expect(Math.abs(got[first + i]! - x)).toBeLessThanOrEqual(bound);
      }
    }
  });

  test('states of a text tower lose little: noise 40 dB below them', () => {
    const values = numbers(77 * 1024);
    const got = back(values);
    const power = values.reduce((sum, x) => sum + x * x, 0);
    expect(values.reduce((sum, x, i) => sum + (x - got[i]!) ** 2, 0) / power).toBeLessThan(1e-4);
  });

  test('zeros, the largest halves, and what is smaller than a scale can be', () => {
    expect([...back(new Float32Array(40))]).toEqual(Array(40).fill(0));
    const ends = back(Float32Array.of(65504, -65504, 1));
    for (const [i, x] of [65504, -65504].entries()) expect(Math.abs(ends[i]! / x - 1)).toBeLessThan(5e-4);
    expect([...back(Float32Array.of(1e-7, -1e-7))].map(Math.abs)).toEqual([0, 0]);
  });
});
