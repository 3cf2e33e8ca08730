// The GPU backend on the stand-in driver: eager run, capture and replay; order of copies; what is asked of
// the driver and when; products; errors.

import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpuBackend } from '../../src/backend/cpu.ts';
import type { Backend } from '../../src/backend/backend.ts';
import type { CudaBackend } from '../../src/backend/cuda/backend.ts';
import { threadsFor } from '../../src/backend/cuda/program.ts';
import { backward } from '../../src/plan/backward.ts';
import { geluTanh } from '../../src/plan/ops/act.ts';
import { expertLinear, linear } from '../../src/plan/ops/linear.ts';
import { norm } from '../../src/plan/ops/norm.ts';
import { freeze } from '../../src/plan/plan.ts';
import { encodeNumbers, Runner } from '../../src/plan/runner.ts';
import { product, reshape } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { standInGpu } from './gpu.ts';
import { calls, set } from './stand-in.ts';

const [bf16, fp32, eager] = [
  await standInGpu(),
  await standInGpu({ precision: 'fp32' }),
  await standInGpu({ precision: 'fp32', graph: false }),
];
const cpu = await cpuBackend(2);
afterAll(() => {
  for (const backend of [bf16, fp32, eager]) backend.close();
});

/** A runner that frees the regions of its parameters, too. */
class Network extends Runner {
  override free(): void {
    super.free();
    this.regions.weight?.free();
    this.regions.grad?.free();
  }
}

/** y = gelu(x W1^T + b1) W2^T, then a product of two experts; gradients of everything. */
function network(backend: Backend): Runner {
  const t = new Trace();
  const x = t.input('x', [2, 24, 32], 'act', true);
  const w1 = t.fixed('weight', 'w1', [64, 32], 0, { parameter: true });
  const b1 = t.input('b1', [64], 'act', true);
  const w2 = t.input('w2', [32, 64], 'act', true);
  const experts = t.input('experts', [2, 32, 40], 'act', true);
  const h = geluTanh(linear(x, w1, b1));
  const y = norm(linear(h, w2), null, 1e-6);
  const z = expertLinear(reshape(y, [2, 24, 32]), experts);
  const seed = t.input('seed', z.shape, 'act');
  t.output('z', z);
  for (const [input, gradient] of backward(t, [[z, seed]])) t.output(`d.${input.storage.name}`, gradient);
  const { elemBytes } = backend;
  const weight = backend.alloc(64 * 32 * elemBytes.act);
  const grad = backend.alloc(64 * 32 * elemBytes.real);
  const runner = new Network(backend, freeze('network', t, { elemBytes }), { weight, grad });
  backend.write(runner.regions.weight!, 0, encodeNumbers(backend, 'act', numbers(64 * 32, 99)));
  for (const [i, [name, port]] of [...runner.plan.inputs].entries()) {
    runner.set(name, numbers(product(port.shape), i + 1));
  }
  return runner;
}

function numbers(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i * 12.9898 + seed) / 2));
}

const results = (runner: Runner) =>
  new Map([...runner.plan.outputs.keys()].map((name) => [name, Array.from(runner.get(name))]));

/** The gradient of w1: every run adds to it, in float32. */
function weightGradient({ backend, regions }: Runner): number[] {
  const into = new Float32Array(64 * 32);
  backend.read(regions.grad!, 0, into);
  return Array.from(into);
}

const relative = (a: readonly number[], b: readonly number[]) =>
  Math.sqrt(a.reduce((sum, v, i) => sum + (v - b[i]!) ** 2, 0) / b.reduce((sum, v) => sum + v * v, 0));

