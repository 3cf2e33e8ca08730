// A small training on any backend, for the tests of training on the stand-in GPU: the recipe `tiny`, step by
// step, and all that it leaves in the flat buffers.
import type { Backend, Numbers, Region } from '../../src/backend/backend.ts';
import { NAMED } from '../../src/recipe/named.ts';
import { resolveRecipe } from '../../src/recipe/resolve.ts';
import type { Recipe } from '../../src/recipe/schema.ts';
import { openData } from '../../src/train/source.ts';
import { type StepReport, Trainer } from '../../src/train/trainer.ts';

/** The recipe `tiny` with averages, shortened: the emulator takes half a second for a step of it. */
export function tiny(microBatch = 0): Recipe {
  const file = { name: 'tiny.toml', text: NAMED.tiny! };
  const shorter = ['stage.0.steps=4', 'stage.1.steps=3'];
  const sets = ['optimizer.ema=0.9', `train.micro_batch=${microBatch}`, ...shorter];
  return resolveRecipe({ file, sets }).recipe;
}

export async function trainerOn(backend: Backend, recipe: Recipe): Promise<Trainer> {
  const trainer = new Trainer(backend, recipe, await openData(recipe, () => {}));
  trainer.initialise();
  return trainer;
}

export async function steps(trainer: Trainer, count: number): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  while (reports.length < count) reports.push(await trainer.runStep());
  return reports;
}

/** Bytes of all that a step may change. */
export function bytesOf(backend: Backend, { buffers }: Trainer): Record<string, Uint8Array> {
  const { master, weight, ema, m, v, grad } = buffers;
  const regions: Record<string, Region> = { master, weight, ema: ema!, m, v, grad };
  return Object.fromEntries(
    Object.entries(regions).map(([name, region]) => [
      name,
      read(backend, region, new Uint8Array(region.bytes)),
    ]),
  );
}

/** The float32 weights. */
export function weightsOf(backend: Backend, { buffers }: Trainer): Float32Array {
  return read(backend, buffers.master, new Float32Array(buffers.master.bytes / 4));
}

function read<T extends Numbers>(backend: Backend, region: Region, into: T): T {
  backend.read(region, 0, into);
  return into;
}

/** Root of the mean square of a difference, relative to that of `of`. */
export function relativeRms(a: Float32Array, b: Float32Array, of: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += of[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}
