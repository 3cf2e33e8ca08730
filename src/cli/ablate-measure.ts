// What the cells of an ablation are compared by: the loss of their checkpoints on the same held-out images.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import type { LossData } from '../diffusion/loss-data.ts';
import { writeWholeFile } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { totalSteps, recipeOfStage } from '../recipe/stages.ts';
import { networkOf } from '../sample/network.ts';
import { type Cell, spentEflop } from '../train/ablation.ts';
import type { Call } from './command.ts';
import { leavesSomeOut, lossOfFile, openLossData } from './eval-loss.ts';
import { usage } from './flags.ts';
import type { Interrupt } from './interrupt.ts';

/** A measured checkpoint of a cell. */
export interface Point {
  readonly step: number;
  readonly eflop: number;
  readonly loss: number;
  readonly ci95: readonly [number, number];
  /** Losses of the images, by which cells are compared: the same images and noise for all. */
  readonly each: readonly number[];
}

/** What is kept beside the checkpoints; on other images all is measured anew. */
interface Kept {
  readonly held: string;
  readonly points: readonly Point[];
}

/** Held-out images and what tells them from others. */
export interface Held extends Disposable {
  readonly data: LossData;
  readonly count: number;
  readonly hash: string;
}

export interface Measuring {
  readonly backend: Backend;
  readonly held: Held;
  readonly interrupt: Pick<Interrupt, 'stopRequested'>;
  readonly progress: Call['progress'];
}

const FILE = 'loss.json';
const BATCH = 32;

/** Held-out images for all cells. What is wrong with them is told before anything is trained. */
export async function openHeld(
  { recipe: cell }: Cell,
  options: { readonly held: string | undefined; readonly count: number },
  warn: (text: string) => void,
): Promise<Held> {
  if (options.held === undefined && !leavesSomeOut(cell)) {
    throw usage('ablate', 'there is no held-out data to compare on', 'Write --held FOLDER');
  }
  const recipe = recipeOfStage(cell, cell.stage[0]!);
  const model = { recipe, network: networkOf(recipe) };
  const data = await openLossData(model, { data: options.held, count: options.count, warn });
  const count = Math.min(options.count, data.count);
  if (count < 2) {
    const fix = 'Give more images: the mean and its interval are over at least two';
    data[Symbol.dispose]();
    throw new Failure({ what: data.name, why: 'has fewer than two images', fix });
  }
  return { data, count, hash: hashOf(data, count), [Symbol.dispose]: () => data[Symbol.dispose]() };
}

/** Of images and captions: the same pictures in another place are the same. */
function hashOf(data: LossData, count: number): string {
  const hash = new Bun.CryptoHasher('sha256');
  const image = new Float32Array(data.imageSize);
  const caption = new (data.captions === 'captions' ? Float32Array : Int32Array)(data.captionSize);
  for (let i = 0; i < count; i++) {
    data.image(i, image, 0);
    data.caption(i, caption, 0);
    hash.update(image).update(caption);
  }
  return hash.digest('hex');
}

/** Whether a cell has done all its steps. */
export const isTrained = ({ recipe }: Cell, folder: string) =>
  checkpointsOf(folder).some(({ step }) => step === totalSteps(recipe));

function checkpointsOf(folder: string): { readonly step: number; readonly path: string }[] {
  const checkpoints = join(folder, 'checkpoints');
  if (!existsSync(checkpoints)) return [];
  const found = [...new Bun.Glob('step-*/model.safetensors').scanSync(checkpoints)].sort();
  return found.map((file) => {
    const averaged = join(checkpoints, file.replace('model.', 'ema.'));
    const path = existsSync(averaged) ? averaged : join(checkpoints, file);
    return { step: Number(/step-(\d+)/.exec(file)?.[1]), path };
  });
}

/** The loss of a cell's checkpoints, kept beside them; null where a stop was asked for. */
export async function measured(
  { backend, held, interrupt, progress }: Measuring,
  cell: Cell,
  folder: string,
): Promise<Point[] | null> {
  const path = join(folder, FILE);
  const known = keptIn(path, held);
  const points: Point[] = [];
  for (const { step, path: file } of checkpointsOf(folder)) {
    const before = known.find((point) => point.step === step);
    if (before) {
      points.push({ ...before, eflop: spentEflop(cell, step) });
      continue;
    }
    const { data, count } = held;
    const found = { path: file, name: cell.name };
    const passes = lossOfFile(backend, found, data, { count, seed: 0, batchSize: BATCH });
    try {
      let pass = passes.next();
      for (; !pass.done; pass = passes.next()) {
        const note = `${cell.name}, step ${step}, held-out images`;
        progress.update({ unit: 'image', done: pass.value, total: count, note });
        await new Promise((resolve) => setImmediate(resolve)); // signals come in here
        if (interrupt.stopRequested) return null;
      }
      const { loss, ci95, each } = pass.value;
      points.push({ step, eflop: spentEflop(cell, step), loss, ci95, each });
    } finally {
      passes.return(undefined as never);
      progress.finish();
    }
    const kept: Kept = { held: held.hash, points };
    writeWholeFile(path, `${JSON.stringify(kept, null, 1)}\n`);
  }
  return points;
}

function keptIn(path: string, { hash }: Held): readonly Point[] {
  if (!existsSync(path)) return [];
  const kept: Partial<Kept> = JSON.parse(readFileSync(path, 'utf8'));
  return kept.held === hash ? (kept.points ?? []) : [];
}
