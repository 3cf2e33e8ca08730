// Training on shards of latents, by the command: states of a text tower or token ids in the data, two sizes
// in
// two stages, previews through tower and autoencoder, a stop and a resume, and pictures from what came out.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { writeFileSync } from 'node:fs';
import { float32ToF16 } from '../../../src/io/dtype.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { clipTokenizer } from '../../../src/text/vocabulary.ts';
import { randomValues } from '../op-case.ts';
import { writeTinyParts } from '../sample/tiny-parts.ts';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const TOKENS = 77;
const WIDTH = 8;

function halves(count: number, seed: number): Uint8Array {
  const bits = new Uint16Array(count);
  float32ToF16(Float32Array.from(randomValues(count, seed)), bits);
  return new Uint8Array(bits.buffer);
}

/** So many samples with latents of both sizes, and captions in both forms. */
function writeSet(name: string, count: number): void {
  const columns = {
    ...{ caption: 'str', caption_latents: 'bytes', caption_tokens: 'bytes' },
    ...{ latents_64: 'bytes', latents_128: 'bytes' },
  };
  using writer = MdsWriter.open(place.at(name), columns, { sizeLimit: 40_000 });
  for (let i = 0; i < count; i++) {
    const caption = `a fox number ${i} of ${name}`;
    const { ids } = clipTokenizer().encode(caption);
    writer.write({
      caption,
      caption_latents: halves(TOKENS * WIDTH, i),
      caption_tokens: new Uint8Array(Uint16Array.from(ids).buffer),
      latents_64: halves(4 * 8 * 8, 1000 + i),
      latents_128: halves(4 * 16 * 16, 2000 + i),
    });
  }
  writer.finish();
}

const recipe = (encoder: 'states' | 'clip') => `
[model]
preset = "nano"
in_channels = 4
caption_channels = ${WIDTH}
[image]
kind = "latents"
vae = "vae.safetensors"
[text]
encoder = "${encoder}"
clip = "clip.safetensors"
length = ${TOKENS}
[[data.source]]
name = "mds"
path = "data/a"
[[data.source]]
name = "mds"
path = "data/b"
stages = [1]
[train]
batch_size = 4
log_every = 1
checkpoint_every = 2
preview_prompts = ["a fox", "a rocket"]
[sample]
steps = 2
[[stage]]
steps = 5
mask_ratio = 0.5
[[stage]]
steps = 3
input_size = 16
pos_interp_scale = 2.0
optimizer = "drop"
`;

beforeAll(() => {
  writeTinyParts(place.folder);
  writeSet('data/a', 23);
  writeSet('data/b', 9);
  for (const encoder of ['states', 'clip'] as const) {
    writeFileSync(place.at(`${encoder}.toml`), recipe(encoder));
  }
});

describe.each(['states', 'clip'] as const)('captions as %s', (encoder) => {
  const [all, split] = [`${encoder}-whole`, `${encoder}-parts`];
  const train = (run: string, ...more: string[]) => ['train', `${encoder}.toml`, '-o', run, ...more];

  test('a run through both sizes, stopped and gone on with, is the run in one go', async () => {
    const whole = await place.run(train(all));
    expect([whole.code, whole.out]).toEqual([0, `${all}\n`]);
    expect(place.metrics(all).map(({ stage }) => stage)).toEqual([0, 0, 0, 0, 0, 1, 1, 1]);
    // The lengths of stages may change: the first six steps, then the rest.
    const sets = ['--set', 'stage.1.steps=1'];
    expect((await place.run(train(split, ...sets))).code).toBe(0);
    expect((await place.run(train(split))).code).toBe(0);
    expect(place.metrics(split)).toEqual(place.metrics(all));
    const [a, b] = [all, split].map((run) => place.hashes(run, 'checkpoints/step-00000008'));
    expect(a!['model.safetensors']).toBe(b!['model.safetensors']!);
    expect(a!['optimizer.safetensors']).toBe(b!['optimizer.safetensors']!);
  });

  test('the last samples of the first set are held out for the validation loss', async () => {
    const sets = ['data.validation=3', 'train.validate_every=4', 'train.preview_every=0'];
    const run = `${encoder}-held`;
    expect((await place.run(train(run, ...sets.flatMap((key) => ['--set', key])))).code).toBe(0);
    const lines = place.metrics(run).filter(({ val_loss }) => val_loss !== undefined);
    expect(lines.map(({ step }) => step)).toEqual([4, 8]);
    for (const { val_loss } of lines) expect(val_loss).toBeGreaterThan(0);
    // 20 samples of the set are left to train on: those of the run with so many of them.
    const fewer = train(`${encoder}-fewer`, '--set', 'data.source.0.count=20');
    expect((await place.run(fewer)).code).toBe(0);
    const steps = place.metrics(run).filter(({ val_loss }) => val_loss === undefined);
    expect(steps).toEqual(place.metrics(`${encoder}-fewer`));
  });

  test('previews and pictures go through tower and autoencoder', async () => {
    expect(Object.keys(place.hashes(all, 'previews'))).toEqual(['step-00000008.png']);
    const drawn = await place.run(['sample', '-m', all, 'a fox', '--steps', '2', '-o', 'fox.png']);
    expect(drawn.code).toBe(0);
    expect(JSON.parse(drawn.out)).toMatchObject({ width: 32, height: 32, model: all });
  });
});

describe('what cannot be trained on', () => {
  test('a set without the column, a folder without shards, pictures for latents', async () => {
    const wide = await place.run(['train', 'states.toml', '-o', 'r', '--set', 'model.input_size=12']);
    expect([wide.code, wide.err]).toEqual([2, expect.stringContaining('latents_96')]);
    const none = await place.run(['train', 'states.toml', '-o', 'r', '--data', 'nothing']);
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('Say name = "mds"')]);
    const pixels = await place.run(['train', 'tiny', '-o', 'r', '--data', 'data']);
    expect([pixels.code, pixels.err]).toEqual([2, expect.stringContaining('shards hold latents')]);
  });

  test('token ids without the tower that reads them', async () => {
    const lost = await place.run(['train', 'clip.toml', '-o', 'r', '--set', 'text.clip=gone.safetensors']);
    expect([lost.code, lost.err]).toEqual([1, expect.stringContaining('gone.safetensors')]);
  });
});
