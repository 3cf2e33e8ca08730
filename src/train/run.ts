// A run: a folder that the same command goes on with. Steps, metrics, previews, checkpoints, an orderly stop.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend, Rank } from '../backend/backend.ts';
import { cleanLeftovers, makeFolder, writeWholeFile } from '../io/atomic.ts';
import { EXIT, Failure, RankLost } from '../io/failure.ts';
import { holdFolder } from '../io/hold.ts';
import { readInterval } from '../recipe/field.ts';
import { recipeToml } from '../recipe/resolve.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { ClipEncoder } from '../sample/clip-encoder.ts';
import { saveModel } from '../sample/model-file.ts';
import { type LoadedParts, openParts, openTextTower } from '../sample/published.ts';
import { pulledPart } from '../sample/pulled.ts';
import { Agreement } from './agreement.ts';
import { keepAlgorithms, takeAlgorithms } from './algorithms.ts';
import { knownRecipe, recipeOfRun, refuseOtherPictures } from './begun.ts';
import { Checkpoints, type RunState, type Saved } from './checkpoint.ts';
import { type Fit, fitMicroBatches, fitTogether } from './fit.ts';
import { Journal } from './journal.ts';
import { drawPreview, loadDrawing, previewPath } from './preview.ts';
import { Saving } from './saving.ts';
import { ALONE } from './share.ts';
import { openData, type RecipeData } from './source.ts';
import { type Spike, SpikeWatch } from './spikes.ts';
import { type StepReport, Trainer } from './trainer.ts';
import { validationLoss } from './validation.ts';

/** What the run tells while it goes on. */
export interface Watch {
  readonly log: { info(text: string): void; warn(text: string): void };
  readonly progress: { update(state: ProgressState): void; clear(): void };
  readonly interrupt: { readonly stopRequested: boolean };
}

export interface ProgressState {
  readonly unit: string;
  readonly done: number;
  readonly total?: number;
  readonly rate?: number;
  readonly loss?: number;
  readonly note?: string;
}

export interface RunOptions extends Watch {
  readonly recipe: Recipe;
  readonly folder: string;
  readonly backend: Backend;
  readonly version: string;
}

export interface RunResult {
  readonly folder: string;
  readonly step: number;
  /** All steps of the recipe are done. */
  readonly finished: boolean;
}

/** Seconds between two warnings of steps that were far out; events.jsonl has all of them. */
const SPIKE_WARNING = 60;

/** Trains until the recipe is done or a stop is asked for; a checkpoint is written in both cases. */
export async function trainRun(given: RunOptions): Promise<RunResult> {
  const { folder, backend, log } = given;
  const rank = backend.group?.rank ?? ALONE;
  const writes = rank.rank === 0; // of several ranks one writes the files
  const begun = recipeOfRun(folder);
  const known = begun ? knownRecipe(given, begun, rank.ranks) : given.recipe;
  const data = await openData(known, (text) => log.warn(text), rank);
  await loadDrawing(); // what keeps it from being loaded is told now, not at the first preview
  makeFolder(folder);
  using _held = writes ? holdFolder(folder, (text) => log.warn(text)) : null;
  if (writes) cleanLeftovers(folder);
  takeAlgorithms(folder, backend, (text) => log.warn(text));
  const parts = writes ? openBeside(given) : null;
  const tower = known.text.encoder === 'clip' ? (parts?.captions ?? openTower(given)) : null;
  const first = begun?.stage.length ?? 0; // stages that a run was made longer by are fitted, too
  const fit = { backend, recipe: known, tower: tower?.caption ?? null, first };
  const recipe = known.train.fit_micro_batch ? await fitted(fit, rank) : known;
  const options = { ...given, recipe };
  const trainer = new Trainer(backend, recipe, data, tower?.caption ?? null);
  const checkpoints = new Checkpoints(folder);
  checkpoints.open(writes);
  let state: RunState = { step: 0, images: 0, seconds: 0, lossSum: 0, lossCount: 0, data: data.hash };
  const found = checkpoints.restore(backend, trainer, (text) => log.warn(text));
  if (found) {
    state = found.state;
    if (state.data !== data.hash) refuseOtherPictures(given, begun, found.name);
    const total = trainer.totalSteps;
    if (state.step >= total) log.info(`${folder} is finished: ${state.step} of ${total} steps are done`);
    else log.info(`goes on from step ${state.step} of ${total} in ${folder}`);
  } else {
    trainer.initialise();
    const { kind, size } = recipe.image;
    const numbers = trainer.network.parameters.trainable.toLocaleString('en');
    const side = kind === 'pixels' ? `${size} x ${size} px, ` : '';
    log.info(`${side}${numbers} parameters, ${trainer.totalSteps} steps`);
  }
  if (writes) writeWholeFile(join(folder, 'recipe.toml'), recipeToml(recipe));
  using journal = writes ? Journal.open(folder, state.step, recipe.train.tensorboard) : null;
  const { async_checkpoints: beside } = recipe.train;
  const saving = new Saving(checkpoints, (text) => log.warn(text), state.step, beside);
  const run = new Run(options, data, trainer, saving, journal, state, { parts, tower });
  try {
    await agreeOnStep(trainer);
    return await run.loop();
  } catch (error) {
    if (!(error instanceof RankLost)) throw error;
    await saving.close(); // it may be all that is left
    const left = checkpoints.latest;
    const fix = left
      ? `checkpoint ${left} of ${folder} is kept: the same command goes on from it`
      : 'There was no checkpoint yet';
    throw new Failure({ what: error.who, why: 'is gone, and the run ends with it', fix });
  } finally {
    await saving.close();
    trainer.free();
    if (tower !== parts?.captions) tower?.free();
    parts?.free();
    await data.close();
  }
}

