// The font of every picture with words: Inter, carried in the executable, since rented boxes often have no
// font at all. Latin, Greek, Cyrillic and Vietnamese; other scripts come from the machine's own fonts where
// it has them.

import { readFileSync } from 'node:fs';
import cyrillic from '@fontsource/inter/files/inter-cyrillic-400-normal.woff2' with { type: 'file' };
import cyrillicBold from '@fontsource/inter/files/inter-cyrillic-600-normal.woff2' with { type: 'file' };
import greek from '@fontsource/inter/files/inter-greek-400-normal.woff2' with { type: 'file' };
import greekBold from '@fontsource/inter/files/inter-greek-600-normal.woff2' with { type: 'file' };
import latin from '@fontsource/inter/files/inter-latin-400-normal.woff2' with { type: 'file' };
import latinBold from '@fontsource/inter/files/inter-latin-600-normal.woff2' with { type: 'file' };
import latinExt from '@fontsource/inter/files/inter-latin-ext-400-normal.woff2' with { type: 'file' };
import latinExtBold from '@fontsource/inter/files/inter-latin-ext-600-normal.woff2' with { type: 'file' };
import vietnamese from '@fontsource/inter/files/inter-vietnamese-400-normal.woff2' with { type: 'file' };
import vietnameseBold from '@fontsource/inter/files/inter-vietnamese-600-normal.woff2' with { type: 'file' };
import { GlobalFonts, type SKRSContext2D } from '@napi-rs/canvas';

/** The font package cuts Inter by script; each cut is a family of its own here, tried in this order. */
const FILES: Record<string, readonly string[]> = {
  'microdiff latin': [latin, latinBold],
  'microdiff latin ext': [latinExt, latinExtBold],
  'microdiff greek': [greek, greekBold],
  'microdiff cyrillic': [cyrillic, cyrillicBold],
  'microdiff vietnamese': [vietnamese, vietnameseBold],
};

/** For CSS font strings; call `useFont` before drawing with it. */
export const FONT_FAMILY = [...Object.keys(FILES).map((name) => `"${name}"`), 'sans-serif'].join(', ');

let registered = false;

/** Makes the font known to the canvas, once. */
export function useFont(): void {
  if (registered) return;
  for (const [family, files] of Object.entries(FILES)) {
    for (const file of files) {
      if (!GlobalFonts.register(readFileSync(file), family)) {
        throw new Error(`the canvas does not take the font ${family}`);
      }
    }
  }
  registered = true;
}

/** Draws `text` at (x, y), baseline; `size` in pixels. */
export function drawText(
  context: SKRSContext2D,
  text: string,
  x: number,
  y: number,
  style: { size: number; colour: string; bold?: boolean; align?: 'left' | 'center' | 'right' },
): void {
  context.font = fontOf(style.size, style.bold);
  context.fillStyle = style.colour;
  context.textAlign = style.align ?? 'left';
  context.textBaseline = 'alphabetic';
  context.fillText(text, x, y);
}

export function fontOf(size: number, bold = false): string {
  return `${bold ? 600 : 400} ${size}px ${FONT_FAMILY}`;
}

/**
 * Breaks `text` into at most `maxLines` lines no wider than `width` pixels in the context's present font,
 * between words where it can; what does not fit ends in an ellipsis.
 */
export function wrapText(context: SKRSContext2D, text: string, width: number, maxLines: number): string[] {
  const fits = (line: string) => context.measureText(line).width <= width;
  // No more than could ever be drawn, so that a prompt of a megabyte costs nothing.
  const words = text
    .slice(0, 2000)
    .split(/[\s\p{Cc}]+/u)
    .filter(Boolean);
  const lines: string[] = [];
  let line = '';
  while (words.length > 0) {
    const word = words.shift()!;
    const longer = line ? `${line} ${word}` : word;
    if (fits(longer)) {
      line = longer;
    } else if (lines.length === maxLines - 1) {
      return [...lines, ellipsis(longer, fits)];
    } else if (line) {
      lines.push(line);
      line = '';
      words.unshift(word);
    } else {
      // One word wider than the line: broken where the line ends.
      const head = longestPrefix(word, fits);
      lines.push(head);
      words.unshift(word.slice(head.length));
    }
  }
  if (line) lines.push(line);
  return lines;
}

function ellipsis(text: string, fits: (line: string) => boolean): string {
  return `${longestPrefix(text, (prefix) => fits(`${prefix}…`)).trimEnd()}…`;
}

/** The longest beginning of `text` that fits, cut between characters as people see them; at least one. */
function longestPrefix(text: string, fits: (prefix: string) => boolean): string {
  const characters = Array.from(new Intl.Segmenter().segment(text), ({ segment }) => segment);
  let prefix = characters[0] ?? '';
  for (const character of characters.slice(1)) {
    if (!fits(prefix + character)) break;
    prefix += character;
  }
  return prefix;
}
