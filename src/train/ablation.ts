// The paper's central comparison on one's own data: recipes of equal training FLOPs that differ in one thing.
import { EXIT, Failure } from '../io/failure.ts';
import type { ModelConfig, Recipe, Stage } from '../recipe/schema.ts';
import { networkOf } from '../sample/network.ts';
import { trainingFlops } from './budget.ts';
import { stageWork } from './work.ts';

/** One run of the comparison. */
export interface Cell {
  readonly name: string;
  readonly title: string;
  readonly recipe: Recipe;
  /** FLOPs of training on one image, while patches are dropped and afterwards. */
  readonly flops: readonly [masked: number, unmasked: number];
  readonly parameters: number;
}

export interface AblationOptions {
  readonly recipe: Recipe;
  /** Steps of deferred masking at 75 %; all cells get the FLOPs that those and their unmasked end take. */
  readonly steps: number;
  /** Share of the FLOPs that is spent without a mask at the end, as the paper does; 0: none. */
  readonly finetune: number;
  /** Checkpoints that are measured, the end and, before an unmasked end, the end of masking among them. */
  readonly points: number;
}

type Change = (model: ModelConfig) => Partial<ModelConfig>;
interface Plan {
  readonly title: string;
  readonly mask: number;
  readonly change: Change;
}

/** The cell that the others are compared with. */
export const BASE = 'deferred-75';
const DEFERRED: Change = () => ({ masking: 'deferred' });
const NAIVE: Change = () => ({ masking: 'naive' });

const CELLS: Readonly<Record<string, Plan>> = {
  [BASE]: { title: 'deferred masking, 75 %', mask: 0.75, change: DEFERRED },
  'naive-75': { title: 'naive masking, 75 %', mask: 0.75, change: NAIVE },
  smaller: { title: 'smaller model, no masking', mask: 0, change: () => ({ masking: 'none' }) },
  unmasked: { title: 'no masking', mask: 0, change: () => ({ masking: 'none' }) },
  'deferred-50': { title: 'deferred masking, 50 %', mask: 0.5, change: DEFERRED },
  'naive-50': { title: 'naive masking, 50 %', mask: 0.5, change: NAIVE },
  'naive-25': { title: 'naive masking, 25 %', mask: 0.25, change: NAIVE },
  'no-experts': {
    title: 'deferred 75 %, without experts',
    mask: 0.75,
    change: ({ depth }) => ({ masking: 'deferred', experts_every_n: depth + 1 }),
  },
  'even-widths': {
    title: 'deferred 75 %, without layer-wise scaling',
    mask: 0.75,
    change: (model) => ({
      masking: 'deferred',
      qkv_multipliers: [mean(model.qkv_multipliers)],
      ffn_multipliers: [mean(model.ffn_multipliers)],
    }),
  },
};

export const CELL_NAMES = Object.keys(CELLS);

/** The cells of those names, each with as many steps as the FLOPs allow. */
export function cellsOf(options: AblationOptions, names: readonly string[]): Cell[] {
  const base = cellModel(options.recipe, BASE);
  const perImage = flopsOf(base, [CELLS[BASE]!.mask, 0]);
  const batch = batchOf(options.recipe);
  const total = (options.steps * batch * perImage[0]) / (1 - options.finetune);
  return names.map((name) => {
    const plan = CELLS[name];
    if (!plan) {
      const fix = `Cells: ${CELL_NAMES.join(', ')}`;
      throw new Failure({ what: `cell ${name}`, why: 'is not known', fix, code: EXIT.usage });
    }
    const changed = cellModel(options.recipe, name);
    if (changed.model.masking === 'deferred' && !changed.model.use_patch_mixer) {
      const why = 'masks behind the patch-mixer, and model.use_patch_mixer is false';
      throw new Failure({ what: `cell ${name}`, why, fix: 'Leave it out: --cells', code: EXIT.usage });
    }
    const recipe = name === 'smaller' ? asCheapAs(changed, perImage[0]) : changed;
    const flops = flopsOf(recipe, [plan.mask, 0]);
    const shares = options.finetune > 0 ? [1 - options.finetune, options.finetune] : [1];
    const steps = shares.map((share, i) => Math.max(1, Math.round((total * share) / (batch * flops[i]!))));
    const stage = stagesOf(recipe, plan.mask, steps);
    // Cells are measured at the same shares of the work.
    const every = Math.max(1, Math.floor(steps[0]! / Math.max(1, options.points - shares.length + 1)));
    const train = {
      ...recipe.train,
      checkpoint_every: every,
      preview_every: 0,
      keep_last: 2 * options.points,
    };
    const { parameters } = networkOf(recipe);
    void parameters.list;
    return {
      name,
      title: plan.title,
      recipe: { ...recipe, data: dataOfFirst(recipe), stage, train },
      flops,
      parameters: parameters.trainable,
    };
  });
}

