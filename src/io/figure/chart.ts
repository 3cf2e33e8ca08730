// The curves of training runs as one PNG: loss, learning rate, gradient norm, images per second, several
// runs laid over each other. Drawn by chart.js on a canvas without a browser.

import { createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import {
  Chart,
  type ChartConfiguration,
  LinearScale,
  LineController,
  LineElement,
  LogarithmicScale,
  PointElement,
} from 'chart.js';
import { Failure } from '../failure.ts';
import type { JsonRecord } from '../jsonl.ts';
import { drawText, FONT_FAMILY, fontOf, useFont, wrapText } from './font.ts';
import {
  type Bounds,
  boundsOf,
  type Point,
  type Series,
  seriesOf,
  shortNumber,
  smoothLine,
  thinOut,
  tickLabel,
} from './series.ts';

export interface Run {
  /** Its name in the legend. */
  readonly label: string;
  /** The records of its metrics.jsonl. */
  readonly records: readonly JsonRecord[];
}

/** A quantity that gets a chart of its own where any run has it. */
export interface Panel {
  readonly key: string;
  readonly title: string;
  /** Show a smoothed line over the faint values. */
  readonly noisy: boolean;
  readonly mayLog: boolean;
}

export const PANELS: readonly Panel[] = [
  { key: 'loss', title: 'Loss', noisy: true, mayLog: true },
  { key: 'val_loss', title: 'Validation loss', noisy: false, mayLog: true },
  { key: 'lr', title: 'Learning rate', noisy: false, mayLog: false },
  { key: 'grad_norm', title: 'Gradient norm', noisy: true, mayLog: true },
  { key: 'images_per_s', title: 'Images per second', noisy: true, mayLog: false },
];

export interface ChartOptions {
  readonly title?: string;
  /** Words at the right of the title; the last step of the runs when left out. */
  readonly aside?: string;
  readonly panels?: readonly Panel[];
}

/** Everything is drawn at twice the size, for sharp text. */
const RATIO = 2;
const SIZE = { margin: 24, gap: 28, panel: { width: 560, height: 300 }, head: 44, panelHead: 30 };
/** Rows of the legend: the first is taller, and a label may be so wide. */
const LEGEND = { first: 26, row: 20, line: 16, gap: 6, apart: 20, widest: 240 };
const COLOUR = { paper: '#ffffff', title: '#18181b', text: '#52525b', grid: '#ececef', broken: '#dc2626' };
const LINES = ['#2563eb', '#ea580c', '#16a34a', '#9333ea', '#0891b2', '#ca8a04', '#db2777', '#475569'];

/** Points of one line: more than pixels would be wasted. */
const MOST_POINTS = 1200;
const FEW_POINTS = 12;

Chart.register(LineController, LineElement, PointElement, LinearScale, LogarithmicScale);

/** The charts as PNG. Failure if no run has any of the quantities. */
export function drawChart(runs: readonly Run[], options: ChartOptions = {}): Uint8Array {
  const panels = (options.panels ?? PANELS)
    .map((panel) => ({ panel, lines: runs.map(({ records }) => seriesOf(records, panel.key)) }))
    .filter(({ lines }) => lines.some(({ x, broken }) => x.length + broken.length > 0));
  if (panels.length === 0) {
    throw new Failure({
      what: runs.map(({ label }) => label).join(', ') || 'chart',
      why: 'there are no metrics to draw yet',
      fix: 'Train some steps first',
    });
  }
  useFont();
  const columns = Math.min(2, panels.length);
  const rows = Math.ceil(panels.length / columns);
  const pitch = { x: SIZE.panel.width + SIZE.gap, y: SIZE.panelHead + SIZE.panel.height + SIZE.gap };
  const width = 2 * SIZE.margin + columns * pitch.x - SIZE.gap;
  const legend = runs.length > 1 ? legendOf(width, runs) : null;
  const top = SIZE.margin + SIZE.head + (legend?.height ?? 0);
  const height = top + rows * pitch.y - SIZE.gap + SIZE.margin;
  const canvas = createCanvas(RATIO * width, RATIO * height);
  const context = canvas.getContext('2d');
  context.scale(RATIO, RATIO);
  context.fillStyle = COLOUR.paper;
  context.fillRect(0, 0, width, height);
  drawHead(context, width, runs, options);
  if (legend) drawLegend(context, legend, runs);
  panels.forEach(({ panel, lines }, i) => {
    const x = SIZE.margin + (i % columns) * pitch.x;
    const y = top + Math.floor(i / columns) * pitch.y;
    drawPanelHead(context, panel, lines, x, y);
    drawPlot(context, panel, lines, x, y + SIZE.panelHead);
  });
  return canvas.toBuffer('image/png');
}

function drawHead(
  context: SKRSContext2D,
  width: number,
  runs: readonly Run[],
  { title, aside }: ChartOptions,
): void {
  const words = title ?? (runs.length === 1 ? runs[0]!.label : `${runs.length} runs`);
  context.font = fontOf(20, true);
  const [fitted = ''] = wrapText(context, words, width - 2 * SIZE.margin - 200, 1);
  const y = SIZE.margin + 18;
  drawText(context, fitted, SIZE.margin, y, { size: 20, colour: COLOUR.title, bold: true });
  const steps = runs.flatMap(({ records }) => seriesOf(records, 'step').x);
  const last = aside ?? `step ${steps.reduce((a, b) => Math.max(a, b), 0).toLocaleString('en-US')}`;
  drawText(context, last, width - SIZE.margin, y, { size: 13, colour: COLOUR.text, align: 'right' });
}

interface Legend {
  /** Width that each label has, its line included, and how many stand in a row. */
  readonly room: number;
  readonly columns: number;
  readonly height: number;
}

/** As many rows as it takes to show the names whole, up to a width. */
function legendOf(width: number, runs: readonly Run[]): Legend {
  const context = createCanvas(1, 1).getContext('2d');
  context.font = fontOf(12);
  const widest = Math.max(...runs.map(({ label }) => context.measureText(label).width));
  const { first, row, line, gap, apart } = LEGEND;
  const room = Math.min(LEGEND.widest, Math.ceil(widest) + line + gap + apart);
  const columns = Math.max(1, Math.floor((width - 2 * SIZE.margin + apart) / room));
  return { room, columns, height: first + row * (Math.ceil(runs.length / columns) - 1) };
}

function drawLegend(context: SKRSContext2D, { room, columns }: Legend, runs: readonly Run[]): void {
  runs.forEach(({ label }, i) => {
    const x = SIZE.margin + (i % columns) * room;
    const y = SIZE.margin + SIZE.head + 4 + Math.floor(i / columns) * LEGEND.row;
    const { line, gap, apart } = LEGEND;
    context.fillStyle = lineColour(i);
    context.fillRect(x, y - 6, line, 3);
    context.fillStyle = COLOUR.paper;
    if (isDashed(i)) context.fillRect(x + 6, y - 6, 4, 3);
    context.font = fontOf(12);
    const [fitted = ''] = wrapText(context, label, room - line - gap - apart + 1, 1);
    drawText(context, fitted, x + line + gap, y, { size: 12, colour: COLOUR.text });
  });
}

/** Title on the left; on the right the last value of a single run, and how many values were not finite. */
function drawPanelHead(
  context: SKRSContext2D,
  panel: Panel,
  lines: readonly Series[],
  x: number,
  y: number,
): void {
  drawText(context, panel.title, x, y + 16, { size: 14, colour: COLOUR.title, bold: true });
  const broken = lines.reduce((sum, line) => sum + line.broken.length, 0);
  const right = x + SIZE.panel.width;
  const last = lines.length === 1 ? boldLine(panel, lines[0]!).at(-1) : undefined;
  const value = last ? shortNumber(last.y) : '';
  drawText(context, value, right, y + 16, { size: 13, colour: COLOUR.text, align: 'right' });
  if (broken === 0) return;
  const note = `${broken} not finite`;
  const shift = value ? context.measureText(value).width + 14 : 0;
  drawText(context, note, right - shift, y + 16, { size: 13, colour: COLOUR.broken, align: 'right' });
}

function boldLine(panel: Panel, { x, y }: Series): Point[] {
  return panel.noisy ? smoothLine(x, y, MOST_POINTS / 2) : thinOut(x, y, MOST_POINTS);
}

function lineColour(index: number, alpha = ''): string {
  return `${LINES[index % LINES.length]}${alpha}`;
}

/** Colours come again after the last, dashed. */
const isDashed = (index: number) => index >= LINES.length;

function drawPlot(
  context: SKRSContext2D,
  panel: Panel,
  lines: readonly Series[],
  x: number,
  y: number,
): void {
  const means = lines.map((line) => boldLine(panel, line));
  const bounds = boundsOf(
    lines.flatMap(({ y }) => y),
    means.flatMap((mean) => mean.map((point) => point.y)),
    panel.mayLog,
  );
  const faint = lines.map((line, i) => ({
    data: panel.noisy ? thinOut(line.x, line.y, MOST_POINTS) : [],
    borderColor: lineColour(i, '38'),
    borderWidth: 1,
    pointRadius: 0,
  }));
  const bold = lines.map((line, i) => ({
    data: means[i]!,
    borderColor: lineColour(i),
    borderWidth: 2,
    borderDash: isDashed(i) ? [6, 4] : [],
    // A few measurements are told from the line between them, and a single one draws none.
    pointRadius: line.x.length === 1 || (!panel.noisy && line.x.length <= FEW_POINTS) ? 3 : 0,
    pointBackgroundColor: lineColour(i),
  }));
  const canvas = createCanvas(SIZE.panel.width, SIZE.panel.height);
  const config: ChartConfiguration<'line', Point[]> = {
    type: 'line',
    data: { datasets: [...bold, ...faint] },
    options: {
      parsing: false,
      normalized: true,
      animation: false,
      events: [],
      responsive: false,
      devicePixelRatio: RATIO,
      font: { family: FONT_FAMILY, size: 12 },
      datasets: { line: { borderJoinStyle: 'round', clip: { left: 4, right: 4, top: 0, bottom: 0 } } },
      scales: { x: xAxis(lines), y: yAxis(bounds) },
    },
  };
  const chart = new Chart(canvas, config);
  context.drawImage(canvas, x, y, SIZE.panel.width, SIZE.panel.height);
  // Wipes the canvas, hence last.
  chart.destroy();
}

const TICKS = {
  color: COLOUR.text,
  maxRotation: 0,
  includeBounds: false,
  font: { family: FONT_FAMILY, size: 12 },
  callback: (value: number | string, _: number, ticks: readonly { value: number }[]) =>
    tickLabel(
      Number(value),
      ticks.map((tick) => tick.value),
    ),
};
const BORDER = { display: false };

function xAxis(lines: readonly Series[]) {
  const ends = lines.flatMap(({ x, broken }) => [x[0], x.at(-1), broken[0], broken.at(-1)]);
  const known = ends.filter((end) => end !== undefined);
  return {
    type: 'linear' as const,
    min: Math.min(...known, 0),
    max: Math.max(...known),
    grid: { display: false },
    border: BORDER,
    // No step lies between two.
    ticks: { ...TICKS, maxTicksLimit: 7, ...(known.every(Number.isInteger) && { precision: 0 }) },
  };
}

function yAxis({ min, max, log }: Bounds) {
  return {
    type: log ? ('logarithmic' as const) : ('linear' as const),
    min,
    max,
    grid: { color: COLOUR.grid },
    border: BORDER,
    ticks: { ...TICKS, maxTicksLimit: 6 },
  };
}
