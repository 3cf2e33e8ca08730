// Command: trains the small model of the quick start, and draws a sheet of samples from it.

import { real, text } from '../recipe/field.ts';
import { command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { dryRun, RECIPE_FLAGS, recipeFromFlags } from './recipe-flags.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

export const quickstart = command({
  name: 'quickstart',
  summary: 'Trains a small model on embedded pictures in about five minutes, and draws samples',
  flags: {
    minutes: flag(real(5, { min: 0.01 }, 'Time to train for; --steps overrules it')),
    out: flag(text('runs/quickstart', 'Run folder'), { alias: 'o', hint: 'RUN' }),
    ...RECIPE_FLAGS,
    ...COMPUTE_FLAGS,
  },
  examples: [
    ['microdiff quickstart', 'five minutes; prints the path of the sheet'],
    ['microdiff quickstart --minutes 15 -o runs/longer', 'crisper pictures'],
    ['microdiff quickstart --steps 20', 'only to see it work'],
  ],
  async run({ values, log, progress }) {
    const resolved = recipeFromFlags('quickstart', values, process.env);
    if (values['dry-run']) {
      stdout.write(dryRun(resolved));
      return 0;
    }
    const interrupt = watchSignals(log);
    const backend = await openDevice(values, log);
    const { quickstartRun } = await import('../train/quickstart.ts');
    const sheet = await quickstartRun({
      recipe: resolved.recipe,
      minutes: values.steps === undefined ? values.minutes : undefined,
      folder: values.out,
      backend,
      version,
      interrupt,
      log,
      progress,
    });
    progress.finish();
    if (sheet !== null) stdout.line(sheet);
    return interrupt.exitCode ?? 0;
  },
});
