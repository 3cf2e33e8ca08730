// The one error that a user sees: what failed, why, what to do about it, and the exit code that says so.

/** Exit codes (DESIGN section 6). Signals end with 128 + their number. */
export const EXIT = { failed: 1, usage: 2, missing: 3, nonFinite: 4 } as const;

export interface FailureParts {
  /** The thing: a file, a flag, a recipe key, an op. */
  readonly what: string;
  /** The cause, in plain words. */
  readonly why: string;
  /** The remedy, as something to do. */
  readonly fix?: string;
  /** Exit code of the program, 1 when left out. */
  readonly code?: (typeof EXIT)[keyof typeof EXIT];
}

/** Prints as one line, `what: why. fix`; the command line shows that line and exits with `code`. */
export class Failure extends Error {
  override readonly name = 'Failure';
  readonly code: number;

  constructor(parts: FailureParts) {
    super(oneLine(`${parts.what}: ${parts.why}${parts.fix ? `. ${parts.fix}` : ''}`));
    this.code = parts.code ?? EXIT.failed;
  }
}

/** Another process of the run is gone, so that this one cannot go on either. */
export class RankLost extends Failure {
  /** `who`: as in "rank 2". */
  constructor(readonly who: string) {
    super({ what: who, why: 'is gone, and this rank cannot go on without it' });
  }
}

/** Names out of files may be of any length. */
const LONGEST = 4000;

/** Line breaks become blanks, other control characters (which a terminal would obey) are written out. */
function oneLine(text: string): string {
  const short = text.length <= LONGEST ? text : `${text.slice(0, LONGEST / 2)} … ${text.slice(-LONGEST / 2)}`;
  return short
    .replace(/\s+/g, (run) => (run.includes('\n') ? ' ' : run))
    .trim()
    .replace(/[\p{Cc}\u2028\u2029]/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
