// Flags of the command eval, and which of its measures takes which.
import { bool, choice, int, LARGEST, real, text } from '../recipe/field.ts';
import type { Call } from './command.ts';
import { COMPUTE_FLAGS, DEVICE_FLAGS } from './device.ts';
import { flag, SHARED, usage } from './flags.ts';

export const FLAGS = {
  model: flag(text(undefined, 'Model: a name, a file of weights or a run folder'), {
    alias: 'm',
    hint: 'NAME|FILE|RUN',
  }),
  prompts: flag(text(undefined, 'Prompts for a model: COCO captions (.json), a table, or one a line'), {
    hint: 'FILE',
  }),
  column: flag(text(undefined, 'Prompts are this column of a CSV or Parquet file'), { hint: 'NAME' }),
  data: flag(
    text(undefined, 'Pictures with captions, or shards of latents (default: held-out emoji or shapes)'),
    {
      hint: 'FOLDER',
    },
  ),
  clip: flag(
    text(undefined, 'CLIP (default of eval: dfn5b-clip), also the text tower of published weights'),
    { hint: 'FILE|NAME' },
  ),
  vae: flag(text(undefined, 'Autoencoder of published weights'), { hint: 'FILE|NAME' }),
  output: flag(text(undefined, 'Folder of the pictures that a model draws, or file of the statistics'), {
    alias: 'o',
    hint: 'PATH',
  }),
  weights: flag(
    text('fid-inception', 'Weights of Inception: a name or a file; `formula`: made up, to test'),
    {
      hint: 'FILE|NAME',
    },
  ),
  features: flag(choice('inception', ['inception', 'clip'], 'Network of the features; clip: CLIP-FID')),
  kid: flag(bool(false, 'Also the kernel distance (KID)')),
  pr: flag(bool(false, 'Also precision and recall')),
  count: flag(
    int(
      undefined,
      { min: 1, max: 10_000_000 },
      'Pairs and scenes (fidelity: 100 each), prompts or images that are taken',
    ),
  ),
  steps: flag(
    int(undefined, { min: 1, max: 10_000 }, 'Steps of the sampler (fidelity: 12, else as the recipe says)'),
  ),
  'cfg-scale': flag(real(undefined, {}, 'Guidance; 1 = off (default: as the recipe says)')),
  seed: flag(int(0, { min: 0, max: LARGEST - 20_000_000 }, 'Seed of noise and of what is drawn at random'), {
    alias: 's',
  }),
  'batch-size': flag(
    int(8, { min: 1, max: 1024 }, 'Pictures made or looked at at once; changes none of them'),
  ),
  only: flag(choice(undefined, ['emoji', 'shapes'], 'Only this of the sets that the model was trained on')),
  json: SHARED.json,
  ...COMPUTE_FLAGS,
};

/** CLIP where none is named: a name of the registry. */
export const DEFAULT_CLIP = 'dfn5b-clip';

export type EvalCall = Call<typeof FLAGS>;

/** Of every measure: its flags beside those of all, and what stands behind its name. */
const DRAWING = ['model', 'count', 'steps', 'cfg-scale', 'cpu-bf16'] as const;
const MEASURES: Readonly<Record<string, { readonly flags: readonly string[]; readonly sets: string }>> = {
  fidelity: { flags: [...DRAWING, 'only'], sets: '' },
  fid: {
    flags: [
      ...DRAWING.slice(1),
      'features',
      'prompts',
      'column',
      'clip',
      'vae',
      'output',
      'weights',
      'kid',
      'pr',
    ],
    sets: 'A B',
  },
  loss: { flags: ['model', 'data', 'count', 'cpu-bf16'], sets: '' },
  'clip-score': { flags: ['prompts', 'column', 'clip', 'count'], sets: 'A' },
  stats: { flags: ['output', 'weights', 'features', 'clip'], sets: 'A...' },
};
const OF_ALL = ['seed', 'batch-size', 'json', ...Object.keys(DEVICE_FLAGS)];

export const MEASURE_NAMES = Object.keys(MEASURES);

/** Refuses flags of other measures and a wrong number of sets. */
export function checkMeasure({ args, given }: EvalCall): void {
  const [name = '', ...sets] = args;
  const measure = MEASURES[name]!;
  const strange = [...given].find(
    (one) => Object.hasOwn(FLAGS, one) && !OF_ALL.includes(one) && !measure.flags.includes(one),
  );
  if (strange) {
    const takers = MEASURE_NAMES.filter((other) => MEASURES[other]!.flags.includes(strange));
    throw usage(`--${strange}`, `is not for eval ${name}`, `It belongs to ${takers.join(', ')}`);
  }
  const wanted = measure.sets === '' ? 0 : measure.sets.split(' ').length;
  const fits = measure.sets.endsWith('...') ? sets.length >= 1 : sets.length === wanted;
  if (fits) return;
  throw usage(
    `eval ${name}`,
    wanted === 0 ? `takes no ${sets[0]}` : `needs ${measure.sets}, got ${sets.length} of them`,
    wanted === 0 ? `Write -m ${sets[0]} for a model` : `Write microdiff eval ${name} ${measure.sets}`,
  );
}
