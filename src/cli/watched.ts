// A run as it is seen from outside, while another process trains it: its last numbers out of metrics.jsonl.

import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT, Failure } from '../io/failure.ts';
import { isHeld } from '../io/hold.ts';
import { decodeNumber, decodeRecord, type JsonRecord } from '../io/jsonl.ts';
import { osCode, osFailure } from '../io/oserror.ts';
import type { Recipe } from '../recipe/schema.ts';
import { resolveRecipe } from '../recipe/resolve.ts';
import { totalSteps } from '../recipe/stages.ts';
import { duration } from './progress.ts';

/** What is shown; the keys are those of --json. */
export interface Seen {
  readonly run: string;
  readonly step: number;
  readonly total: number;
  /** Name or number of the stage; null before the first line of metrics. */
  readonly stage: string | null;
  readonly loss: number | null;
  readonly lr: number | null;
  readonly grad_norm: number | null;
  readonly skipped: number;
  readonly images_per_s: number | null;
  readonly seconds_left: number | null;
  readonly val_loss: number | null;
  readonly val_step: number | null;
  readonly preview: string | null;
  /** A process trains it just now. */
  readonly running: boolean;
  readonly finished: boolean;
}

/** Lines by which the speed of now is told. */
const RECENT = 20;

export class WatchedRun {
  /** Losses of all lines so far. */
  readonly losses: number[] = [];
  private readonly recipe: Recipe;
  private readonly total: number;
  private readonly metrics: string;
  private bytes = 0;
  private recent: JsonRecord[] = [];
  private validated: JsonRecord | null = null;

  /** Throws a Failure where there is no run. */
  constructor(readonly folder: string) {
    const path = join(folder, 'recipe.toml');
    this.recipe = resolveRecipe({ file: { name: path, text: readRecipe(folder, path) } }).recipe;
    this.total = totalSteps(this.recipe);
    this.metrics = join(folder, 'metrics.jsonl');
  }

  /** Reads what is new. */
  look(): Seen {
    // Asked first: what was written before the end is read in any case.
    const running = isHeld(this.folder);
    this.read();
    const last = this.recent.at(-1);
    const number = (record: JsonRecord | null | undefined, key: string) =>
      decodeNumber(record?.[key]) ?? null;
    const step = number(last, 'step') ?? 0;
    const stage = number(last, 'stage');
    return {
      ...{ run: this.folder, step, total: this.total },
      stage: stage === null ? null : (this.recipe.stage[stage]?.name ?? String(stage + 1)),
      ...{ loss: number(last, 'loss'), lr: number(last, 'lr'), grad_norm: number(last, 'grad_norm') },
      ...{ skipped: number(last, 'skipped') ?? 0, images_per_s: number(last, 'images_per_s') },
      seconds_left: running ? this.secondsLeft(step) : null,
      ...{ val_loss: number(this.validated, 'val_loss'), val_step: number(this.validated, 'step') },
      ...{ preview: newestPreview(this.folder), running, finished: step >= this.total },
    };
  }

  /** By the steps and seconds between the last lines. */
  private secondsLeft(step: number): number | null {
    const number = (record: JsonRecord | undefined, key: string) => decodeNumber(record?.[key]) ?? Number.NaN;
    const [first, last] = [this.recent[0], this.recent.at(-1)];
    const steps = number(last, 'step') - number(first, 'step');
    const seconds = number(last, 'seconds') - number(first, 'seconds');
    return steps > 0 && seconds > 0 ? ((this.total - step) * seconds) / steps : null;
  }

  private read(): void {
    const size = statSync(this.metrics, { throwIfNoEntry: false })?.size ?? 0;
    if (size < this.bytes) this.forget(); // gone on with from an earlier step
    const lines = readLines(this.metrics, this.bytes, size);
    const records = lines.map(decodeRecord);
    if (records.includes(undefined) && this.bytes > 0) {
      this.forget();
      this.read();
      return;
    }
    this.bytes += lines.reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0);
    for (const record of records) if (record) this.take(record);
  }

  private take(record: JsonRecord): void {
    if (record.val_loss !== undefined) {
      this.validated = record;
      return;
    }
    this.recent = [...this.recent, record].slice(-RECENT);
    const loss = decodeNumber(record.loss);
    if (loss !== undefined && Number.isFinite(loss)) this.losses.push(loss);
  }

  private forget(): void {
    this.bytes = 0;
    this.recent = [];
    this.validated = null;
    this.losses.length = 0;
  }
}

