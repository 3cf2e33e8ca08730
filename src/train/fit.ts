// The largest micro-batch of each stage that fits the memory which is free when a run begins. The planner
// knows
// the bytes of every region before anything is allocated.
import type { Backend } from '../backend/backend.ts';
import { availableBytes } from '../io/available.ts';
import { EXIT, Failure } from '../io/failure.ts';
import type { Recipe, Stage } from '../recipe/schema.ts';
import { recipeOfStage } from '../recipe/stages.ts';
import type { CaptionTower } from '../sample/clip-encoder.ts';
import { networkOf } from '../sample/network.ts';
import { microStepPlan, updatePlan } from './step.ts';
import { stageWork } from './work.ts';

/** Left for previews, the validation loss, work memory of libraries, and on a CPU for everything else. */
const SHARE = 0.8;

export interface Fit {
  readonly backend: Backend;
  readonly recipe: Recipe;
  readonly tower: CaptionTower | null;
  /** Number of the first stage that is fitted; those before are left as they are. */
  readonly first?: number;
  /** Bytes that may be taken; those that are free now when left out. */
  readonly free?: number;
}

/**
 * The recipe with a micro-batch for each stage: the largest divisor of its images that fits. A
 * Failure names what a single image needs where not even that fits.
 */
export function fitMicroBatches({
  backend,
  recipe,
  tower,
  first = 0,
  free = freeBytes(backend),
}: Fit): Recipe {
  if (first >= recipe.stage.length) return recipe;
  if ((backend.group?.rank?.ranks ?? 1) > 1) {
    const why = 'the ranks of a new run may have unequal memory';
    throw new Failure({ what: 'train.fit_micro_batch', why, fix: 'Say train.micro_batch', code: EXIT.usage });
  }
  const room = SHARE * free;
  const stage = recipe.stage.map((row, index): Stage => {
    if (index < first) return row;
    const images = recipeOfStage(recipe, row).train.batch_size;
    const passes = Array.from({ length: images }, (_, i) => images - i).filter((n) => images % n === 0);
    const bytes = (micro_batch: number) => bytesOf(backend, recipe, { ...row, micro_batch }, tower);
    const micro_batch = passes.find((n) => bytes(n) <= room);
    if (micro_batch !== undefined) return { ...row, micro_batch };
    throw new Failure({
      what: row.name ?? 'train.fit_micro_batch',
      why: `one image at a time needs ${gigabytes(bytes(1))} GB, and ${gigabytes(room)} GB may be taken`,
      fix: 'Try train.recompute = "blocks", or a smaller model',
    });
  });
  return { ...recipe, stage };
}

/** The micro-batches of a run that has begun, so that no sitting changes them. */
export function keepMicroBatches(recipe: Recipe, begun: Recipe): Recipe {
  const stage = recipe.stage.map((row, i) => ({ ...row, micro_batch: begun.stage[i]?.micro_batch }));
  return { ...recipe, stage };
}

/** All regions of a stage's plans, each as large as the plan that needs most of it. */
function bytesOf(backend: Backend, recipe: Recipe, stage: Stage, tower: CaptionTower | null): number {
  const { step, update } = stageWork(recipe, stage);
  const network = networkOf(recipeOfStage(recipe, stage));
  const plans = [
    microStepPlan(network, step, backend.elemBytes, tower),
    updatePlan(network.parameters, update, backend.elemBytes),
  ];
  const largest = new Map<string, number>();
  for (const { program } of plans) {
    for (const [space, bytes] of Object.entries(program.spaceBytes)) {
      if (tower && Object.hasOwn(tower.regions, space)) continue; // there already
      largest.set(space, Math.max(bytes, largest.get(space) ?? 0));
    }
  }
  return [...largest.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** Bytes of a GPU that nobody has taken; on a CPU what the system can give without swapping. */
function freeBytes(backend: Backend): number {
  return backend.freeBytes?.() ?? availableBytes();
}

const gigabytes = (bytes: number) => (bytes / 1e9).toPrecision(3);
