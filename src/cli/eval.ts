// Command: how good a model is, in numbers.

import { embeddedEmoji } from '../data/emoji/embedded.ts';
import { type Fidelity, fidelity, type Share } from '../eval/fidelity.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { Safetensors } from '../io/safetensors.ts';
import { int, LARGEST, real, text } from '../recipe/field.ts';
import { findModel } from '../sample/find-model.ts';
import { loadModel } from '../sample/model-file.ts';
import { command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, SHARED } from './flags.ts';
import { stdout } from './stdout.ts';

export const evaluate = command({
  name: 'eval',
  summary: 'Measures a model: does a sample look most like the picture that its caption names?',
  flags: {
    model: flag(text(undefined, 'Model: a name, a .safetensors file or a run folder'), {
      alias: 'm',
      hint: 'NAME|FILE|RUN',
    }),
    count: flag(int(100, { min: 1, max: 100_000 }, 'Pairs of name and style that are asked for')),
    steps: flag(int(12, { min: 1, max: 10_000 }, 'Steps of the sampler')),
    'cfg-scale': flag(real(undefined, {}, 'Guidance; 1 = off (default: as the recipe says)')),
    seed: flag(int(0, { min: 0, max: LARGEST - 200_000 }, 'Seed of the noise; the pairs stay the same'), {
      alias: 's',
    }),
    'batch-size': flag(int(8, { min: 1, max: 1024 }, 'Pictures made at once; changes none of them')),
    json: SHARED.json,
    ...COMPUTE_FLAGS,
  },
  args: [{ name: 'measure', meaning: 'What to measure', required: true, options: ['fidelity'] }],
  examples: [
    ['microdiff eval fidelity', 'the model inside this program, on 100 of the pairs it learnt'],
    ['microdiff eval fidelity -m runs/quickstart --count 100 --json', 'a run, on its own pairs'],
  ],
  async run({ values, log, progress }) {
    const begin = performance.now();
    const found = findModel(values.model);
    log.debug(`model ${found.name}: ${found.path}`);
    using file = Safetensors.open(found.path);
    const set = await embeddedEmoji();
    const backend = await openDevice(values, log);
    const model = loadModel(backend, file, found.name);
    const { count, steps, seed } = values;
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
  },
});

function page({ held_out, ...own }: Fidelity): string {
  return `${line('learnt pairs', own)}${line('held-out pairs', held_out)}`;
}

function line(name: string, { top1, count }: Share): string {
  return `${name.padEnd(16)}top1 ${top1 === null ? '-' : top1.toFixed(2)} of ${count}\n`;
}