function readRecipe(folder: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (osCode(error) !== 'ENOENT') throw osFailure(error, path, 'read');
    const why = 'not a run folder: it has no recipe.toml';
    throw new Failure({ what: folder, why, fix: 'Name the folder that train writes', code: EXIT.usage });
  }
}

/** Whole lines between two places of a file. */
function readLines(path: string, from: number, to: number): string[] {
  if (to <= from) return [];
  const fd = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(to - from);
    const got = readSync(fd, bytes, 0, bytes.length, from);
    const end = bytes.subarray(0, got).lastIndexOf(10);
    return end < 0 ? [] : bytes.toString('utf8', 0, end).split('\n');
  } finally {
    closeSync(fd);
  }
}

function newestPreview(folder: string): string | null {
  try {
    const sheets = readdirSync(join(folder, 'previews')).filter((name) => /^step-\d+\.png$/.test(name));
    const newest = sheets.sort().at(-1);
    return newest === undefined ? null : join(folder, 'previews', newest);
  } catch (error) {
    if (osCode(error) === 'ENOENT') return null;
    throw osFailure(error, folder, 'read');
  }
}

/** Numbers as a row of blocks, each the mean of an equal stretch; the highest number is the highest block. */
export function sparkline(values: readonly number[], width: number): string {
  const columns = Math.min(width, values.length);
  const means = Array.from({ length: columns }, (_, i) => {
    const part = values.slice(
      Math.floor((i * values.length) / columns),
      Math.floor(((i + 1) * values.length) / columns),
    );
    return part.reduce((sum, x) => sum + x, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const blocks = '▁▂▃▄▅▆▇█';
  return means.map((x) => blocks[high > low ? Math.round((7 * (x - low)) / (high - low)) : 0]).join('');
}

/** The state in one line. */
export function lineOf(seen: Seen): string {
  const { step, total, loss, lr, images_per_s, seconds_left, val_loss, skipped } = seen;
  const parts = [`step ${step}/${total}`];
  if (loss !== null) parts.push(`loss ${short(loss)}`);
  if (val_loss !== null) parts.push(`val ${short(val_loss)}`);
  if (lr !== null) parts.push(`lr ${lr.toExponential(2)}`);
  if (images_per_s !== null) parts.push(`${Number(images_per_s.toPrecision(3))} images/s`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  if (seconds_left !== null && step < total) parts.push(`${duration(seconds_left)} left`);
  if (!seen.running) parts.push(seen.finished ? 'finished' : 'not running');
  return parts.join('  ');
}

/** The state as some lines for a terminal of so many columns. */
export function pageOf(seen: Seen, losses: readonly number[], columns: number): string[] {
  const { run, step, total, stage, grad_norm, val_step, preview } = seen;
  const share = ((100 * step) / total).toFixed(1);
  const width = Math.max(10, Math.min(60, columns - 10));
  const filled = Math.round((width * Math.min(step, total)) / total);
  return [
    `${run}  ${share} %${stage === null ? '' : `  stage ${stage}`}`,
    `${'█'.repeat(filled)}${'░'.repeat(width - filled)}`,
    lineOf(seen),
    `loss      ${sparkline(losses, width)}`,
    `gradient  ${grad_norm === null ? '-' : short(grad_norm)}`,
    `val       ${val_step === null ? '-' : `${short(seen.val_loss ?? Number.NaN)} at step ${val_step}`}`,
    `preview   ${preview ?? '-'}`,
  ].map((line) => [...line].slice(0, columns - 1).join(''));
}

const short = (value: number) =>
  Number.isFinite(value) ? Number(value.toPrecision(4)).toString() : String(value);
