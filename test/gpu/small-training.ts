// The training of a small model on any backend: first weights, then micro-steps and updates.
import type { Backend, Region } from '../../src/backend/backend.ts';
import { findWorkload } from '../../src/cli/workload.ts';
import { SCALAR, SCALAR_SIZE, STATE_SIZE } from '../../src/plan/ops/optimizer.ts';
import { encodeNumbers, Runner } from '../../src/plan/runner.ts';
import { allocFlat, computeWeights, regionsOf } from '../../src/sample/weights.ts';
import { fillInputs } from '../../src/train/bench.ts';
import { initialiseWeights } from '../../src/train/initialise.ts';
import { microStepPlan, updatePlan } from '../../src/train/step.ts';
import { stageWork } from '../../src/train/work.ts';

/** Trains for so many steps; the flat float32 buffers of weights and first moments stay with the caller. */
export function smallTraining(backend: Backend, steps: number): { master: Region; m: Region } {
  const flags = { preset: 'nano', recipe: undefined, latent: undefined, mask: 0.5, batch: 2, set: [] };
  const work = findWorkload(flags, { mask: 0.5, batch: 2 }, {});
  const { network, recipe, stage } = work;
  const { step, update: hyper } = stageWork(recipe, stage);
  const { parameters } = network;
  const flat = (extent: 'all' | 'trainable') => allocFlat(backend, parameters, extent);
  const master = flat('all');
  initialiseWeights(backend, master, parameters, recipe.train.seed);
  const m = flat('trainable');
  const { real } = backend.elemBytes;
  const regions = {
    ...{ grad: flat('trainable'), m, v: flat('trainable'), ema: flat('all') },
    ...{ state: backend.alloc(STATE_SIZE * real), scalar: backend.alloc(SCALAR_SIZE * real) },
    ...regionsOf(computeWeights(backend, parameters, master)),
  };
  const scalars = new Float64Array(SCALAR_SIZE);
  scalars[SCALAR.lr] = 1e-3;
  backend.write(regions.scalar, 0, encodeNumbers(backend, 'real', scalars));
  const micro = new Runner(backend, microStepPlan(network, step, backend.elemBytes), regions);
  const update = new Runner(backend, updatePlan(parameters, hyper, backend.elemBytes), regions);
  const feed = fillInputs(micro, work, step.batch);
  for (let i = 0; i < steps; i++) {
    feed();
    micro.run();
    update.run();
  }
  return { master, m };
}
