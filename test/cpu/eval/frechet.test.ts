// Fréchet distances and statistics of features: the goldens, merging and splitting, singular covariances,
// files of statistics.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { doubles, Lapack } from '../../../ffi/lapack.ts';
import { relMax } from '../../../src/eval/conformance.ts';
import { verifyDistances } from '../../../src/eval/fid-set.ts';
import { frechetDistance } from '../../../src/eval/frechet.ts';
import { type Gaussian, Moments, ROWS_KEPT } from '../../../src/eval/moments.ts';
import { readStatistics, writeStatistics } from '../../../src/eval/statistics-file.ts';
import { productLibrary, randomValues } from '../op-case.ts';

const GOLDENS = new URL('../../goldens/fid', import.meta.url).pathname;
const lapack = new Lapack(productLibrary());
const folder = mkdtempSync(join(tmpdir(), 'frechet-'));
afterAll(() => rmSync(folder, { recursive: true }));

function momentsOf(d: number, ...parts: ArrayLike<number>[]): Moments {
  const moments = new Moments(lapack, d);
  for (const part of parts) moments.add(part);
  return moments;
}

const gaussianOf = (d: number, values: ArrayLike<number>) => momentsOf(d, values).gaussian('features');
const withoutRows = (g: Gaussian): Gaussian => ({ ...g, rows: null });

/** n rows whose columns depend on each other, far from zero. */
function features(n: number, d: number, seed: number, offset = 1000): Float64Array {
  const raw = randomValues(n * d, seed);
  return raw.map((v, i) => offset + v + (i % d > 0 ? raw[i - 1]! : 0) * (i % 3));
}

test('the goldens', () => {
  const groups = [...verifyDistances(GOLDENS, lapack)];
  expect(groups.filter(({ status }) => status !== 'pass')).toEqual([]);
  expect(groups.map(({ group }) => group)).toEqual([
    'frechet of features',
    'frechet of covariances',
    'frechet of singular covariances',
    'frechet as pytorch-fid',
    'mean and covariance',
    'mean and covariance, merged',
    'statistics files',
  ]);
});

describe('linear algebra', () => {
  test('eigenvalues and vectors, and a product with its transposes', () => {
    const n = 37;
    const x = randomValues(n * n, 3);
    const a = Float64Array.from(x, (_, i) => x[i]! + x[(i % n) * n + Math.floor(i / n)]!);
    const vectors = a.slice();
    const values = lapack.symmetricEigen(vectors, n, { vectors: true });
    expect([...values]).toEqual([...values].sort((p, q) => p - q));
    // V A V^T is diagonal.
    const half = lapack.product(vectors, a, { m: n, n, k: n });
    const diagonal = lapack.product(half, vectors, { m: n, n, k: n, transB: true });
    diagonal.forEach((v, i) => {
      expect(Math.abs(v - (i % (n + 1) === 0 ? values[i / (n + 1)]! : 0))).toBeLessThan(1e-12);
    });
    const wide = randomValues(5 * 7, 4);
    const gram = lapack.product(wide, wide, { m: 7, n: 7, k: 5, transA: true });
    const squares = lapack.symmetricEigen(gram, 7).reverse();
    lapack.singularValues(wide, 5, 7).forEach((v, i) => {
      expect(Math.abs(v * v - squares[i]!)).toBeLessThan(1e-13);
    });
  });

  test('what cannot be computed is refused', () => {
    expect(() => lapack.symmetricEigen(doubles(5), 2)).toThrow('5 numbers, 4 are needed');
    expect(() => lapack.singularValues(doubles(4).fill(Number.NaN), 2, 2)).toThrow('singular values');
  });
});

