// The distance of routing to another choice, by hand.
import { expect, test } from 'bun:test';
import { gapOf } from '../../../src/train/gap.ts';

test('the smallest over images and experts, of the last taken to the first left', () => {
  // Two images of three tokens, two experts: p[n][t][e].
  const p = [0.9, 0.1, 0.6, 0.4, 0.5, 0.5, 0.2, 0.8, 0.3, 0.7, 0.375, 0.625];
  // Expert 0 takes tokens 0 and 1, then 2 and 1; expert 1 takes 2 and 1, then 0 and 1.
  const taken = [0, 1, 2, 1, 2, 1, 0, 1];
  const gap = gapOf(p, taken, { N: 2, T: 3, E: 2, K: 2 });
  expect(gap).toBeCloseTo(0.075, 12); // expert 1 of the second image: 0.7 - 0.625
  expect(gapOf(p, [0, 1, 2, 0, 1, 2], { N: 1, T: 3, E: 2, K: 3 })).toBe(Number.POSITIVE_INFINITY);
});
