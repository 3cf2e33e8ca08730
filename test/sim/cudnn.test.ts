// Convolutions by cuDNN on its stand-in: which engines are taken and which are passed over, what is recorded,
// what happens where the library is missing, too old or knows no engine; what the stand-in itself refuses.
import { afterAll, beforeEach, describe, expect, test } from 'bun:test';
import { existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AttributeValue, Cudnn, openCudnnLibrary } from '../../ffi/cudnn.ts';
import { ConvolutionGraph, type ConvolutionSpec, variantPack } from '../../ffi/cudnn-graph.ts';
import { candidates } from '../../ffi/places.ts';
import type { CudaBackend, CudaOptions } from '../../src/backend/cuda/backend.ts';
import { EXIT, Failure } from '../../src/io/failure.ts';
import { conv, SAME } from '../../src/plan/ops/conv.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { product } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { bothBackends, nmse, randomValues } from '../cpu/op-case.ts';
import { standInGpu } from './gpu.ts';
import * as sim from './stand-in.ts';

const PATH = process.env.MICRODIFF_CUDA_PATH;
beforeEach(() => {
  sim.set('SIM_QUIET', '1');
  sim.set('SIM_CUDNN_REFUSE', '');
  sim.set('SIM_CUDNN_VERSION', '');
});
afterAll(() => {
  process.env.MICRODIFF_CUDA_PATH = PATH;
});

interface Size {
  readonly x: readonly [number, number, number, number];
  readonly out: number;
}
const WIDE: Size = { x: [2, 5, 4, 16], out: 8 };
const ODD: Size = { x: [1, 4, 6, 3], out: 8 };

/** A convolution of these sizes on a backend; the same numbers on all. */
function runner(backend: Pick<CudaBackend, 'elemBytes'> & Runner['backend'], { x, out }: Size): Runner {
  const trace = new Trace();
  const image = trace.input('x', x, 'act');
  const w = trace.input('w', [out, 3, 3, x[3]], 'act');
  const bias = trace.input('bias', [out], 'act');
  trace.output('y', conv(image, w, bias, SAME, { whole: true }));
  const made = new Runner(backend, freeze('conv', trace, { elemBytes: backend.elemBytes }));
  made.set('x', randomValues(product(x), 1));
  made.set('w', randomValues(out * 9 * x[3], 2));
  made.set('bias', randomValues(out, 3));
  return made;
}

function run(backend: Runner['backend'], size: Size) {
  const made = runner(backend, size);
  made.run();
  const y = made.get('y');
  made.run();
  expect(made.get('y')).toEqual(y);
  made.free();
  return y;
}

/** A backend, what it said, and what it throws. */
async function opened(options: CudaOptions) {
  const lines: string[] = [];
  const backend = await standInGpu({ ...options, notice: (line) => lines.push(line) });
  return { backend, lines };
}

