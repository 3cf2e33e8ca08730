// Training on shards of pictures: what `prepare` writes without an autoencoder, streamed, gives the batches
// of the same pictures in a folder, whatever the number of Workers and ranks; stops, validation, what is
// refused.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { createCanvas } from '@napi-rs/canvas';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFolder } from '../../../src/data/folder.ts';
import { sourceData } from '../../../src/data/loss-data.ts';
import { folderSource } from '../../../src/data/source.ts';
import { PictureStream } from '../../../src/data/stream/picture-stream.ts';
import type { StreamOptions } from '../../../src/data/stream/sets.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const SHAPE = { size: 8, length: 16, rows: 512 };
const COUNTS = { one: 21, two: 6 };
const ALL = COUNTS.one + COUNTS.two;

function put(folder: string, i: number): void {
  const canvas = createCanvas(11 + (i % 5), 9 + (i % 3));
  const context = canvas.getContext('2d');
  context.fillStyle = `hsl(${i * 53} 80% 50%)`;
  context.fillRect(0, 0, 20, 20);
  context.fillStyle = 'white';
  context.fillRect(i % 7, i % 4, 3, 4);
  mkdirSync(place.at(folder), { recursive: true });
  const name = String(i).padStart(3, '0');
  writeFileSync(place.at(folder, `${name}.png`), canvas.toBuffer('image/png'));
  writeFileSync(place.at(folder, `${name}.txt`), `${folder} number ${i}`);
}

beforeAll(async () => {
  for (const [folder, count] of Object.entries(COUNTS)) {
    for (let i = 0; i < count; i++) put(folder, i);
    const { code } = await place.run(['prepare', folder, '-o', `set/${folder}`, '--size', '8']);
    expect(code).toBe(0);
  }
});

/** What a folder gives for each caption: numbers of the picture, rows of the words. */
async function known(): Promise<Map<string, { image: Float32Array; words: Int32Array }>> {
  const found = new Map<string, { image: Float32Array; words: Int32Array }>();
  for (const name of Object.keys(COUNTS)) {
    const folder = await readFolder(place.at(name), SHAPE.size, () => {});
    const data = sourceData(folderSource(folder, SHAPE), SHAPE);
    for (const [item, caption] of folder.captions.entries()) {
      const image = new Float32Array(data.imageSize);
      const words = new Int32Array(data.captionSize);
      data.image(item, image, 0);
      data.caption(item, words, 0);
      found.set(caption, { image, words });
    }
  }
  return found;
}

/** Places `first` on, `batch` images of a rank at a time. */
async function streamed(count: number, batch: number, options: Partial<StreamOptions> = {}, first = 0) {
  const sets = Object.keys(COUNTS).map((name) => ({ path: place.at('set', name) }));
  const stream = await PictureStream.open(sets, SHAPE, { seed: 3, ...options });
  const ranks = options.ranks ?? 1;
  const rows = new Map<number, { image: Float32Array; words: Int32Array; caption: string }>();
  try {
    const x0 = new Float32Array(batch * 3 * SHAPE.size ** 2);
    const words = new Int32Array(batch * SHAPE.length * 2);
    const places = new Float64Array(batch);
    for (let at = first; at < first + count; at += batch * ranks) {
      await stream.fill({ x0, words }, places, at);
      for (const [n, place] of places.entries()) {
        const [a, b] = [x0.length / batch, words.length / batch];
        rows.set(place, {
          image: x0.slice(n * a, (n + 1) * a),
          words: words.slice(n * b, (n + 1) * b),
          caption: await stream.captionAt(place),
        });
      }
    }
  } finally {
    await stream.close();
  }
  return rows;
}