describe('numbers', () => {
  const want = network(cpu);
  want.run();

  test.each([
    ['fp32', fp32, 1e-6],
    ['bf16', bf16, 0.02],
  ] as const)('%s: a network and its gradients equal the CPU', (_, backend, bound) => {
    const runner = network(backend);
    runner.run();
    const got = results(runner);
    for (const [name, values] of results(want)) {
      expect(relative(got.get(name)!, values), name).toBeLessThan(bound);
    }
    expect(relative(weightGradient(runner), weightGradient(want)), 'grad').toBeLessThan(bound);
    runner.free();
  });

  test('eager, recorded and replayed runs are equal to the bit, and so is a backend without graphs', () => {
    const [graph, plain] = [network(fp32), network(eager)];
    for (let i = 0; i < 4; i++) {
      graph.run();
      plain.run();
      expect(results(graph)).toEqual(results(plain));
      expect(weightGradient(graph)).toEqual(weightGradient(plain));
    }
    graph.free();
    plain.free();
  });

  test('gradients of parameters add up over replays', () => {
    const runner = network(fp32);
    runner.run();
    const once = weightGradient(runner);
    for (let i = 0; i < 3; i++) runner.run();
    const four = once.map((v) => 4 * v);
    expect(relative(weightGradient(runner), four)).toBeLessThan(1e-6);
    runner.free();
  });

  test('equal bits at every block size', async () => {
    const small = await standInGpu({ precision: 'fp32', threads: 32 });
    const runner = network(small);
    runner.run();
    const first = results(runner);
    runner.run();
    expect(results(runner)).toEqual(first);
    for (const [name, values] of results(want)) {
      expect(relative(first.get(name)!, values), name).toBeLessThan(1e-6);
    }
    runner.free();
    small.close();
  });
});

describe('what is asked of the driver', () => {
  const counted = (action: () => void, ...names: string[]) => {
    const before = names.map(calls);
    action();
    return names.map((name, i) => calls(name) - before[i]!);
  };
  const WORK = ['cuLaunchKernel', 'cublasLtMatmul', 'cuGraphLaunch'] as const;

  test('run 1 is eager, run 2 records, then a run is one call', () => {
    const runner = network(fp32);
    const launches = runner.plan.program.launches.length;
    const products = runner.plan.program.launches.filter(({ kernel }) => kernel === 'gemm').length;
    expect(counted(() => runner.run(), ...WORK)).toEqual([launches - products, products, 0]);
    expect(counted(() => runner.run(), 'cuStreamBeginCapture_v2', ...WORK)).toEqual([
      ...[1, launches - products, products, 1],
    ]);
    const forbidden = ['cuMemAlloc_v2', 'cublasLtMatmulAlgoGetHeuristic', 'cuModuleGetFunction'];
    expect(counted(() => runner.run(), ...WORK, ...forbidden)).toEqual([0, 0, 1, 0, 0, 0]);
    runner.free();
  });

  test('nothing is allocated or looked up after loading', () => {
    const runner = network(fp32);
    const names = ['cuMemAlloc_v2', 'cublasLtMatmulAlgoGetHeuristic', 'cuModuleGetFunction', 'cuEventCreate'];
    expect(counted(() => [runner.run(), runner.run(), runner.run()], ...names)).toEqual([0, 0, 0, 0]);
    runner.free();
  });

  test('an algorithm is asked for once a shape', () => {
    network(fp32).free();
    expect(counted(() => network(fp32).free(), 'cublasLtMatmulAlgoGetHeuristic')).toEqual([0]);
  });

  test('everything is given back', async () => {
    const PAIRS = [
      ['cuMemAlloc_v2', 'cuMemFree_v2'],
      ['cuMemHostAlloc', 'cuMemFreeHost'],
      ['cuEventCreate', 'cuEventDestroy_v2'],
      ['cuStreamCreateWithPriority', 'cuStreamDestroy_v2'],
      ['cuGraphInstantiateWithFlags', 'cuGraphExecDestroy'],
      ['cuStreamEndCapture', 'cuGraphDestroy'],
      ['cuModuleLoadData', 'cuModuleUnload'],
      ['cublasLtCreate', 'cublasLtDestroy'],
      ['cublasLtMatmulDescCreate', 'cublasLtMatmulDescDestroy'],
      ['cublasLtMatrixLayoutCreate', 'cublasLtMatrixLayoutDestroy'],
      ['cublasLtMatmulPreferenceCreate', 'cublasLtMatmulPreferenceDestroy'],
      ['cuDevicePrimaryCtxRetain', 'cuDevicePrimaryCtxRelease_v2'],
    ] as const;
    const before = PAIRS.map(([make, give]) => calls(make) - calls(give));
    const own = await standInGpu();
    const runner = network(own);
    runner.run();
    runner.run();
    runner.runTimed();
    runner.free();
    own.close();
    expect(PAIRS.map(([make, give]) => calls(make) - calls(give))).toEqual(before);
    expect(own.memory().allocated).toBe(0);
  });
});

