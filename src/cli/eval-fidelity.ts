// eval fidelity: does a sample show what its caption says? Of emoji, whether it looks most like the picture
// that the caption names; of drawn shapes, whether colour, shape and relation are right.
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { type Fidelity, fidelity, learnsEmoji, type Share } from '../eval/fidelity.ts';
import { learnsShapes, type SceneFidelity, sceneFidelity } from '../eval/scene-fidelity.ts';
import { Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { Safetensors } from '../io/safetensors.ts';
import type { Recipe } from '../recipe/schema.ts';
import { findModel } from '../sample/find-model.ts';
import { loadModel } from '../sample/model-file.ts';
import { openDevice } from './device.ts';
import type { EvalCall } from './eval-flags.ts';
import { stdout } from './stdout.ts';

const COUNT = 100;
const STEPS = 12;

export async function evalFidelity({ values, log, progress }: EvalCall): Promise<number> {
  const begin = performance.now();
  const found = findModel(values.model);
  log.debug(`model ${found.name}: ${found.path}`);
  using file = Safetensors.open(found.path);
  const backend = await openDevice(values, log);
  const model = loadModel(backend, file, found.name);
  const sets = setsOf(model.recipe, values.only);
  const { count = COUNT, steps = STEPS, seed } = values;
  const cfg_scale = values['cfg-scale'] ?? model.recipe.sample.cfg_scale;
  const options = {
    ...{ count, steps, cfg_scale, seed, batchSize: values['batch-size'] },
    onPicture(done: number, total: number) {
      const rate = done / ((performance.now() - begin) / 1000);
      progress.update({ unit: 'picture', done, total, rate });
    },
  };
  const emoji = sets.emoji ? await fidelity(backend, model, await embeddedEmoji(), options) : null;
  const shapes = sets.shapes ? await sceneFidelity(backend, model, options) : null;
  progress.finish();
  const seconds = Number(((performance.now() - begin) / 1000).toFixed(2));
  const settings = { model: model.name, step: model.step, steps, cfg_scale, seed };
  if (values.json) {
    const results = { ...emoji, ...(shapes ? { shapes } : {}), ...(emoji ? {} : { count: shapes?.count }) };
    stdout.line(encodeRecord({ ...results, ...settings, seconds, device: backend.name }));
  } else {
    const made = `${model.name}, ${steps} steps, guidance ${cfg_scale}, seeds from ${seed}`;
    stdout.write(
      `${emoji ? emojiPage(emoji) : ''}${shapes ? shapesPage(shapes) : ''}model           ${made}\n`,
    );
  }
  return 0;
}

/** The embedded sets that a model was trained on, or the one of them that is asked for. */
function setsOf(recipe: Recipe, only: 'emoji' | 'shapes' | undefined): { emoji: boolean; shapes: boolean } {
  const learnt = { emoji: learnsEmoji(recipe), shapes: learnsShapes(recipe) };
  const sets = only ? { emoji: false, shapes: false, [only]: learnt[only] } : learnt;
  if (sets.emoji || sets.shapes) return sets;
  throw new Failure({
    what: 'fidelity',
    why: `the model was not trained on ${only ?? 'emoji or shapes'}`,
    fix: `Use a model whose recipe has a [[data.source]] with name = "${only ?? 'emoji'}"`,
  });
}

function emojiPage({ held_out, ...own }: Fidelity): string {
  return `${line('learnt pairs', own)}${line('held-out pairs', held_out)}`;
}

function line(name: string, { top1, count }: Share): string {
  return `${name.padEnd(16)}top1 ${shown(top1)} of ${count}\n`;
}

function shapesPage({ all, colour, shape, relation, count }: SceneFidelity): string {
  const parts = `colour ${shown(colour)}, shape ${shown(shape)}, relation ${shown(relation)}`;
  return `drawn shapes    ${parts}, all ${shown(all)} of ${count}\n`;
}

const shown = (share: number | null) => (share === null ? '-' : share.toFixed(2));
