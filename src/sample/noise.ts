// The noise that pictures begin with: each from its own seed and nothing else, by Philox.
import type { Backend, Numbers } from '../backend/backend.ts';
import { gaussian, PURPOSE, words } from '../plan/ops/random.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { product } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';

export class SampleNoise {
  private readonly runner: Runner;

  /** Numbers in the noise of one picture. */
  readonly count: number;

  /** For N = `batch` pictures of `shape` [C, H, W]. */
  constructor(backend: Backend, batch: number, shape: readonly number[]) {
    this.count = product(shape);
    const trace = new Trace();
    // The place stays 0: the seed alone tells pictures apart.
    const places = trace.input('places', [batch, 2], 'i32');
    const seed = trace.input('seed', [batch, 2], 'i32');
    trace.output('noise', gaussian(places, seed, [batch, ...shape], PURPOSE.sampleNoise));
    this.runner = new Runner(backend, freeze('sample-noise', trace, { elemBytes: backend.elemBytes }));
    this.runner.set('places', new Int32Array(2 * batch));
  }

  /** Unit normal noise [N, C, H, W] for N seeds (0 .. 2^53 - 1). The result is the caller's. */
  draw(seeds: readonly number[]): Numbers {
    this.runner.set('seed', Int32Array.from(seeds.flatMap((seed) => words(seed))));
    this.runner.run();
    return this.runner.get('noise');
  }

  free(): void {
    this.runner.free();
  }
}
