// FID over folders, shards and archives with a network that stands in for Inception: what is left out, what
// is remarked on, KID, precision and recall against their definitions.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Lapack } from '../../../ffi/lapack.ts';
import { FeatureRows } from '../../../src/eval/feature-rows.ts';
import { compareSides, sideOfImages, sideOfStatistics } from '../../../src/eval/fid.ts';
import { type Extractor, gather } from '../../../src/eval/gather.ts';
import { openImageSet } from '../../../src/eval/image-sets.ts';
import { kernelDistance } from '../../../src/eval/kid.ts';
import { precisionRecall } from '../../../src/eval/precision-recall.ts';
import { encodePng } from '../../../src/io/png.ts';
import { TAR_END, tarEntry } from '../../../src/io/tar.ts';
import { productLibrary, randomValues } from '../op-case.ts';

const lapack = new Lapack(productLibrary());
const root = mkdtempSync(join(tmpdir(), 'fid-'));
afterAll(() => rmSync(root, { recursive: true }));

/** Mean red, green and blue, as features. */
const means: Extractor = {
  d: 3,
  batch: 2,
  features: (images) =>
    Float32Array.from(
      images.flatMap(({ data }) => {
        return [0, 1, 2].map((c) => data.reduce((sum, v, i) => sum + (i % 3 === c ? v : 0), 0) / data.length);
      }),
    ),
};
const ORIGIN = { weights: 'means of colours', resize: 'none' };
const NO_OTHERS = { kid: null, precisionRecall: false };

function png(seed: number, side = 4): Uint8Array {
  const data = Uint8Array.from(randomValues(side * side * 3, seed), (v) => Math.floor((v + 1) * 127.9));
  return encodePng({ width: side, height: side, channels: 3, data }, []);
}

function folder(name: string, files: Readonly<Record<string, Uint8Array | string>>): string {
  const path = join(root, name);
  mkdirSync(path);
  for (const [file, content] of Object.entries(files)) writeFileSync(join(path, file), content);
  return path;
}

const five = Object.fromEntries([1, 2, 3, 4, 5].map((i) => [`${i}.png`, png(i)]));
const sideOf = async (path: string, keep = false) =>
  sideOfImages(path, await gather(means, lapack, openImageSet(path), { keep }), ORIGIN);

describe('sets of images', () => {
  test('a folder: what cannot be read is counted and told, what is no image is passed over', async () => {
    const path = folder('mixed', {
      ...{ ...five, 'big.png': png(6, 9), 'bad.jpg': 'no picture', 'cut.png': png(7).subarray(0, 60) },
      ...{ 'notes.txt': 'a caption', 'sampled.json': '{}' },
    });
    const set = openImageSet(path);
    expect(set.count).toBe(8);
    const side = sideOfImages(path, await gather(means, lapack, set), ORIGIN);
    expect(side.gaussian.count).toBe(6);
    expect(side.unreadable.map(({ name }) => name)).toEqual(['bad.jpg', 'cut.png']);
    expect(side.remarks[0]).toContain('images of 2 sizes (5 of 4 x 4, 1 of 9 x 9)');
    expect(side.remarks[1]).toContain('2 left out that cannot be read');
    expect(side.remarks[1]).toContain('bad.jpg');
  });

  test('a tar archive of the same images gives the same statistics', async () => {
    const path = join(root, 'set.tar');
    const entries = Object.entries(five).map(([name, bytes]) => tarEntry(`all/${name}`, bytes));
    writeFileSync(path, Buffer.concat([...entries, tarEntry('all/1.txt', new Uint8Array(3)), TAR_END]));
    const [a, b] = [await sideOf(path), await sideOf(folder('five', five))];
    expect(a.gaussian.count).toBe(5);
    expect(a.gaussian.covariance).toEqual(b.gaussian.covariance);
    const { frechet } = compareSides(lapack, a, b, NO_OTHERS);
    expect(Math.abs(frechet.distance)).toBeLessThan(1e-9);
  });

  test('what is no set is refused with what to do', async () => {
    const outer = folder('outer', {});
    mkdirSync(join(outer, 'inner'));
    expect(() => openImageSet(outer)).toThrow('Name the folder that they lie in');
    expect(() => openImageSet(folder('empty', {}))).toThrow('has no image files');
    expect(() => openImageSet(join(root, 'nothing'))).toThrow('nothing');
    writeFileSync(join(root, 'x.bin'), 'x');
    expect(() => openImageSet(join(root, 'x.bin'))).toThrow('is no set of images');
    const broken = folder('broken', { '1.png': 'no picture', '2.png': '' });
    await expect(sideOf(broken)).rejects.toThrow('none of its 2 images can be read (');
    await expect(sideOf(folder('one', { '1.png': png(1) }))).rejects.toThrow('has one image');
  });
});

