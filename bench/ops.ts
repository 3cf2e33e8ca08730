// Speed of ops on the CPU: bun bench/ops.ts [threads] [name]. The best of many short runs, a line a kernel
// and shape: sizes are small enough to find moments in which nothing else runs.
import { cpuBackend } from '../src/backend/cpu.ts';
import { backward } from '../src/plan/backward.ts';
import { operandBytes } from '../src/plan/op.ts';
import { add, geluErf, geluTanh, swiglu } from '../src/plan/ops/act.ts';
import { attention } from '../src/plan/ops/attention.ts';
import { linear } from '../src/plan/ops/linear.ts';
import { combine, dispatch, route } from '../src/plan/ops/moe.ts';
import { freeze } from '../src/plan/plan.ts';
import { Runner } from '../src/plan/runner.ts';
import { columns, product, shapeText, type Tensor } from '../src/plan/tensor.ts';
import { Trace } from '../src/plan/trace.ts';

interface Case {
  readonly name: string;
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  readonly build: (t: Record<string, Tensor>) => Tensor;
}

/** Self-attention over the columns of one qkv buffer, C = 512, D = 32. */
const self = (N: number, T: number): Case => ({
  name: `self ${N} x ${T}`,
  inputs: { qkv: [N, T, 1536] },
  build: ({ qkv }) =>
    attention(columns(qkv!, 0, 512), columns(qkv!, 512, 1024), columns(qkv!, 1024, 1536), 16),
});

const cross = (N: number, T: number): Case => ({
  name: `cross ${N} x ${T}`,
  inputs: { q: [N, T, 512], kv: [N, 77, 1024] },
  build: ({ q, kv }) => attention(q!, columns(kv!, 0, 512), columns(kv!, 512, 1024), 16),
});

const cases: Case[] = [
  {
    name: 'linear',
    inputs: { x: [256, 512], w: [512, 512] },
    build: ({ x, w }) => linear(x!, w!),
  },
  self(1, 256),
  self(4, 64),
  cross(1, 256),
  cross(4, 64),
  { name: 'gelu tanh', inputs: { x: [256, 2048] }, build: ({ x }) => geluTanh(x!) },
  { name: 'gelu erf', inputs: { x: [256, 2048] }, build: ({ x }) => geluErf(x!) },
  {
    name: 'swiglu',
    inputs: { x: [256, 2730] },
    build: ({ x }) => swiglu(columns(x!, 0, 1365), columns(x!, 1365, 2730)),
  },
  { name: 'add', inputs: { a: [256, 2048], b: [256, 2048] }, build: ({ a, b }) => add(a!, b!) },
  ...[64, 256].map((T) => ({
    name: `experts ${T}`,
    inputs: { x: [512 / T, T, 512], logits: [512 / T, T, 8] },
    build: ({ x, logits }: Record<string, Tensor>) => {
      const { gate, index, slot } = route(logits!, T / 4);
      return combine(dispatch(x!, index, slot), gate, index, slot, T);
    },
  })),
];

const [threads = '0', only = ''] = process.argv.slice(2);
const backend = await cpuBackend(Number(threads));
for (const c of cases.filter((c) => c.name.includes(only))) {
  const t = new Trace();
  const inputs = Object.entries(c.inputs).map(([name, shape]) => {
    return [name, t.input(name, shape, name === 'logits' ? 'real' : 'act', true)] as const;
  });
  const y = c.build(Object.fromEntries(inputs));
  const gradients = backward(t, [[y, t.input('dy', y.shape, 'act')]]);
  for (const [input, gradient] of gradients) t.output(`d${input.storage.name}`, gradient);
  const plan = freeze(c.name, t, { elemBytes: backend.elemBytes });
  const runner = new Runner(backend, plan);
  for (const [name, port] of plan.inputs) {
    const values = Float32Array.from({ length: product(port.shape) }, (_, i) => Math.sin(i * 12.9898) * 2);
    runner.set(name, values);
  }
  const best = new Array<number>(plan.nodes.length).fill(Number.POSITIVE_INFINITY);
  const until = performance.now() + 1500;
  while (performance.now() < until) {
    for (const [i, ns] of runner.runTimed().entries()) best[i] = Math.min(best[i]!, ns);
  }
  for (const [i, node] of plan.nodes.entries()) {
    const ns = best[i]!;
    const rate = `${(node.op.flops(node) / ns).toFixed(1).padStart(7)} GFLOP/s`;
    const bytes = `${(operandBytes(node, backend.elemBytes) / ns).toFixed(1).padStart(6)} GB/s`;
    const shape = shapeText(node.inputs[0] ?? node.outputs[0] ?? null);
    const time = `${(ns / 1e6).toFixed(3).padStart(8)} ms`;
    console.log(
      `${c.name.padEnd(14)} ${node.op.name.padEnd(15)} ${shape.padEnd(18)} ${time} ${rate} ${bytes}`,
    );
  }
  runner.free();
}
