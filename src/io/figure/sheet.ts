// Sample sheets: a grid of pictures of one size with captions, as one PNG. For `sample --grid`, for the
// previews of a training run, and for pictures beside each other in an evaluation.

import { type Canvas, createCanvas, ImageData, type SKRSContext2D } from '@napi-rs/canvas';
import { Failure } from '../failure.ts';
import { insertPngText, type Pixels, type PngText } from '../png.ts';
import { drawText, fontOf, useFont, wrapText } from './font.ts';

export interface SheetImage {
  readonly pixels: Pixels;
  readonly caption?: string;
}

export interface SheetOptions {
  readonly title?: string;
  /** A quieter line below the title. */
  readonly subtitle?: string;
  /** Images in a row; by default as many as make the sheet a little wider than high. */
  readonly columns?: number;
  /** Size of an image on the sheet in pixels: a multiple of its own size; by default at least 128. */
  readonly cell?: number;
  /** Lines of a caption, 2 when left out. */
  readonly captionLines?: number;
  readonly texts?: readonly PngText[];
}

const MARGIN = 24;
const GAP = 16;
const CAPTION = { size: 12, line: 16 };
const COLOUR = { paper: '#ffffff', frame: '#e4e4e7', title: '#18181b', text: '#52525b' };

/** Skia's own limit is higher; beyond this no viewer is happy either. */
const MAX_SIDE = 16_384;
const MAX_PIXELS = 1e8;

/** The sheet as PNG. All images have the size of the first. */
export function drawSheet(images: readonly SheetImage[], options: SheetOptions = {}): Uint8Array {
  const first = images[0]?.pixels;
  if (!first)
    throw new Failure({ what: 'sample sheet', why: 'there is no image for it', fix: 'Make at least one' });
  if (images.some(({ pixels }) => pixels.width !== first.width || pixels.height !== first.height)) {
    throw new RangeError('drawSheet: the images differ in size');
  }
  useFont();
  const scale = Math.max(1, Math.round((options.cell ?? atLeast(128, first.width)) / first.width));
  const cell = { width: first.width * scale, height: first.height * scale };
  const captioned = images.some(({ caption }) => caption);
  const captionLines = captioned ? (options.captionLines ?? 2) : 0;
  const pitch = {
    x: cell.width + GAP,
    y: cell.height + GAP + (captionLines > 0 ? 6 + captionLines * CAPTION.line : 0),
  };
  const columns = Math.min(images.length, options.columns ?? wideColumns(images.length, pitch));
  const rows = Math.ceil(images.length / columns);
  const top = MARGIN + (options.title ? 30 : 0) + (options.subtitle ? 22 : 0);
  const width = 2 * MARGIN + columns * pitch.x - GAP;
  const height = top + MARGIN + rows * pitch.y - GAP;
  if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS) {
    throw new Failure({
      what: 'sample sheet',
      why: `${images.length} images of ${cell.width} x ${cell.height} make it ${width} x ${height} pixels`,
      fix: 'Put fewer images on it',
    });
  }
  const canvas = createCanvas(width, height);
  const context = canvas.getContext('2d');
  context.fillStyle = COLOUR.paper;
  context.fillRect(0, 0, width, height);
  drawHead(context, width, options);
  images.forEach(({ pixels, caption }, i) => {
    const x = MARGIN + (i % columns) * pitch.x;
    const y = top + Math.floor(i / columns) * pitch.y;
    drawImage(context, pixels, x, y, cell);
    if (caption) drawCaption(context, caption, x, y + cell.height, cell.width, captionLines);
  });
  return insertPngText(canvas.toBuffer('image/png'), options.texts ?? []);
}

function drawHead(context: SKRSContext2D, width: number, { title, subtitle }: SheetOptions): void {
  let y = MARGIN;
  const line = (text: string, size: number, colour: string, bold: boolean) => {
    context.font = fontOf(size, bold);
    const [fitted = ''] = wrapText(context, text, width - 2 * MARGIN, 1);
    drawText(context, fitted, MARGIN, y, { size, colour, bold });
  };
  if (title) {
    y += 14;
    line(title, 18, COLOUR.title, true);
    y += 22;
  } else {
    y += 10;
  }
  if (subtitle) line(subtitle, 13, COLOUR.text, false);
}

function drawImage(
  context: SKRSContext2D,
  pixels: Pixels,
  x: number,
  y: number,
  { width, height }: { width: number; height: number },
): void {
  // Enlarged without smoothing: one sees the pixels that the model made. Through a canvas of its own, because
  // putImageData ignores both scale and what lies below.
  context.imageSmoothingEnabled = false;
  context.drawImage(canvasOf(pixels), x, y, width, height);
  context.strokeStyle = COLOUR.frame;
  context.lineWidth = 1;
  context.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
}

function drawCaption(
  context: SKRSContext2D,
  caption: string,
  x: number,
  y: number,
  width: number,
  maxLines: number,
): void {
  context.font = fontOf(CAPTION.size);
  wrapText(context, caption, width, maxLines).forEach((line, i) => {
    const style = { size: CAPTION.size, colour: COLOUR.text, align: 'center' } as const;
    drawText(context, line, x + width / 2, y + (i + 1) * CAPTION.line + 2, style);
  });
}

function canvasOf({ width, height, channels, data }: Pixels): Canvas {
  const rgba = new Uint8ClampedArray(width * height * 4);
  if (channels === 4) rgba.set(data);
  else {
    for (let i = 0; i < width * height; i++) {
      rgba[4 * i] = data[3 * i]!;
      rgba[4 * i + 1] = data[3 * i + 1]!;
      rgba[4 * i + 2] = data[3 * i + 2]!;
      rgba[4 * i + 3] = 255;
    }
  }
  const canvas = createCanvas(width, height);
  canvas.getContext('2d').putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas;
}

/** The smallest multiple of `size` that is at least `least`. */
function atLeast(least: number, size: number): number {
  return Math.ceil(least / size) * size;
}

/** The number of columns that makes a sheet nearest to 4 : 3 with few empty places in the last row. */
function wideColumns(images: number, pitch: { x: number; y: number }): number {
  const cost = (columns: number) => {
    const rows = Math.ceil(images / columns);
    const shape = (columns * pitch.x) / (rows * pitch.y);
    return Math.abs(Math.log(shape / (4 / 3))) + (2 * (rows * columns - images)) / images;
  };
  let best = 1;
  for (let columns = 2; columns <= images; columns++) if (cost(columns) < cost(best)) best = columns;
  return best;
}
