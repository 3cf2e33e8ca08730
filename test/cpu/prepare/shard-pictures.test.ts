// Pictures of a set of shards through an autoencoder, as `data inspect --vae` draws them.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpuBackend } from '../../../src/backend/cpu.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { shardPictures } from '../../../src/prepare/shard-pictures.ts';
import { loadLatentDecoder } from '../../../src/sample/published.ts';

const VAE = 'test/goldens/vae/b_groups8.weights.safetensors';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microdiff-shard-pictures-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('latents are decoded, those with numbers that are not finite stay blank', async () => {
  const latents = Array.from({ length: 3 }, (_, n) => {
    return Float16Array.from({ length: 4 * 24 * 24 }, (_v, i) => Math.sin(i * (n + 1)) / 4);
  });
  latents[1]![7] = Number.NaN;
  const set = join(folder, 'set');
  using writer = MdsWriter.open(set, { caption: 'str', latents_256: 'bytes', moments: 'bytes' });
  for (const [n, latent] of latents.entries()) {
    const bytes = new Uint8Array(latent.buffer);
    writer.write({ caption: `picture ${n}`, latents_256: bytes, moments: new Uint8Array(2 * 8 * 9) });
  }
  writer.finish();
  const decoder = loadLatentDecoder(await cpuBackend(), VAE);
  const found = await shardPictures(set, 10, decoder);
  expect(found?.column).toBe('latents_256');
  expect(found?.how).toBe('latents, decoded (shape guessed: 4 x 24 x 24)');
  expect(found?.pictures.map(({ caption }) => caption)).toEqual(['picture 0', 'picture 1', 'picture 2']);
  for (const [n, latent] of latents.entries()) {
    // 24 x 8 pixels are the 192 of the sheet: nothing is resized.
    const expected = decoder.decode(latent, 0, { height: 24, width: 24 });
    const { data } = found!.pictures[n]!.pixels;
    if (n === 1) expect(new Set(data)).toEqual(new Set([0xf4]));
    else expect(Array.from(data)).toEqual(Array.from(expected!.data));
  }
  decoder.free();
});
