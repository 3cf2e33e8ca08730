// One op case on a GPU: every mode and block size against the CPU, with NaN in all memory that nobody wrote,
// canaries around every buffer, and a replayed graph equal to the eager run.
import { expect } from 'bun:test';
import type { Backend, Elem, Numbers } from '../../src/backend/backend.ts';
import { cudaBackend, type CudaBackend, type Precision } from '../../src/backend/cuda/backend.ts';
import { bf16ToFloat32, float32ToBf16 } from '../../src/io/dtype.ts';
import { EXIT, Failure } from '../../src/io/failure.ts';
import { Runner } from '../../src/plan/runner.ts';
import { product } from '../../src/plan/tensor.ts';
import { checkCanaries, GUARD, nmse, type OpCase, seedValues, traceCase } from '../cpu/op-case.ts';

/** A GPU opened in one way. */
export interface Device {
  readonly name: string;
  readonly precision: Precision;
  readonly backend: CudaBackend;
}

/**
 * Every block size in both modes on plain kernels, and the tensor-core forms. Blocks that a kernel's
 * registers do not allow are as large as they may be. MICRODIFF_TEST_BLOCKS ("32,256") leaves sizes out.
 */
export async function openDevices(): Promise<Device[]> {
  const sizes = (process.env.MICRODIFF_TEST_BLOCKS ?? '32,64,128,256,512,1024').split(',').map(Number);
  const devices: Device[] = [];
  for (const precision of ['fp32', 'bf16'] as const) {
    for (const threads of sizes) {
      const backend = await cudaBackend({ precision, threads, tensorForms: false });
      devices.push({ name: `${precision}, ${threads} threads`, precision, backend });
    }
  }
  const backend = await cudaBackend({ precision: 'bf16' });
  return [...devices, { name: 'bf16, tensor forms', precision: 'bf16', backend }];
}

/** Largest normalised square error between a GPU in bfloat16 and the CPU on inputs of the same rounding. */
const BF16_BOUND = 1e-3;
/** Both sides may be off by the op's bound, so their difference by twice that: four times its square. */
const FP32_SHARE = 4;

/** Checks a case on all devices; `largest` gets the largest error of each op set and mode. */
export function checkOnDevices(c: OpCase, cpu: Backend, devices: readonly Device[], largest: Largest): void {
  for (const precision of ['fp32', 'bf16'] as const) {
    const want = run(c, cpu, precision);
    for (const device of devices.filter((each) => each.precision === precision)) {
      const got = runUnlessTooLarge(c, device.backend, precision);
      if (!got) continue;
      for (const [name, value] of got.results) {
        const bound = precision === 'bf16' ? BF16_BOUND : FP32_SHARE * got.bound;
        const expected = want.results.get(name)!;
        const error = nmse(value, expected);
        largest.see(device.name, got.ops, error);
        if (value instanceof Int32Array) {
          expect(Array.from(value), `${name} on ${device.name}`).toEqual(Array.from(expected));
        } else if (!(error <= bound)) {
          throw new Error(`${name} of ${got.ops} on ${device.name}: error ${error}, bound ${bound}`);
        }
      }
    }
  }
}

/** Largest errors by device and by the ops of a case. */
export class Largest {
  readonly seen = new Map<string, { device: string; ops: string; nmse: number }>();

  see(device: string, ops: string, error: number): void {
    const key = `${device}: ${ops}`;
    const before = this.seen.get(key)?.nmse ?? 0;
    this.seen.set(key, { device, ops, nmse: Math.max(before, Number.isNaN(error) ? Infinity : error) });
  }
}

/** Null where the case needs more shared memory than this GPU has, which the backend refuses in words. */
function runUnlessTooLarge(c: OpCase, backend: Backend, precision: Precision): Results | null {
  try {
    return run(c, backend, precision);
  } catch (error) {
    const refused = error instanceof Failure && error.code === EXIT.missing;
    if (refused && /bytes of shared memory/.test(error.message)) return null;
    throw error;
  }
}

interface Results {
  readonly results: ReadonlyMap<string, Numbers>;
  readonly ops: string;
  /** Of the op table, for float32. */
  readonly bound: number;
}

function run(c: OpCase, backend: Backend, precision: Precision): Results {
  const traced = traceCase(c, backend, !c.forwardOnly, { guard: GUARD, keepAll: true });
  const { plan } = traced;
  const runner = new Runner(backend, plan);
  backend.fill(runner.regions.arena!, 0xff);
  const set = (name: string, elem: Elem, values: ArrayLike<number>) =>
    runner.set(name, precision === 'bf16' && elem === 'act' ? rounded(values) : values);
  for (const [name, spec] of Object.entries(c.inputs)) set(name, spec.elem ?? 'act', spec.values);
  for (let i = 0; i < traced.outputs; i++) {
    const port = plan.inputs.get(`seed${i}`);
    if (port) set(`seed${i}`, port.elem, seedValues(product(port.shape), i));
  }
  runner.run();
  const results = new Map([...plan.outputs.keys()].map((name) => [name, runner.get(name)]));
  for (const way of ['recorded', 'replayed']) {
    runner.run();
    for (const [name, first] of results) expect(runner.get(name), `${name}, ${way}`).toEqual(first);
  }
  checkCanaries(backend, runner, plan);
  runner.free();
  return {
    results,
    ops: [...new Set(plan.nodes.map(({ op }) => op.name))].join(' '),
    bound: Math.max(...plan.nodes.map(({ op }) => op.tolerance.nmse)),
  };
}

/** The numbers as bfloat16 holds them. */
function rounded(values: ArrayLike<number>): Float32Array {
  const bits = new Uint16Array(values.length);
  float32ToBf16(Float32Array.from(values), bits);
  const out = new Float32Array(values.length);
  bf16ToFloat32(bits, out);
  return out;
}
