// The op harness: one description of a traced function, checked five ways on the float32 and float64
// libraries.
//   forward      against a float64 reference written in the test
//   gradient     against central differences of every input, in float64
//   precision    float32 against float64, by the bound in the op table
//   canaries     memory around every buffer is untouched, no result depends on what memory held before
//   planner      memory reuse changes no bit
import { expect } from 'bun:test';
import { existsSync } from 'node:fs';
import { Native } from '../../ffi/native.ts';
import type { Backend, Numbers } from '../../src/backend/backend.ts';
import { cpuBackendOver } from '../../src/backend/cpu.ts';
import { backward } from '../../src/plan/backward.ts';
import { freeze, type FreezeOptions, type Plan } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { product, type Tensor } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';

export interface InputSpec {
  readonly shape: readonly number[];
  readonly values: ArrayLike<number>;
  /** Default 'act'. */
  readonly elem?: 'act' | 'real' | 'i32';
  /** No gradient is asked for. Integers never have one. */
  readonly fixed?: boolean;
}

export interface OpCase {
  readonly inputs: Readonly<Record<string, InputSpec>>;
  readonly build: (t: Record<string, Tensor>) => Tensor[];
  /** Expected outputs in float64, one array per output; leave out to check only the other ways. */
  readonly reference?: (v: Record<string, Float64Array>) => ArrayLike<number>[];
  readonly forwardOnly?: boolean;
}

const library = (name: string): Native => {
  const native = new Native(new URL(`../../build/${name}`, import.meta.url).pathname);
  native.init(0);
  return native;
};

let backends: { f32: Backend; f64: Backend } | undefined;
let product32: Native | undefined;

/** The product's library, over which `bothBackends().f32` runs. */
export function productLibrary(): Native {
  product32 ??= library('libmicrodiff.so');
  return product32;
}

/** Runs cases in place of the CPU's two libraries: test/gpu checks the same ones on a GPU. */
export interface Elsewhere {
  check(c: OpCase): void;
  readonly backends: { readonly f32: Backend; readonly f64: Backend };
}

let elsewhere: Elsewhere | undefined;
export function runElsewhere(place: Elsewhere): void {
  elsewhere = place;
}

/** The product's library and its float64 build. */
export function bothBackends(): { readonly f32: Backend; readonly f64: Backend } {
  if (elsewhere) return elsewhere.backends;
  if (!existsSync(new URL('../../build/libmicrodiff_f64.so', import.meta.url))) {
    throw new Error('build/libmicrodiff_f64.so is missing: run make test');
  }
  backends ??= {
    f32: cpuBackendOver(productLibrary()),
    f64: cpuBackendOver(library('libmicrodiff_f64.so')),
  };
  return backends;
}

/** Repeatable numbers in -1..1 that float32 holds exactly. */
export function randomValues(count: number, seed = 1): Float64Array {
  let state = (seed * 2654435761) >>> 0 || 1;
  return Float64Array.from({ length: count }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return Math.fround((state >>> 0) / 2 ** 31 - 1);
  });
}

/** An input of random numbers, scaled and shifted. */
export function randomInput(shape: number[], seed: number, scale = 1, shift = 0): InputSpec {
  return { shape, values: randomValues(product(shape), seed).map((v) => Math.fround(v * scale + shift)) };
}

export interface Traced {
  readonly plan: Plan;
  readonly outputs: number;
  readonly gradients: readonly string[];
}

/** The plan of a case: its outputs, and the gradients of its inputs for seeds that are inputs, too. */
export function traceCase(
  c: OpCase,
  backend: Backend,
  withGradient: boolean,
  options: Partial<FreezeOptions>,
): Traced {
  const t = new Trace();
  const tensors: Record<string, Tensor> = {};
  for (const [name, spec] of Object.entries(c.inputs)) {
    const needsGrad = !spec.fixed && spec.elem !== 'i32';
    tensors[name] = t.input(name, spec.shape, spec.elem ?? 'act', needsGrad);
  }
  const outputs = c.build(tensors);
  for (const [i, out] of outputs.entries()) t.output(`out${i}`, out);
  const gradients: string[] = [];
  if (withGradient) {
    const seeds = outputs.map((out, i) => [out, t.input(`seed${i}`, out.shape, out.storage.elem)] as const);
    for (const [input, gradient] of backward(t, seeds)) {
      t.output(`d.${input.storage.name}`, gradient);
      gradients.push(input.storage.name);
    }
  }
  return {
    plan: freeze('case', t, { elemBytes: backend.elemBytes, ...options }),
    outputs: outputs.length,
    gradients,
  };
}

export const seedValues = (count: number, i: number) => randomValues(count, 977 + i);

