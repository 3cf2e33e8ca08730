// eval loss: EDM's loss by noise level on data that a model was not trained on.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { heldOutBeside } from '../data/emoji/subset.ts';
import { readFolder } from '../data/folder.ts';
import { latentData, pictureData, sourceData } from '../data/loss-data.ts';
import { emojiSource, folderSource, shapesSource } from '../data/source.ts';
import type { LossData } from '../diffusion/loss-data.ts';
import { learnsEmoji, trainedPairs } from '../eval/fidelity.ts';
import { learnsShapes, SCENE_SEED } from '../eval/scene-fidelity.ts';
import { Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { INDEX_NAME } from '../io/mds/index.ts';
import { MdsSet } from '../io/mds/set.ts';
import { openTensors } from '../io/open-tensors.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import type { Recipe } from '../recipe/schema.ts';
import { findModel } from '../sample/find-model.ts';
import { evalLoss, type LossOptions, type LossResult, lossSteps } from '../sample/loss.ts';
import { hasRecipe, loadModel, type Model, provenanceOf } from '../sample/model-file.ts';
import { declareNetwork, type Network } from '../sample/network.ts';
import { publishedRecipe } from '../sample/published.ts';
import { allocWeights, freeWeights, loadWeights } from '../sample/weights.ts';
import { pictureShape } from '../train/shards.ts';
import { openDevice } from './device.ts';
import type { EvalCall } from './eval-flags.ts';
import { usage } from './flags.ts';
import { stdout } from './stdout.ts';

/** Noise levels, at equal shares of those of training. */
const LEVELS = 10;

export async function evalLossCommand({ values, log, progress }: EvalCall): Promise<number> {
  const begin = performance.now();
  const found = findModel(values.model);
  const backend = await openDevice(values, log);
  const onImages = (done: number, total: number) =>
    progress.update({ unit: 'image', done, total, rate: done / ((performance.now() - begin) / 1000) });
  const {
    result: measured,
    model,
    data,
  } = await measureLoss(backend, found, {
    ...{ data: values.data, count: values.count, seed: values.seed, batchSize: values['batch-size'] },
    ...{ onImages, warn: (text: string) => log.warn(text) },
  });
  progress.finish();
  const { each, ...result } = measured;
  const seconds = Number(((performance.now() - begin) / 1000).toFixed(2));
  const about = { model: model.name, step: model.step, data: data.name, seed: values.seed };
  if (values.json) stdout.line(encodeRecord({ ...result, ...about, seconds, device: backend.name }));
  else stdout.write(page(result, about));
  return 0;
}

export interface MeasureOptions extends Omit<LossOptions, 'levels'>, DataOptions {
  readonly onImages?: (done: number, total: number) => void;
}

export interface DataOptions {
  /** A folder of pictures or shards; held-out emoji or shapes when left out. */
  readonly data: string | undefined;
  readonly count?: number | undefined;
  readonly warn: (text: string) => void;
}

/** The loss of a model file on data that it was not trained on. */
export async function measureLoss(
  backend: Backend,
  found: { readonly path: string; readonly name: string },
  options: MeasureOptions,
): Promise<{ result: LossResult; model: Pick<Model, 'name' | 'step'>; data: LossData }> {
  using file = openTensors(found.path);
  const model = loadNetwork(backend, file, found.name);
  try {
    using data = await openLossData(model, options);
    return { result: evalLoss(backend, model, data, { ...options, levels: LEVELS }), model, data };
  } finally {
    freeWeights(model.weights);
  }
}

/** The same on data that is open, a batch a step, each of which yields how many images are done. */
export function* lossOfFile(
  backend: Backend,
  found: { readonly path: string; readonly name: string },
  data: LossData,
  options: Omit<LossOptions, 'levels'>,
): Generator<number, LossResult> {
  using file = openTensors(found.path);
  const model = loadNetwork(backend, file, found.name);
  try {
    return yield* lossSteps(backend, model, data, { ...options, levels: LEVELS });
  } finally {
    freeWeights(model.weights);
  }
}

/** Data for models of a recipe and a network. A Failure where it is of another kind, or cannot be read. */
export async function openLossData(
  model: { readonly recipe: Recipe; readonly network: Pick<Network, 'words'> },
  { data: path, count, warn }: DataOptions,
): Promise<LossData & Disposable> {
  const shards = path !== undefined && existsSync(join(path, INDEX_NAME));
  const set = shards ? MdsSet.open(path) : null;
  const close = () => void set?.close();
  try {
    const data = set
      ? await samplesFor(model, set, path!, count)
      : await picturesFor(model, path, count, warn);
    if ((data.captions === 'words') !== (model.network.words !== null)) {
      const why = data.captions === 'words' ? 'holds pictures, the model works on latents' : 'holds latents';
      throw new Failure({ what: data.name, why, fix: 'Give data of the kind that the model was trained on' });
    }
    return { ...data, [Symbol.dispose]: close };
  } catch (error) {
    close();
    throw error;
  }
}

type LossModel = Pick<Model, 'name' | 'network' | 'weights' | 'recipe' | 'step'>;

/** A model of ours, or published weights; of latents without the parts that drawing needs. */
function loadNetwork(backend: Backend, file: TensorFile, name: string): LossModel {
  const own = hasRecipe(file) ? provenanceOf(file) : null;
  if (own?.recipe.image.kind === 'pixels') return loadModel(backend, file, name);
  const { recipe, step } = own ?? { recipe: publishedRecipe(file), step: null };
  const network = declareNetwork(recipe.model, null);
  const weights = allocWeights(backend, network.parameters);
  try {
    loadWeights(backend, weights, network.parameters, file, file.prefix);
  } catch (error) {
    freeWeights(weights);
    throw error;
  }
  return { name, network, weights, recipe, step };
}

/** Latents in shards, or pictures where the model works on them: no more of those than are wanted. */
function samplesFor(
  { recipe, network }: { readonly recipe: Recipe; readonly network: Pick<Network, 'words'> },
  set: MdsSet,
  path: string,
  count = set.count,
): LossData | Promise<LossData> {
  if (network.words === null) return latentData(set, recipe.model, path);
  return pictureData(set, pictureShape(recipe), path, { count: Math.min(count, set.count) });
}

/** Whether a recipe leaves pictures over that its models may be measured on. */
export const leavesSomeOut = (recipe: Recipe) => learnsEmoji(recipe) || learnsShapes(recipe);

/** Shapes that are drawn where nobody says how many. */
const SHAPES = 512;

/**
 * A folder of pictures with captions, or the emoji that were held out when the model was trained, or, of a
 * model of drawn shapes, scenes of a seed of their own.
 */
async function picturesFor(
  { recipe }: { readonly recipe: Recipe },
  folder: string | undefined,
  count: number | undefined,
  warn: (text: string) => void,
): Promise<LossData> {
  const shape = pictureShape(recipe);
  if (folder !== undefined) {
    return sourceData(folderSource(await readFolder(folder, shape.size, warn), shape), shape, folder);
  }
  if (!leavesSomeOut(recipe)) throw usage('eval loss', 'there is no data', 'Write --data FOLDER');
  if (!learnsEmoji(recipe)) {
    return sourceData(shapesSource(shape, SCENE_SEED, count ?? SHAPES), shape, 'held-out shapes');
  }
  const set = await embeddedEmoji();
  const unseen = heldOutBeside(set, trainedPairs(set, recipe));
  return sourceData(emojiSource(set, unseen, shape), shape, 'held-out emoji');
}

function page(
  { levels, count, ...all }: Omit<LossResult, 'each'>,
  { model, step, data }: { model: string; step: number | null; data: string },
): string {
  const row = (name: string, { loss, ci95 }: typeof all) =>
    `${name.padEnd(12)}${loss.toFixed(4).padStart(8)}   ${ci95[0].toFixed(4)} to ${ci95[1].toFixed(4)}\n`;
  const rows = levels.map((level) => row(`sigma ${level.sigma.toPrecision(3)}`, level));
  const at = step === null ? '' : `, step ${step}`;
  const head = `${model}${at} on ${count} images of ${data}; loss, and its interval of 95 % (normal)\n`;
  return `${head}${rows.join('')}${row('all', all)}`;
}
