// The trainer: flat buffers, the plans of the current stage, and one step at a time. Knows no files.
import type { Backend, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { sinCosPositions } from '../model/positions.ts';
import { SCALAR, SCALAR_SIZE, STATE, STATE_SIZE } from '../plan/ops/optimizer.ts';
import { words } from '../plan/ops/random.ts';
import type { Parameter } from '../plan/params.ts';
import type { Plan } from '../plan/plan.ts';
import { encodeNumbers, readNumbers, Runner } from '../plan/runner.ts';
import type { ModelConfig, Recipe, Stage } from '../recipe/schema.ts';
import { imagesOfSteps, recipeOfStage, stageAt, totalSteps } from '../recipe/stages.ts';
import type { CaptionTower } from '../sample/clip-encoder.ts';
import { type Network, networkOf } from '../sample/network.ts';
import {
  freeWeights,
  readParameter,
  roundWeights,
  separate,
  writeParameter,
  writeWeight,
} from '../sample/weights.ts';
import { eachRank } from './agreement.ts';
import { copyBytes, Exchange, type Shared } from './exchange.ts';
import { smallestGap } from './gap.ts';
import { initialiseWeights } from './initialise.ts';
import { rateMultiplier } from './schedule.ts';
import { ALONE, type Share, shareOf } from './share.ts';
import { type MicroStep, microStepPlan, updatePlan } from './step.ts';
import { averages, stageWork } from './work.ts';

/** Buffers of N images that a source fills: inputs of the micro-step by name, and places in the run [N]. */
export interface Batch {
  readonly inputs: Readonly<Record<string, Float32Array | Int32Array>>;
  readonly places: Float64Array;
}

/** Training images by their place in the run. A buffer is not touched before its promise is kept. */
export interface BatchSource<B extends Batch = Batch> {
  allocate(count: number): B;
  fill(batch: B, first: number): void | Promise<void>;
}

/** What each stage of a run learns from. */
export interface TrainingData {
  stage(index: number): BatchSource;
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
  /** Such steps so far, this one included. */
  readonly skippedSteps: number;
  /**
   * Smallest distance of a routed token to one that was not, in probability; null where it is not asked
   * for.
   */
  readonly topkGap: number | null;
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
  /** The last pass of a step, in which ranks sum their gradients; alone the same runner. */
  readonly last: Runner;
  readonly update: Runner;
  readonly source: BatchSource;
  readonly batch: Batch;
  /** Place in the run of the first image in `batch`, or on its way there; -1: none. */
  holds: number;
  /** Kept when `batch` is there. */
  filled: Promise<void>;
  readonly passes: number;
}

export class Trainer {
  readonly buffers: TrainingState;
  /** What this process holds of it. */
  readonly share: Share;
  /** Steps done, and images seen in them. */
  step = 0;
  images = 0;
  /** The network of the stage of the last step done: stages differ in positions alone. */
  network: Network;
  private plans: StagePlans | null = null;
  private readonly networks: readonly Network[];
  private readonly exchange: Exchange | null;

  /** `tower`: a text tower that turns token ids of the data into captions within the step. */
  constructor(
    private readonly backend: Backend,
    private readonly recipe: Recipe,
    private readonly data: TrainingData,
    private readonly tower: CaptionTower | null = null,
  ) {
    this.networks = stageNetworks(recipe);
    this.network = this.networks[0]!;
    const largest = this.networks.reduce((a, b) => (b.parameters.end > a.parameters.end ? b : a));
    const { real, act } = backend.elemBytes;
    this.share = shareOf(largest.parameters, backend.group?.rank ?? ALONE);
    const { ranks, count, whole } = this.share;
    const flat = (elements: number) => backend.alloc(elements * real);
    const master = flat(whole);
    this.buffers = {
      master,
      weight: separate(backend.elemBytes) ? backend.alloc(whole * act) : master,
      grad: flat(ranks > 1 ? whole : count),
      m: flat(count),
      v: flat(count),
      ema: averages(recipe) ? flat(ranks > 1 ? count : whole) : null,
      state: backend.alloc(STATE_SIZE * real),
      scalar: backend.alloc(SCALAR_SIZE * real),
    };
    this.exchange = ranks > 1 ? new Exchange(backend, this.share, this.buffers) : null;
  }

  /** Steps of all stages. */
  get totalSteps(): number {
    return totalSteps(this.recipe);
  }

  /** Images of the first so many steps. */
  imagesOf(steps: number): number {
    return imagesOfSteps(this.recipe, steps);
  }

  /** The stage that does the step after `step` done ones, and how many of its own steps are done. */
  stageAt(step: number): { index: number; stage: Stage; done: number } {
    const found = stageAt(this.recipe, step);
    if (found) return found;
    throw new Failure({ what: 'train', why: `all ${this.totalSteps} steps of the recipe are done` });
  }

  /** Says how many steps and images are done, before the weights of that moment are loaded. */
  goTo(step: number, images: number): void {
    this.step = step;
    this.images = images;
    this.network = this.networks[this.stageAt(Math.max(0, step - 1)).index]!;
  }

  /** The recipe as the network of the last step has it: what a saved model belongs to. */
  get modelRecipe(): Recipe {
    const { model, image } = recipeOfStage(this.recipe, this.stageAt(Math.max(0, this.step - 1)).stage);
    return { ...this.recipe, model, image };
  }

  /** Draws the initial weights; the averaged ones begin as a copy. */
  initialise(): void {
    const { master, ema } = this.buffers;
    initialiseWeights(this.backend, master, this.network.parameters, this.recipe.train.seed);
    const { first } = this.share;
    const { real } = this.backend.elemBytes;
    if (ema) copyBytes(this.backend, master, first * real, ema, 0, Math.min(ema.bytes, master.bytes));
    this.roundWeights();
  }

  /** Sums over ranks of some numbers: what all ranks then know alike. */
  async agree(values: readonly number[]): Promise<readonly number[]> {
    return this.exchange ? this.exchange.agree(values) : values;
  }

  /**
   * A flat buffer with all of a kind of state. Of several ranks all have to call this, in the same order;
   * what they get is good until the next call or step.
   */
  whole(kind: Shared): Region {
    const { buffers, exchange } = this;
    return exchange ? exchange.whole(kind) : (buffers[kind] ?? buffers.master);
  }

  /** Makes what kernels read the rounded copy of the float32 weights, after those were written. */
  roundWeights(): void {
    roundWeights(this.backend, this.network.parameters, this.buffers);
  }

  /** One update of the weights from the next images of the run. */
  async runStep(): Promise<StepReport> {
    const { index, stage, done } = this.stageAt(this.step);
    const plans = this.plansFor(index, stage);
    const { update, batch, passes } = plans;
    this.exchange?.giveBack();
    if (done === 0 && stage.optimizer === 'drop') this.dropMoments();
    let gap = Number.POSITIVE_INFINITY;
    for (let pass = 0; pass < passes; pass++) {
      this.fill(plans, this.images);
      await plans.filled;
      const micro = pass < passes - 1 ? plans.micro : plans.last;
      for (const [name, values] of Object.entries(batch.inputs)) micro.set(name, values);
      micro.set('places', placeWords(batch.places));
      micro.run();
      if (this.recipe.train.log_gap) gap = Math.min(gap, smallestGap(micro));
      this.images += batch.places.length * this.share.ranks;
    }
    const lr = this.learningRate(stage, done);
    const scalars = new Float64Array(SCALAR_SIZE);
    scalars[SCALAR.lr] = lr;
    const { ema } = recipeOfStage(this.recipe, stage).optimizer;
    scalars[SCALAR.emaRate] = done < stage.ema_start ? 0 : ema;
    this.backend.write(this.buffers.scalar, 0, encodeNumbers(this.backend, 'real', scalars));
    update.run();
    this.step += 1;
    // A device computes while the host makes the next batch; only then is it waited for.
    if (done + 1 < stage.steps) this.fill(plans, this.images);
    await this.backend.group?.settle?.();
    const state = readNumbers(this.backend, this.buffers.state, 0, 'real', STATE_SIZE);
    return {
      step: this.step,
      images: this.images,
      loss: state[STATE.loss]!,
      gradNorm: state[STATE.norm]!,
      lr,
      stage: index,
      skipped: state[STATE.skip] !== 0,
      skippedSteps: state[STATE.skipped]!,
      topkGap: this.recipe.train.log_gap
        ? Math.min(...(await eachRank(this.share, gap, (values) => this.agree(values))))
        : null,
    };
  }

  /** Sees to the batch that begins with an image of the run, unless it is there or on its way. */
  private fill(plans: StagePlans, first: number): void {
    if (plans.holds === first) return;
    plans.holds = first;
    // One after the other: a buffer is still written where a batch is asked for that nobody waited for.
    plans.filled = plans.filled.then(() => plans.source.fill(plans.batch, first));
    plans.filled.catch(() => {}); // told where it is waited for
  }

  /** Begins the moments of the gradient and Adam's count anew. */
  private dropMoments(): void {
    const { m, v, state } = this.buffers;
    for (const region of [m, v]) this.backend.fill(region, 0);
    const { real } = this.backend.elemBytes;
    this.backend.write(state, STATE.t * real, encodeNumbers(this.backend, 'real', [0]));
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
    const { last, update } = this.plansFor(index, stage);
    return { micro: last.runTimed(), update: update.runTimed() };
  }

  free(): void {
    this.freePlans();
    this.exchange?.free();
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
    this.freePlans();
    this.enter(this.networks[index]!);
    const { backend, network, recipe, tower } = this;
    const { step, update: options, model } = stageWork(recipe, stage, this.share.ranks);
    const { master, weight, grad, m, v, ema, state, scalar } = this.buffers;
    const regions = { master, weight, grad, m, v, state, scalar, ...(ema ? { ema } : {}), ...tower?.regions };
    const pass = (work: MicroStep, shared: Readonly<Record<string, Region>>) =>
      new Runner(backend, microStepPlan(network, work, backend.elemBytes, tower), shared);
    const last = pass({ ...step, last: true }, regions);
    // Ops on other regions alone are added to the last pass: arena and inputs lie at the same places in both.
    const both = this.exchange !== null && step.passes > 1;
    const micro = both ? pass(step, last.regions) : last;
    const plan = updatePlan(network.parameters, options, backend.elemBytes, this.share);
    const update = new Runner(backend, plan, regions);
    micro.set('seed', words(recipe.train.seed));
    this.placePositions(model);
    const source = this.data.stage(index);
    const batch = source.allocate(step.batch);
    const { passes } = step;
    const filled = Promise.resolve();
    this.plans = { index, micro, last, update, source, batch, holds: -1, filled, passes };
    return this.plans;
  }

  private freePlans(): void {
    for (const runner of [this.plans?.last, this.plans?.update]) runner?.free();
    this.plans = null;
  }

  /** Frozen parameters stand behind the positions, whose number differs: they move along. */
  private enter(network: Network): void {
    const old = this.network;
    this.network = network;
    if (network.parameters.end === old.parameters.end) return;
    const { backend, buffers } = this;
    const { name } = old.parameters.at(old.dit.maskToken);
    const [from, to] = [old, network].map(({ parameters, dit }) => parameters.at(dit.maskToken));
    if (!from || !to) throw new Failure({ what: name, why: 'is in no network' });
    const values = readParameter(backend, buffers.master, from);
    writeWeight(backend, buffers, to, values);
    this.keepFrozen(to, values);
  }

  /** Positions belong to no training: a stage sets them by its own interpolation scale. */
  private placePositions(model: ModelConfig): void {
    const grid = model.input_size / model.patch_size;
    const values = sinCosPositions(model.dim, grid, model.pos_interp_scale, grid);
    const { parameters, dit } = this.network;
    const positions = parameters.at(dit.posEmbed);
    writeWeight(this.backend, this.buffers, positions, values);
    this.keepFrozen(positions, values);
  }

  /** Averages of what is not trained: a share has none of it, `whole` takes it from the weights. */
  private keepFrozen(p: Parameter, values: ArrayLike<number>): void {
    const { ema } = this.buffers;
    if (ema && !this.exchange) writeParameter(this.backend, ema, p, values);
  }
}

/** One network a stage; stages of one size share theirs. */
function stageNetworks(recipe: Recipe): Network[] {
  const bySize = new Map<number, Network>();
  return recipe.stage.map((stage) => {
    const { model, text } = recipeOfStage(recipe, stage);
    const known = bySize.get(model.input_size) ?? networkOf({ model, text });
    void known.parameters.list; // gives every parameter its place
    bySize.set(model.input_size, known);
    return known;
  });
}

/** Places as pairs of 32-bit words [N, 2]. */
function placeWords(places: Float64Array): Int32Array {
  const pairs = new Int32Array(2 * places.length);
  for (const [i, place] of places.entries()) pairs.set(words(place), 2 * i);
  return pairs;
}
