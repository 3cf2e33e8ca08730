// What is known about the terminal: colours or not, a live line or not; and the one way to write on stderr.

import { writeSync } from 'node:fs';

type Env = Readonly<Record<string, string | undefined>>;

/**
 * Colours: --no-color and NO_COLOR turn them off, FORCE_COLOR turns them on, else a terminal that is not
 * dumb has them.
 */
export function hasColor(env: Env, isTerminal: boolean, noColor = false): boolean {
  if (noColor || env.NO_COLOR) return false;
  if (env.FORCE_COLOR && env.FORCE_COLOR !== '0') return true;
  return isTerminal && env.TERM !== 'dumb';
}

/** Colours on one of this program's own streams. */
export function colorOn(stream: { readonly isTTY: boolean }): boolean {
  return hasColor(process.env, stream.isTTY, process.argv.includes('--no-color'));
}

/** Whether a line may be drawn over itself. */
export function hasLiveLine(env: Env, isTerminal: boolean): boolean {
  return isTerminal && env.TERM !== 'dumb';
}

/**
 * Writes on stderr at once, so that nothing is lost when the program exits right after. A closed or
 * clogged stderr is no reason to stop: what is written there only accompanies the work.
 */
export function writeStderr(text: string): void {
  const bytes = Buffer.from(text);
  for (let sent = 0, tries = 0; sent < bytes.length && tries < 200; tries++) {
    try {
      sent += writeSync(2, bytes, sent);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      Bun.sleepSync(5);
    }
  }
}
