// The quick start: a run that is as long as this machine trains in the given minutes, and a sheet of samples.
import { freeWeights } from '../sample/weights.ts';
import { join } from 'node:path';
import { writeWholeFile } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import type { Recipe } from '../recipe/schema.ts';
import { recipeOfStage, totalSteps, withTotalSteps } from '../recipe/stages.ts';
import { findModel } from '../sample/find-model.ts';
import { loadModel } from '../sample/model-file.ts';
import { sampleImages } from '../sample/sampler.ts';
import { loadDrawing, previewPrompts } from './preview.ts';
import { recipeOfRun } from './begun.ts';
import { type RunOptions, trainRun } from './run.ts';
import { openData } from './source.ts';
import { Trainer } from './trainer.ts';

export interface QuickstartOptions extends RunOptions {
  /** Minutes of training; undefined: as many steps as the recipe says. */
  readonly minutes: number | undefined;
}

/**
 * Trains, or goes on with a run that was stopped, then draws RUN/samples.png. Returns its path, or null when
 * a stop was asked for before the run was done.
 */
export async function quickstartRun(options: QuickstartOptions): Promise<string | null> {
  const recipe = await withLength(options);
  if (options.interrupt.stopRequested) return null;
  const { finished } = await trainRun({ ...options, recipe });
  return finished ? drawSamples({ ...options, recipe }) : null;
}

/**
 * The recipe with its steps: those of the run where it has begun, so that going on with it is exact; else as
 * many as take the given minutes at the speed of now, shared out over the stages as in the recipe.
 */
async function withLength(options: QuickstartOptions): Promise<Recipe> {
  const { recipe, minutes, folder, log } = options;
  if (minutes === undefined) return recipe;
  const begun = recipeOfRun(folder);
  if (begun) {
    const stage = recipe.stage.map((row, i) => ({ ...row, steps: begun.stage[i]?.steps ?? row.steps }));
    return { ...recipe, stage };
  }
  const seconds = await stepSeconds(options);
  const before = totalSteps(recipe);
  const mean = recipe.stage.reduce((sum, row, i) => sum + (row.steps / before) * seconds[i]!, 0);
  const total = Math.max(recipe.stage.length, Math.floor((60 * minutes) / mean));
  const speeds = recipe.stage.map((row, i) => {
    const images = recipeOfStage(recipe, row).train.batch_size;
    return `${(images / seconds[i]!).toFixed(0)} images/s ${row.name ?? ''}`;
  });
  log.info(`this machine trains ${speeds.join(', ')}: ${total} steps in ${minutes} minutes`);
  return withTotalSteps(recipe, total);
}

/** Steps of each stage that are timed, at most, and for how long. The first builds the plans and is not. */
const TIMED = { steps: 40, seconds: 2 };

/** Seconds of a step of each stage on this machine: the median of some. What they learnt is thrown away. */
async function stepSeconds({ recipe, backend, interrupt, progress }: QuickstartOptions): Promise<number[]> {
  const trainer = new Trainer(backend, recipe, await openData(recipe, () => {}));
  try {
    trainer.initialise();
    const seconds: number[] = [];
    for (const [i, row] of recipe.stage.entries()) {
      const times: number[] = [];
      let spent = 0;
      while (times.length <= TIMED.steps && spent < TIMED.seconds && !interrupt.stopRequested) {
        trainer.step = totalSteps({ ...recipe, stage: recipe.stage.slice(0, i) });
        const before = performance.now();
        await trainer.runStep();
        times.push((performance.now() - before) / 1000);
        if (times.length > 1) spent += times.at(-1)!;
        progress.update({ unit: 'stage', done: i + 1, note: 'timing this machine' });
        await new Promise((resolve) => setImmediate(resolve));
      }
      const sorted = times.slice(1).sort((a, b) => a - b);
      seconds.push(sorted[sorted.length >> 1] ?? row.steps);
    }
    progress.clear();
    return seconds;
  } finally {
    trainer.free();
  }
}

/** Samples the prompts of the recipe's previews with the newest weights onto RUN/samples.png. */
async function drawSamples({ recipe, folder, backend, log, progress }: QuickstartOptions): Promise<string> {
  const { path } = findModel(folder);
  using file = Safetensors.open(path);
  const model = loadModel(backend, file, folder);
  const prompts = await previewPrompts(recipe, await openData(recipe, (text) => log.warn(text)));
  const { steps, cfg_scale } = recipe.sample;
  const requests = prompts.map((prompt, i) => ({ prompt, negative_prompt: '', seed: i, steps, cfg_scale }));
  const total = requests.length;
  const pictures = await sampleImages(backend, model, requests, {
    onPicture: (done) => progress.update({ unit: 'picture', done, total }),
  });
  freeWeights(model.weights);
  progress.clear();
  const images = pictures.flatMap(({ pixels }, i) => (pixels ? [{ pixels, caption: prompts[i]! }] : []));
  if (images.length === 0) throw new Failure({ what: path, why: 'makes no finite picture', code: 4 });
  const { drawSheet } = await loadDrawing();
  const sheet = join(folder, 'samples.png');
  const subtitle = `after ${model.step} steps of ${recipe.train.batch_size} images`;
  writeWholeFile(sheet, drawSheet(images, { title: 'microdiff quickstart', subtitle, columns: 6 }));
  return sheet;
}