/** Throws a Failure unless all ranks go on from the same step. */
async function agreeOnStep(trainer: Trainer): Promise<void> {
  const { step, share } = trainer;
  const halves = [step % 4096, Math.floor(step / 4096)]; // sums in float32 are exact
  const sums = await trainer.agree(halves);
  if (sums.every((sum, i) => sum === share.ranks * halves[i]!)) return;
  throw new Failure({
    what: `rank ${share.rank}`,
    why: `is at step ${step}, and others are not`,
    fix: 'Use a run folder on a file system that all ranks share',
  });
}

/** What previews of latents need; without it there are none, and a line says so. */
function openBeside({ backend, recipe, folder, log }: RunOptions): LoadedParts | null {
  if (recipe.image.kind === 'pixels') return null;
  const { clip, vae } = { clip: recipe.text.clip, vae: recipe.image.vae };
  try {
    const parts = { clip: clip && pulledPart(clip), vae: vae && pulledPart(vae) };
    return openParts(backend, folder, recipe, parts);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    log.warn(`no previews: ${error.message}`);
    return null;
  }
}

/** The text tower that reads token ids within the step. */
function openTower({ backend, recipe }: RunOptions): ClipEncoder {
  if (recipe.text.clip === undefined) {
    const fix = 'Name it: --set text.clip=dfn5b-clip';
    throw new Failure({ what: 'text.clip', why: 'missing, and text.encoder is clip', fix, code: EXIT.usage });
  }
  return openTextTower(backend, pulledPart(recipe.text.clip));
}

/** Fits micro-batches to the memory, of several ranks to that of the one that has least. */
async function fitted(fit: Fit, rank: Rank): Promise<Recipe> {
  if (rank.ranks === 1) return fitMicroBatches(fit);
  using agreement = new Agreement(fit.backend);
  return await fitTogether(fit, { ...rank, sums: (values) => agreement.sums(values) });
}

/** What a finished run is for. */
const modelPath = (folder: string) => join(folder, 'model.safetensors');

/** Signal handlers run only when the event loop does. */
const breathe = () => new Promise((resolve) => setImmediate(resolve));

class Run {
  private readonly started = performance.now();
  private lossSum: number;
  private lossCount: number;
  /** Images seen before the step that is being counted. */
  private seen: number;
  private skips = 0;
  private previewed = -1;
  private lastSave = performance.now();
  private lastPreview = performance.now();
  private lastValidation = performance.now();
  private lastSpike = Number.NEGATIVE_INFINITY;
  private readonly spikes = { loss: new SpikeWatch(), grad_norm: new SpikeWatch() };
  private rate = 0;

  constructor(
    private readonly options: RunOptions,
    private readonly data: RecipeData,
    private readonly trainer: Trainer,
    private readonly saving: Saving,
    private readonly journal: Journal | null,
    private readonly begun: RunState,
    private readonly beside: { readonly parts: LoadedParts | null; readonly tower: ClipEncoder | null },
  ) {
    this.lossSum = begun.lossSum;
    this.lossCount = begun.lossCount;
    this.seen = begun.images;
  }