/** EFLOP that a cell has spent after so many steps. */
export function spentEflop({ recipe, flops }: Cell, steps: number): number {
  const [first] = recipe.stage;
  const masked = Math.min(steps, first?.steps ?? 0);
  return ((masked * flops[0] + (steps - masked) * flops[1]) * batchOf(recipe)) / 1e18;
}

/** Images of a step: those of the first stage, whose rates and batches are all cells'. */
const batchOf = ({ stage, train }: Recipe) => stage[0]!.batch_size ?? train.batch_size;

/** The rows that the first stage learns from, for all stages of a cell. */
function dataOfFirst({ data }: Recipe): Recipe['data'] {
  const rows = data.source.filter(({ stages }) => stages?.includes(1) ?? true);
  return { ...data, source: rows.map((row) => ({ ...row, stages: undefined })) };
}

const mean = (values: readonly number[]) => values.reduce((sum, x) => sum + x, 0) / values.length;

function cellModel(recipe: Recipe, name: string): Recipe {
  return { ...recipe, model: { ...recipe.model, ...CELLS[name]!.change(recipe.model) } };
}

function stagesOf(recipe: Recipe, mask: number, steps: readonly number[]): Stage[] {
  const row = recipe.stage[0]!;
  const [first = 1, last] = steps;
  const warmup = { warmup_steps: Math.min(100, Math.ceil(first / 10)) };
  const masked = { ...row, ...warmup, name: 'masked', steps: first, mask_ratio: mask };
  const decay = { schedule: 'warmup-cosine', alpha_f: 0.02 } as const;
  if (last === undefined) return [{ ...masked, ...decay }];
  const unmasked = { ...row, ...decay, name: 'unmasked', steps: last, mask_ratio: 0, warmup_steps: 0 };
  return [{ ...masked, schedule: 'warmup-constant' }, unmasked];
}

/** FLOPs of training on one image at each mask ratio. */
function flopsOf(recipe: Recipe, masks: readonly [number, number]): [number, number] {
  const network = networkOf(recipe);
  const at = (mask_ratio: number) => {
    const stage = { ...recipe.stage[0]!, mask_ratio };
    return trainingFlops(network, stageWork({ ...recipe, stage: [stage] }, stage).step);
  };
  return [at(masks[0]), at(masks[1])];
}

/** The same model, narrower and shallower, so that an unmasked image costs about as much as given. */
function asCheapAs(recipe: Recipe, flops: number): Recipe {
  const { model } = recipe;
  const shares = [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25];
  const width = (full: number, share: number) =>
    Math.max(1, Math.round((full * share) / model.head_dim)) * model.head_dim;
  const choices = shares.flatMap((wide) =>
    shares.map((deep) => {
      const depth = Math.max(1, Math.round(model.depth * deep));
      const patch_mixer_depth = Math.max(1, Math.round(model.patch_mixer_depth * deep));
      const change = { dim: width(model.dim, wide), patch_mixer_dim: width(model.patch_mixer_dim, wide) };
      const pick = (values: readonly number[]) => resampled(values, depth);
      const widths = {
        qkv_multipliers: pick(model.qkv_multipliers),
        ffn_multipliers: pick(model.ffn_multipliers),
      };
      const smaller = { ...recipe, model: { ...model, ...change, ...widths, depth, patch_mixer_depth } };
      // Width and depth shrink together where the cost allows a choice.
      const off =
        Math.abs(Math.log(flopsOf(smaller, [0, 0])[0] / flops)) + 0.05 * Math.abs(Math.log(wide / deep));
      return { smaller, off };
    }),
  );
  return choices.reduce((best, choice) => (choice.off < best.off ? choice : best)).smaller;
}

/** A list over the depth, read off at another number of blocks. */
function resampled(values: readonly number[], depth: number): number[] {
  if (values.length === 1) return [...values];
  return Array.from({ length: depth }, (_, i) => {
    const at = depth === 1 ? values.length - 1 : (i * (values.length - 1)) / (depth - 1);
    const low = Math.floor(at);
    const high = Math.min(values.length - 1, low + 1);
    return values[low]! + (at - low) * (values[high]! - values[low]!);
  });
}
