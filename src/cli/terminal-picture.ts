// Pictures on a terminal: Kitty's graphics protocol, iTerm2's inline images, else two pixels in each
// character cell by half-block letters in 24-bit or 256 colours.
import type { Pixels } from '../io/png.ts';

type Env = Readonly<Record<string, string | undefined>>;

export type Graphics = 'kitty' | 'iterm2' | 'truecolor' | '256';

/** What a terminal can show, told by its environment; null where colours are off or unknown. */
export function graphicsOf(env: Env): Graphics | null {
  const { TERM = '', TERM_PROGRAM = '', COLORTERM = '' } = env;
  if (TERM === '' || TERM === 'dumb' || env.NO_COLOR) return null;
  const inside = /^(screen|tmux)/.test(TERM) || env.TMUX !== undefined; // these pass no pictures on
  const kitty = env.KITTY_WINDOW_ID !== undefined || /kitty|ghostty/.test(TERM) || TERM_PROGRAM === 'ghostty';
  if (kitty && !inside) return 'kitty';
  if (/^(iTerm\.app|WezTerm)$/.test(TERM_PROGRAM) && !inside) return 'iterm2';
  return /^(truecolor|24bit)$/.test(COLORTERM) ? 'truecolor' : '256';
}

/** Cells that a picture takes: a cell is about twice as high as wide. */
export interface Cells {
  readonly columns: number;
  readonly rows: number;
}

/** The most cells for a picture that keep its shape. */
export function cellsFor({ width, height }: Pick<Pixels, 'width' | 'height'>, most: Cells): Cells {
  const scale = Math.min(most.columns / width, (2 * most.rows) / height);
  const whole = (n: number) => Math.max(1, Math.round(n));
  return { columns: whole(width * scale), rows: whole((height * scale) / 2) };
}

/**
 * A picture as text that fills `cells`, a line for each row. `png` is its file, for terminals that read it.
 */
export function drawn(graphics: Graphics, pixels: Pixels, png: () => Uint8Array, cells: Cells): string {
  const { columns, rows } = cells;
  if (graphics === 'kitty') return `${kitty(png(), cells)}${'\n'.repeat(rows)}`;
  if (graphics === 'iterm2') {
    const how = `inline=1;width=${columns};height=${rows};preserveAspectRatio=1;doNotMoveCursor=1`;
    return `\u001B]1337;File=${how}:${Buffer.from(png()).toString('base64')}\u0007${'\n'.repeat(rows)}`;
  }
  const small = shrunk(pixels, columns, 2 * rows);
  const color =
    graphics === 'truecolor' ? (rgb: Rgb) => `2;${rgb.join(';')}` : (rgb: Rgb) => `5;${near256(rgb)}`;
  const line = (row: number) =>
    Array.from({ length: columns }, (_, x) => {
      const [upper, lower] = [small(x, 2 * row), small(x, 2 * row + 1)];
      return `\u001B[38;${color(upper)};48;${color(lower)}m▀`;
    }).join('');
  return Array.from({ length: rows }, (_, row) => `${line(row)}\u001B[0m\n`).join('');
}

/** Number of our picture at the terminal: a new one takes the place of the old one. */
const PICTURE = 20_231;
const CHUNK = 4096;

/** Transmits and shows a PNG; the cursor stays. */
function kitty(png: Uint8Array, { columns, rows }: Cells): string {
  const base64 = Buffer.from(png).toString('base64');
  const chunks = base64.match(new RegExp(`.{1,${CHUNK}}`, 'g')) ?? [];
  const how = `a=T,f=100,i=${PICTURE},p=1,q=2,C=1,c=${columns},r=${rows}`;
  return chunks
    .map((chunk, i) => {
      const more = `m=${i + 1 < chunks.length ? 1 : 0}`;
      return `\u001B_G${i === 0 ? `${how},` : ''}${more};${chunk}\u001B\\`;
    })
    .join('');
}

type Rgb = readonly [number, number, number];

/** The mean colour of the pixels under each point of a smaller (or larger) grid. */
function shrunk({ width, height, channels, data }: Pixels, columns: number, rows: number) {
  return (x: number, y: number): Rgb => {
    const span = (i: number, n: number, extent: number) => {
      const from = Math.floor((i * extent) / n);
      return [from, Math.max(from + 1, Math.floor(((i + 1) * extent) / n))] as const;
    };
    const [left, right] = span(x, columns, width);
    const [top, bottom] = span(y, rows, height);
    const sum = [0, 0, 0];
    for (let v = top; v < bottom; v++) {
      for (let u = left; u < right; u++) {
        for (let c = 0; c < 3; c++) sum[c]! += data[(v * width + u) * channels + c]!;
      }
    }
    const count = (right - left) * (bottom - top);
    return [Math.round(sum[0]! / count), Math.round(sum[1]! / count), Math.round(sum[2]! / count)];
  };
}

/** The nearest colour of the 6 x 6 x 6 cube of 256-colour terminals. */
function near256([r, g, b]: Rgb): number {
  const level = (v: number) => (v < 48 ? 0 : v < 115 ? 1 : Math.min(5, Math.floor((v - 35) / 40)));
  return 16 + 36 * level(r) + 6 * level(g) + level(b);
}