/** Runs a plan with NaN in all memory that the host does not fill; returns named results. */
function execute(c: OpCase, backend: Backend, traced: Traced): Map<string, Numbers> {
  const runner = new Runner(backend, traced.plan);
  backend.fill(runner.regions.arena!, 0xff);
  for (const [name, spec] of Object.entries(c.inputs)) runner.set(name, spec.values);
  for (let i = 0; i < traced.outputs; i++) {
    const port = traced.plan.inputs.get(`seed${i}`);
    if (port) runner.set(`seed${i}`, seedValues(product(port.shape), i));
  }
  runner.run();
  const results = new Map([...traced.plan.outputs.keys()].map((name) => [name, runner.get(name)]));
  runner.run();
  for (const [name, first] of results) expect(runner.get(name), `${name} of a second run`).toEqual(first);
  checkCanaries(backend, runner, traced.plan);
  runner.free();
  return results;
}

export function checkCanaries(backend: Backend, runner: Runner, plan: Plan): void {
  const arena = new Uint8Array(runner.regions.arena!.bytes);
  backend.read(runner.regions.arena!, 0, arena);
  const starts = new Set(plan.arena.map((b) => b.offset));
  for (const b of plan.arena) {
    for (let at = b.offset + b.bytes; at < b.offset + b.bytes + GUARD && !starts.has(at); at++) {
      if (arena[at] !== 0xff)
        throw new Error(`byte ${at - b.offset - b.bytes} behind ${b.name} was overwritten`);
    }
  }
}

export const GUARD = 256;

/** Normalised mean square error. */
export function nmse(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return size === 0 ? error : error / size;
}

function expectClose(got: ArrayLike<number>, want: ArrayLike<number>, bound: number, what: string): void {
  expect(got.length, `${what}: length`).toBe(want.length);
  const size = Math.max(1e-6, ...Array.from(want, Math.abs));
  for (let i = 0; i < want.length; i++) {
    if (!(Math.abs(got[i]! - want[i]!) <= bound * size)) {
      throw new Error(`${what}: element ${i} is ${got[i]}, expected ${want[i]} (largest ${size})`);
    }
  }
}

/** Checks one case in all five ways. */
export function checkOp(c: OpCase): void {
  if (elsewhere) {
    elsewhere.check(c);
    return;
  }
  const { f32, f64 } = bothBackends();
  const guarded = { guard: GUARD, keepAll: true };
  const withGradient = !c.forwardOnly;
  const exact = traceCase(c, f64, withGradient, guarded);
  const results = execute(c, f64, exact);

  if (c.reference) {
    const values = Object.fromEntries(
      Object.entries(c.inputs).map(([k, s]) => [k, Float64Array.from(s.values)]),
    );
    for (const [i, want] of c.reference(values).entries()) {
      expectClose(results.get(`out${i}`)!, want, 1e-10, `forward, output ${i}`);
    }
  }
  for (const name of exact.gradients) {
    expectClose(results.get(`d.${name}`)!, differences(c, f64, name), 1e-6, `gradient of ${name}`);
  }

  const single = traceCase(c, f32, withGradient, guarded);
  const rounded = execute(c, f32, single);
  const bound = Math.max(...single.plan.nodes.map((n) => n.op.tolerance.nmse));
  for (const [name, value] of rounded) {
    expect(nmse(value, results.get(name)!), `float32 ${name}`).toBeLessThanOrEqual(bound);
  }
  const reusing = new Runner(f32, traceCase(c, f32, withGradient, {}).plan);
  for (const [name, spec] of Object.entries(c.inputs)) reusing.set(name, spec.values);
  for (let i = 0; i < single.outputs; i++) {
    const port = single.plan.inputs.get(`seed${i}`);
    if (port) reusing.set(`seed${i}`, seedValues(product(port.shape), i));
  }
  reusing.run();
  for (const [name, value] of rounded) expect(reusing.get(name), `${name} with memory reuse`).toEqual(value);
  reusing.free();
}

/** Central differences of sum(seed * output) for every element of one input, in float64. */
function differences(c: OpCase, backend: Backend, name: string): Float64Array {
  const forward = traceCase(c, backend, false, {});
  const runner = new Runner(backend, forward.plan);
  for (const [key, spec] of Object.entries(c.inputs)) runner.set(key, spec.values);
  const objective = () => {
    runner.run();
    let sum = 0;
    for (let i = 0; i < forward.outputs; i++) {
      const out = runner.get(`out${i}`);
      const seed = seedValues(out.length, i);
      for (let j = 0; j < out.length; j++) sum += out[j]! * seed[j]!;
    }
    return sum;
  };
  const values = Float64Array.from(c.inputs[name]!.values);
  const step = 1e-5;
  const gradient = values.map((v, i) => {
    values[i] = v + step;
    runner.set(name, values);
    const up = objective();
    values[i] = v - step;
    runner.set(name, values);
    const down = objective();
    values[i] = v;
    return (up - down) / (2 * step);
  });
  runner.free();
  return gradient;
}