describe('copies and times', () => {
  test('new memory is zero; parts are filled, written and read', () => {
    const region = fp32.alloc(64);
    const seen = new Uint8Array(64);
    fp32.read(region, 0, seen);
    expect(seen.every((byte) => byte === 0)).toBe(true);
    fp32.fill(region, 7, 8, 4);
    fp32.write(region, 16, new Uint16Array([1, 515]).subarray(1));
    fp32.read(region, 0, seen);
    expect([...seen.subarray(6, 20)]).toEqual([0, 0, 7, 7, 7, 7, 0, 0, 0, 0, 3, 2, 0, 0]);
    region.free();
  });

  test('a write comes after earlier runs and before later ones, many times over both buffers', () => {
    const runner = network(fp32);
    const port = runner.plan.inputs.get('x')!;
    const values = (i: number) => numbers(product(port.shape), 1000 + i);
    const outputs: number[][] = [];
    for (let i = 0; i < 4; i++) {
      runner.set('x', values(i));
      runner.run();
      runner.set('x', values(77)); // must not reach the run before it
      outputs.push(Array.from(runner.get('z')));
    }
    for (let i = 0; i < 4; i++) {
      runner.set('x', values(i));
      runner.run();
      expect(Array.from(runner.get('z'))).toEqual(outputs[i]!);
    }
    runner.free();
  });

  test('a write larger than both staging buffers arrives whole', () => {
    const data = new Int32Array(20 * 2 ** 20).map((_, i) => i * 2654435761);
    const region = fp32.alloc(data.byteLength);
    fp32.write(region, 0, data);
    const back = new Int32Array(data.length);
    fp32.read(region, 0, back);
    expect(Bun.hash(back)).toBe(Bun.hash(data));
    region.free();
  });

  test('times: one number a launch, none negative', () => {
    const runner = network(fp32);
    const times = runner.runTimed();
    expect(times).toHaveLength(runner.plan.nodes.length);
    expect(times.every((ns) => ns >= 0)).toBe(true);
    runner.free();
  });

  test('a part outside of its region is refused', () => {
    const region = fp32.alloc(16);
    const outside: [string, () => void][] = [
      ['write', () => fp32.write(region, 12, new Float32Array(2))],
      ['read', () => fp32.read(region, -4, new Float32Array(1))],
      ['fill', () => fp32.fill(region, 0, 8, 16)],
    ];
    for (const [call, action] of outside) expect(action).toThrow(`backend ${call}`);
    region.free();
  });
});

describe('threads', () => {
  test('a multiple of 32 that covers the lanes, at most 256', () => {
    expect([0, 1, 32, 33, 200, 256, 4096].map(threadsFor)).toEqual([256, 32, 32, 64, 224, 256, 256]);
  });
});