describe('the stream', () => {
  test('an epoch has every picture once, equal to the folder in every number', async () => {
    const [rows, folder] = [await streamed(ALL, 9), await known()];
    expect(new Set([...rows.values()].map(({ caption }) => caption)).size).toBe(ALL);
    for (const { caption, ...numbers } of rows.values()) expect(numbers).toEqual(folder.get(caption)!);
  });

  test('Workers, batches, ranks and where it begins change nothing', async () => {
    const rows = await streamed(2 * ALL, 9, { workers: 1 });
    expect(await streamed(2 * ALL, 6, { workers: 3 })).toEqual(rows);
    const late = await streamed(ALL, 3, {}, ALL);
    for (const [at, row] of late) expect(row).toEqual(rows.get(at)!);
    for (const rank of [0, 1]) {
      const part = await streamed(2 * ALL, 3, { ranks: 2, rank });
      expect([...part.keys()].every((at) => at % 2 === rank)).toBe(true);
      for (const [at, row] of part) expect(row).toEqual(rows.get(at)!);
    }
  });

  test('compressed shards are unpacked first; larger pictures are cut to the size', async () => {
    const args = ['prepare', 'one', '-o', 'large', '--size', '16,24', '--compression', 'zstd'];
    expect((await place.run(args)).code).toBe(0);
    const cache = { folder: place.at('cache') };
    const stream = await PictureStream.open([{ path: place.at('large') }], SHAPE, { seed: 0, cache });
    const x0 = new Float32Array(3 * SHAPE.size ** 2);
    const words = new Int32Array(SHAPE.length * 2);
    await stream.fill({ x0, words }, new Float64Array(1), 0);
    const caption = await stream.captionAt(0);
    await stream.close();
    const { image, words: rows } = (await known()).get(caption)!;
    expect([...words]).toEqual([...rows]);
    const off = image.reduce((sum, v, i) => sum + Math.abs(v - x0[i]!), 0) / image.length;
    expect(off).toBeLessThan(0.3);
  });

  test('a picture that cannot be decoded is named with its shard', async () => {
    const columns = { caption: 'str', image_8: 'png' };
    using writer = MdsWriter.open(place.at('broken'), columns);
    const png = readFileSync(place.at('one/000.png'));
    const bytes = new Uint8Array(png.subarray(0, png.length - 30));
    for (const caption of ['a', 'b']) {
      writer.write({ caption, image_8: { kind: 'image', format: 'png', bytes } });
    }
    writer.finish();
    const { code, err } = await place.run(['train', 'tiny', '--data', 'broken', '-o', 'x', '--steps', '1']);
    expect(code).toBe(1);
    expect(err).toMatch(
      /broken\/shard\.00000\.mds: sample \d of shard 0 \(\d of the set\) cannot be decoded/,
    );
  });
});

describe('train --data SET', () => {
  const train = (run: string, last: number, ...more: string[]) => {
    const stages = ['--set', 'stage.0.steps=4', '--set', `stage.1.steps=${last}`];
    return place.run(['train', 'tiny', '--data', 'set', '-o', run, ...stages, ...more]);
  };

  test('goes on to the bits of a run in one go, and measures on samples that it holds out', async () => {
    const more = ['--set', 'data.validation=5', '--set', 'train.log_every=1'];
    const whole = await train('whole', 3, ...more);
    expect([whole.code, whole.out]).toEqual([0, 'whole\n']);
    expect((await train('parts', 1, ...more)).code).toBe(0);
    const rest = await train('parts', 3, ...more, '--set', 'data.workers=3');
    expect([rest.code, rest.err]).toEqual([0, expect.stringContaining('goes on from step 5 of 7')]);
    const steps = (run: string) => place.metrics(run).filter(({ val_loss }) => val_loss === undefined);
    expect(steps('parts')).toEqual(steps('whole'));
    const [a, b] = ['parts', 'whole'].map((run) => place.hashes(run, 'checkpoints/step-00000007'));
    expect(a!['optimizer.safetensors']).toBe(b!['optimizer.safetensors']!);
    expect(place.metrics('whole').filter(({ val_loss }) => Number(val_loss) > 0).length).toBe(1);
  });

  test('eval loss takes it: of as many samples as of the folder, the same number', async () => {
    const args = ['eval', 'loss', '-m', 'whole', '--json', '--batch-size', '4', '--data'];
    const results = await Promise.all(['one', 'set/one'].map((data) => place.run([...args, data])));
    const [folder, set] = results.map(({ out }) => JSON.parse(out));
    expect(set.loss).toBe(folder.loss);
    expect([set.count, set.levels]).toEqual([COUNTS.one, folder.levels]);
  });

  test('weights are taken; other sources beside shards, and pictures too small, are refused', async () => {
    const sets = ['--set', 'data.source.0.weight=1', '--set', 'data.source.1.weight=3'];
    expect((await train('weighted', 1, ...sets)).code).toBe(0);
    const mixed = await place.run(['train', 'tiny', '--data', 'set', '--data', 'one', '-o', 'y']);
    expect([mixed.code, mixed.err]).toEqual([2, expect.stringContaining('folder is not mixed with shards')]);
    const small = await train('y', 1, '--set', 'model.input_size=16', '--set', 'image.size=16');
    expect([small.code, small.err]).toEqual([2, expect.stringContaining('no pictures of 16 x 16 pixels')]);
  });
});
