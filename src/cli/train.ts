// Command: trains a recipe, or goes on with a run that was stopped.

import { basename, join } from 'node:path';
import { readLatest } from '../io/atomic.ts';
import { int, text } from '../recipe/field.ts';
import { shortStages } from '../recipe/stages.ts';
import { command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { launchRanks, watchLauncher } from './launch.ts';
import { joinRanks, LAUNCHED, type Placed, rankFromEnv } from './ranks.ts';
import { DATA_FLAG, dryRun, RECIPE_ARGUMENT, RECIPE_FLAGS, recipeFromFlags } from './recipe-flags.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

export const train = command({
  name: 'train',
  summary: 'Trains a recipe into a run folder; the same command again goes on with it',
  flags: {
    ...RECIPE_FLAGS,
    ...DATA_FLAG,
    out: flag(text(undefined, 'Run folder (runs/ and the name of the recipe when left out)'), {
      alias: 'o',
      hint: 'RUN',
    }),
    gpus: flag(int(1, { min: 1, max: 64 }, 'Processes to train with, one a GPU (or on the CPU)')),
    ...COMPUTE_FLAGS,
  },
  args: [RECIPE_ARGUMENT],
  examples: [
    ['microdiff train emoji', 'the recipe of the shipped model, into runs/emoji'],
    ['microdiff train my.toml -o runs/try --set optimizer.lr=5e-4', 'a recipe of yours with one key changed'],
    ['microdiff train tiny --steps 100 --checkpoint-every 50', 'a short run'],
    ['microdiff train emoji --data photos/', 'your pictures, with captions in photos/NAME.txt, in its place'],
    ['microdiff train my.toml --gpus 8', 'on eight GPUs of this machine'],
    ['microdiff train my.toml --dry-run', 'the resolved recipe as JSON, and where each value came from'],
  ],
  async run({ args, values, log, progress }) {
    const resolved = recipeFromFlags(args[0]!, values, process.env);
    if (values['dry-run']) {
      stdout.write(dryRun(resolved));
      return 0;
    }
    const folder = values.out ?? join('runs', basename(args[0]!).replace(/\.[^.]+$/, ''));
    const { recipe } = resolved;
    const { checkShares } = await import('../train/work.ts');
    const placed = placeOf(values.gpus);
    checkShares(recipe, placed?.ranks ?? values.gpus);
    if (!placed && values.gpus > 1) return launchRanks(values.gpus, { log }, () => keptIn(folder));
    const interrupt = process.env[LAUNCHED] ? watchLauncher() : watchSignals(log);
    const backend = await openDevice(values, log, process.env, placed);
    const meeting = placed && (await joinRanks(backend, placed, recipe));
    const { trainRun } = await import('../train/run.ts');
    const voice = (placed?.rank ?? 0) > 0 ? SILENT : { log, progress };
    for (const line of shortStages(recipe)) voice.log.warn(line);
    const made = await trainRun({ recipe, folder, backend, version, interrupt, ...voice });
    meeting?.end();
    progress.finish();
    if (voice !== SILENT) stdout.line(made.folder);
    return interrupt.exitCode ?? (made.finished ? 0 : STOPPED);
  },
});

/** Where another rank was told to stop: as after SIGTERM. */
const STOPPED = 143;

/** Rank 0 says what there is to say; of the others only what ends them is told. */
const SILENT = {
  log: { info() {}, warn() {} },
  progress: { update() {}, clear() {} },
};

/** The rank that this process is; null where it is alone, or starts the ranks. */
function placeOf(gpus: number): Placed | null {
  const placed = rankFromEnv(process.env);
  if (!placed || process.env[LAUNCHED] || gpus === 1) return placed;
  const fix = 'Leave --gpus out: what set the variables starts the processes';
  throw usage('--gpus', `this process is rank ${placed.rank} of ${placed.ranks} already`, fix);
}

/** What there is to go on from. */
function keptIn(folder: string): string {
  const kept = readLatest(folder);
  if (!kept) return 'There was no checkpoint yet';
  return `Checkpoint ${kept} of ${folder} is kept: the same command goes on from it`;
}