describe('comparing', () => {
  const few = { 'a.png': png(1), 'b.png': png(2) };

  test('names of weights and numbers of features must agree', async () => {
    const a = await sideOf(folder('few', few));
    const other = { ...a, origin: { ...ORIGIN, resize: 'bicubic' } };
    expect(() => compareSides(lapack, a, other, NO_OTHERS)).toThrow('its resize are "none"');
    const file = (name: string, sum: string) => {
      return { ...a, origin: { ...ORIGIN, weights: `inception ${name}, sha256 ${sum}` } };
    };
    expect(() => compareSides(lapack, file('a.pth', '12'), file('b c.pth', '12'), NO_OTHERS)).not.toThrow();
    expect(() => compareSides(lapack, file('a.pth', '12'), file('a.pth', '34'), NO_OTHERS)).toThrow(
      'sha256 34',
    );
    const wide = { ...a.gaussian, d: 4 };
    expect(() => compareSides(lapack, a, { ...a, gaussian: wide }, NO_OTHERS)).toThrow('has 3 features');
    const unknown = sideOfStatistics('x.npz', { gaussian: a.gaussian, origin: null, float32: false });
    const { remarks, origin } = compareSides(lapack, a, unknown, NO_OTHERS);
    expect(remarks.join()).toContain('x.npz: does not say which weights');
    expect(remarks.join()).toContain('2 images are too few for a covariance of full rank');
    expect(origin).toEqual(ORIGIN);
    expect(() => compareSides(lapack, a, unknown, { kid: null, precisionRecall: true })).toThrow(
      'need the features of every image',
    );
  });

  test('of statistics the spectrum is looked at: rank, sign, digits', async () => {
    const a = await sideOf(folder('whole', { ...five, '6.png': png(6) }));
    const saved = (sigma: readonly number[], float32 = false) =>
      sideOfStatistics('x.npz', {
        gaussian: {
          d: 3,
          count: null,
          rows: null,
          mean: a.gaussian.mean,
          covariance: Float64Array.from(sigma),
        },
        ...{ origin: ORIGIN, float32 },
      });
    const flat = saved([2, 1, 0, 1, 0.5, 0, 0, 0, 3]);
    for (const [one, two] of [
      [a, flat],
      [flat, a],
      [saved([1, 0, 0, 0, 1, 0, 0, 0, 1]), flat],
    ] as const) {
      const { remarks } = compareSides(lapack, one, two, NO_OTHERS);
      expect(remarks.filter((remark) => remark.includes('singular in'))).toEqual([
        expect.stringContaining('x.npz: its covariance is singular in 1 of 3 directions'),
      ]);
    }
    const saddle = saved([1, 2, 0, 2, 1, 0, 0, 0, 1]);
    expect(() => compareSides(lapack, a, saddle, NO_OTHERS)).toThrow('x.npz: sigma is no covariance');
    expect(() => compareSides(lapack, saddle, a, NO_OTHERS)).toThrow('x.npz: sigma is no covariance');
    expect(saved([1, 0, 0, 0, 1, 0, 0, 0, 1], true).remarks.join()).toContain('rounded to float32');
  });

  test('a covariance without full rank is remarked on', async () => {
    const gray = (i: number) => {
      const data = new Uint8Array(48).fill(i * 20);
      return encodePng({ width: 4, height: 4, channels: 3, data }, []);
    };
    const files = Object.fromEntries([1, 2, 3, 4, 5, 6].map((i) => [`${i}.png`, gray(i)]));
    const side = await sideOf(folder('gray', files));
    const a = { ...side, gaussian: { ...side.gaussian, rows: null } }; // as if there were many images
    const { remarks } = compareSides(lapack, a, await sideOf(folder('colours', five)), NO_OTHERS);
    expect(remarks.join()).toContain('covariance is singular in 2 of 3 directions');
  });
});

