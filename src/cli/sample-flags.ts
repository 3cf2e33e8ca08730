// Flags and examples of the command sample.
import { SAMPLERS } from '../diffusion/solvers.ts';
import { bool, choice, int, LARGEST, real, reals, text } from '../recipe/field.ts';
import { COMPUTE_FLAGS } from './device.ts';
import { flag, manyFlag, SHARED } from './flags.ts';
import { RNGS } from '../sample/torch-noise.ts';
import { FORMATS } from './record-stream.ts';

export const FLAGS = {
  model: flag(text(undefined, 'Model: a name, a file of weights or a run folder'), {
    alias: 'm',
    hint: 'NAME|FILE|RUN',
  }),
  clip: flag(text(undefined, 'Text tower of published weights'), { hint: 'FILE|NAME' }),
  vae: flag(text(undefined, 'Autoencoder of published weights'), { hint: 'FILE|NAME' }),
  prompt: manyFlag(text(undefined, 'What to draw'), { alias: 'p', hint: 'TEXT' }),
  'negative-prompt': flag(text('', 'What to steer away from'), { alias: 'n', hint: 'TEXT' }),
  steps: flag(int(undefined, { min: 1, max: 10000 }, 'Steps of the sampler (default: as the recipe says)')),
  'cfg-scale': flag(real(undefined, {}, 'Guidance; 1 = off (default: as the recipe says)')),
  'guidance-interval': flag(
    reals([], {}, 'Guides only while sigma is in this interval; elsewhere a look costs half'),
    { hint: 'LOW,HIGH' },
  ),
  sampler: flag(
    choice(
      undefined,
      SAMPLERS,
      'Solver; heun looks at a picture twice a step, the others once (default: as the recipe says)',
    ),
  ),
  seed: flag(
    int(0, { min: -1, max: LARGEST }, 'Seed of the noise, the same for every prompt (-1 draws one)'),
    {
      alias: 's',
    },
  ),
  'seed-step': flag(int(0, { min: 0, max: 2 ** 32 }, 'Added to the seed for each prompt')),
  count: flag(
    int(1, { min: 1, max: 1_000_000 }, 'Pictures of each prompt, with seeds that follow each other'),
  ),
  size: flag(
    text(
      undefined,
      'Size in pixels, of multiples of a patch (default: the size that the model was trained on)',
    ),
    { hint: 'N|WxH' },
  ),
  rng: flag(
    choice(
      undefined,
      RNGS,
      'Generator of the noise; torch-cuda is what PyTorch draws on a GPU (default: philox)',
    ),
  ),
  'batch-size': flag(int(8, { min: 1, max: 1024 }, 'Pictures made at once; changes none of them')),
  output: flag(text('.', 'Folder, file.png, pattern such as out/%04d.png, or - for stdout'), {
    alias: 'o',
    hint: 'PATH',
  }),
  scale: flag(int(1, { min: 1, max: 64 }, 'Enlarges small pictures: every pixel becomes a square')),
  grid: flag(text(undefined, 'Also draws all pictures on one sheet'), { hint: 'FILE' }),
  preview: flag(
    text(undefined, 'Shows pictures as they come: on the terminal, or in a PNG that is replaced each time'),
    { hint: '[FILE.png]', bare: /\.png$/i },
  ),
  format: flag(choice('jsonl', FORMATS, 'Records on stdout; msgpack and tar carry the pictures')),
  column: flag(text(undefined, 'Prompts are this column of the CSV or Parquet files given, or of stdin'), {
    hint: 'NAME',
  }),
  plain: flag(bool(false, 'Prompts of a stream are plain text, also those that begin with {')),
  from: flag(text(undefined, 'Repeats a picture from its PNG or its record (JSON); flags go before'), {
    hint: 'PNG|JSON',
  }),
  'skip-existing': flag(
    bool(false, 'Goes on with a batch: pictures that are there, whole and of the same settings, stay'),
  ),
  'dry-run': SHARED['dry-run'],
  ...COMPUTE_FLAGS,
};

/** Command line and what it does, for help. */
export const EXAMPLES: readonly (readonly [string, string])[] = [
  ['microdiff sample "a red apple, fluent 3d style" --scale 8', 'writes a-red-apple-fluent-3d-style-0.png'],
  ['microdiff sample -m runs/mine "a rocket" --count 9 --grid rockets.png', 'nine seeds, and a sheet'],
  ['microdiff sample -o out/ < prompts.txt > made.jsonl', 'one prompt a line, text or JSON'],
  [
    'microdiff sample "a fox" --sampler dpmpp2m --steps 12',
    'twelve looks at the picture; heun takes 2 n - 1',
  ],
  [
    'microdiff sample "a fox" --guidance-interval 0.2,5',
    'no guidance where noise is high or low: often better, and faster',
  ],
  ['microdiff sample "a fox" -o - | display', 'the PNG itself on stdout'],
  [
    'microdiff sample -o out/ --skip-existing < prompts.txt > made.jsonl',
    'after a kill: the whole list again; what was there has "skipped": true',
  ],
  ['microdiff sample -o out/ --column caption < captions.csv', 'one prompt a row of a CSV'],
  [
    'microdiff sample "a fox" --size 64x32',
    'another size than the trained one; patches have their size in pixels',
  ],
  ['microdiff sample --from a-fox-0.png --seed 1', 'the same settings, another seed'],
  ['microdiff sample -m microdit-37m "a fox"', 'published weights, after `microdiff pull microdit-37m`'],
  ['microdiff sample -m microdit.pt --clip clip.bin --vae vae.safetensors "a fox"', 'published weights'],
];