describe('choices of algorithms', () => {
  const tuned = async (options: object) => {
    const backend: CudaBackend = await standInGpu({ precision: 'fp32', ...options });
    const asked = calls('cublasLtMatmulAlgoGetHeuristic');
    const runner = network(backend);
    runner.run();
    const z = Array.from(runner.get('z'));
    runner.free();
    const { choices } = backend;
    backend.close();
    return { z, choices, asked: calls('cublasLtMatmulAlgoGetHeuristic') - asked };
  };

  test('saved choices are taken instead of asking, and give equal bits', async () => {
    const first = await tuned({ tune: true });
    expect(first.asked).toBeGreaterThan(3);
    const saved = JSON.parse(JSON.stringify(first.choices));
    const second = await tuned({ choices: saved });
    expect(second.asked).toBe(0);
    expect(second.z).toEqual(first.z);
    expect(second.choices).toEqual(first.choices);
  });

  test('choices of another GPU or release are refused', async () => {
    const { choices } = await tuned({});
    const other = { ...choices, library: 'cuBLASLt 1' };
    expect(standInGpu({ choices: other })).rejects.toThrow('was made on');
  });
});

describe('code that the driver does not take', () => {
  const cache = mkdtempSync(join(tmpdir(), 'kernels-'));
  const before = process.env.XDG_CACHE_HOME;
  afterAll(() => {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
    rmSync(cache, { recursive: true });
  });

  test('is compiled here, once, with one line about it', async () => {
    process.env.XDG_CACHE_HOME = cache;
    const source = await Bun.file('build/kernels.cu').text();
    const elf = new TextEncoder().encode('\x7fELF of another time');
    const options = ['-std=c++17', '-DACT_IS_FLOAT'];
    const code = [false, true].map((exact) => ({
      ...{ exact, fatbin: elf, source },
      options: [...options, `-fmad=${!exact}`],
    }));
    const open = async () => {
      const lines: string[] = [];
      const backend = await standInGpu({ precision: 'fp32', code, notice: (line) => lines.push(line) });
      const runner = network(backend);
      runner.run();
      const z = Array.from(runner.get('z'));
      runner.free();
      backend.close();
      return { lines, z };
    };
    const first = await open();
    expect(first.lines).toEqual([
      expect.stringMatching(/^compiling GPU kernels for sm_90 with NVRTC .*: the driver does not take/),
    ]);
    expect(readdirSync(join(cache, 'microdiff'))).toHaveLength(2);
    expect(await open()).toEqual({ lines: [], z: first.z });
  });
});

describe('errors', () => {
  const failing = async (fail: string, action: () => unknown) => {
    set('SIM_FAIL', fail);
    try {
      return await Promise.resolve()
        .then(action)
        .then(String, (error: Error) => error.message);
    } finally {
      set('SIM_FAIL', '');
    }
  };

  test('out of memory says what was asked for and what is free', async () => {
    const words = await failing('', () => fp32.alloc(2 ** 41));
    expect(words).toMatch(
      /^cuMemAlloc: the GPU has no memory for 2097152 MiB more .* MiB of 2048 MiB are free/,
    );
    expect(words).toContain('Lower train.micro_batch');
  });

  test.each([
    ['cuStreamEndCapture', 901, '--no-graph'],
    ['cuLaunchKernel', 701, 'threads'],
    ['cublasLtMatmul', 14, 'cublasLtMatmul of C[48, 64] = A B^T over 32, f32 to f32'],
    ['cuGraphInstantiateWithFlags', 2, 'Lower train.micro_batch'],
  ])('%s fails in a capture: it is ended, and the next program runs', async (call, status, words) => {
    const runner = network(fp32);
    runner.run();
    expect(await failing(`${call}:${calls(call) + 1}:${status}`, () => runner.run())).toContain(words);
    runner.run();
    runner.free();
    const after = network(fp32);
    after.run();
    after.run();
    after.free();
  });

  test('use after free is refused', () => {
    const runner = network(fp32);
    runner.run();
    runner.free();
    expect(() => runner.run()).toThrow('was freed');
    expect(() => runner.get('z')).toThrow('after it was freed');
  });

  test('no such device, no device at all', async () => {
    expect(standInGpu({ ordinal: 5 })).rejects.toMatchObject({ code: 3 });
  });
});
