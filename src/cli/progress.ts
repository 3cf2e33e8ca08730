// The live line of long commands on stderr: `step 120/900  147.2 images/s  loss 0.0871  2m10s left`. On a
// terminal it is drawn over itself, at most ten times a second; elsewhere it is a plain line now and then.

export interface ProgressState {
  /** What is counted: "step", "image". */
  readonly unit: string;
  readonly done: number;
  /** Unknown for a stream. */
  readonly total?: number;
  /** Images per second. */
  readonly rate?: number;
  readonly loss?: number;
  /** Anything else, put behind. */
  readonly note?: string;
}

export interface ProgressOptions {
  readonly write: (text: string) => void;
  /** A line that may be drawn over itself. */
  readonly live: boolean;
  /** Width of the terminal in columns. */
  readonly columns?: () => number;
  /** Milliseconds since any fixed moment. */
  readonly now?: () => number;
  readonly quiet?: boolean;
}

const LIVE_MS = 100;
const PLAIN_MS = 5000;
/** Share of the work before which the first step, which is slower than those after it, misleads. */
const TOO_EARLY = 0.01;
const CLEAR = '\r\u001B[K';

export class Progress {
  readonly #options: ProgressOptions;
  readonly #now: () => number;
  #start: { at: number; done: number } | undefined;
  #drawnAt = -Infinity;
  #drawn = false;

  constructor(options: ProgressOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Draws the state, unless the last drawing is too fresh; the last state of all is always drawn. */
  update(state: ProgressState): void {
    if (this.#options.quiet) return;
    const at = this.#now();
    this.#start ??= { at, done: state.done };
    const wait = this.#options.live ? LIVE_MS : PLAIN_MS;
    if (at - this.#drawnAt < wait && state.done !== state.total) return;
    this.#draw(this.#line(state, at), at);
  }

  /** Draws a line of the caller's own, unless the last drawing is too fresh. */
  show(line: string): void {
    if (this.#options.quiet) return;
    const at = this.#now();
    if (at - this.#drawnAt < (this.#options.live ? LIVE_MS : PLAIN_MS)) return;
    this.#draw(line, at);
  }

  #draw(line: string, at: number): void {
    this.#drawnAt = at;
    if (!this.#options.live) {
      this.#options.write(`${line}\n`);
      return;
    }
    const columns = this.#options.columns?.() ?? 80;
    this.#options.write(`${CLEAR}${line.slice(0, Math.max(10, columns - 1))}`);
    this.#drawn = true;
  }

  /** Takes the live line away, so that something else can be printed; the next update draws it again. */
  clear(): void {
    if (!this.#drawn) return;
    this.#options.write(CLEAR);
    this.#drawn = false;
    this.#drawnAt = -Infinity;
  }

  /** Ends the live line and keeps it on the screen. */
  finish(): void {
    if (this.#drawn) this.#options.write('\n');
    this.#drawn = false;
    this.#start = undefined;
    this.#drawnAt = -Infinity;
  }

  #line(state: ProgressState, at: number): string {
    const { unit, done, total, rate, loss, note } = state;
    const parts = [total === undefined ? `${unit} ${done}` : `${unit} ${done}/${total}`];
    if (rate !== undefined) parts.push(`${rate.toPrecision(rate >= 1000 ? 4 : 3)} images/s`);
    if (loss !== undefined) parts.push(`loss ${Number.isFinite(loss) ? loss.toFixed(4) : String(loss)}`);
    const start = this.#start!;
    const passed = (at - start.at) / 1000;
    if (total !== undefined && done < total && done - start.done > TOO_EARLY * (total - start.done)) {
      parts.push(`${duration(((total - done) * passed) / (done - start.done))} left`);
    }
    if (note) parts.push(note);
    return parts.join('  ');
  }
}

/** Seconds in words: 9s, 2m10s, 3h05m. */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  const pad = (n: number) => String(n).padStart(2, '0');
  if (s < 3600) return `${Math.floor(s / 60)}m${pad(s % 60)}s`;
  return `${Math.floor(s / 3600)}h${pad(Math.floor((s % 3600) / 60))}m`;
}
