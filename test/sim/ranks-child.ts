// One rank of a small training on the stand-in GPU and the stand-in NCCL. Arguments: rank, ranks, id,
// precision, steps, folder for a checkpoint, images of a pass, graph or eager, order of branches. Prints what
// came out as JSON, also what was put into each graph.
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cuda } from '../../ffi/cuda.ts';
import { Communicator } from '../../ffi/nccl.ts';
import { RankLost } from '../../src/io/failure.ts';
import { Checkpoints } from '../../src/train/checkpoint.ts';
import { openData } from '../../src/train/source.ts';
import { Trainer } from '../../src/train/trainer.ts';
import { standInGpu } from './gpu.ts';
import { complaints, message, set } from './stand-in.ts';
import { steps, tiny } from './train-case.ts';

const [rank = 0, ranks = 1] = process.argv.slice(2, 4).map(Number);
const [id = '', precision, count, folder = '', pass = '', graph, order = ''] = process.argv.slice(4);
set('SIM_ORDER', order);
const gpu = await standInGpu({
  precision: precision === 'bf16' ? 'bf16' : 'fp32',
  graph: graph === 'graph',
});
await gpu.group!.join(id, { rank, ranks });
const recipe = tiny(Number(pass));
const trainer = new Trainer(gpu, recipe, await openData(recipe, () => {}, { rank, ranks }));
trainer.initialise();
const graphs = watchGraphs();
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
const complained = [complaints(), message()];
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
    ...{ agreed, lost, graphs, complaints: complained },
  }),
);
process.exit(0);

/**
 * From now on, a letter for each call while a graph is recorded: `k` kernel, `r` reduce, `e` event, `w` wait
 * for it; capitals for the stream that is recorded, small letters for others.
 */
function watchGraphs(): string[] {
  const all: string[] = [];
  let [main, open] = [0, false];
  const note = (letter: string, stream: number) => {
    if (open) all[all.length - 1] += stream === main ? letter.toUpperCase() : letter;
  };
  const { launch, eventRecord, streamWaitEvent, beginCapture, endCapture } = Cuda.prototype;
  const { reduce } = Communicator.prototype;
  Cuda.prototype.launch = function (...args) {
    note('k', args[4]);
    launch.apply(this, args);
  };
  Cuda.prototype.eventRecord = function (...args) {
    note('e', args[1]);
    eventRecord.apply(this, args);
  };
  Cuda.prototype.streamWaitEvent = function (...args) {
    note('w', args[0]);
    streamWaitEvent.apply(this, args);
  };
  Communicator.prototype.reduce = function (...args) {
    note('r', args[6]);
    reduce.apply(this, args);
  };
  Cuda.prototype.beginCapture = function (...args) {
    [main, open] = [args[0], true];
    all.push('');
    beginCapture.apply(this, args);
  };
  Cuda.prototype.endCapture = function (...args) {
    open = false;
    return endCapture.apply(this, args);
  };
  return all;
}