  async loop(): Promise<RunResult> {
    const { trainer, options } = this;
    const { interrupt, progress } = options;
    const total = trainer.totalSteps;
    let wishes = await this.wishes();
    while (trainer.step < total && !(trainer.share.ranks > 1 ? wishes.stop : interrupt.stopRequested)) {
      const before = performance.now();
      const report = await trainer.runStep();
      await this.note(report, performance.now() - before);
      progress.update({ unit: 'step', done: report.step, total, rate: this.rate, loss: report.loss });
      wishes = await this.wishes();
      // Weights that make no finite loss are not worth the place of an older checkpoint.
      const good = this.skips === 0;
      // Before the checkpoint, so that who goes on from it has no loss to make up.
      if (good && wishes.validate) await this.validate(report.stage);
      if (good && wishes.save) await this.beginSave();
      if (good && wishes.preview) await this.preview();
      await breathe();
    }
    await this.saving.written();
    const finished = trainer.step >= total;
    const [save, publish, preview] = await this.decide([
      this.saving.saved !== trainer.step,
      finished && !(existsSync(modelPath(options.folder)) && this.begun.step === trainer.step),
      finished && !existsSync(previewPath(options.folder, total)) && this.canPreview(),
    ]);
    if (save) this.saving.now(this.toSave());
    if (publish) this.publish();
    if (preview) await this.preview();
    progress.clear();
    return { folder: options.folder, step: trainer.step, finished };
  }

  /** What is to happen after the step just done: all ranks get the same answer. */
  private async wishes() {
    await breathe();
    const { recipe, interrupt } = this.options;
    const { step } = this.trainer;
    const begun = step > this.begun.step;
    const preview = this.due(recipe.train.preview_every, step, this.lastPreview) && this.canPreview();
    const answers = await this.decide(
      [
        interrupt.stopRequested,
        ...[this.validationDue(step), this.saveDue(step), preview].map((due) => begun && due),
      ],
      1,
    );
    return { stop: answers[0]!, validate: answers[1]!, save: answers[2]!, preview: answers[3]! };
  }

  /** Rank 0 decides; the first `any` ones hold where any rank says so. */
  private async decide(wishes: readonly boolean[], any = 0): Promise<boolean[]> {
    const { trainer } = this;
    const sums = await trainer.agree(wishes.map((wish, i) => Number(wish && (this.writes || i < any))));
    return sums.map((sum) => sum > 0);
  }

  /** Of several ranks one writes, draws and measures. */
  private get writes(): boolean {
    return this.trainer.share.rank === 0;
  }

  /** Latents without their autoencoder cannot be looked at. */
  private canPreview(): boolean {
    return this.options.recipe.image.kind === 'pixels' || this.beside.parts !== null;
  }

  private saveDue(step: number): boolean {
    const { checkpoint_every, keep_every } = this.options.recipe.train;
    return this.due(checkpoint_every, step, this.lastSave) || this.due(keep_every, step, 0);
  }

  private validationDue(step: number): boolean {
    const { validate_every } = this.options.recipe.train;
    return step === this.trainer.totalSteps || this.due(validate_every, step, this.lastValidation);
  }

  private due(every: number | string, step: number, last: number): boolean {
    const interval = readInterval(every);
    if ('steps' in interval) return interval.steps > 0 && step % interval.steps === 0;
    return interval.seconds > 0 && performance.now() - last >= 1000 * interval.seconds;
  }

  /** Counts a step, and writes a line of metrics when one is due. Throws when too many steps were skipped. */
  private async note(report: StepReport, ms: number): Promise<void> {
    const { log_every, non_finite, skip_limit } = this.options.recipe.train;
    const first = this.seen;
    const speed = (report.images - this.seen) / (ms / 1000);
    this.seen = report.images;
    this.rate = this.rate === 0 ? speed : 0.95 * this.rate + 0.05 * speed;
    if (report.skipped) {
      this.skips += 1;
      const why = `loss ${report.loss}, gradient norm ${report.gradNorm}`;
      this.options.log.warn(`step ${report.step} was skipped: ${why}`);
      this.journal?.tell({ ...this.about('skipped', report, first), lr: report.lr });
      if (non_finite === 'stop' || this.skips >= skip_limit) await this.giveUp(report);
    } else {
      this.skips = 0;
      this.lossSum += report.loss;
      this.lossCount += 1;
      this.lookForSpike(report, first);
    }
    if (report.step % log_every !== 0 && report.step !== this.trainer.totalSteps) return;
    this.journal?.note({
      step: report.step,
      images: report.images,
      loss: this.lossCount ? this.lossSum / this.lossCount : report.loss,
      lr: report.lr,
      grad_norm: report.gradNorm,
      skipped: report.skippedSteps,
      ...(report.topkGap === null ? {} : { topk_gap: report.topkGap }),
      images_per_s: Number(this.rate.toFixed(2)),
      seconds: Number(this.seconds().toFixed(1)),
      stage: report.stage,
    });
    this.lossSum = 0;
    this.lossCount = 0;
  }

