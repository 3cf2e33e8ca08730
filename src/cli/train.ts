// Command: trains a recipe, or goes on with a run that was stopped.

import { basename, join } from 'node:path';
import { text } from '../recipe/field.ts';
import { command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag } from './flags.ts';
import { watchSignals } from './interrupt.ts';
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
    ...COMPUTE_FLAGS,
  },
  args: [RECIPE_ARGUMENT],
  examples: [
    ['microdiff train emoji', 'the recipe of the shipped model, into runs/emoji'],
    ['microdiff train my.toml -o runs/try --set optimizer.lr=5e-4', 'a recipe of yours with one key changed'],
    ['microdiff train tiny --steps 100 --checkpoint-every 50', 'a short run'],
    ['microdiff train emoji --data photos/', 'your pictures, with captions in photos/NAME.txt, in its place'],
    ['microdiff train my.toml --dry-run', 'the resolved recipe as JSON, and where each value came from'],
  ],
  async run({ args, values, log, progress }) {
    const resolved = recipeFromFlags(args[0]!, values, process.env);
    if (values['dry-run']) {
      stdout.write(dryRun(resolved));
      return 0;
    }
    const folder = values.out ?? join('runs', basename(args[0]!).replace(/\.[^.]+$/, ''));
    const interrupt = watchSignals(log);
    const backend = await openDevice(values, log);
    const { trainRun } = await import('../train/run.ts');
    const { recipe } = resolved;
    const made = await trainRun({ recipe, folder, backend, version, interrupt, log, progress });
    progress.finish();
    stdout.line(made.folder);
    return interrupt.exitCode ?? 0;
  },
});
