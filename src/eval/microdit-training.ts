// Conformance of training: noising, denoiser and losses of a batch, gradients, AdamW steps, averaged weights.
import type { Numbers, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { count, type Safetensors } from '../io/safetensors.ts';
import { tokenCount } from '../model/config.ts';
import type { Context } from '../model/layers.ts';
import { addNoise } from '../plan/ops/edm.ts';
import { SCALAR, SCALAR_SIZE, STATE, STATE_SIZE } from '../plan/ops/optimizer.ts';
import { freeze } from '../plan/plan.ts';
import { encodeNumbers, readNumbers, Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';
import { contextFor } from '../sample/network.ts';
import { allocFlat, computeWeights, loadWeights, readParameter, regionsOf } from '../sample/weights.ts';
import { compact, type Group, type MostGroup, maxAbs, relMax, relative } from './conformance.ts';
import type { JsonObject } from './json-file.ts';
import { callShape, type CallShape, networkCall } from './microdit-forward.ts';
import { type GoldenSet, readKept } from './microdit-set.ts';
import type { TrainingCode } from './training-code.ts';

export interface TrainingGroups {
  /** Noised images and denoiser. */
  readonly outputs: Group;
  /** Losses, gradient norms, norms of parameters: relative. */
  readonly scalars: Group;
  readonly gradients: Group;
  readonly parameters: { readonly most: MostGroup; readonly all: Group };
  readonly averages: { readonly most: MostGroup; readonly all: Group };
}

/** One training batch as the engine takes it. */
export interface Batch {
  readonly set: GoldenSet;
  readonly mask: string;
  readonly shape: CallShape;
  readonly inputs: Readonly<Record<string, ArrayLike<number>>>;
}

/** `M.grads_mask75`, `M.step5_mask0.compact`, `M.ema5_mask75`: kind, step, mask, sampled or whole. */
const RESULT = /^(grads|step|ema)(\d*)_(mask\d+)(\.compact)?$/;

/** Names of the masks that a set was trained with, as its files and info name them. */
export function maskNames(set: GoldenSet): readonly string[] {
  const named = set.suffixes.flatMap((suffix) => RESULT.exec(suffix)?.[3] ?? []);
  return [...new Set([...(set.info.maybe('train')?.keys ?? []), ...named])].sort();
}

/** Everything that the set says about training with one mask. */
export function checkTraining(
  set: GoldenSet,
  training: TrainingCode,
  mask: string,
  groups: TrainingGroups,
): void {
  using file = set.open('train');
  if (!file) return;
  const batch = readBatch(set, file, mask);
  if (!batch) return;
  checkDenoiser(batch, file, groups.outputs);
  const run = new TrainingRun(batch, training);
  try {
    checkSteps(batch, file, run, groups);
  } finally {
    run.free();
  }
}

/** Null where the mask needs kept tokens and the set names none. */
export function readBatch(set: GoldenSet, file: Safetensors, mask: string): Batch | null {
  const shape = callShape(file, 'x0', null);
  const info = set.info.maybe('train')?.maybe(mask);
  const ratio = info?.number('mask_ratio') ?? Number(mask.slice('mask'.length)) / 100;
  const kept = ratio > 0 ? readKept(file, shape.N, tokenCount(set.network.dit.config)) : null;
  if (ratio > 0 && !kept) return null;
  const [mean, std] = [set.info.number('P_mean'), set.info.number('P_std')];
  const sigma = file.readFloat64('rnd_normal').map((z) => Math.exp(z * std + mean));
  const inputs = {
    x0: file.readFloat32('x0'),
    noise: file.readFloat32('noise'),
    y: file.readFloat32('y'),
    sigma,
    ...(kept ? { ids: kept.ids } : {}),
  };
  return { set, mask, shape: { ...shape, K: kept?.K ?? null }, inputs };
}

export function setAll(runner: Runner, inputs: Batch['inputs']): void {
  for (const [name, values] of Object.entries(inputs)) {
    if (runner.plan.inputs.has(name)) runner.set(name, values);
  }
}

/** sigma, x_noisy = x0 + sigma noise, and D(x_noisy; sigma). */
function checkDenoiser({ set, mask, shape, inputs }: Batch, file: Safetensors, outputs: Group): void {
  const check = (name: string, got: ArrayLike<number>) => {
    if (file.tensors.has(name)) outputs.add(relMax(got, file.readFloat64(name)), name);
  };
  check('sigma', inputs.sigma!);
  const { backend } = set;
  const trace = new Trace();
  const { in_channels: C, input_size: S } = set.network.dit.config;
  const image = (name: string) => trace.input(name, [shape.N, C, S, S], 'real');
  trace.output('x_noisy', addNoise(image('x0'), image('noise'), trace.input('sigma', [shape.N], 'real')));
  const noising = new Runner(backend, freeze('noising', trace, { elemBytes: backend.elemBytes }));
  setAll(noising, inputs);
  noising.run();
  const xNoisy = noising.get('x_noisy');
  noising.free();
  check('x_noisy', xNoisy);

  if (!file.tensors.has(`D_x_${mask}`)) return;
  const denoiser = networkCall(set, shape, { denoiser: true });
  setAll(denoiser, { ...inputs, x: xNoisy });
  denoiser.run();
  check(`D_x_${mask}`, denoiser.get('out'));
  denoiser.free();
}

/** The flat buffers of a run that trains on one batch again and again, and its two plans. */
export class TrainingRun {
  private readonly regions: Readonly<Record<string, Region>>;
  readonly micro: Runner;
  private readonly update: Runner;
  private readonly set: GoldenSet;

  /** `mode`: how a context is made for the trace of the micro-step, where it is more than training. */
  constructor(
    batch: Batch,
    training: TrainingCode,
    mode: (trace: Trace) => Pick<Context, 'tap' | 'forced'> = () => ({}),
  ) {
    const { set, shape } = batch;
    const { backend, network, info } = set;
    const { parameters, dit } = network;
    this.set = set;
    const flat = (extent: 'all' | 'trainable') => allocFlat(backend, parameters, extent);
    const { real } = backend.elemBytes;
    const master = loadMaster(set);
    const weights = computeWeights(backend, parameters, master);
    this.regions = {
      ...regionsOf(weights),
      ema: loadMaster(set),
      ...{ grad: flat('trainable'), m: flat('trainable'), v: flat('trainable') },
      ...{ state: backend.alloc(STATE_SIZE * real), scalar: backend.alloc(SCALAR_SIZE * real) },
    };

    const { elemBytes } = backend;
    const trace = new Trace();
    const { in_channels: C, input_size: S, caption_channels } = dit.config;
    const images = [shape.N, C, S, S];
    const loss = training.traceLoss(
      contextFor(network, trace, { training: true, ...mode(trace) }),
      network,
      info.number('sigma_data', 0.9),
      {
        x0: trace.input('x0', images, 'real'),
        noise: trace.input('noise', images, 'real'),
        sigma: trace.input('sigma', [shape.N], 'real'),
        ids: shape.K === null ? null : trace.input('ids', [shape.N, shape.K], 'i32'),
        y: trace.input('y', [shape.N, shape.S, caption_channels], 'act'),
      },
    );
    training.finishMicroStep(trace, loss, shape.N);
    this.micro = new Runner(backend, freeze('micro-step', trace, { elemBytes }), this.regions);
    setAll(this.micro, batch.inputs);

    const hyper = info.maybe('hyper');
    const [beta1 = 0.9, beta2 = 0.999] = hyper?.numbers('betas') ?? [];
    const options = {
      clipNorm: hyper?.number('clip_norm', 0.25) ?? 0.25,
      weightDecay: hyper?.number('weight_decay', 0.1) ?? 0.1,
      eps: hyper?.number('eps', 1e-8) ?? 1e-8,
      ...{ beta1, beta2, expertLrScale: 1, ema: true },
    };
    this.update = new Runner(backend, training.updatePlan(parameters, options, elemBytes), this.regions);
    const scalars = new Float64Array(SCALAR_SIZE);
    scalars[SCALAR.lr] = hyper?.number('lr', 2.4e-4) ?? 2.4e-4;
    scalars[SCALAR.emaRate] = hyper?.number('ema_smoothing', 0.9975) ?? 0.9975;
    backend.write(this.regions.scalar!, 0, encodeNumbers(backend, 'real', scalars));
  }

  /** Forward and backward pass; the losses of the images. */
  accumulate(): Numbers {
    this.micro.run();
    return this.micro.get('loss');
  }

  /** One update; the norm of the gradient before clipping. */
  step(): number {
    this.update.run();
    const { backend } = this.set;
    return readNumbers(backend, this.regions.state!, 0, 'real', STATE_SIZE)[STATE.norm]!;
  }

  /** Values of a parameter (its gradient, its average); null where there is no such trainable one. */
  read(space: 'master' | 'grad' | 'ema', name: string): Numbers | null {
    const p = this.set.network.parameters.find(name);
    if (!p || (space === 'grad' && p.tags.frozen)) return null;
    return readParameter(this.set.backend, this.regions[space]!, p);
  }

  /** L2 norm of the whole gradient. */
  gradientNorm(): number {
    const { network } = this.set;
    return Math.hypot(...network.parameters.list.map(({ name }) => l2(this.read('grad', name) ?? [])));
  }

  free(): void {
    this.micro.free();
    this.update.free();
    for (const region of new Set(Object.values(this.regions))) region.free();
  }
}

/** The set's weights in a float32 buffer of its own. */
function loadMaster({ backend, network, open }: GoldenSet): Region {
  using file = open('weights');
  const master = allocFlat(backend, network.parameters, 'all');
  if (file) loadWeights(backend, { weight: master, master }, network.parameters, file);
  return master;
}

const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length;

function checkSteps(batch: Batch, file: Safetensors, run: TrainingRun, groups: TrainingGroups): void {
  const { set, mask } = batch;
  const info = set.info.maybe('train')?.maybe(mask) ?? null;
  const losses = info?.numbers('loss_at_step') ?? [];
  const norms = info?.numbers('grad_norm_before_clip_at_step') ?? [];
  const after = numbered(info?.keys ?? [], /^loss_after_(\d+)_steps$/);
  const files = set.suffixes.filter((suffix) => RESULT.exec(suffix)?.[3] === mask);
  const wanted = [...numbered(files, /^(?:step|ema)(\d+)_/), ...after];
  const steps = Math.max(losses.length, norms.length, ...wanted);
  if (steps > MOST_STEPS)
    throw new Failure({ what: `${set.name}.info.json`, why: `${steps} steps are too many` });

  for (let step = 0; step <= steps; step++) {
    if (step === steps && !after.includes(step) && step > 0) break;
    const perImage = run.accumulate();
    const loss = mean(perImage);
    if (step === 0) {
      const name = `per_sample_loss_${mask}`;
      if (file.tensors.has(name)) groups.scalars.add(worstRelative(perImage, file.readFloat64(name)), name);
      checkGradients(set, run, mask, files, info, groups);
    }
    const expected = losses[step];
    if (expected !== undefined) groups.scalars.add(relative(loss, expected), `${mask} loss at step ${step}`);
    if (after.includes(step)) {
      const value = info?.number(`loss_after_${step}_steps`) ?? Number.NaN;
      groups.scalars.add(relative(loss, value), `${mask} loss after ${step} steps`);
    }
    if (step === steps) break;
    const norm = run.step();
    const wantedNorm = norms[step];
    if (wantedNorm !== undefined) {
      groups.scalars.add(relative(norm, wantedNorm), `${mask} gradient norm at step ${step}`);
    }
    checkParameters(set, run, step + 1, mask, files, info, groups);
  }
}

/** A hostile info file must not keep the machine busy for ever. */
const MOST_STEPS = 10_000;

function numbered(names: readonly string[], pattern: RegExp): number[] {
  return names.flatMap((name) => {
    const found = pattern.exec(name)?.[1];
    return found === undefined ? [] : [Number(found)];
  });
}

const worstRelative = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  a.length === b.length ? Math.max(...Array.from(b, (v, i) => relative(a[i]!, v))) : Number.NaN;

/** Gives `check` ours and theirs for every tensor of a result file, sampled as the file is. */
export function eachTensor(
  set: GoldenSet,
  suffix: string,
  run: TrainingRun,
  space: 'master' | 'grad' | 'ema',
  check: (ours: ArrayLike<number>, theirs: Float64Array, name: string) => void,
): void {
  using file = set.open(suffix);
  if (!file) return;
  const sampled = suffix.endsWith('.compact');
  for (const [name, entry] of file.tensors) {
    const whole = run.read(space, name);
    const ours = whole && sampled ? compact(whole) : whole;
    // A name of no parameter of ours, or another shape, fails: nothing equals it.
    const none = new Float64Array(count(entry)).fill(Number.NaN);
    check(ours?.length === none.length ? ours : none, file.readFloat64(name), `${suffix} ${name}`);
  }
}

function checkGradients(
  set: GoldenSet,
  run: TrainingRun,
  mask: string,
  files: readonly string[],
  info: JsonObject | null,
  groups: TrainingGroups,
): void {
  const whole = run.gradientNorm();
  /** Of an error and the norm that it belongs to. */
  const share = (error: number, norm: number) => error / (norm > NOTHING * whole ? norm : whole);
  for (const suffix of files.filter((f) => f.startsWith('grads_'))) {
    eachTensor(set, suffix, run, 'grad', (ours, theirs, name) => {
      const difference = l2(theirs.map((v, i) => ours[i]! - v));
      groups.gradients.add(share(difference, l2(theirs)), name);
    });
  }
  // Norms and sums of whole gradients, by the same measure: both move by less than the difference's norm.
  const norms = info?.maybe('grad_l2') ?? null;
  const sums = info?.maybe('grad_sum') ?? null;
  for (const name of norms?.keys ?? []) {
    const ours = run.read('grad', name) ?? [Number.NaN];
    const norm = norms?.number(name) ?? 0;
    groups.gradients.add(share(Math.abs(l2(ours) - norm), norm), `${mask} norm of ${name}`);
    if (sums?.has(name)) {
      const error = Math.abs(sum(ours) - sums.number(name)) / Math.sqrt(ours.length);
      groups.gradients.add(share(error, norm), `${mask} sum of ${name}`);
    }
  }
}

/**
 * A gradient that is zero in exact numbers (of queries, where there is one key) is float64's rounding noise
 * in the files: below this part of the whole gradient's norm an error is measured against the latter.
 */
const NOTHING = 1e-13;

function checkParameters(
  set: GoldenSet,
  run: TrainingRun,
  step: number,
  mask: string,
  files: readonly string[],
  info: JsonObject | null,
  { parameters, averages, scalars }: TrainingGroups,
): void {
  for (const [kind, space, group] of [
    ['step', 'master', parameters],
    ['ema', 'ema', averages],
  ] as const) {
    for (const suffix of files.filter((f) => f.startsWith(`${kind}${step}_`))) {
      eachTensor(set, suffix, run, space, (ours, theirs, name) => {
        group.most.add(ours, theirs, name);
        group.all.add(maxAbs(ours, theirs), name);
      });
    }
  }
  const norms = info?.maybe(`params_after_${step}_l2`) ?? null;
  const sums = info?.maybe(`params_after_${step}_sum`) ?? null;
  for (const name of norms?.keys ?? []) {
    const ours = run.read('master', name) ?? [Number.NaN];
    const norm = norms?.number(name) ?? 0;
    scalars.add(relative(l2(ours), norm), `${mask} norm of ${name} after ${step} steps`);
    if (sums?.has(name)) {
      const error = Math.abs(sum(ours) - sums.number(name)) / (Math.sqrt(ours.length) * norm || 1);
      scalars.add(error, `${mask} sum of ${name} after ${step} steps`);
    }
  }
}

function l2(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]! ** 2;
  return Math.sqrt(total);
}

function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
}
