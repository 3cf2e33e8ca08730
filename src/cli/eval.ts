// Command: how good a model or a set of images is, in numbers.

import { command } from './command.ts';
import { type EvalCall, FLAGS, checkMeasure, MEASURE_NAMES } from './eval-flags.ts';
import { evalClipScore } from './eval-clip-score.ts';
import { evalFid } from './eval-fid.ts';
import { evalFidelity } from './eval-fidelity.ts';
import { evalLossCommand } from './eval-loss.ts';
import { evalStats } from './eval-stats.ts';

const MEASURES: Readonly<Record<string, (call: EvalCall) => Promise<number>>> = {
  fidelity: evalFidelity,
  fid: evalFid,
  loss: evalLossCommand,
  'clip-score': evalClipScore,
  stats: evalStats,
};

export const evaluate = command({
  name: 'eval',
  summary: 'Measures images and models: FID and what belongs to it, loss, fidelity to captions',
  flags: FLAGS,
  args: [
    { name: 'measure', meaning: 'What to measure', required: true, options: MEASURE_NAMES },
    { name: 'sets', meaning: 'What is measured: a folder, shards, .tar, .zip, .npz, a model', many: true },
  ],
  examples: [
    [
      'microdiff eval fid samples/ photos/ --kid --pr',
      'FID of two folders, kernel distance, precision, recall',
    ],
    ['microdiff eval fid samples/ coco.npz --json', 'against statistics that pytorch-fid wrote'],
    [
      'microdiff eval fid runs/mine val2014/ --prompts captions_val2014.json -o drawn/',
      'a model, 30,000 captions of COCO; the same line again goes on',
    ],
    ['microdiff eval stats shard-*.tar -o reference.safetensors', 'mean and covariance, merged over parts'],
    [
      'microdiff eval loss -m runs/mine --data held-out/',
      'EDM loss by noise level, with confidence intervals',
    ],
    ['microdiff eval fidelity -m runs/quickstart --count 100 --json', 'a run, on its own pairs'],
  ],
  run(call) {
    checkMeasure(call);
    return MEASURES[call.args[0]!]!(call);
  },
});