/** Features of a set, and the same as plain lists. */
function rowsOf(n: number, d: number, seed: number, shift = 0) {
  const values = Float32Array.from(randomValues(n * d, seed), (v) => v + shift);
  const rows = new FeatureRows(d);
  rows.add(values);
  return { rows, list: Array.from({ length: n }, (_, i) => [...values.subarray(i * d, (i + 1) * d)]) };
}

const dot = (x: number[], y: number[]) => x.reduce((sum, v, i) => sum + v * y[i]!, 0);

describe('KID', () => {
  test('of whole sets is that of the definition, whatever the order', () => {
    const [d, n] = [5, 12];
    const [a, b] = [rowsOf(n, d, 1), rowsOf(n, d, 2, 0.3)];
    const k = (x: number[], y: number[]) => (dot(x, y) / d + 1) ** 3;
    let expected = 0;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        if (i !== j) expected += (k(a.list[i]!, a.list[j]!) + k(b.list[i]!, b.list[j]!)) / (n * (n - 1));
        expected -= (2 * k(a.list[i]!, b.list[j]!)) / n ** 2;
      }
    }
    const kid = kernelDistance(lapack, a.rows, b.rows, { subsets: 3, size: 1000, seed: 0 });
    expect(kid.mean).toBeCloseTo(expected, 10);
    expect(kid.deviation).toBeLessThan(1e-12);
    expect(kid.subset_size).toBe(n);
  });

  test('draws subsets by the seed, and is unbiased', () => {
    const [a, b] = [rowsOf(400, 3, 3), rowsOf(300, 3, 4)];
    const of = (seed: number) => kernelDistance(lapack, a.rows, b.rows, { subsets: 40, size: 50, seed });
    expect(of(1)).toEqual(of(1));
    expect(of(1).mean).not.toBe(of(2).mean);
    // Two draws of one distribution: nothing but chance, some of it below zero.
    expect(Math.abs(of(1).mean)).toBeLessThan(4 * of(1).deviation);
  });
});

describe('precision and recall', () => {
  test('are those of the definition', () => {
    const k = 3;
    const [a, b] = [rowsOf(40, 4, 5), rowsOf(30, 4, 6, 0.4)];
    const distance = (x: number[], y: number[]) => Math.hypot(...x.map((v, i) => v - y[i]!));
    const reach = (set: number[][]) =>
      set.map((x) => set.map((y) => distance(x, y)).sort((p, q) => p - q)[k]!);
    const share = (set: number[][], manifold: number[][]) => {
      const reaches = reach(manifold);
      const hits = set.filter((x) => manifold.some((y, j) => distance(x, y) <= reaches[j]!));
      return hits.length / set.length;
    };
    const found = precisionRecall(lapack, a.rows, b.rows, k);
    expect(found.precision).toBeCloseTo(share(a.list, b.list), 12);
    expect(found.recall).toBeCloseTo(share(b.list, a.list), 12);
    expect(found.precision).toBeGreaterThan(0);
    expect(found.precision).toBeLessThan(1);
  });

  test('need more images than neighbours', () => {
    const { rows } = rowsOf(3, 2, 1);
    expect(() => precisionRecall(lapack, rows, rows, 3)).toThrow('more than 3 images');
  });
});
