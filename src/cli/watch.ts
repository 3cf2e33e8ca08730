// Command: a run while another process trains it, until that ends.

import { encodeRecord } from '../io/jsonl.ts';
import { interval, readInterval } from '../recipe/field.ts';
import { command } from './command.ts';
import { flag, SHARED, usage } from './flags.ts';
import { stdout } from './stdout.ts';
import { hasLiveLine } from './terminal.ts';
import { lineOf, pageOf, WatchedRun } from './watched.ts';

/** Looks after the last step, while its checkpoint, model and preview are written. */
const LOOKS_AFTER = 15;

export const watch = command({
  name: 'watch',
  summary: 'Shows a run while it trains: loss, speed, time left, validation, the last preview',
  flags: {
    every: flag(interval('2s', 'Time between two looks'), { hint: 'TIME' }),
    json: { ...SHARED.json, meaning: 'Print one JSON object a look, on a line of its own' },
  },
  args: [{ name: 'run', meaning: 'Run folder', required: true }],
  examples: [
    ['microdiff watch runs/emoji', 'on a terminal a page that is drawn anew, else a line a look'],
    ['microdiff watch runs/emoji --json --every 1m >> log.jsonl', 'for programs; ends when the run does'],
  ],
  async run({ args, values }) {
    const every = readInterval(values.every);
    if (!('seconds' in every) || every.seconds < 0.05) {
      throw usage('--every', 'is not a time from 0.05s', 'Write it as 2s or 1m');
    }
    const run = new WatchedRun(args[0]!);
    const live = !values.json && hasLiveLine(process.env, process.stdout.isTTY === true);
    let drawn = 0;
    let said = '';
    let looksAfter = 0;
    for (;;) {
      const seen = run.look();
      if (live) {
        const lines = pageOf(seen, run.losses, process.stdout.columns ?? 80);
        // Back to the first line of the page, and each line cleared before it is written.
        const up = drawn > 0 ? `\u001B[${drawn}F` : '';
        stdout.write(`${up}${lines.map((line) => `\u001B[K${line}\n`).join('')}`);
        drawn = lines.length;
      } else {
        const words = values.json ? encodeRecord({ ...seen }) : lineOf(seen);
        if (words !== said) stdout.line(words);
        said = words;
      }
      // A file system without locks always says that somebody is at work.
      if (seen.finished) looksAfter++;
      if (!seen.running || looksAfter > LOOKS_AFTER || stdout.closed) return 0;
      await Bun.sleep(1000 * every.seconds);
    }
  },
});