describe('moments', () => {
  const [n, d] = [700, 9];
  const x = features(n, d, 5);
  const whole = gaussianOf(d, x);

  test('are those of the definition', () => {
    for (let i = 0; i < d; i++) {
      let mean = 0;
      for (let r = 0; r < n; r++) mean += (x[r * d + i]! - 1000) / n;
      expect(Math.abs(whole.mean[i]! - 1000 - mean)).toBeLessThan(1e-11);
    }
    const [i, j] = [2, 7];
    let sum = 0;
    for (let r = 0; r < n; r++) sum += (x[r * d + i]! - whole.mean[i]!) * (x[r * d + j]! - whole.mean[j]!);
    expect(Math.abs(whole.covariance[i * d + j]! - sum / (n - 1))).toBeLessThan(1e-12);
    expect(whole.covariance[j * d + i]).toBe(whole.covariance[i * d + j]);
  });

  test.each(['1', '255 257', '2 300 301', '699'])('split at %s and merged they are the same', (places) => {
    const cuts = places.split(' ').map(Number);
    const edges = [0, ...cuts, n];
    const parts = edges.slice(1).map((end, k) => momentsOf(d, x.subarray(edges[k]! * d, end * d)));
    const [first, ...rest] = parts;
    for (const part of rest) first!.merge(part);
    const merged = first!.gaussian('merged');
    expect(merged.count).toBe(n);
    expect(relMax(merged.mean, whole.mean)).toBeLessThan(1e-13);
    expect(relMax(merged.covariance, whole.covariance)).toBeLessThan(1e-12);
    expect(relMax(merged.rows!, whole.rows!)).toBeLessThan(1e-12);
  });

  test('go through a file and merge there', () => {
    const origin = { weights: 'made up', resize: 'none' };
    const paths = [0, 1].map((k) => join(folder, `${k}.safetensors`));
    writeStatistics(paths[0]!, gaussianOf(d, x.subarray(0, 100 * d)), origin);
    writeStatistics(paths[1]!, gaussianOf(d, x.subarray(100 * d)), origin);
    const [one, two] = paths.map((path) => readStatistics(path));
    expect(one!.origin).toEqual(origin);
    expect(one!.float32).toBe(false);
    const merged = Moments.of(lapack, one!.gaussian, 'one');
    merged.merge(Moments.of(lapack, two!.gaussian, 'two'));
    const all = merged.gaussian('merged');
    expect(all.count).toBe(n);
    expect(relMax(all.covariance, whole.covariance)).toBeLessThan(1e-12);
    expect(() => Moments.of(lapack, { ...whole, count: null }, 'x.npz')).toThrow('x.npz: does not say');
  });

  test('say what is wrong', () => {
    expect(() => momentsOf(3).gaussian('photos')).toThrow('photos: has no image');
    expect(() => gaussianOf(3, [1, 2, 3])).toThrow('has one image');
    expect(() => momentsOf(3, [1, 2])).toThrow('not rows of 3');
    expect(() => momentsOf(2, [1, Number.NaN])).toThrow('hold NaN');
    expect(() => momentsOf(2).merge(momentsOf(3))).toThrow('2 and 3');
  });

  test('keep no more rows than a singular covariance needs', () => {
    expect(gaussianOf(2, randomValues(2 * ROWS_KEPT, 1)).rows).not.toBeNull();
    expect(gaussianOf(2, randomValues(2 * ROWS_KEPT + 2, 1)).rows).toBeNull();
  });
});

describe('distance', () => {
  test('is the same by both ways, and either way round', () => {
    const [a, b] = [gaussianOf(9, features(60, 9, 1)), gaussianOf(9, features(50, 9, 2, 1001))];
    const { distance } = frechetDistance(lapack, a, b);
    const other = frechetDistance(lapack, withoutRows(b), withoutRows(a));
    expect(Math.abs(other.distance - distance)).toBeLessThan(1e-9);
    expect(other.method).toContain('eigenvalues');
    expect(other.ranks).toEqual([9, null]);
  });

  test('of normal distributions along the axes is that of the formula', () => {
    const d = 3;
    const diagonal = (mean: number[], deviations: number[]): Gaussian => ({
      ...{ d, count: null, rows: null, mean: Float64Array.from(mean) },
      covariance: Float64Array.from({ length: d * d }, (_, i) => {
        return i % (d + 1) === 0 ? deviations[i / (d + 1)]! ** 2 : 0;
      }),
    });
    const a = diagonal([0, 1, 2], [1, 2, 0]);
    const b = diagonal([3, 1, 0], [4, 2, 5]);
    const { distance, ranks } = frechetDistance(lapack, a, b);
    expect(distance).toBeCloseTo(9 + 4 + 9 + 25, 10);
    expect(ranks).toEqual([2, 3]);
    const nothing = diagonal([0, 0, 0], [0, 0, 0]);
    expect(frechetDistance(lapack, nothing, b).distance).toBeCloseTo(9 + 1 + 45, 10);
  });

  test('of equal distributions is never below zero', () => {
    for (let seed = 1; seed <= 10; seed++) {
      const a = gaussianOf(9, features(6, 9, seed));
      for (const g of [a, withoutRows(a)]) {
        const { distance } = frechetDistance(lapack, g, g);
        expect(distance).toBeGreaterThanOrEqual(0);
        expect(distance).toBeLessThan(1e-9);
      }
    }
  });

  test('of different numbers of features is refused', () => {
    const [a, b] = [gaussianOf(2, features(5, 2, 1)), gaussianOf(3, features(5, 3, 1))];
    expect(() => frechetDistance(lapack, a, b)).toThrow('of 2 and of 3 features');
  });
});
