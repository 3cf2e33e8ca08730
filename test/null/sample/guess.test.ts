// What info says of a file of tensors: presets by their shapes, CLIP, autoencoders, everything else.

import { expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { guessContent } from '../../../src/sample/guess.ts';

const GOLDENS = join(import.meta.dir, '../../goldens/microdit');

const shapes = (list: Readonly<Record<string, readonly number[]>>, prefix = '') =>
  new Map(Object.entries(list).map(([name, shape]) => [prefix + name, { shape }]));

/** Presets of the reference by name, with all shapes. */
const reference: Record<string, { state_dict: Record<string, number[]>; args: Record<string, number> }> =
  JSON.parse(readFileSync(join(GOLDENS, 'model_shapes.json'), 'utf8'));

test('the presets of the reference, at every size and under prefixes', () => {
  for (const [title, { state_dict, args }] of Object.entries(reference)) {
    for (const prefix of ['', 'dit.']) {
      expect(guessContent(shapes(state_dict, prefix))).toMatchObject({
        what: 'MicroDiT',
        preset: title.split(' ')[0]!,
        in_channels: args.in_channels!,
        input_size: args.input_size!,
        caption_channels: 1024,
      });
    }
  }
});

test('one shape, one name or one block off is no preset', () => {
  const { state_dict } = reference['MicroDiT_Tiny_2 in_channels=4 input_size=32']!;
  const preset = (list: Record<string, number[]>) => guessContent(shapes(list)).preset;
  expect(preset(state_dict)).toBe('MicroDiT_Tiny_2');
  expect(preset({ ...state_dict, 'blocks.0.norm1.weight': [513] })).toBeNull();
  expect(preset({ ...state_dict, extra: [1] })).toBeNull();
  expect(preset({ ...state_dict, 'text_embedder.weight': [3, 4] })).toBe('MicroDiT_Tiny_2');
  expect(
    preset(Object.fromEntries(Object.entries(state_dict).filter(([name]) => !/^blocks\.15\./.test(name)))),
  ).toBe(null);
});

test('CLIP, autoencoders, a run, nothing', () => {
  const clip = {
    'text.token_embedding.weight': [600, 64],
    'text.positional_embedding': [77, 64],
    'text.transformer.resblocks.0.ln_1.weight': [64],
    'text.transformer.resblocks.1.ln_1.weight': [64],
  };
  expect(guessContent(shapes(clip))).toEqual({
    ...{ what: 'CLIP text tower', prefix: 'text.', vocab: 600, context: 77, width: 64, layers: 2 },
    ...{ embed_dim: null, visual: false },
  });
  const vae = { 'encoder.conv_in.weight': [32, 3, 3, 3], 'decoder.conv_in.weight': [64, 16, 3, 3] };
  const levels = { 'encoder.down.0.block.0.conv1.weight': [32, 32, 3, 3] };
  expect(guessContent(shapes({ ...vae, ...levels }, 'first_stage_model.'))).toMatchObject({
    ...{ what: 'autoencoder', names: 'LDM', latent_channels: 16, image_channels: 3, widths: [32] },
  });
  const moments = { 'm.x_embedder.proj.weight': [1], state: [8] };
  expect(guessContent(shapes(moments)).what).toBe('optimizer state of a run');
  expect(guessContent(shapes({ w: [2] }))).toEqual({ what: 'unknown' });
  expect(guessContent(new Map())).toEqual({ what: 'unknown' });
  expect(guessContent(shapes({ pos_embed: [], 'x_embedder.proj.weight': [] }))).toEqual({ what: 'unknown' });
});
