// From the records of metrics.jsonl to the lines of a chart: one quantity against the step, smoothed,
// thinned out to what a screen can show, with an axis that one spike does not crush.

import { decodeNumber, type JsonRecord } from '../jsonl.ts';

/** y against x; x rises. Points where y is not finite are kept apart. */
export interface Series {
  readonly x: number[];
  readonly y: number[];
  /** The x of records whose y was NaN or infinite. */
  readonly broken: number[];
}

/** The series of `key` against `step`; records without either are passed over. */
export function seriesOf(records: readonly JsonRecord[], key: string): Series {
  const series: Series = { x: [], y: [], broken: [] };
  for (const record of records) {
    const x = decodeNumber(record.step);
    const y = decodeNumber(record[key]);
    if (x === undefined || y === undefined || !Number.isFinite(x)) continue;
    if (Number.isFinite(y)) {
      series.x.push(x);
      series.y.push(y);
    } else {
      series.broken.push(x);
    }
  }
  return series;
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

/**
 * A smooth line through noisy values: means of at most `most` stretches, then at each of them a straight
 * line fitted to its surroundings with Gaussian weights (sigma = 1/60 of the length). So it neither lags
 * behind a falling curve, as a running mean does, nor bends at the ends.
 */
export function smoothLine(x: readonly number[], y: readonly number[], most: number): Point[] {
  const means = stretchMeans(x, y, most);
  const sigma = ((means.at(-1)?.x ?? 0) - (means[0]?.x ?? 0)) / 60;
  let first = 0;
  return means.map(({ x: at, y: own }) => {
    let [s0, s1, s2, t0, t1] = [0, 0, 0, 0, 0];
    while (means[first]!.x < at - 3 * sigma) first++;
    for (let j = first; j < means.length && means[j]!.x <= at + 3 * sigma; j++) {
      const d = sigma > 0 ? (means[j]!.x - at) / sigma : 0;
      const weight = Math.exp(-0.5 * d * d);
      s0 += weight;
      s1 += weight * d;
      s2 += weight * d * d;
      t0 += weight * means[j]!.y;
      t1 += weight * d * means[j]!.y;
    }
    const det = s0 * s2 - s1 * s1;
    // With hardly any neighbours there is no line to fit.
    return { x: at, y: det > 1e-9 * s0 * s0 ? (s2 * t0 - s1 * t1) / det : own };
  });
}

function stretchMeans(x: readonly number[], y: readonly number[], most: number): Point[] {
  const stretch = Math.max(1, Math.ceil(x.length / most));
  const points: Point[] = [];
  for (let begin = 0; begin < x.length; begin += stretch) {
    const end = Math.min(begin + stretch, x.length);
    let [sx, sy] = [0, 0];
    for (let i = begin; i < end; i++) {
      sx += x[i]!;
      sy += y[i]!;
    }
    points.push({ x: sx / (end - begin), y: sy / (end - begin) });
  }
  return points;
}

/** At most about `most` points that show the same line: of each stretch its lowest and its highest point. */
export function thinOut(x: readonly number[], y: readonly number[], most: number): Point[] {
  const stretch = Math.ceil((2 * x.length) / most);
  const points: Point[] = [];
  if (stretch <= 2) return x.map((value, i) => ({ x: value, y: y[i]! }));
  for (let begin = 0; begin < x.length; begin += stretch) {
    let low = begin;
    let high = begin;
    for (let i = begin; i < Math.min(begin + stretch, x.length); i++) {
      if (y[i]! < y[low]!) low = i;
      if (y[i]! > y[high]!) high = i;
    }
    for (const i of [...new Set([Math.min(low, high), Math.max(low, high)])]) {
      points.push({ x: x[i]!, y: y[i]! });
    }
  }
  return points;
}

/** Bounds of an axis. */
export interface Bounds {
  readonly min: number;
  readonly max: number;
  readonly log: boolean;
}

/**
 * Bounds that hold the middle 98 % of the values and all of `must`, with some air; logarithmic where
 * `mayLog` allows and the values span more than a factor of 30.
 */
export function boundsOf(values: readonly number[], must: readonly number[], mayLog: boolean): Bounds {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return { min: 0, max: 1, log: false };
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
  const low = must.reduce((a, b) => Math.min(a, b), at(0.01));
  const high = must.reduce((a, b) => Math.max(a, b), at(0.99));
  if (mayLog && low > 0 && high / low > 30) return { min: low / 1.2, max: high * 1.2, log: true };
  const air = high > low ? 0.05 * (high - low) : 0.1 * Math.abs(high) || 1;
  // An axis of sizes that reach down near zero begins at zero.
  const min = low >= 0 && low < 0.35 * high ? 0 : low - air;
  return { min: low >= 0 ? Math.max(0, min) : min, max: high + air, log: false };
}

/** 1234567 -> "1.23M", 12000 -> "12k", 0.125 -> "0.125", 0.00024 -> "2.4e-4". */
export function shortNumber(value: number): string {
  const size = Math.abs(value);
  if (size === 0) return '0';
  for (const [unit, letter] of [
    [1e12, 'T'],
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const) {
    if (size >= unit) return `${Number((value / unit).toPrecision(3))}${letter}`;
  }
  if (size >= 1e-2) return String(Number(value.toPrecision(3)));
  return value.toExponential(2).replace(/\.?0+e/, 'e');
}

/** A tick's number with as many digits as tell it from the other ticks, at least three. */
export function tickLabel(value: number, ticks: readonly number[]): string {
  const labels = (of: (tick: number) => string) => new Set(ticks.map(of)).size;
  const distinct = new Set(ticks).size;
  if (labels(shortNumber) === distinct) return shortNumber(value);
  if (ticks.every(Number.isInteger)) return value.toLocaleString('en-US');
  let digits = 4;
  while (digits < 15 && labels((tick) => tick.toPrecision(digits)) < distinct) digits++;
  return value.toPrecision(digits);
}
