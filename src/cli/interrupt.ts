// Signals. A long command asks for them to be watched: the first one sets a flag that the command looks at
// between two steps (to save and to end), the second one ends the program at once. Handlers run only while
// the event loop does, so a long command has to let it run between steps.

import type { Log } from './log.ts';

const CODES = { SIGINT: 130, SIGTERM: 143, SIGHUP: 143 } as const;

/** What a long command looks at between two steps. */
export interface Interrupt {
  /** A signal has come: save what there is, and end. */
  readonly stopRequested: boolean;
  /** The exit code for it; undefined when none has come. */
  readonly exitCode: number | undefined;
  /** Settles when a signal has come, for commands that wait for something else as well. */
  readonly stopped: Promise<void>;
}

let watched: Interrupt | undefined;

/** Watches SIGINT, SIGTERM and SIGHUP from now on. `saying` tells the user what happens next. */
export function watchSignals(log: Log, saying = 'saving, then stopping'): Interrupt {
  if (watched) return watched;
  const { promise: stopped, resolve: stop } = Promise.withResolvers<void>();
  const state = { stopRequested: false, exitCode: undefined as number | undefined, stopped };
  watched = state;
  for (const [signal, code] of Object.entries(CODES)) {
    process.on(signal, () => {
      if (state.stopRequested) process.exit(code);
      state.stopRequested = true;
      state.exitCode = code;
      stop();
      log.warn(`${signal}: ${saying} (once more ends at once)`);
    });
  }
  return state;
}
