// eval fidelity: does a sample look most like the picture that its caption names?
import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { type Fidelity, fidelity, type Share } from '../eval/fidelity.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { Safetensors } from '../io/safetensors.ts';
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
  const set = await embeddedEmoji();
  const backend = await openDevice(values, log);
  const model = loadModel(backend, file, found.name);
  const { count = COUNT, steps = STEPS, seed } = values;
  const cfg_scale = values['cfg-scale'] ?? model.recipe.sample.cfg_scale;
  const options = { count, steps, cfg_scale, seed, batchSize: values['batch-size'] };
  const result = await fidelity(backend, model, set, {
    ...options,
    onPicture(done, total) {
      const rate = done / ((performance.now() - begin) / 1000);
      progress.update({ unit: 'picture', done, total, rate });
    },
  });
  progress.finish();
  const seconds = Number(((performance.now() - begin) / 1000).toFixed(2));
  const settings = { model: model.name, step: model.step, steps, cfg_scale, seed };
  const { top1, count: pairs, held_out } = result;
  if (values.json) {
    stdout.line(encodeRecord({ top1, count: pairs, held_out, ...settings, seconds, device: backend.name }));
  } else stdout.write(page(result));
  return 0;
}

function page({ held_out, ...own }: Fidelity): string {
  return `${line('learnt pairs', own)}${line('held-out pairs', held_out)}`;
}

function line(name: string, { top1, count }: Share): string {
  return `${name.padEnd(16)}top1 ${top1 === null ? '-' : top1.toFixed(2)} of ${count}\n`;
}
