// `sample --preview`: what the pictures in hand look like so far, drawn over itself on the terminal (stderr),
// or in a PNG file that is replaced each time.
import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { writeWholeFile } from '../io/atomic.ts';
import { encodePng, type Pixels } from '../io/png.ts';
import type { Destination } from '../sample/destination.ts';
import { sheetOf } from '../sample/pixels.ts';
import type { Picture, StepView } from '../sample/sampler.ts';
import { usage } from './flags.ts';
import type { Progress } from './progress.ts';
import { writeStderr } from './terminal.ts';
import { cellsFor, drawn, type Graphics, graphicsOf } from './terminal-picture.ts';

/** Shortest time between two estimates: drawing them must not slow the pictures down. */
const LIVE_MS = 300;
const MOST = { columns: 64, rows: 20 };

type Show = (pixels: Pixels) => void;

export class Preview {
  private shownAt = -Infinity;
  /** Rows of the picture that the next one takes the place of. */
  private rows = 0;

  private constructor(private readonly show: (preview: Preview) => Show) {}

  /**
   * What --preview means: '' is the terminal, else a file; undefined is none. Throws where it cannot be
   * shown.
   */
  static open(value: string | undefined, to: Destination, progress: Progress): Preview | null {
    if (value === undefined) return null;
    if (value === '') {
      const graphics = process.stderr.isTTY ? graphicsOf(process.env) : null;
      if (graphics) return new Preview((preview) => (pixels) => preview.draw(graphics, pixels, progress));
      const why = process.stderr.isTTY ? 'this terminal has no colours' : 'stderr is not a terminal';
      throw usage('--preview', why, 'Name a file that is replaced each time: --preview now.png');
    }
    if (!/\.png$/i.test(value))
      throw usage('--preview', `${value} is no .png name`, 'Write --preview now.png');
    if (!existsSync(dirname(value)))
      throw usage('--preview', `there is no folder ${dirname(value)}`, 'Make it first');
    if (to.kind === 'file' && resolve(to.folder, to.name) === resolve(value)) {
      throw usage('--preview', `${value} is the picture itself (-o)`, 'Choose another name');
    }
    return new Preview(() => (pixels) => writeWholeFile(value, encodePng(pixels, [])));
  }

  /** Shows what a batch of `count` looks like after a step, if the last showing is old enough. */
  step({ rough }: Pick<StepView, 'rough'>, count: number): void {
    const now = performance.now();
    if (now - this.shownAt < LIVE_MS) return;
    this.put(Array.from({ length: count }, (_, n) => rough(n)));
    this.shownAt = performance.now();
  }

  /** Shows a batch as it came out, and leaves it there. */
  done(pictures: readonly Picture[]): void {
    this.put(pictures.map(({ pixels }) => pixels));
    this.shownAt = -Infinity;
    this.rows = 0;
  }

  private put(pictures: readonly (Pixels | null)[]): void {
    const whole = pictures.filter((pixels) => pixels !== null);
    if (whole.length > 0) this.show(this)(sheetOf(whole));
  }

  private draw(graphics: Graphics, pixels: Pixels, progress: Progress): void {
    const columns = Math.min(MOST.columns, Math.max(8, (process.stderr.columns ?? 80) - 1));
    const cells = cellsFor(pixels, { columns, rows: MOST.rows });
    progress.clear();
    const up = this.rows > 0 ? `\u001B[${this.rows}A` : '';
    writeStderr(`${up}${drawn(graphics, pixels, () => encodePng(pixels, []), cells)}`);
    this.rows = cells.rows;
  }
}
