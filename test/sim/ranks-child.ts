// One rank of a small training on the stand-in GPU and the stand-in NCCL. Arguments: rank, ranks, id,
// precision, steps, folder for a checkpoint. Prints what came out as JSON.
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RankLost } from '../../src/io/failure.ts';
import { Checkpoints } from '../../src/train/checkpoint.ts';
import { openData } from '../../src/train/source.ts';
import { Trainer } from '../../src/train/trainer.ts';
import { standInGpu } from './gpu.ts';
import { complaints, message } from './stand-in.ts';
import { steps, tiny } from './train-case.ts';

const [rank = 0, ranks = 1] = process.argv.slice(2, 4).map(Number);
const [id = '', precision, count, folder = ''] = process.argv.slice(4);
const gpu = await standInGpu({ precision: precision === 'bf16' ? 'bf16' : 'fp32' });
await gpu.group!.join(id, { rank, ranks });
const recipe = tiny();
const trainer = new Trainer(gpu, recipe, await openData(recipe, () => {}, { rank, ranks }));
trainer.initialise();
const reports = await steps(trainer, Number(count));
const agreed = await trainer.agree([rank + 1, 5]);
const checkpoints = new Checkpoints(folder);
checkpoints.open(rank === 0);
const { step, images } = trainer;
const state = { step, images, seconds: 1, lossSum: 0, lossCount: 0, data: null };
checkpoints.save(gpu, trainer, state, { recipe, version: '0.0.0', data: null }, recipe.train);
// Who leaves breaks what the other may still be in: both have to be done.
gpu.synchronize();
writeFileSync(join(folder, `done-${rank}`), '');
while (!existsSync(join(folder, `done-${1 - rank}`))) await Bun.sleep(5);
// A rank that is gone: what waits for the others ends with the reason.
gpu.group!.leave(new RankLost(`rank ${1 - rank}`));
const lost = await trainer.runStep().then(
  () => '',
  (error: Error) => error.message,
);
console.log(
  JSON.stringify({
    losses: reports.map(({ loss }) => loss),
    norms: reports.map(({ gradNorm }) => gradNorm),
    ...{ agreed, lost, complaints: [complaints(), message()] },
  }),
);
process.exit(0);
