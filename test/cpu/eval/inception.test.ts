// Inception: the goldens, what happens when the computation is another one, files of weights that do not fit,
// batches and images of any size.
import { afterAll, describe, expect, test } from 'bun:test';
import { formulaFile } from '../../../src/eval/formula-weights.ts';
import { InceptionNetwork } from '../../../src/eval/inception.ts';
import { verifyInception } from '../../../src/eval/inception-set.ts';
import { checkInceptionFile, type InceptionFile, stateDict } from '../../../src/inception/fold.ts';
import { declareInception } from '../../../src/inception/network.ts';
import { resizeBilinear } from '../../../src/inception/resize.ts';
import { bothBackends, randomValues } from '../op-case.ts';

const GOLDENS = new URL('../../goldens/fid', import.meta.url).pathname;
const backend = bothBackends().f32;

test('the goldens', () => {
  const groups = [...verifyInception(GOLDENS, backend, '')];
  expect(groups.filter(({ status }) => status !== 'pass')).toEqual([]);
  expect(groups.map(({ group }) => group)).toEqual([
    'weights by formula',
    'inception resized',
    'inception features',
    'inception means',
    'inception first module',
  ]);
});

test('with other weights they are missed', () => {
  const groups = [...verifyInception(GOLDENS, backend, 'salt')];
  const failed = groups.filter(({ status }) => status === 'fail').map(({ group }) => group);
  expect(failed).toContain('inception features');
  expect(failed).toContain('inception means');
});

/** A batch norm's parts are small: a network of zeros and ones is made without the formula. */
const network = declareInception();
const shapes = stateDict(network);
const plain: InceptionFile = {
  path: 'plain.pth',
  tensors: new Map([...shapes].map(([name, shape]) => [name, { shape }])),
  readFloat64: (name) => {
    const count = shapes.get(name)!.reduce((a, b) => a * b, 1);
    if (!name.endsWith('conv.weight')) return new Float64Array(count).fill(/weight|var/.test(name) ? 1 : 0);
    const scale = Math.sqrt(6 / (count / shapes.get(name)![0]!));
    const some = randomValues(1021, count);
    return Float64Array.from({ length: count }, (_, i) => some[i % 1021]! * scale);
  },
};

describe('images', () => {
  const loaded = InceptionNetwork.load(backend, plain, { batch: 2 });
  afterAll(() => loaded.free());
  const image = (width: number, height: number, seed: number) => ({
    ...{ width, height },
    data: Uint8Array.from(randomValues(width * height * 3, seed), (v) => Math.floor((v + 1) * 127.9)),
  });

  test('of different sizes go together, and a place in the batch changes nothing', () => {
    const [a, b] = [image(31, 17, 1), image(310, 299, 2)];
    const together = loaded.features([a, b]);
    const alone = [loaded.features([b]), loaded.features([a])];
    expect(together.length).toBe(2 * 2048);
    expect(together.subarray(2048)).toEqual(alone[0]!);
    expect(together.subarray(0, 2048)).toEqual(alone[1]!);
    expect(alone[0]).not.toEqual(alone[1]!);
    expect(() => loaded.features([a, a, a])).toThrow('3 images at once');
  });
});

describe('resizing', () => {
  test('keeps an image of the size itself, and the corners of any', () => {
    const [side, data] = [5, Uint8Array.from({ length: 75 }, (_, i) => (i * 37) % 256)];
    const same = new Float32Array(75);
    resizeBilinear({ width: 5, height: 5, data }, side, same);
    expect(same).toEqual(Float32Array.from(data, (v) => v / 255));
    const large = new Float32Array(11 * 11 * 3 + 1);
    resizeBilinear({ width: 5, height: 5, data }, 11, large, { at: 1, scale: 2, shift: -1 });
    expect(large[1]).toBeCloseTo((2 * data[0]!) / 255 - 1, 6);
    expect(large.at(-1)).toBeCloseTo((2 * data[74]!) / 255 - 1, 6);
  });

  test('takes the nearest two pixels of each side and no more when it reduces', () => {
    // 6 -> 2: centres at 1 and 4.
    const row = Uint8Array.from([10, 20, 30, 40, 50, 60].flatMap((v) => [v, v, v]));
    const out = new Float32Array(12);
    const data = new Uint8Array(6 * 18);
    for (let y = 0; y < 6; y++) data.set(row, y * 18);
    resizeBilinear({ width: 6, height: 6, data }, 2, out, { scale: 255 });
    expect([...out]).toEqual([20, 20, 20, 50, 50, 50, 20, 20, 20, 50, 50, 50]);
  });
});

describe('files', () => {
  const changed = (change: (tensors: Map<string, { shape: readonly number[] }>) => void) => {
    const tensors = new Map(plain.tensors);
    change(tensors);
    return () => checkInceptionFile(network, { ...plain, tensors });
  };

  test('without the counters of batches are taken', () => {
    const without = changed((t) => {
      for (const name of [...t.keys()]) if (name.endsWith('num_batches_tracked')) t.delete(name);
    });
    expect(without).not.toThrow();
  });

  test('of another network are refused', () => {
    expect(changed((t) => t.delete('Mixed_6e.branch_pool.bn.bias'))).toThrow(
      'plain.pth: tensor Mixed_6e.branch_pool.bn.bias is missing',
    );
    expect(changed((t) => t.set('fc.weight', { shape: [1000, 2048] }))).toThrow('has shape [1000, 2048]');
    expect(changed((t) => t.set('AuxLogits.fc.bias', { shape: [1000] }))).toThrow('AuxLogits.fc.bias');
  });

  test('by the formula differ by their salt', () => {
    const [one, two] = ['', 'x'].map((salt) => {
      return formulaFile(shapes, { salt, gain: 1 }).readFloat64('Conv2d_1a_3x3.bn.bias');
    });
    expect(one).not.toEqual(two);
  });
});
