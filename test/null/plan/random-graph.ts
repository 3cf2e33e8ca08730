// Random numbers and random graphs of ops for property tests, the same for the same seed.
import { add, geluErf, geluTanh, swiglu } from '../../../src/plan/ops/act.ts';
import { attention } from '../../../src/plan/ops/attention.ts';
import { linear } from '../../../src/plan/ops/linear.ts';
import { norm, residual } from '../../../src/plan/ops/norm.ts';
import { residualNorm } from '../../../src/plan/ops/residual-norm.ts';
import { columns, type Tensor } from '../../../src/plan/tensor.ts';

/** Whole numbers 0..n-1, by xorshift32. */
export function dice(seed: number): (n: number) => number {
  let state = (seed * 2654435761 + 12345) >>> 0 || 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
}

/** Extents of all activations of a random graph: [N, T, C], weights [C, C], modulation [N, 2 C]. */
export const GRAPH = { N: 2, T: 3, C: 4 };

export const graphInputs = {
  x0: [GRAPH.N, GRAPH.T, GRAPH.C],
  x1: [GRAPH.N, GRAPH.T, GRAPH.C],
  w: [GRAPH.C, GRAPH.C],
  scale: [GRAPH.C],
  mod: [GRAPH.N, 2 * GRAPH.C],
  qkv: [3 * GRAPH.C, GRAPH.C],
} as const;

/**
 * A chain and web of `size` ops over the inputs: operands are drawn from all that was made before, so that
 * tensors are read never, once or often, whole or as columns. Returns the last tensor and one more.
 */
export function randomGraph(t: Record<string, Tensor>, seed: number, size: number): Tensor[] {
  const draw = dice(seed);
  const made: Tensor[] = [t.x0!, t.x1!];
  const any = () => made[draw(made.length)]!;
  // Late ones more often than early ones, so that chains are long.
  const late = () => made[Math.max(0, made.length - 1 - draw(3))]!;
  const { C } = GRAPH;
  const steps: (() => Tensor)[] = [
    () => add(late(), any()),
    () => geluTanh(late()),
    () => geluErf(late()),
    () => swiglu(late(), any()),
    () => linear(late(), t.w!),
    () => norm(late(), t.scale!, 0.1, columns(t.mod!, 0, C), columns(t.mod!, C, 2 * C)),
    () => norm(late(), null, 0.1),
    () => residual(late(), columns(t.mod!, C, 2 * C), any()),
    () => residualNorm(late(), columns(t.mod!, 0, C), any(), t.scale!, 0.1)[draw(2)]!,
    () => {
      const all = linear(late(), t.qkv!);
      const [q, k, v] = [0, 1, 2].map((i) => columns(all, i * C, (i + 1) * C));
      return attention(q!, k!, v!, 2);
    },
  ];
  for (let i = 0; i < size; i++) made.push(steps[draw(steps.length)]!());
  // Nothing else may read an output that is given a gradient.
  return [add(made.at(-1)!, any()), geluTanh(any())];
}
