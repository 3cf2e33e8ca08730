// Initial weights: every parameter drawn as its declaration says, from the run's seed and its own number.
import type { Backend, Region } from '../backend/backend.ts';
import { initConst, initNormal, initUniform, words } from '../plan/ops/random.ts';
import type { Parameters } from '../plan/params.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';
import { writeParameter } from '../sample/weights.ts';

/** Fills a flat float32 buffer. Equal seeds give equal bits on every machine. */
export function initialiseWeights(
  backend: Backend,
  master: Region,
  parameters: Parameters,
  seed: number,
): void {
  const trace = new Trace();
  const key = trace.input('seed', [2], 'i32');
  for (const p of parameters.list) {
    const tensor = trace.fixed('master', p.name, p.shape, p.base, { elem: 'real' });
    const draw = { seed: key, number: p.index };
    if (p.init.kind === 'normal') initNormal(tensor, p.init.std, draw);
    else if (p.init.kind === 'uniform') initUniform(tensor, p.init.bound, draw);
    else if (p.init.kind === 'constant') initConst(tensor, p.init.value);
    else writeParameter(backend, master, p, p.init.values());
  }
  const plan = freeze('initialise', trace, { elemBytes: backend.elemBytes });
  const runner = new Runner(backend, plan, { master });
  runner.set('seed', words(seed));
  runner.run();
  runner.free();
}
