// Numbers that all ranks come to know alike: sums over ranks.
import type { Backend, Rank, Region } from '../backend/backend.ts';
import { allReduce } from '../plan/ops/collective.ts';
import { freeze } from '../plan/plan.ts';
import { encodeNumbers, readNumbers, Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';

/** Numbers that are summed at a time. */
const NUMBERS = 256;

export class Agreement implements Disposable {
  private readonly numbers: Region;
  private readonly sum: Runner;

  constructor(private readonly backend: Backend) {
    this.numbers = backend.alloc(NUMBERS * backend.elemBytes.real);
    const trace = new Trace();
    allReduce(trace.fixed('numbers', 'numbers', [NUMBERS], 0, { elem: 'real' }));
    const plan = freeze('agree', trace, { elemBytes: backend.elemBytes });
    this.sum = new Runner(backend, plan, { numbers: this.numbers });
  }

  /** Sums over ranks of up to 256 numbers, in float32. All ranks have to ask. */
  async sums(values: readonly number[]): Promise<number[]> {
    const { backend, numbers } = this;
    const padded = Float64Array.from({ length: NUMBERS }, (_, i) => values[i] ?? 0);
    backend.write(numbers, 0, encodeNumbers(backend, 'real', padded));
    this.sum.run();
    await backend.group?.settle?.();
    return [...readNumbers(backend, numbers, 0, 'real', values.length)];
  }

  [Symbol.dispose](): void {
    this.sum.free();
    this.numbers.free();
  }
}

/** The number of each rank, in their order, where `sums` adds up numbers over ranks. */
export function eachRank(
  { rank, ranks }: Rank,
  own: number,
  sums: (values: readonly number[]) => Promise<readonly number[]>,
): Promise<readonly number[]> {
  return sums(Array.from({ length: ranks }, (_, i) => (i === rank ? own : 0)));
}
