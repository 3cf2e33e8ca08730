// The log: consola with a reporter of our own, because consola's own prints information on stdout.

import { format, styleText } from 'node:util';
import { type ConsolaInstance, createConsola } from 'consola';
import type { Progress } from './progress.ts';
import { writeStderr } from './terminal.ts';

export type Log = ConsolaInstance;

export interface LogOptions {
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly color?: boolean;
  /** The live line that has to make room for each line of the log. */
  readonly progress?: Progress;
  /** Where lines go; stderr when left out. */
  readonly write?: (text: string) => void;
}

const LEVEL = { quiet: 1, normal: 3, verbose: 4 } as const;

/** A log on stderr: warnings and errors when quiet, details when verbose. */
export function createLog(options: LogOptions = {}): Log {
  const write = options.write ?? writeStderr;
  const mark = (style: 'red' | 'yellow' | 'gray' | 'green', text: string) =>
    options.color ? styleText(style, text, { validateStream: false }) : text;
  const prefix: Record<string, string> = {
    error: `${mark('red', 'error')}: `,
    fatal: `${mark('red', 'error')}: `,
    warn: `${mark('yellow', 'warning')}: `,
    success: `${mark('green', 'done')}: `,
  };
  return createConsola({
    level: options.quiet ? LEVEL.quiet : options.verbose ? LEVEL.verbose : LEVEL.normal,
    reporters: [
      {
        log({ type, args }) {
          const text = format(...args);
          options.progress?.clear();
          write(`${prefix[type] ?? ''}${type === 'debug' ? mark('gray', text) : text}\n`);
        },
      },
    ],
  });
}
