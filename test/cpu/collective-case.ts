// One rank of the test of collective operations: runs each of them on the CPU and gives what came out. As a
// program: arguments are library, invitation, rank and ranks; prints JSON.
import { Native } from '../../ffi/native.ts';
import type { Backend, Numbers } from '../../src/backend/backend.ts';
import { cpuBackendOver } from '../../src/backend/cpu.ts';
import { allGather, allReduce, broadcast, reduce } from '../../src/plan/ops/collective.ts';
import { freeze } from '../../src/plan/plan.ts';
import { encodeNumbers, readNumbers, Runner } from '../../src/plan/runner.ts';
import { Trace } from '../../src/plan/trace.ts';

/** Numbers of one part: more than the ranks' memory holds at a time. */
export const COUNT = 300_000;

/** What rank r has at place i. */
export const value = (rank: number, i: number) => ((i * 7 + rank * 1000) % 4093) / 64;

/** Places whose numbers are looked at. */
export const PLACES = [0, 1, COUNT - 1, COUNT, 2 * COUNT + 5, 3 * COUNT - 1];

export function exchanged(backend: Backend, rank: number, ranks: number): Record<string, number[]> {
  const all = ranks * COUNT;
  const own = Float64Array.from({ length: all }, (_, i) => value(rank, i));
  const result: Record<string, number[]> = {};
  const ops = {
    allReduce: (t: Parameters<typeof allReduce>[0]) => allReduce(t),
    reduce: (t: Parameters<typeof allReduce>[0]) => reduce(t, 2),
    allGather: (t: Parameters<typeof allReduce>[0]) => allGather(t, { rank, ranks }),
    broadcast: (t: Parameters<typeof allReduce>[0]) => broadcast(t, 1),
  };
  for (const [name, op] of Object.entries(ops)) {
    const trace = new Trace();
    op(trace.fixed('x', 'x', [all], 0, { elem: 'real' }));
    const x = backend.alloc(all * backend.elemBytes.real);
    backend.write(x, 0, encodeNumbers(backend, 'real', own) as Numbers);
    const runner = new Runner(backend, freeze(name, trace, backend), { x });
    runner.run();
    const numbers = readNumbers(backend, x, 0, 'real', all);
    result[name] = PLACES.map((i) => numbers[i]!);
    runner.free();
    x.free();
  }
  return result;
}

if (import.meta.main) {
  const [library = '', invitation = '', ...numbers] = process.argv.slice(2);
  const [rank = 0, ranks = 1] = numbers.map(Number);
  const native = new Native(library);
  native.init(1);
  const backend = cpuBackendOver(native);
  await backend.group!.join(invitation, { rank, ranks });
  console.log(JSON.stringify(exchanged(backend, rank, ranks)));
}
