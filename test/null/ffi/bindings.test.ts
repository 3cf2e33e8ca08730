// The bindings of NVIDIA's libraries over functions made here: what is passed, and what a status turns into.

import { describe, expect, test } from 'bun:test';
import { existsSync, readFileSync } from 'node:fs';
import { CublasLt, CUBLASLT_SYMBOLS } from '../../../ffi/cublaslt.ts';
import {
  type Argument,
  type ArgumentKind,
  type Checked,
  checked,
  type Signature,
} from '../../../ffi/call.ts';
import { Cuda, CUDA_SYMBOLS } from '../../../ffi/cuda.ts';
import { CudaFailure } from '../../../ffi/cuda-status.ts';
import type { Library, Symbols } from '../../../ffi/library.ts';
import { Failure } from '../../../src/io/failure.ts';

type Fakes = Record<string, (...args: Argument[]) => number>;

/** A library whose functions return 0, but for those given; every call goes into `calls`. */
function fake<S extends Symbols>(symbols: S, fakes: Fakes = {}) {
  const calls: [string, ...Argument[]][] = [];
  const bound: Record<string, Checked> = {};
  for (const [name, signature] of Object.entries(symbols as Record<string, Signature>)) {
    bound[name] = checked(name, signature, ((...args: Argument[]) => {
      calls.push([name, ...args]);
      return fakes[name]?.(...args) ?? 0;
    }) as never);
  }
  const library = { path: '/fake/lib.so', calls: bound, optional: {}, addresses: {}, tried: [] };
  return { library: library as unknown as Library<S>, calls };
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

describe('driver', () => {
  const failing = (name: string, status: number) =>
    new Cuda(fake(CUDA_SYMBOLS, { [name]: () => status, cuGetErrorName: () => 1 }).library);

  test('the names with _v2 are used where cuda.h maps to them', () => {
    const header = ['/usr/local/cuda/include/cuda.h', '/usr/include/cuda.h'].find(existsSync);
    if (!header) return;
    const text = readFileSync(header, 'utf8');
    // Newer forms than the bound ones, of releases after 12.0.
    const kept = ['cuEventElapsedTime'];
    for (const [, plain, versioned] of text.matchAll(/^#define (cu\w+)\s+(?:\w+\()?(cu\w+_v\d)\)?/gm)) {
      const bound = Object.keys(CUDA_SYMBOLS);
      if (!bound.includes(plain!) || kept.includes(plain!)) continue;
      expect(`${plain} is ${versioned}`).toBe(`${plain} is bound by its old form`);
    }
  });

  test('arguments have the number and the kinds of cuda.h', () => {
    const header = ['/usr/local/cuda/include/cuda.h', '/usr/include/cuda.h'].find(existsSync);
    if (!header) return;
    const text = readFileSync(header, 'utf8');
    for (const [name, { args }] of Object.entries(CUDA_SYMBOLS)) {
      const plain = name.replace(/_v\d$|WithFlags$/, '');
      const list = new RegExp(`CUresult CUDAAPI ${plain}\\(([^)]*)\\)`).exec(text)?.[1];
      const declared = (list ?? '').split(',').map((each) => each.trim());
      const kinds = declared.filter((each) => each !== 'void').map(kindOf);
      expect([name, ...kinds]).toEqual([name, ...args]);
    }
  });

  test('arguments out of range do not reach the driver', () => {
    const { library, calls } = fake(CUDA_SYMBOLS);
    const cuda = new Cuda(library);
    const before = calls.length;
    expect(failure(() => cuda.alloc(-1)).message).toContain('argument 2 (u64) is negative: -1');
    expect(failure(() => cuda.alloc(Number.NaN)).message).toContain('not a safe integer');
    expect(failure(() => cuda.launch(1, 2 ** 31, 32, 0, 0, 8, 'k')).message).toContain(
      'cuLaunchKernel: argument 2 (i32) is 2147483648, outside 32 bits',
    );
    expect(calls.length).toBe(before);
  });

  test('a launch passes its eleven arguments in order', () => {
    const { library, calls } = fake(CUDA_SYMBOLS);
    new Cuda(library).launch(11, 22, 33, 44, 55, 66, 'k');
    expect(calls.at(-1)).toEqual(['cuLaunchKernel', 11, 22, 1, 1, 33, 1, 1, 44, 55, 66, 0]);
  });

  test('no device is exit code 3 and says what to do', () => {
    const error = failure(() => failing('cuInit', 100));
    expect(error.code).toBe(3);
    expect(error.message).toMatch(/^cuInit of \/fake\/lib.so: .*status 100.*--gpus all.*--device cpu/);
  });

  test('a driver too old, a stub, a busy device: exit code 3', () => {
    for (const status of [34, 36, 46, 802, 803, 804]) {
      expect(failure(() => failing('cuInit', status)).code).toBe(3);
    }
    expect(failure(() => failing('cuInit', 36)).message).toContain('newer NVIDIA driver');
  });

  test('out of memory names what was asked for and what can be done', () => {
    const cuda = failing('cuMemAlloc_v2', 2);
    const error = failure(() => cuda.alloc(3 * 2 ** 30));
    expect(error.message).toContain('3072 MiB more (3221225472 bytes)');
    expect(error.message).toContain('Lower train.micro_batch');
    expect(error.code).toBe(1);
  });

  test('an illegal address: the device is lost, the checkpoint is not, and freeing does not hide it', () => {
    const cuda = failing('cuStreamSynchronize', 700);
    const error = failure(() => cuda.streamSynchronize(1));
    expect(error).toBeInstanceOf(CudaFailure);
    expect(error).toMatchObject({ lost: true, code: 1 });
    expect(error.message).toContain('last checkpoint is intact');
    expect(cuda.lost).toBe(true);
  });

  test('errors of a launch name kernel and sizes; of a capture, the way around', () => {
    const launch = failure(() => failing('cuLaunchKernel', 1).launch(1, 5, 256, 1024, 0, 8, 'norm_fwd'));
    expect(launch.message).toContain('cuLaunchKernel of norm_fwd over 5 blocks of 256 threads, 1024 bytes');
    const capture = failure(() => failing('cuStreamEndCapture', 901).endCapture(1));
    expect(capture.message).toContain('--no-graph');
  });

  test('a kernel that a module lacks is null, not an error', () => {
    expect(failing('cuModuleGetFunction', 500).moduleFunction(1, 'x')).toBeNull();
  });
});

describe('cuBLASLt', () => {
  test('sixteen arguments in order', () => {
    const { library, calls } = fake(CUBLASLT_SYMBOLS, { cublasLtGetVersion: () => 130000 });
    const lt = new CublasLt(library);
    lt.matmul(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, () => '');
    expect(calls.at(-1)).toEqual(['cublasLtMatmul', 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
  });

  test('a failed product names its sizes, the status and the release', () => {
    const { library } = fake(CUBLASLT_SYMBOLS, {
      cublasLtGetVersion: () => 120803,
      cublasLtMatmul: () => 13,
    });
    const lt = new CublasLt(library);
    const error = failure(() =>
      lt.matmul(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, () => 'of 8 x 9'),
    );
    expect(error.message).toBe(
      'cublasLtMatmul of 8 x 9: CUBLAS_STATUS_EXECUTION_FAILED (status 13, cuBLASLt 120803). ' +
        'The GPU may be lost; the last checkpoint is intact: start the same command again to go on',
    );
  });

  test('no algorithm is an empty list; the preference is given back', () => {
    const { library, calls } = fake(CUBLASLT_SYMBOLS, { cublasLtMatmulAlgoGetHeuristic: () => 15 });
    const lt = new CublasLt(library);
    const limits = { workspace: 32, align: { A: 16, B: 16, C: 16, D: 16 } };
    expect(lt.algorithms(1, { A: 2, B: 3, C: 4, D: 5 }, limits, 8)).toEqual([]);
    expect(calls.at(-1)?.[0]).toBe('cublasLtMatmulPreferenceDestroy');
    const set = calls.filter(([name]) => name === 'cublasLtMatmulPreferenceSetAttribute');
    expect(set.map(([, , attribute]) => attribute)).toEqual([1, 3, 5, 6, 7, 8]);
  });
});

/** How C's parameter goes into a call: addresses and handles, 64-bit or 32-bit integers. */
function kindOf(parameter: string): ArgumentKind {
  const type = parameter.replace(/\w+$/, '').replaceAll('const', '').trim();
  if (type.endsWith('*') || /^CU(context|module|function|stream|event|graph|graphExec)$/.test(type))
    return 'ptr';
  if (/^(size_t|CUdeviceptr|unsigned long long|cuuint64_t)$/.test(type)) return 'u64';
  return 'i32';
}
