// What a run will take, before a cent is spent: FLOPs, memory, speed, hours, dollars and disk, stage by
// stage.
import type { Backend, ElemBytes } from '../backend/backend.ts';
import { activeParameters } from '../model/count.ts';
import type { Node } from '../plan/op.ts';
import { RECOMPUTE, type Recompute } from '../plan/recompute.ts';
import { q8Bytes } from '../io/q8.ts';
import type { Recipe, Stage } from '../recipe/schema.ts';
import { recipeOfStage } from '../recipe/stages.ts';
import { forwardPlan } from '../sample/forward.ts';
import { type Network, networkOf } from '../sample/network.ts';
import { benchTrain } from './bench.ts';
import { type Machine, modelledSeconds, productSeconds } from './hardware.ts';
import { keptPatches, microStepPlan, microStepTrace, type MicroStep } from './step.ts';
import { stageWork } from './work.ts';

export interface BudgetOptions {
  readonly recipe: Recipe;
  readonly machine: Machine;
  /** Dollars an hour for all of the machine. */
  readonly price: number | null;
  /** Share of what the GPUs are sold for, in percent, instead of the modelled speed. */
  readonly mfu: number | null;
  /** Images of the data set, for disk and preparation. */
  readonly images: number;
  /** Measures the speed of one device of this machine instead. */
  readonly measure?: { readonly backend: Backend; readonly threads: number; readonly repeats: number };
}

/** Memory of one GPU at a level of recomputation. */
export interface Level {
  readonly recompute: Recompute;
  /** Bytes for each image of a micro-batch, and whatever their number. */
  readonly bytes_per_image: number;
  readonly bytes_fixed: number;
  /** The largest that fits; 0: none does. */
  readonly micro_batch: number;
}

export interface StageBudget {
  readonly name: string;
  readonly steps: number;
  readonly images: number;
  readonly eflop: number;
  readonly gflop_per_image: number;
  readonly images_per_s: number;
  /** Share of what the GPUs are sold for; null where the speed was measured. */
  readonly mfu: number | null;
  readonly hours: number;
  readonly dollars: number | null;
  readonly micro_batch: number;
  readonly recompute: Recompute;
  /** Of one GPU: weights, gradients, optimizer, activations. */
  readonly bytes: number;
  readonly levels: readonly Level[];
}

export interface Budget {
  readonly gpu: string;
  readonly gpus: number;
  readonly price: number | null;
  /** Where images_per_s comes from. */
  readonly speed: 'modelled' | 'measured' | 'given';
  readonly parameters: { readonly total: number; readonly active: number };
  readonly stages: readonly StageBudget[];
  readonly total: Omit<StageBudget, 'name' | 'recompute' | 'levels' | 'gflop_per_image'>;
  readonly data: DataBudget;
}

/** What the data set takes on disk and to prepare; null where the recipe trains on pictures. */
export type DataBudget = {
  readonly images: number;
  readonly bytes_per_image: number;
  readonly bytes: number;
  /** With the states in 8 bits. */
  readonly q8_bytes: number;
  /** With token ids instead of states of the text tower, which then runs within the step. */
  readonly token_bytes: number;
  readonly token_eflop: number;
  readonly prepare_eflop: number;
  readonly prepare_hours: number;
  readonly prepare_dollars: number | null;
} | null;

/** bfloat16 on a GPU, as the CUDA backend computes. */
const BF16: ElemBytes = { act: 2, real: 4, i32: 4 };
/** Left for the context, libraries and their work memory, and for what does not fit exactly. */
const RESERVED = { bytes: 2e9, share: 0.08 };
/** The largest micro-batch that is looked at. */
const LARGEST = 512;

/**
 * The paper's encoders: TFLOP of the autoencoder's encoder for a 256 px image (it grows with the area), and
 * of the text tower for a caption of 77 tokens; and the share of the GPU's products that they reach.
 */
const ENCODERS = { vae256: 0.27, clip: 0.0471, reached: 0.4 };

