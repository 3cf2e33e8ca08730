// How long a checkpoint stops training, written between two steps and beside them: a model of 58 M parameters
// with moments and averages. bun bench/checkpoint.ts FOLDER [threads]
import { cpuBackend } from '../src/backend/cpu.ts';
import { resolveRecipe } from '../src/recipe/resolve.ts';
import { Beside } from '../src/train/beside.ts';
import { Checkpoints } from '../src/train/checkpoint.ts';
import { openData } from '../src/train/source.ts';
import { Trainer } from '../src/train/trainer.ts';

const [folder = '', threads = '0'] = process.argv.slice(2);
const { recipe } = resolveRecipe({
  sets: [
    ...['model.preset=nano', 'model.dim=688', 'model.patch_mixer_dim=688', 'optimizer.ema=0.99'],
    ...['data.source.0.name=shapes', 'train.batch_size=16', 'stage.0.steps=1000', 'train.keep_last=1'],
  ],
});
const say = (words: string, seconds: number) => console.log(`${words.padEnd(44)} ${seconds.toFixed(2)} s`);
const timed = async <T>(work: () => T | Promise<T>) => {
  const begun = performance.now();
  await work();
  return (performance.now() - begun) / 1000;
};
const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

const backend = await cpuBackend(Number(threads));
const trainer = new Trainer(backend, recipe, await openData(recipe, () => {}));
trainer.initialise();
console.log(`${(trainer.network.parameters.trainable / 1e6).toFixed(1)} M parameters`);
const checkpoints = new Checkpoints(folder);
checkpoints.open();
const saved = () => {
  const { step, images } = trainer;
  const state = { step, images, seconds: 0, lossSum: 0, lossCount: 0, data: null };
  return [backend, trainer, state, { recipe, version: '', data: null }, recipe.train] as const;
};
const step = () => timed(async () => void (await trainer.runStep()));

await step();
say('between two steps: training stops for', await timed(() => checkpoints.save(...saved())));
const beside = new Beside(console.log);
for (const words of ['beside: training stops for, the first time', 'beside: training stops for, later']) {
  await step();
  let written = false;
  const begun = performance.now();
  const writing = checkpoints.saveBeside(beside, ...saved()).then(() => {
    written = true;
  });
  say(words, (performance.now() - begun) / 1000);
  const slowed: number[] = [];
  while (!written) {
    slowed.push(await step());
    await new Promise((resolve) => setImmediate(resolve));
  }
  await writing;
  say(`  written after ${slowed.length} steps and`, (performance.now() - begun) / 1000);
  const alone: number[] = [];
  for (const _ of slowed) alone.push(await step());
  say('  a step meanwhile', median(slowed));
  say('  a step without', median(alone));
}
beside.free();
trainer.free();
process.exit();
