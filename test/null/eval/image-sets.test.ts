// Sets of images in every form: the same pictures out of shards of each encoding, of archives and of folders
// of archives; which column is taken; and what the command line of eval fid refuses before any work.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openImageSet } from '../../../src/eval/image-sets.ts';
import type { MdsSample } from '../../../src/io/mds/values.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { encodePng } from '../../../src/io/png.ts';
import { TAR_END, tarEntry } from '../../../src/io/tar.ts';
import { zip } from '../torch-case.ts';

const root = mkdtempSync(join(tmpdir(), 'image-sets-'));
afterAll(() => rmSync(root, { recursive: true }));
const [width, height] = [5, 3];

const pixels = (seed: number) =>
  Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37 + seed) % 256);
const png = (seed: number) => encodePng({ width, height, channels: 3, data: pixels(seed) }, []);
const SEEDS = [10, 20, 30];
const WANTED = SEEDS.map((seed) => [...pixels(seed)]);

async function read(path: string) {
  const unreadable: string[] = [];
  const images: number[][] = [];
  const set = openImageSet(path);
  for await (const image of set.images(({ why }) => unreadable.push(why))) images.push([...image.data]);
  return { count: set.count, images, unreadable };
}

function shards(name: string, columns: Record<string, string>, sample: (seed: number) => MdsSample): string {
  const folder = join(root, name);
  using writer = MdsWriter.open(folder, columns, { sizeLimit: 300 });
  for (const seed of SEEDS) writer.write(sample(seed));
  writer.finish();
  return folder;
}

const image = (seed: number) => ({ kind: 'image', format: 'png', bytes: png(seed) }) as const;
const raw = (seed: number) => ({ kind: 'pixels', mode: 'RGB', width, height, bytes: pixels(seed) }) as const;

describe('shards', () => {
  test.each([
    ['png', { caption: 'str', image: 'png' }, (seed: number) => ({ caption: 'a', image: image(seed) })],
    ['pil', { image: 'pil' }, (seed: number) => ({ image: raw(seed) })],
    [
      'bytes',
      { jpg: 'bytes', latents_256: 'bytes' },
      (seed: number) => ({ jpg: png(seed), latents_256: png(1) }),
    ],
    ['mask', { image: 'png', a: 'png' }, (seed: number) => ({ image: image(seed), a: image(0) })],
    [
      'sizes',
      { image_64: 'png', image_8: 'png' },
      (seed: number) => ({ image_64: image(seed), image_8: image(0) }),
    ],
  ] as const)('of %s', async (name, columns, sample) => {
    expect(await read(shards(name, columns, sample))).toEqual({ count: 3, images: WANTED, unreadable: [] });
  });

  test('with no column of images, or several, are refused', () => {
    const none = shards('none', { latents_256: 'bytes' }, (seed) => ({ latents_256: png(seed) }));
    expect(() => openImageSet(none)).toThrow('has no column of images (it has latents_256)');
    const two = shards('two', { a: 'png', b: 'png' }, (seed) => ({ a: image(seed), b: image(seed) }));
    expect(() => openImageSet(two)).toThrow('has several columns of images (a, b)');
  });
});

test.skipIf(process.getuid?.() === 0)('a folder that may not be listed is told as such', () => {
  const locked = join(root, 'locked');
  mkdirSync(locked, 0o311);
  expect(() => openImageSet(locked)).toThrow('locked: cannot read');
});

describe('archives', () => {
  const tar = (seeds: readonly number[]) =>
    Buffer.concat([...seeds.map((seed) => tarEntry(`x/${seed}.png`, png(seed))), TAR_END]);

  test('a zip, in the order of names', async () => {
    const path = join(root, 'a.zip');
    const entries = [30, 10, 20].map((seed) => ({ name: `x/${seed}.png`, data: png(seed) }));
    writeFileSync(path, zip([...entries, { name: 'x/captions.txt', data: png(1) }]));
    expect(await read(path)).toEqual({ count: 3, images: WANTED, unreadable: [] });
    writeFileSync(path, zip([...entries.slice(0, 2), { name: 'x/20.png', data: png(20), crc: 1 }]));
    const { images, unreadable } = await read(path);
    expect(images).toEqual([WANTED[0]!, WANTED[2]!]);
    expect(unreadable[0]).toContain('20.png');
  });

  test('of files without zeros before their numbers the second goes before the tenth', async () => {
    const folder = join(root, 'counted');
    mkdirSync(folder);
    for (const [i, number] of [2, 10, 11].entries())
      writeFileSync(join(folder, `${number}.png`), png(SEEDS[i]!));
    expect((await read(folder)).images).toEqual(WANTED);
  });

  test('a folder of tars, one after another', async () => {
    const folder = join(root, 'tars');
    mkdirSync(folder);
    writeFileSync(join(folder, '1.tar'), tar([20, 30]));
    writeFileSync(join(folder, '0.tar.gz'), Bun.gzipSync(tar([10])));
    expect(await read(folder)).toEqual({ count: null, images: WANTED, unreadable: [] });
  });
});

describe('eval refuses at once', () => {
  const main = new URL('../../../src/cli/main.ts', import.meta.url).pathname;
  writeFileSync(join(root, 'a.npz'), zip([]));
  writeFileSync(join(root, 'two.txt'), 'a cat\na dog\n');
  mkdirSync(join(root, 'photos'));
  writeFileSync(join(root, 'photos/1.png'), png(1));
  test.each([
    ['clip-score photos --prompts two.txt', 'photos: has 1 images for 2 prompts', 1],
    ['photos photos --count 5', '--count: is for a model that draws, and there is none', 2],
    ['photos photos --clip x', '--clip: is for --features clip', 2],
    ['emojy photos --prompts p.txt', 'emojy: is no file, no folder and no known model', 2],
    ['photos a.npz --pr', 'a.npz: holds statistics; KID, precision and recall need', 2],
    ['a.npz a.npz --features clip', '--features: chooses a network for images, both sets are statistics', 2],
    ['emoji photos --prompts two.txt -o ./photos', '-o ./photos: is a set that is measured', 2],
    ['emoji nowhere --prompts p.txt -o d', 'nowhere: cannot read: no such file or folder', 1],
    ['emoji a.npz --prompts p.txt -o d', 'a.npz: has no array "mu"', 1],
  ] as const)('%s', (line, why, code) => {
    const words = line.startsWith('clip-score') ? line.split(' ') : ['fid', ...line.split(' ')];
    const command = [process.execPath, main, 'eval', ...words];
    const { exitCode, stderr } = Bun.spawnSync(command, { cwd: root, stdin: 'ignore' });
    expect(stderr.toString()).toContain(why);
    expect(exitCode).toBe(code);
  });
});