export function budgetOf(options: BudgetOptions): Budget {
  const { recipe, machine, price, mfu, measure } = options;
  const stages = recipe.stage.map((stage, i) => stageBudget(options, stage, i));
  const sum = (of: (stage: StageBudget) => number) => stages.reduce((all, stage) => all + of(stage), 0);
  const first = networkOf(recipeOfStage(recipe, recipe.stage[0]!));
  const { parameters, dit } = first;
  const [images, hours, eflop] = [sum((s) => s.images), sum((s) => s.hours), sum((s) => s.eflop)];
  return {
    gpu: machine.gpu.name,
    gpus: machine.count,
    price,
    speed: measure ? 'measured' : mfu === null ? 'modelled' : 'given',
    parameters: { total: parameters.trainable, active: activeParameters(parameters, dit.config) },
    stages,
    total: {
      steps: sum((s) => s.steps),
      ...{ images, eflop, hours, images_per_s: images / (3600 * hours) },
      mfu: measure ? null : share(eflop * 1e18, 3600 * hours, machine),
      dollars: price === null ? null : price * hours,
      micro_batch: Math.min(...stages.map((s) => s.micro_batch)),
      bytes: Math.max(...stages.map((s) => s.bytes)),
    },
    data: dataBudget(options, images),
  };
}

const share = (flops: number, seconds: number, { gpu, count }: Machine) =>
  flops / (seconds * gpu.tflops * 1e12 * count);

function stageBudget(options: BudgetOptions, stage: Stage, index: number): StageBudget {
  const { machine, price, mfu, measure } = options;
  const recipe = recipeOfStage(options.recipe, stage);
  const network = networkOf(recipe);
  const { step } = stageWork(options.recipe, stage);
  const batch = step.batch * step.passes;
  const flops = trainingFlops(network, step);
  const levels = RECOMPUTE.map((level) => memoryAt(network, step, level, batch, options));
  const choices = levels
    .filter((level) => level.micro_batch > 0)
    .map((level) => ({ level, speed: modelledSpeed(network, step, level, batch, machine) }));
  const best = choices.toSorted((a, b) => b.speed - a.speed)[0];
  const modelled = (best?.speed ?? 0) * machine.count;
  const peak = machine.gpu.tflops * 1e12 * machine.count;
  const images_per_s = measure
    ? measuredSpeed(options.recipe, stage, network, measure) * machine.count
    : mfu === null
      ? modelled
      : ((mfu / 100) * peak) / flops;
  const images = stage.steps * batch;
  const hours = images / images_per_s / 3600;
  const level = best?.level ?? levels.at(-1)!;
  return {
    name: stage.name ?? `stage ${index + 1}`,
    steps: stage.steps,
    images,
    eflop: (images * flops) / 1e18,
    gflop_per_image: flops / 1e9,
    images_per_s,
    mfu: measure ? null : share(images * flops, 3600 * hours, machine),
    hours,
    dollars: price === null ? null : price * hours,
    micro_batch: measure ? step.batch : level.micro_batch,
    recompute: measure ? step.recompute : level.recompute,
    bytes: level.bytes_fixed + level.bytes_per_image * Math.max(1, level.micro_batch),
    levels,
  };
}

const productFlops = (nodes: readonly Node[]) =>
  nodes.reduce((sum, { op, ...node }) => sum + (op.products ? op.flops({ op, ...node }) : 0), 0);

/** FLOPs of training on one image: matrix products alone, twice as many backward as forward. */
export function trainingFlops(network: Network, step: MicroStep): number {
  const { captionLength, sigmaData } = step;
  const pass = { batch: 1, kept: keptPatches(network, step.maskRatio), captionLength, sigmaData };
  return 3 * productFlops(forwardPlan(network, pass, BF16).nodes) + towerFlops(step);
}

/** Of the text tower, where it runs within the step; it learns nothing, so forward alone. */
const towerFlops = ({ inputs }: MicroStep) => (inputs.captions === 'tokens' ? ENCODERS.clip * 1e12 : 0);

/** The step without the tower: its weights are not at hand when a run is planned. */
function withoutTower(step: MicroStep): MicroStep {
  const { captions, images } = step.inputs;
  return { ...step, inputs: { images, captions: captions === 'tokens' ? 'captions' : captions } };
}