  private async giveUp(report: StepReport): Promise<never> {
    await this.saving.written();
    const kept = this.saving.latest;
    const left = kept ? `checkpoint ${kept} is kept` : 'there was no checkpoint yet';
    const many = `${this.skips} steps in a row had`;
    const why = `${this.skips > 1 ? many : 'had'} a loss or gradient that is not finite`;
    throw new Failure({
      what: `step ${report.step}`,
      why,
      fix: `Train in another folder (-o) with a lower optimizer.lr; ${left}`,
      code: EXIT.nonFinite,
    });
  }

  private about(event: string, { step, loss, gradNorm, stage }: StepReport, first: number) {
    // The places of its images: noise, levels and masks are drawn from them, so that the step can be done
    // again.
    return { step, event, stage, loss, grad_norm: gradNorm, places: [first, this.seen - 1] };
  }

  private lookForSpike(report: StepReport, first: number): void {
    const [loss, grad_norm] = [
      this.spikes.loss.note(report.loss),
      this.spikes.grad_norm.note(report.gradNorm),
    ];
    if (!loss && !grad_norm) return;
    const medians = {
      ...(loss && { loss_median: loss.median }),
      ...(grad_norm && { grad_norm_median: grad_norm.median }),
    };
    this.journal?.tell({ ...this.about('spike', report, first), ...medians });
    const now = performance.now();
    if (now - this.lastSpike < 1000 * SPIKE_WARNING) return;
    this.lastSpike = now;
    const words = (name: string, spike: Spike | null) =>
      spike ? [`${name} ${spike.value.toPrecision(3)}, lately ${spike.median.toPrecision(3)}`] : [];
    const both = [...words('loss', loss), ...words('gradient norm', grad_norm)].join('; ');
    this.options.log.warn(`step ${report.step} is far out: ${both} (see events.jsonl)`);
  }

  /** A line of metrics with the loss on held-out data, of the averaged weights where there are any. */
  private async validate(stage: number): Promise<void> {
    const { trainer, options } = this;
    const { step, images, network, buffers } = trainer;
    const data = this.data.validation(stage);
    this.lastValidation = performance.now();
    if (!data) return;
    const weights = trainer.whole(buffers.ema ? 'ema' : 'master');
    if (!this.writes) return;
    const tower = this.beside.tower?.caption ?? null;
    const found = await validationLoss({ ...options, network, weights, tower }, data);
    if (!found) return;
    const seconds = Number(this.seconds().toFixed(1));
    this.journal?.note({ step, images, val_loss: found.loss, val_levels: found.levels, seconds, stage });
  }

  private seconds(): number {
    return this.begun.seconds + (performance.now() - this.started) / 1000;
  }

  /** Begins a checkpoint that is written beside the steps that follow; waits for the one before. */
  private async beginSave(): Promise<void> {
    await this.saving.written();
    this.lastSave = performance.now();
    this.saving.begin(this.toSave());
  }

  /** What a checkpoint is made of just now; what stands beside it is brought to the disk. */
  private toSave(): Saved {
    const { backend, recipe, version } = this.options;
    const { step, images, modelRecipe } = this.trainer;
    const { hash: data } = this.data;
    const { lossSum, lossCount } = this;
    const state = { step, images, seconds: this.seconds(), lossSum, lossCount, data };
    this.journal?.sync();
    if (this.writes) keepAlgorithms(this.options.folder, backend);
    return [backend, this.trainer, state, { recipe: modelRecipe, version, data }, recipe.train];
  }

  /** RUN/model.safetensors: what a finished run is for, in bfloat16, averaged where the recipe averages. */
  private publish(): void {
    const { backend, version, folder } = this.options;
    const { parameters } = this.trainer.network;
    const weights = this.trainer.whole(this.trainer.buffers.ema ? 'ema' : 'master');
    if (!this.writes) return;
    const saved = { backend, parameters, weights, dtype: 'BF16' as const };
    const { modelRecipe: recipe, step } = this.trainer;
    saveModel(modelPath(folder), saved, { recipe, version, step, data: this.data.hash });
  }

  private async preview(): Promise<void> {
    if (this.previewed === this.trainer.step) return;
    const { trainer, data, options } = this;
    const { parts } = this.beside;
    const ema = trainer.buffers.ema && trainer.whole('ema');
    this.previewed = trainer.step;
    if (!this.writes) return;
    try {
      const sheet = await drawPreview({ ...options, trainer, ema, data, ...(parts ? { parts } : {}) });
      if (sheet) this.journal?.preview(trainer.step, sheet);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.options.log.warn(`no preview: ${error.message}`); // training is worth more
    }
    this.lastPreview = performance.now();
  }
}
