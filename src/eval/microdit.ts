// Conformance of the diffusion transformer with a folder of golden sets: every check, group by group.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { freeWeights } from '../sample/weights.ts';
import type { Backend } from '../backend/backend.ts';
import { expertModules } from '../model/count.ts';
import { tokenCount, tokensPerExpert } from '../model/config.ts';
import { attempt, Group, type GroupResult, MostGroup, skipped } from './conformance.ts';
import { checkInitialWeights, checkModelShapes, checkPositions, checkSchedules } from './microdit-files.ts';
import { checkForward, checkSampler } from './microdit-forward.ts';
import { type GoldenSet, openSet, setNames } from './microdit-set.ts';
import { verifyRounded } from './microdit-rounded.ts';
import { checkTorchFiles } from './microdit-torch.ts';
import { checkTraining, maskNames } from './microdit-training.ts';
import type { TrainingCode } from './training-code.ts';

/** What each kind of number may be off by. */
export interface MicroditBounds {
  /** Outputs, intermediate values, D(x; sigma): max |a - b| / max |b|. */
  readonly outputs: number;
  /** Losses and norms: relative. */
  readonly scalars: number;
  /** |a - b| / |b| of a parameter's gradient, L2 norms. */
  readonly gradients: number;
  /** Parameters after steps: absolute, for 99.9 % of the elements and for all. */
  readonly parameters: { readonly most: number; readonly all: number };
  readonly averages: { readonly most: number; readonly all: number };
  /** Sampler: as outputs. */
  readonly latents: number;
  /** Noise levels and learning rates: relative. */
  readonly exact: number;
  /** Absolute. */
  readonly positions: number;
}

/** The bounds that float32 code should meet (golden README of this part). */
export const FLOAT32_BOUNDS: MicroditBounds = {
  outputs: 1e-5,
  scalars: 1e-5,
  gradients: 3e-5,
  parameters: { most: 2e-6, all: 1e-3 },
  averages: { most: 2e-6, all: 1e-5 },
  latents: 2e-5,
  exact: 1e-12,
  positions: 1e-6,
};

/** Six standard errors; the largest of so many normal numbers is never twice another such. */
const INIT_BOUNDS = { deviations: 6, extremes: 2 };

export interface MicroditOptions {
  readonly backend: Backend;
  readonly training: TrainingCode;
  readonly bounds?: MicroditBounds;
  /** A float32 backend, where `backend` computes in bfloat16: it makes the choices of the routers. */
  readonly recorder?: Backend;
}

/** Whether a folder holds sets of this part, or files that lie beside them. */
export function isMicrodit(files: readonly string[]): boolean {
  const beside = /^(model_shapes|init_stats|lr_schedules)\.json$|^pos_embed\.safetensors$/;
  return files.some((file) => file.endsWith('.info.json') || beside.test(file));
}

/** Every group of a folder, in order, as it is done. */
export function* verifyMicrodit(dir: string, options: MicroditOptions): Generator<GroupResult> {
  const { backend, training, bounds = FLOAT32_BOUNDS } = options;
  let names: readonly string[] = [];
  yield* attempt('sets', () => {
    names = setNames(dir);
    return [];
  });
  const { recorder } = options;
  for (const name of names) {
    if (recorder) yield* verifyRounded(dir, name, { backend, recorder, training });
    else yield* verifySet(dir, name, options);
  }

  const file = (name: string, group: string, check: (path: string) => readonly (GroupResult | null)[]) => {
    const path = join(dir, name);
    return existsSync(path) ? attempt(group, () => check(path)) : [];
  };
  yield* file('pos_embed.safetensors', 'positions', (path) => checkPositions(path, bounds.positions));
  yield* file('model_shapes.json', 'model shapes', checkModelShapes);
  yield* file('lr_schedules.json', 'learning rates', (path) => checkSchedules(path, training, bounds.exact));
  yield* file('init_stats.json', 'initial weights', (path) =>
    checkInitialWeights(path, { backend, training, bounds: INIT_BOUNDS }),
  );
  yield* checkTorchFiles(dir);
}

/** All groups of one set. */
function* verifySet(dir: string, name: string, options: MicroditOptions): Generator<GroupResult> {
  const { training, bounds = FLOAT32_BOUNDS } = options;
  let set: GoldenSet | null = null;
  yield* attempt(name, () => {
    set = openSet(dir, name, options.backend);
    return set ? [] : [skipped(name, 'needs an info file and weights')];
  });
  if (!set) return;
  const opened: GoldenSet = set;
  const group = (what: string, bound: number) => new Group(`${name} ${what}`, bound);
  yield* attempt(`${name} shapes`, () => [checkCounts(opened, group('shapes', 0)).result()]);

  const forward = {
    outputs: group('outputs', bounds.outputs),
    activations: group('activations', bounds.outputs),
    routing: group('routing', 0),
  };
  yield* attempt(`${name} forward`, () => {
    checkForward(opened, forward);
    return Object.values(forward).map((g) => g.result());
  });
  for (const mask of maskNames(opened)) {
    const at = (what: string) => `${name} ${mask} ${what}`;
    const groups = {
      outputs: new Group(at('denoiser'), bounds.outputs),
      scalars: new Group(at('losses, norms'), bounds.scalars),
      gradients: new Group(at('gradients'), bounds.gradients),
      parameters: {
        most: new MostGroup(at('parameters, 99.9 %'), bounds.parameters.most),
        all: new Group(at('parameters, all'), bounds.parameters.all),
      },
      averages: {
        most: new MostGroup(at('EMA, 99.9 %'), bounds.averages.most),
        all: new Group(at('EMA, all'), bounds.averages.all),
      },
    };
    yield* attempt(at('training'), () => {
      checkTraining(opened, training, mask, groups);
      const { outputs, scalars, gradients, parameters, averages } = groups;
      const all = [outputs, scalars, gradients, parameters.most, parameters.all, averages.most, averages.all];
      return all.map((g) => g.result());
    });
  }
  const sampler = { latents: group('sampler', bounds.latents), levels: group('noise levels', bounds.exact) };
  yield* attempt(`${name} sampler`, () => {
    checkSampler(opened, sampler);
    return Object.values(sampler).map((g) => g.result());
  });
  freeWeights(opened.weights);
}

/** What the info file counts; names and shapes were compared when the weights were loaded. */
function checkCounts({ network, info }: GoldenSet, group: Group): Group {
  const { dit, parameters } = network;
  const modules = expertModules(dit);
  group.add(0, 'names and shapes');
  if (info.has('parameters')) {
    group.add(Math.abs(parameters.trainable - info.number('parameters')), 'number of parameters');
  }
  if (info.has('moe_modules')) {
    group.add(modules.join() === info.texts('moe_modules').join() ? 0 : 1, 'expert modules');
  }
  const T = tokenCount(dit.config);
  if (info.has('tokens')) group.add(Math.abs(T - info.number('tokens')), 'tokens');
  const kept = info.number('tokens_kept', T);
  const tokens = info.maybe('tokens_per_expert');
  for (const name of tokens?.keys ?? []) {
    const K = modules.includes(name)
      ? tokensPerExpert(dit.config, name.startsWith('blocks.') ? kept : T)
      : Number.NaN;
    group.add(Math.abs(K - (tokens?.number(name) ?? 0)), `tokens per expert of ${name}`);
  }
  return group;
}
