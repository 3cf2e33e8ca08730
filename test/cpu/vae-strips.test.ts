// Decoding in strips: equal to the bit to decoding at once, in no more memory than was allowed, with the
// statistics of the whole image; and what happens where the memory is too little.
import { afterAll, describe, expect, test } from 'bun:test';
import type { Backend } from '../../src/backend/backend.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { type Size, Vae } from '../../src/sample/autoencoder.ts';
import { Strips, type Tiling } from '../../src/sample/strips.ts';
import { readVaeConfigFile } from '../../src/vae/config.ts';
import { bothBackends, nmse, randomValues } from './op-case.ts';

const GOLDENS = new URL('../goldens/vae', import.meta.url).pathname;
const config = readVaeConfigFile(`${GOLDENS}/b_groups8.config.json`);
const weights = Safetensors.open(`${GOLDENS}/b_groups8.weights.safetensors`);
afterAll(() => weights.close());

/** The backend, counting what is allocated: `peak` since it was last set to 0. */
function counting(backend: Backend): Backend & { live: number; peak: number } {
  const counter = {
    ...backend,
    live: 0,
    peak: 0,
    alloc(bytes: number) {
      const region = backend.alloc(bytes);
      counter.live += bytes;
      counter.peak = Math.max(counter.peak, counter.live);
      const free = region.free.bind(region);
      region.free = () => {
        counter.live -= bytes;
        free();
      };
      return region;
    },
  };
  return counter;
}

/** Budgets from that of everything at once down to the least that works, with their tilings. */
function budgets(strips: Strips): [number, Tiling][] {
  const { bytes } = strips.tiling(Number.POSITIVE_INFINITY);
  return [1, 0.8, 0.6, 0.4, 0.25, 0.15].flatMap((part): [number, Tiling][] => {
    const memory = Math.floor(part * bytes);
    try {
      return [[memory, strips.tiling(memory)]];
    } catch {
      return [];
    }
  });
}

describe.each<[string, Size]>([
  ['square', { height: 12, width: 12 }],
  ['wide', { height: 5, width: 18 }],
  ['tall, odd', { height: 19, width: 3 }],
])('%s latents', (_, size) => {
  const latent = randomValues(4 * size.height * size.width, 5);

  test('equal bits in less memory', () => {
    const backend = counting(bothBackends().f32);
    const vae = Vae.load(backend, config, weights);
    const tilings = budgets(new Strips(vae, size));
    expect(tilings[0]![1].stretches).toEqual([]);
    expect(tilings.length).toBeGreaterThan(3);
    expect(tilings.at(-1)![1].stretches.length).toBeGreaterThan(1);
    const want = vae.decode(latent, size, tilings[0]![0]);
    for (const [memory, tiling] of tilings.slice(1)) {
      expect(tiling.bytes).toBeLessThanOrEqual(memory);
      backend.peak = backend.live;
      const before = backend.live;
      expect(vae.decode(latent, size, memory)).toEqual(want);
      expect(backend.peak - before).toBeLessThanOrEqual(memory);
      expect(backend.live).toBe(before);
    }
    expect(vae.decode(latent, size)).toEqual(want);
    vae.free();
    expect(backend.live).toBe(0);
  });
});

test('in float64 equal within rounding', () => {
  const vae = Vae.load(bothBackends().f64, config, weights);
  const size = { height: 9, width: 7 };
  const latent = randomValues(4 * 63, 7);
  const want = vae.decode(latent, size);
  const [memory, tiling] = budgets(new Strips(vae, size)).at(-1)!;
  expect(tiling.stretches.length).toBeGreaterThan(1);
  expect(nmse(vae.decode(latent, size, memory), want)).toBeLessThan(1e-26);
  vae.free();
});

test('too little memory is said, with the least that is enough', () => {
  const vae = Vae.load(bothBackends().f32, config, weights);
  const latent = randomValues(4 * 64, 6);
  expect(() => vae.decode(latent, { height: 8, width: 8 }, 1000)).toThrow(
    /64 x 64 pixels in 1 MiB.*more than \d+ MiB/,
  );
  expect(() => vae.decode(latent, { height: 8, width: 9 }, 1e9)).toThrow('256 values for 4 x 8 x 9');
  vae.free();
});