/** Arena of a micro-step at two sizes: it grows by equal parts with the images. */
function memoryAt(
  network: Network,
  step: MicroStep,
  recompute: Recompute,
  batch: number,
  { machine, recipe }: BudgetOptions,
): Level {
  const arena = (N: number) => {
    const plan = microStepPlan(network, { ...withoutTower(step), batch: N, recompute }, BF16);
    return plan.program.spaceBytes.arena! + plan.program.spaceBytes.input!;
  };
  const [two, four] = [arena(2), arena(4)];
  const bytes_per_image = (four - two) / 2;
  const bytes_fixed = two - 2 * bytes_per_image + stateBytes(network, recipe, machine.count);
  const room = machine.gpu.memory * (1 - RESERVED.share) - RESERVED.bytes - bytes_fixed;
  const most = Math.floor(room / bytes_per_image);
  return {
    recompute,
    bytes_per_image,
    bytes_fixed,
    micro_batch: largestDivisor(imagesEach(batch, machine), most),
  };
}

/** Weights in bfloat16, gradients and master weights whole; shares of moments and averages. */
function stateBytes({ parameters }: Network, recipe: Recipe, ranks: number): number {
  const averaged = recipe.optimizer.ema > 0 || recipe.stage.some((stage) => (stage.ema ?? 0) > 0);
  return parameters.end * (2 + 4 + 4 + (8 + (averaged ? 4 : 0)) / ranks);
}

/** Images of a step on the GPU that has most of them. */
const imagesEach = (batch: number, { count }: Machine) => Math.ceil(batch / count);

/** The largest divisor of a batch that is no larger than `most`; 0 where not even one image fits. */
function largestDivisor(batch: number, most: number): number {
  for (let n = Math.min(LARGEST, Math.floor(most), batch); n > 0; n--) if (batch % n === 0) return n;
  return 0;
}

/** Images a second of one GPU: micro-steps, gradients exchanged in the last; an update, then weights. */
function modelledSpeed(
  network: Network,
  step: MicroStep,
  { recompute, micro_batch: N }: Level,
  batch: number,
  machine: Machine,
): number {
  const { gpu, count } = machine;
  const work = { ...withoutTower(step), batch: N, recompute, ranks: count, last: true };
  const { nodes } = microStepTrace(network, work);
  const pass = (of: readonly Node[]) =>
    modelledSeconds(of, gpu, BF16) + productSeconds(N * towerFlops(step), gpu);
  // Gradients are exchanged within the last pass, weights after the update.
  const passes =
    (imagesEach(batch, machine) / N - 1) * pass(nodes.filter(({ op }) => !op.beside)) + pass(nodes);
  const { end } = network.parameters;
  const update = (38 * end) / count / gpu.bandwidth;
  const exchange = count > 1 ? (2 * end) / gpu.link : 0;
  return batch / count / (passes + update + exchange);
}

function measuredSpeed(
  recipe: Recipe,
  stage: Stage,
  network: Network,
  measure: NonNullable<BudgetOptions['measure']>,
): number {
  const options = { ...measure, network, recipe, stage, ops: false, referenceSeconds: null };
  return benchTrain(options).images_per_s;
}

function dataBudget({ recipe, machine, price, images }: BudgetOptions, seen: number): DataBudget {
  if (recipe.image.kind !== 'latents') return null;
  const sizes = [...new Set(recipe.stage.map((stage) => recipeOfStage(recipe, stage).model.input_size))];
  const { in_channels, caption_channels } = recipe.model;
  const latents = sizes.reduce((sum, side) => sum + 2 * in_channels * side * side, 0);
  const { length } = recipe.text;
  const [states, tokens] = [2 * length * caption_channels, 2 * length];
  const perImage = latents + (recipe.text.encoder === 'clip' ? tokens : states);
  const tflop = sizes.reduce((sum, side) => sum + ENCODERS.vae256 * (side / 32) ** 2, 0) + ENCODERS.clip;
  const rate = machine.gpu.tflops * 1e12 * machine.count * ENCODERS.reached;
  const hours = (images * tflop * 1e12) / rate / 3600;
  return {
    images,
    bytes_per_image: perImage,
    bytes: images * perImage,
    q8_bytes: images * (latents + q8Bytes(states / 2)),
    token_bytes: images * (latents + tokens),
    token_eflop: (seen * ENCODERS.clip) / 1e6,
    prepare_eflop: (images * tflop) / 1e6,
    prepare_hours: hours,
    prepare_dollars: price === null ? null : price * hours,
  };
}
