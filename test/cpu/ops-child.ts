// Run by ops-threads.test.ts with a number of threads: prints a hash of what ops and their gradients compute.
import { cpuBackend } from '../../src/backend/cpu.ts';
import { backward } from '../../src/plan/backward.ts';
import { geluErf, geluTanh, swiglu } from '../../src/plan/ops/act.ts';
import { attention } from '../../src/plan/ops/attention.ts';
import { combine, dispatch, route } from '../../src/plan/ops/moe.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { columns, product } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { randomValues } from './op-case.ts';

const backend = await cpuBackend(Number(process.argv[2]));
const t = new Trace();
const [N, T, S, C, E, K] = [3, 150, 200, 68, 5, 40];
const x = t.input('x', [N, T, 2 * C], 'act', true);
const kv = t.input('kv', [N, S, 2 * C], 'act', true);
const logits = t.input('logits', [N, T, E], 'real', true);
const mixed = swiglu(geluTanh(columns(x, 0, C)), geluErf(columns(x, C, 2 * C)));
const { gate, index, slot } = route(logits, K);
const chosen = combine(dispatch(mixed, index, slot), gate, index, slot, T);
const y = attention(chosen, columns(kv, 0, C), columns(kv, C, 2 * C), 4);
t.output('y', y);
const seed = t.input('dy', y.shape, 'act');
for (const [input, gradient] of backward(t, [[y, seed]])) t.output(`d${input.storage.name}`, gradient);

const plan = freeze('threads', t, { elemBytes: backend.elemBytes });
const runner = new Runner(backend, plan);
let seeds = 1;
for (const [name, port] of plan.inputs) runner.set(name, randomValues(product(port.shape), seeds++));
const hash = new Bun.CryptoHasher('sha1');
for (let again = 0; again < 3; again++) {
  runner.run();
  for (const name of plan.outputs.keys()) hash.update(runner.get(name));
}
console.log(hash.digest('hex'));
