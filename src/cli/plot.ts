// Command: the curves of one or more runs as a PNG.

import { statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { writeWholeFile } from '../io/atomic.ts';
import { readRecords } from '../io/jsonl.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import { osFailure } from '../io/oserror.ts';
import { text } from '../recipe/field.ts';
import { command } from './command.ts';
import { flag } from './flags.ts';
import { stdout } from './stdout.ts';

export const plot = command({
  name: 'plot',
  summary: 'Draws loss, learning rate, gradient norm and speed of runs as a PNG',
  flags: {
    out: flag(text('plot.png', 'Picture to write; - is stdout'), { alias: 'o', hint: 'FILE' }),
    title: flag(text(undefined, 'Words above the picture')),
  },
  args: [{ name: 'run', meaning: 'Run folders, or metrics.jsonl files', required: true, many: true }],
  examples: [
    ['microdiff plot runs/emoji', 'writes plot.png'],
    ['microdiff plot runs/a runs/b -o both.png', 'two runs laid over each other'],
  ],
  async run({ args, values }) {
    const runs = args.map((path) => ({ label: labelOf(path), records: readRecords(metricsOf(path)) }));
    // The canvas is large and slow to load: only where something is drawn.
    const { drawChart } = await withCanvas(() => import('../io/figure/chart.ts'));
    const png = drawChart(runs, values.title === undefined ? {} : { title: values.title });
    if (values.out === '-') {
      stdout.write(png);
    } else {
      writeWholeFile(values.out, png);
      stdout.line(values.out);
    }
    return 0;
  },
});

/** The metrics file that a run folder holds, or the file itself. */
function metricsOf(path: string): string {
  try {
    return statSync(path).isDirectory() ? join(path, 'metrics.jsonl') : path;
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

function labelOf(path: string): string {
  const whole = resolve(path);
  return basename(whole) === 'metrics.jsonl' ? basename(join(whole, '..')) : basename(whole);
}
