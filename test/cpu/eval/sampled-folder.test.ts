// Pictures drawn to be measured: a second run draws nothing, and a folder whose pictures something else
// drew is
// refused. Parts of a set may be single images.
import { afterAll, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { drawMissing } from '../../../src/eval/sampled-folder.ts';
import { encodePng } from '../../../src/io/png.ts';
import { bothBackends } from '../op-case.ts';
import { tinyModel } from '../sample/tiny-model.ts';

const root = mkdtempSync(join(tmpdir(), 'drawn-'));
afterAll(() => rmSync(root, { recursive: true }));
const png = (v: number) =>
  encodePng({ width: 4, height: 4, channels: 3, data: new Uint8Array(48).fill(v) }, []);

test('pictures of other weights, of any part, are not taken', async () => {
  const { f32 } = bothBackends();
  const model = tinyModel(f32);
  let drawn = 0;
  const draw = (folder: string, vae: string) =>
    drawMissing(f32, model, ['a cat', 'a dog'], folder, {
      ...{ checksums: { model_sha256: '1', vae_sha256: vae }, steps: 1, cfg_scale: 1, seed: 0, batchSize: 2 },
      onPicture: () => drawn++,
    });
  const folder = join(root, 'drawn');
  expect(await draw(folder, '2')).toEqual(['000000.png', '000001.png']);
  await draw(folder, '2');
  expect(drawn).toBe(2);
  await expect(draw(folder, '3')).rejects.toThrow('holds pictures drawn with other settings');
  const photos = join(root, 'photos');
  mkdirSync(photos);
  writeFileSync(join(photos, '000001.png'), png(1));
  await expect(draw(photos, '2')).rejects.toThrow('holds 000001.png, and no sampled.json says what drew it');
});

test('eval stats joins parts of one image, and looks at every part before the first is measured', () => {
  for (const name of ['a', 'b']) {
    mkdirSync(join(root, name));
    writeFileSync(join(root, name, '1.png'), png(name.charCodeAt(0)));
  }
  const main = new URL('../../../src/cli/main.ts', import.meta.url).pathname;
  const stats = (...sets: string[]) => {
    const words = [main, 'eval', 'stats', ...sets, '--weights', 'formula', '-o', 'new/s.safetensors'];
    const { stdout, stderr } = Bun.spawnSync([process.execPath, ...words], { cwd: root, stdin: 'ignore' });
    return { out: stdout.toString(), err: stderr.toString() };
  };
  expect(stats('a', 'b').out).toStartWith('new/s.safetensors: 2 images, inception, made up');
  const { err } = stats('a', 'none');
  expect(err).toContain('none: cannot read: no such file or folder');
  expect(err).not.toContain('images/s');
});