function failure(action: () => unknown): Failure {
  try {
    action();
  } catch (error) {
    if (error instanceof Failure) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('engines', () => {
  // Numbers of proposals: five engines with tensor cores or other rounding come before the first good one.
  test.each([
    ['bf16', WIDE, '', 5, 65536],
    ['bf16', WIDE, '1', 6, 512],
    ['bf16', ODD, '', 2, 512],
    ['fp32', WIDE, '', 6, 512],
    ['fp32', ODD, '', 2, 512],
  ] as const)('%s, %j, those refused: "%s"', async (precision, size, refused, proposal, workspace) => {
    sim.set('SIM_CUDNN_REFUSE', refused);
    const before = sim.complaints();
    const { backend, lines } = await opened({ precision });
    const error = nmse(run(backend, size), run(bothBackends().f32, size));
    expect(error).toBeLessThan(precision === 'bf16' ? 1e-4 : 1e-13);
    expect(backend.convolutionChoices).toEqual([
      expect.objectContaining({ proposal, workspace, shape: expect.stringContaining('3 x 3, stride 1') }),
    ]);
    expect(lines).toEqual(['convolutions: cuDNN 9.8.0']);
    backend.close();
    expect(sim.complaints()).toBe(before);
  });

  test('none: an error with sizes, reasons and what to do', async () => {
    sim.set('SIM_CUDNN_REFUSE', '0,1');
    const { backend } = await opened({ precision: 'bf16' });
    const { message, code } = failure(() => run(backend, WIDE));
    expect(message).toContain('conv of [2, 5, 4, 16] to [5, 4, 8], 3 x 3, stride 1, padding 1, bf16');
    expect(message).toContain('rounds in another way; needs 12288 MiB of workspace; cudnnBackendFinalize');
    expect(message).toContain('engine 38 is not supported here');
    expect(message).toContain('Set MICRODIFF_CONVOLUTIONS=im2col');
    expect(code).toBe(EXIT.failed);
    backend.close();
  });

  test('one is chosen once a shape, runs are recorded, everything is given back', async () => {
    const balance = () =>
      sim.calls('cudnnBackendCreateDescriptor') - sim.calls('cudnnBackendDestroyDescriptor');
    const [before, finalized] = [balance(), sim.calls('cudnnBackendFinalize')];
    const { backend } = await opened({ precision: 'bf16' });
    run(backend, WIDE);
    const first = sim.calls('cudnnBackendFinalize') - finalized;
    const kept = balance();
    const made = runner(backend, WIDE);
    expect(sim.calls('cudnnBackendFinalize') - finalized).toBe(first + 1); // the variant pack
    made.run();
    made.run();
    backend.synchronize();
    const [executed, launched] = [sim.calls('cudnnBackendExecute'), sim.launches('cudnnBackendExecute')];
    made.run();
    backend.synchronize();
    expect(sim.calls('cudnnBackendExecute')).toBe(executed);
    expect(sim.launches('cudnnBackendExecute')).toBe(launched + 1);
    made.free();
    expect(balance()).toBe(kept);
    backend.close();
    expect(balance()).toBe(before);
    expect(sim.calls('cudnnCreate')).toBe(sim.calls('cudnnDestroy'));
    expect(backend.memory().allocated).toBe(0);
  });
});

describe('where cuDNN cannot be used', () => {
  const folder = mkdtempSync(join(tmpdir(), 'microdiff-cudnn-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  for (const name of ['libcuda.so.1', 'libcublasLt.so.13']) {
    symlinkSync(join(sim.FOLDER, name), join(folder, name));
  }

  /** What is said by a backend that chooses, and thrown by one that must. */
  async function said(): Promise<string> {
    const { backend, lines } = await opened({ precision: 'bf16' });
    expect(backend.convolvesWhole?.()).toBe(false);
    expect(backend.convolvesWhole?.()).toBe(false);
    backend.close();
    const strict = await opened({ precision: 'bf16', convolutions: 'cudnn' });
    const { message, code } = failure(() => strict.backend.convolvesWhole?.());
    expect(failure(() => strict.backend.convolvesWhole?.()).message).toBe(message);
    strict.backend.close();
    expect(lines).toEqual([`convolutions: im2col and cuBLASLt, ${message}`]);
    expect(strict.lines).toEqual([]);
    return `${code} ${message}`;
  }

  test('missing', async () => {
    process.env.MICRODIFF_CUDA_PATH = folder;
    if (!candidates('cudnn').some((path) => existsSync(path))) {
      expect(await said()).toMatch(/^3 cannot load cuDNN: .*Install cuDNN 9/s);
    }
    process.env.MICRODIFF_CUDA_PATH = PATH;
  });

  test('too old', async () => {
    sim.set('SIM_CUDNN_VERSION', '8907');
    expect(await said()).toMatch(/^3 cuDNN 8\.9\.7 at .*libcudnn.so.9: is too old, 9\.0\.0 is needed/);
  });

  test('it makes no handle', async () => {
    sim.set('SIM_CUDNN_REFUSE', 'create');
    expect(await said()).toMatch(/^1 cudnnCreate: CUDNN_STATUS_NOT_INITIALIZED, no sub-libraries/);
  });

  test('not wanted', async () => {
    const { backend, lines } = await opened({ convolutions: 'im2col' });
    expect(backend.convolvesWhole?.()).toBe(false);
    expect(lines).toEqual(['convolutions: im2col and cuBLASLt, as MICRODIFF_CONVOLUTIONS says']);
    backend.close();
  });
});

describe('the stand-in refuses', () => {
  const spec: ConvolutionSpec = {
    ...{ type: 'f32', x: { N: 1, H: 4, W: 4, C: 3 }, y: { Ho: 4, Wo: 4, Co: 2 }, k: 3, stride: 1, pad: 1 },
    align: { x: 16, w: 16, y: 16 },
  };
  function library() {
    const cuda = sim.freshCuda();
    const cudnn = new Cudnn(openCudnnLibrary([`${sim.FOLDER}/libcudnn.so.9`]));
    const stream = cuda.streamCreate();
    cudnn.setStream(stream);
    return { cuda, cudnn, stream };
  }
  const number = (attribute: number, type: number, ...numbers: number[]): AttributeValue => {
    const wide = type === 3 || type === 15;
    const values = wide ? BigInt64Array.from(numbers, BigInt) : Int32Array.from(numbers);
    return { attribute, type, count: numbers.length, values };
  };
  const tensor = [
    number(901, 1, 0),
    number(902, 3, 1, 2, 3, 4),
    number(903, 3, 24, 1, 8, 2),
    number(906, 3, 1),
    number(900, 3, 16),
  ];

  test.each<[string, AttributeValue[], RegExp]>([
    ['an unknown attribute', [number(908, 2, 1)], /908 is not one of kind 17/],
    ['a wrong type', [number(906, 1, 1)], /BAD_PARAM_ATTRIBUTE_TYPE, attribute 906 is of another type/],
    ['a wrong number', [number(906, 3, 1, 2)], /attribute 906: number of elements/],
    ['twice the same', [...tensor, number(906, 3, 2)], /attribute 906 is set twice/],
    ['too few', tensor.slice(1), /attribute 901 is not set/],
    ['strides of fewer dimensions', tensor.with(2, number(903, 3, 24, 1, 8)), /dimensions and strides/],
    ['an alignment that is none', tensor.with(4, number(900, 3, 12)), /byte alignment/],
  ])('%s', (_, attributes, words) => {
    const { cudnn } = library();
    expect(failure(() => cudnn.descriptor(17, attributes)).message).toMatch(words);
    cudnn.destroy();
  });

  test('descriptors of another kind, destroyed ones, and destroying what is in use', () => {
    const { cudnn } = library();
    const made = cudnn.descriptor(17, tensor);
    expect(failure(() => cudnn.descriptor(15, [number(801, 15, made)])).message).toMatch(/another kind/);
    const graph = new ConvolutionGraph(cudnn, spec);
    const [config = 0] = graph.configs('fallback');
    expect(failure(() => cudnn.descriptor(15, [number(801, 15, config)])).message).toMatch(/another kind/);
    cudnn.descriptorDestroy(made);
    expect(failure(() => cudnn.descriptorDestroy(made)).message).toMatch(/destroyed descriptor/);
    expect(failure(() => cudnn.destroy()).message).toMatch(/a handle that a graph still uses/);
    graph.destroy();
  });

  test.each<[string, Partial<ConvolutionSpec>, RegExp]>([
    ['a result of another size', { y: { Ho: 4, Wo: 5, Co: 2 } }, /extent of the result/],
    ['a window larger than the image', { k: 7, pad: 0 }, /extent of the result/],
    ['alignment below an element', { align: { x: 2, w: 16, y: 16 } }, /byte alignment/],
  ])('%s', (_, change, words) => {
    const { cudnn } = library();
    expect(failure(() => new ConvolutionGraph(cudnn, { ...spec, ...change })).message).toMatch(words);
    cudnn.destroy();
  });

  test('execution: less aligned, overlapping, no workspace, dead memory; a capture', () => {
    const { cuda, cudnn, stream } = library();
    const graph = new ConvolutionGraph(cudnn, spec);
    const [config = 0] = graph.configs('fallback');
    const { plan, workspace } = graph.plan(config);
    const [x, w, y, room] = [192, 216, 128, workspace].map((bytes) => cuda.alloc(bytes)) as number[];
    const at = { x: x!, w: w!, y: y! };
    const outcome = (places: typeof at, space = room!) =>
      failure(() => cudnn.execute(plan, variantPack(cudnn, places, space))).message;
    expect(outcome({ ...at, x: x! + 4 })).toMatch(/an address is less aligned/);
    expect(outcome({ ...at, y: x! })).toMatch(/y lies over x or w/);
    expect(outcome(at, 0)).toMatch(/no workspace/);
    const pack = variantPack(cudnn, at, room!);
    cuda.beginCapture(stream, 'global');
    expect(failure(() => variantPack(cudnn, at, room!)).message).toMatch(/inside a capture/);
    cudnn.execute(plan, pack);
    const executable = cuda.graphInstantiate(cuda.endCapture(stream));
    cuda.graphLaunch(executable, stream);
    cuda.streamSynchronize(stream);
    cuda.free(x!);
    cuda.graphLaunch(executable, stream);
    expect(sim.statusOf(() => cuda.synchronize())).toBe(700);
    expect(sim.message()).toMatch(/cudnnBackendExecute: x: 0x\w+ is freed memory/);
  });
});
