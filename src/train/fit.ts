// The largest micro-batch of each stage that fits the memory which is free when a run begins. The planner
// knows the bytes of every region before anything is allocated.
import type { Backend, Rank } from '../backend/backend.ts';
import { availableBytes } from '../io/available.ts';
import { Failure } from '../io/failure.ts';
import type { Recipe, Stage } from '../recipe/schema.ts';
import { recipeOfStage } from '../recipe/stages.ts';
import type { CaptionTower } from '../sample/clip-encoder.ts';
import { networkOf } from '../sample/network.ts';
import { eachRank } from './agreement.ts';
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
  /** Among how many ranks the images of a step are shared out; 1 when left out. */
  readonly ranks?: number;
  /** Bytes that may be taken; those that are free now when left out. */
  readonly free?: number;
}

/**
 * The recipe with a micro-batch for each stage: the largest divisor of its images (of each rank) that fits. A
 * Failure names what a single image needs where not even that fits.
 */
export function fitMicroBatches(fit: Fit): Recipe {
  const { recipe, free = freeBytes(fit.backend) } = fit;
  const stage = recipe.stage.map((row, index): Stage => {
    if (index < (fit.first ?? 0)) return row;
    const micro_batch = largest(fit, row, free);
    if (micro_batch > 0) return { ...row, micro_batch };
    throw tooLittle(fit, row, free);
  });
  return { ...recipe, stage };
}

/** How ranks fit: which one this is, and what sums numbers over all of them. */
export interface Fellows extends Rank {
  readonly sums: (values: readonly number[]) => Promise<readonly number[]>;
}

/**
 * The same for several ranks: the smallest of what fits on each. Where one has too little memory for an
 * image, all throw a Failure. All ranks have to call it, with what they need beside it in memory already.
 */
export async function fitTogether(fit: Omit<Fit, 'ranks'>, fellows: Fellows): Promise<Recipe> {
  const { recipe, backend, first = 0 } = fit;
  const { ranks, sums } = fellows;
  if (first >= recipe.stage.length) return recipe;
  await sums([]); // nobody looks before all have taken what they take
  const free = fit.free ?? freeBytes(backend, ranks);
  const stage: Stage[] = [];
  for (const [index, row] of recipe.stage.entries()) {
    if (index < first) {
      stage.push(row);
      continue;
    }
    const each = await eachRank(fellows, largest({ ...fit, ranks }, row, free), sums);
    const micro_batch = Math.min(...each);
    if (micro_batch === 0) throw tooLittle({ ...fit, ranks }, row, free, each.indexOf(0));
    stage.push({ ...row, micro_batch });
  }
  return { ...recipe, stage };
}

/** The largest micro-batch of a stage that fits; 0 where not a single image does. */
function largest(fit: Fit, row: Stage, free: number): number {
  const images = recipeOfStage(fit.recipe, row).train.batch_size / (fit.ranks ?? 1);
  return divisors(images).find((micro_batch) => bytesOf(fit, { ...row, micro_batch }) <= SHARE * free) ?? 0;
}

/** The largest first. */
const divisors = (n: number) => Array.from({ length: n }, (_, i) => n - i).filter((d) => n % d === 0);

function tooLittle(fit: Fit, row: Stage, free: number, rank?: number): Failure {
  const need = bytesOf(fit, { ...row, micro_batch: 1 });
  const own = need > SHARE * free;
  const may = own ? `${gigabytes(SHARE * free)} GB may be taken` : `rank ${rank} may not take as much`;
  return new Failure({
    what: row.name ?? 'train.fit_micro_batch',
    why: `one image at a time needs ${gigabytes(need)} GB, and ${may}`,
    fix: 'Try train.recompute = "blocks", or a smaller model',
  });
}

/** The micro-batches of a run that has begun, so that no sitting changes them. */
export function keepMicroBatches(recipe: Recipe, begun: Recipe): Recipe {
  const stage = recipe.stage.map((row, i) => ({ ...row, micro_batch: begun.stage[i]?.micro_batch }));
  return { ...recipe, stage };
}

/**
 * The recipe with micro-batches that so many ranks can share out: where they could not, the largest that is
 * no larger.
 */
export function evenMicroBatches(recipe: Recipe, ranks: number): Recipe {
  const stage = recipe.stage.map((row): Stage => {
    const images = recipeOfStage(recipe, row).train.batch_size / ranks;
    const { micro_batch: kept } = row;
    if (kept === undefined || images % kept === 0) return row;
    return { ...row, micro_batch: divisors(images).find((n) => n <= kept) };
  });
  return { ...recipe, stage };
}

/** All regions of a stage's plans, each as large as the plan that needs most of it. */
function bytesOf({ backend, recipe, tower, ranks = 1 }: Fit, stage: Stage): number {
  const { step, update } = stageWork(recipe, stage, ranks);
  const network = networkOf(recipeOfStage(recipe, stage));
  const plans = [
    microStepPlan(network, step, backend.elemBytes, tower),
    updatePlan(network.parameters, update, backend.elemBytes, { rank: 0, ranks }),
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

/** Bytes of a GPU that nobody has taken; on a CPU a rank's part of what the system can give. */
function freeBytes(backend: Backend, ranks = 1): number {
  return backend.freeBytes?.() ?? availableBytes(ranks);
}

const gigabytes = (bytes: number) => (bytes / 1e9).toPrecision(3);
