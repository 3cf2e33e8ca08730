// The trainer: flat buffers, the plans of the current stage, and one step at a time. Knows no files.
import type { Backend, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { sinCosPositions } from '../model/positions.ts';
import { SCALAR, SCALAR_SIZE, STATE, STATE_SIZE } from '../plan/ops/optimizer.ts';
import { words } from '../plan/ops/random.ts';
import type { Plan } from '../plan/plan.ts';
import { encodeNumbers, readNumbers, Runner } from '../plan/runner.ts';
import type { ModelConfig, Recipe, Stage } from '../recipe/schema.ts';
import { recipeOfStage, totalSteps } from '../recipe/stages.ts';
import type { Network } from '../sample/network.ts';
import {
  allocFlat,
  computeWeights,
  freeWeights,
  roundWeights,
  writeParameter,
  writeWeight,
} from '../sample/weights.ts';
import { initialiseWeights } from './initialise.ts';
import { rateMultiplier } from './schedule.ts';
import { microStepPlan, updatePlan } from './step.ts';
import { averages, stageWork } from './work.ts';

/**
 * Buffers of N images that a source fills: images [N, C, S, S], word rows [N, L, 2], places in the run [N].
 */
export interface Batch {
  readonly images: Float32Array;
  readonly ids: Int32Array;
  readonly places: Float64Array;
}

/** Training images by their place in the run. */
export interface BatchSource {
  allocate(count: number): Batch;
  fill(batch: Batch, first: number): void;
}

export interface StepReport {
  /** Steps done, this one included. */
  readonly step: number;
  readonly images: number;
  readonly loss: number;
  readonly gradNorm: number;
  readonly lr: number;
  readonly stage: number;
  /** The step changed nothing, because its loss or gradient was not finite. */
  readonly skipped: boolean;
}

/** Everything that a step changes or reads, as flat buffers of the backend. */
export interface TrainingState {
  /** The weights in float32, and what kernels read: the same region where the compute type is float32. */
  readonly master: Region;
  readonly weight: Region;
  readonly grad: Region;
  readonly m: Region;
  readonly v: Region;
  /** Averaged weights; null where the recipe has none. */
  readonly ema: Region | null;
  readonly state: Region;
  readonly scalar: Region;
}

interface StagePlans {
  readonly index: number;
  readonly micro: Runner;
  readonly update: Runner;
  readonly batch: Batch;
  /** Place in the run of the first image in `batch`; -1: none. */
  holds: number;
  readonly passes: number;
}

export class Trainer {
  readonly buffers: TrainingState;
  /** Steps done, and images seen in them. */
  step = 0;
  images = 0;
  private plans: StagePlans | null = null;

  constructor(
    private readonly backend: Backend,
    readonly network: Network,
    private readonly recipe: Recipe,
    private readonly source: BatchSource,
  ) {
    const flat = (extent: 'all' | 'trainable') => allocFlat(backend, network.parameters, extent);
    const { real } = backend.elemBytes;
    const master = flat('all');
    this.buffers = {
      ...computeWeights(backend, network.parameters, master),
      grad: flat('trainable'),
      m: flat('trainable'),
      v: flat('trainable'),
      ema: averages(recipe) ? flat('all') : null,
      state: backend.alloc(STATE_SIZE * real),
      scalar: backend.alloc(SCALAR_SIZE * real),
    };
  }

  /** Steps of all stages. */
  get totalSteps(): number {
    return totalSteps(this.recipe);
  }

  /** The stage that does the step after `step` done ones, and how many of its own steps are done. */
  stageAt(step: number): { index: number; stage: Stage; done: number } {
    let start = 0;
    for (const [index, stage] of this.recipe.stage.entries()) {
      if (step < start + stage.steps) return { index, stage, done: step - start };
      start += stage.steps;
    }
    throw new Failure({ what: 'train', why: `all ${start} steps of the recipe are done` });
  }

  /** Draws the initial weights; the averaged ones begin as a copy. */
  initialise(): void {
    const { master, ema } = this.buffers;
    initialiseWeights(this.backend, master, this.network.parameters, this.recipe.train.seed);
    if (ema) this.copyRegion(master, ema);
    this.roundWeights();
  }

  /** Makes what kernels read the rounded copy of the float32 weights, after those were written. */
  roundWeights(): void {
    roundWeights(this.backend, this.network.parameters, this.buffers);
  }

  /** One update of the weights from the next images of the run. */
  runStep(): StepReport {
    const { index, stage, done } = this.stageAt(this.step);
    const plans = this.plansFor(index, stage);
    const { micro, update, batch, passes } = plans;
    for (let pass = 0; pass < passes; pass++) {
      this.fill(plans, this.images);
      micro.set('x0', batch.images);
      micro.set('words', batch.ids);
      micro.set('places', placeWords(batch.places));
      micro.run();
      this.images += batch.places.length;
    }
    const lr = this.learningRate(stage, done);
    const scalars = new Float64Array(SCALAR_SIZE);
    scalars[SCALAR.lr] = lr;
    scalars[SCALAR.emaRate] = recipeOfStage(this.recipe, stage).optimizer.ema;
    this.backend.write(this.buffers.scalar, 0, encodeNumbers(this.backend, 'real', scalars));
    update.run();
    this.step += 1;
    // A device computes while the host makes the next batch; only then is it waited for.
    if (done + 1 < stage.steps) this.fill(plans, this.images);
    const state = readNumbers(this.backend, this.buffers.state, 0, 'real', STATE_SIZE);
    return {
      step: this.step,
      images: this.images,
      loss: state[STATE.loss]!,
      gradNorm: state[STATE.norm]!,
      lr,
      stage: index,
      skipped: state[STATE.skip] !== 0,
    };
  }

  /** Makes the batch that begins with an image of the run, unless it is there already. */
  private fill(plans: StagePlans, first: number): void {
    if (plans.holds === first) return;
    this.source.fill(plans.batch, first);
    plans.holds = first;
  }

  /** The plans of the next step's stage, for counting and printing. */
  currentPlans(): { micro: Plan; update: Plan; passes: number; batch: number } {
    const { index, stage } = this.stageAt(this.step);
    const { micro, update, passes, batch } = this.plansFor(index, stage);
    return { micro: micro.plan, update: update.plan, passes, batch: batch.places.length };
  }

  /**
   * Nanoseconds per op of one pass and of one update with the data of the last step (changes the weights).
   */
  timeStep(): { micro: Float64Array; update: Float64Array } {
    const { index, stage } = this.stageAt(this.step);
    const { micro, update } = this.plansFor(index, stage);
    return { micro: micro.runTimed(), update: update.runTimed() };
  }

  free(): void {
    this.plans?.micro.free();
    this.plans?.update.free();
    this.plans = null;
    const { weight, master, ...others } = this.buffers;
    freeWeights({ weight, master });
    for (const region of Object.values(others)) region?.free();
  }

  private learningRate(stage: Stage, done: number): number {
    const { optimizer, schedule } = recipeOfStage(this.recipe, stage);
    const { kind, warmup_steps: warmupSteps, alpha_f: alphaF, lagged } = schedule;
    return optimizer.lr * rateMultiplier({ kind, warmupSteps, alphaF, steps: stage.steps, lagged }, done);
  }

  private plansFor(index: number, stage: Stage): StagePlans {
    if (this.plans?.index === index) return this.plans;
    this.plans?.micro.free();
    this.plans?.update.free();
    const { backend, network, recipe } = this;
    const { step, update: options, model } = stageWork(recipe, stage);
    const { master, weight, grad, m, v, ema, state, scalar } = this.buffers;
    const regions = { master, weight, grad, m, v, state, scalar, ...(ema ? { ema } : {}) };
    const micro = new Runner(backend, microStepPlan(network, step, backend.elemBytes), regions);
    const update = new Runner(backend, updatePlan(network.parameters, options, backend.elemBytes), regions);
    micro.set('seed', words(recipe.train.seed));
    this.placePositions(model);
    const batch = this.source.allocate(step.batch);
    this.plans = { index, micro, update, batch, holds: -1, passes: step.passes };
    return this.plans;
  }

  /** Positions belong to no training: a stage sets them by its own interpolation scale. */
  private placePositions(model: ModelConfig): void {
    const grid = model.input_size / model.patch_size;
    const values = sinCosPositions(model.dim, grid, model.pos_interp_scale, grid);
    const { parameters, dit } = this.network;
    const positions = parameters.at(dit.posEmbed);
    writeWeight(this.backend, this.buffers, positions, values);
    if (this.buffers.ema) writeParameter(this.backend, this.buffers.ema, positions, values);
  }

  private copyRegion(from: Region, to: Region): void {
    const bytes = from.bytes;
    for (let at = 0; at < bytes; at += COPY_BYTES) {
      const part = new Uint8Array(Math.min(COPY_BYTES, bytes - at));
      this.backend.read(from, at, part);
      this.backend.write(to, at, part);
    }
  }
}

const COPY_BYTES = 64 * 2 ** 20;

/** Places as pairs of 32-bit words [N, 2]. */
function placeWords(places: Float64Array): Int32Array {
  const pairs = new Int32Array(2 * places.length);
  for (const [i, place] of places.entries()) pairs.set(words(place), 2 * i);
  return pairs;
}
