// How close routing came to another choice: with each expert taking its K most probable tokens, the distance
// between the last token that is taken and the first that is not. Where it is not far above rounding, runs
// that sum in another order may route differently.
import type { Context } from '../model/layers.ts';
import type { Runner } from '../plan/runner.ts';
import type { Tensor } from '../plan/tensor.ts';
import type { Trace } from '../plan/trace.ts';

const PROBABILITIES = 'probabilities of router ';
const CHOICE = 'choice of router ';

/** Makes the probabilities [N, T, E] and choices [N, E, K] of all routers readable after a run. */
export function tapRouters(trace: Trace): NonNullable<Context['tap']> {
  let [seen, chosen] = [0, 0];
  return (name: string, tensor: Tensor) => {
    if (name.endsWith('.gate_probs')) trace.output(`${PROBABILITIES}${seen++}`, tensor);
    if (name.endsWith('.topk_indices')) trace.output(`${CHOICE}${chosen++}`, tensor);
  };
}

/** The smallest distance of all routers, images and experts in the last run; Infinity where all are taken. */
export function smallestGap(runner: Runner): number {
  let least = Number.POSITIVE_INFINITY;
  for (const [name, { shape }] of runner.plan.outputs) {
    if (!name.startsWith(PROBABILITIES)) continue;
    const choice = `${CHOICE}${name.slice(PROBABILITIES.length)}`;
    const K = runner.plan.outputs.get(choice)?.shape[2] ?? 0;
    const [N = 0, T = 0, E = 0] = shape;
    least = Math.min(least, gapOf(runner.get(name), runner.get(choice), { N, T, E, K }));
  }
  return least;
}

/** Of probabilities [N, T, E] and the tokens that are taken of them [N, E, K]. */
export function gapOf(
  probabilities: ArrayLike<number>,
  taken: ArrayLike<number>,
  { N, T, E, K }: { readonly N: number; readonly T: number; readonly E: number; readonly K: number },
): number {
  let least = Number.POSITIVE_INFINITY;
  const isTaken = new Uint8Array(T);
  for (let n = 0; n < N; n++) {
    for (let e = 0; e < E; e++) {
      isTaken.fill(0);
      for (let k = 0; k < K; k++) isTaken[taken[(n * E + e) * K + k]!] = 1;
      let [last, next] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
      for (let t = 0; t < T; t++) {
        const p = probabilities[(n * T + t) * E + e]!;
        if (isTaken[t]) last = Math.min(last, p);
        else next = Math.max(next, p);
      }
      least = Math.min(least, last - next);
    }
  }
  return least;
}
