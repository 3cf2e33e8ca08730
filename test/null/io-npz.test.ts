// numpy's archives: what savez_compressed wrote, arrays of other kinds, damage; statistics that do not fit.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readStatistics } from '../../src/eval/statistics-file.ts';
import { parseNpy, readNpz } from '../../src/io/npz.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { writeSafetensors } from '../../src/io/safetensors_write.ts';

const STATS = new URL('../goldens/fid/stats_small', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'npz-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A .npy file of one array. */
function npy(descr: string, shape: string, data: ArrayBufferView, { fortran = false, version = 1 } = {}) {
  const text = `{'descr': '${descr}', 'fortran_order': ${fortran ? 'True' : 'False'}, 'shape': ${shape}, }\n`;
  const size =
    version === 1 ? [text.length & 255, text.length >> 8] : [text.length & 255, text.length >> 8, 0, 0];
  const head = [0x93, ...Buffer.from('NUMPY'), version, 0, ...size, ...Buffer.from(text)];
  return new Uint8Array([...head, ...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]);
}

test('what numpy wrote', () => {
  const { mu, sigma } = readNpz(`${STATS}.npz`, ['mu', 'sigma']);
  using file = Safetensors.open(`${STATS}.safetensors`);
  expect(mu.shape).toEqual([17]);
  expect(mu.values).toEqual(file.readFloat64('mu'));
  expect(sigma.shape).toEqual([17, 17]);
  expect(sigma.values).toEqual(file.readFloat64('sigma'));
  expect(() => readNpz(`${STATS}.npz`, ['nu'])).toThrow('has no array "nu" (it holds mu, sigma)');
});

describe('arrays', () => {
  test('float32, Fortran order, wide headers', () => {
    const values = Float32Array.of(1, 2, 3, 4, 5, 6);
    expect([...parseNpy(npy('<f4', '(6,)', values), 'x').values]).toEqual([1, 2, 3, 4, 5, 6]);
    const turned = parseNpy(npy('<f4', '(2, 3)', values, { fortran: true, version: 2 }), 'x');
    expect(turned.shape).toEqual([2, 3]);
    expect([...turned.values]).toEqual([1, 3, 5, 2, 4, 6]);
    expect(parseNpy(npy('<f8', '()', Float64Array.of(7)), 'x')).toEqual({
      shape: [],
      values: Float64Array.of(7),
    });
  });

  test('others are refused', () => {
    const values = Float64Array.of(1, 2);
    expect(() => parseNpy(npy('<i8', '(2,)', values), 'x')).toThrow('type <i8');
    expect(() => parseNpy(npy('<f8', '(3,)', values), 'x')).toThrow('16 bytes for 3 numbers');
    expect(() => parseNpy(npy('<f8', '(2,)', values).slice(0, 20), 'x')).toThrow('cut off');
    expect(() => parseNpy(new Uint8Array(100), 'x')).toThrow('no array of numpy');
  });
});

test('damage is noticed', () => {
  const whole = readFileSync(`${STATS}.npz`);
  for (let at = 0; at < whole.length; at += 13) {
    const bytes = Uint8Array.from(whole);
    bytes[at]! ^= 0x40;
    const path = join(folder, 'damaged.npz');
    writeFileSync(path, bytes);
    // Nothing but a Failure, or the numbers as they were (a date, an attribute).
    try {
      expect(readNpz(path, ['mu', 'sigma']).mu).toEqual(readNpz(`${STATS}.npz`, ['mu']).mu);
    } catch (error) {
      expect(error).toHaveProperty('name', 'Failure');
    }
  }
});

describe('statistics that do not fit', () => {
  const write = (mu: number[], sigma: number[], shape = [mu.length, mu.length]) => {
    const path = join(folder, 'stats.safetensors');
    writeSafetensors(path, [
      { name: 'mu', dtype: 'F64', shape: [mu.length], data: Float64Array.from(mu) },
      { name: 'sigma', dtype: 'F64', shape, data: Float64Array.from(sigma) },
    ]);
    return () => readStatistics(path);
  };

  test('are refused', () => {
    expect(write([1, 2], [1, 0, 0, 1])().gaussian.d).toBe(2);
    expect(write([1, 2], [1, 0], [1, 2])).toThrow('not those of one set');
    expect(write([1, 2], [1, 0.5, 0.1, 1])).toThrow('not symmetric');
    expect(write([1, 2], [1, 0, 0, -1])).toThrow('variance 1 of sigma is negative');
    expect(write([1, Number.NaN], [1, 0, 0, 1])).toThrow('not finite');
  });

  test('of one feature are a scalar, and rounding below zero is no negative variance', () => {
    expect(write([3], [2], [])().gaussian).toMatchObject({ d: 1, covariance: Float64Array.of(2) });
    expect([...write([1, 2], [1, 0, 0, -1e-17])().gaussian.covariance]).toEqual([1, 0, 0, -1e-17]);
  });
});
