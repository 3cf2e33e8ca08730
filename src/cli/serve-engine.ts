// The engine of `serve`, a process of its own: frames on stdin and stdout. Started by the server alone, so
// help does not list it.

import { Failure } from '../io/failure.ts';
import { openTensors } from '../io/open-tensors.ts';
import { int, text } from '../recipe/field.ts';
import { findModel } from '../sample/find-model.ts';
import { pictureSide } from '../sample/model-file.ts';
import { factsOf, openModel } from '../sample/open-model.ts';
import { Sampler } from '../sample/sampler.ts';
import { runEngine } from '../serve/engine.ts';
import { type FromEngine, frame } from '../serve/wire.ts';
import { type Call, command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag } from './flags.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

/** Flags that `serve` hands on as they are. */
export const ENGINE_FLAGS = {
  model: flag(text(undefined, 'Model: a name, a file of weights or a run folder'), {
    alias: 'm',
    hint: 'NAME|FILE|RUN',
  }),
  clip: flag(text(undefined, 'Text tower of published weights'), { hint: 'FILE|NAME' }),
  vae: flag(text(undefined, 'Autoencoder of published weights'), { hint: 'FILE|NAME' }),
  'batch-size': flag(
    int(8, { min: 1, max: 1024 }, 'Pictures made at once; on a GPU fewer are answered sooner'),
  ),
  ...COMPUTE_FLAGS,
};

export const serveEngine = command({
  name: 'serve-engine',
  summary: 'Draws for microdiff serve',
  flags: ENGINE_FLAGS,
  examples: [['microdiff serve', 'starts it']],
  run: (call) => run(call),
});

async function run({ values, log }: Call<typeof ENGINE_FLAGS>): Promise<number> {
  // Ctrl-C at a terminal reaches this process as well: when to end is for the server to say.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  const send = (message: FromEngine) => void stdout.write(frame(message));
  try {
    const found = findModel(values.model);
    using file = openTensors(found.path);
    const backend = await openDevice(values, log);
    const given = {
      ...(values.clip === undefined ? {} : { clip: values.clip }),
      ...(values.vae === undefined ? {} : { vae: values.vae }),
    };
    const facts = factsOf(file, { ...found.parts, ...given });
    const model = openModel(backend, file, found.name, facts);
    const { steps, cfg_scale, sampler } = model.recipe.sample;
    send({
      kind: 'ready',
      model: model.name,
      device: backend.name,
      side: pictureSide(model),
      batch: values['batch-size'],
      defaults: { steps, cfg_scale, sampler },
    });
    await runEngine(Bun.stdin.stream(), {
      sampler: new Sampler(backend, model, values['batch-size']),
      maker: { model: { name: model.name, step: model.step }, beside: facts.whole ? {} : given, version },
      send,
    });
    return 0;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    send({ kind: 'unfit', error: error.message, code: error.code });
    return error.code;
  }
}
