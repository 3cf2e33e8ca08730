// Kernel gemm against float64 products: odd sizes, all transposes, bias, accumulation, batches, untouched
// surroundings; equal bits every time when several threads are at work; and the double build.

import { describe, expect, test } from 'bun:test';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { NativeMemory } from '../../ffi/memory.ts';
import { Native, openNative } from '../../ffi/native.ts';
import { gemm, noise, type Product, run } from './native-commands.ts';

const native = await openNative();
native.init(2);
const doublePath = join(import.meta.dir, '../../build/libmicrodiff_f64.so');

const CANARY = 12345.5;
type Floats = Float32Array | Float64Array;

interface Case {
  readonly library: Native;
  readonly product: Product & { readonly batch: number };
  readonly bias: boolean;
}

/** Runs one product with padded rows and canaries; the largest error in units of epsilon * sum |a b|. */
function worst({ library, product, bias }: Case, seed: number): number {
  const { M, N, K, batch } = product;
  const size = library.actBytes;
  const next = noise(seed);
  const pad = 3;
  const lda = (product.transA ? M : K) + pad;
  const ldb = (product.transB ? K : N) + pad;
  const ldc = N + pad;
  const strideA = (product.transA ? K : M) * lda + 5;
  const strideB = (product.transB ? N : K) * ldb + 7;
  const strideC = M * ldc + 9;
  const strideBias = N + 1;
  const view = (memory: NativeMemory): Floats => (size === 8 ? memory.f64() : memory.f32());
  using aMemory = library.alloc(size * batch * strideA);
  using bMemory = library.alloc(size * batch * strideB);
  using cMemory = library.alloc(size * (batch * strideC + 64));
  using biasMemory = library.alloc(size * batch * strideBias);
  const [a, b, c, biases] = [view(aMemory), view(bMemory), view(cMemory), view(biasMemory)];
  for (const all of [a, b, biases]) for (let i = 0; i < all.length; i++) all[i] = next();
  c.fill(CANARY);
  const before = (p: number, i: number, j: number) => ((p + 1) * ((i * 7 + j * 3) % 11)) / 8;
  for (let p = 0; p < batch; p++) {
    for (let i = 0; i < M; i++) for (let j = 0; j < N; j++) c[p * strideC + i * ldc + j] = before(p, i, j);
  }
  const full = { ...product, lda, ldb, ldc, strideA, strideB, strideC, strideBias };
  const addresses = [aMemory.address, bMemory.address, cMemory.address] as const;
  run(library, [gemm(library, full, ...addresses, bias ? biasMemory.address : 0)]);

  let error = 0;
  for (let p = 0; p < batch; p++) {
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let sum = (product.accumulate ? before(p, i, j) : 0) + (bias ? biases[p * strideBias + j]! : 0);
        let size1 = Math.abs(sum) + 1e-30;
        for (let k = 0; k < K; k++) {
          const left = a[p * strideA + (product.transA ? k * lda + i : i * lda + k)]!;
          const right = b[p * strideB + (product.transB ? j * ldb + k : k * ldb + j)]!;
          sum += left * right;
          size1 += Math.abs(left * right);
        }
        const epsilon = size === 8 ? 2 ** -52 : 2 ** -23;
        error = Math.max(error, Math.abs(c[p * strideC + i * ldc + j]! - sum) / (epsilon * size1));
      }
      for (let j = N; j < ldc; j++) expect(c[p * strideC + i * ldc + j]).toBe(CANARY);
    }
  }
  for (let i = batch * strideC; i < c.length; i++) if (c[i] !== CANARY) throw new Error('wrote beyond C');
  return error;
}

const SHAPES = [
  [1, 1, 1],
  [1, 17, 5],
  [3, 1, 33],
  [7, 5, 13],
  [31, 33, 65],
  [64, 64, 64],
  [77, 129, 31],
  [130, 67, 257],
  [141, 37, 391],
] as const;

// A sum of K products in any order is off by at most K epsilons of sum |a b|, in the mean by far less; a
// double reference has the same rounding as the double build, so that build is held to the same figure.
const BOUND = 8;

describe.each([
  ['float', () => native],
  ['double', () => new Native(doublePath)],
] as const)('gemm against float64, %s build', (name, open) => {
  if (name === 'double' && !existsSync(doublePath)) {
    test.skip('the double build is not there', () => {});
    return;
  }
  const library = open();
  library.init(2);
  for (const transA of [false, true]) {
    for (const transB of [false, true]) {
      for (const [bias, accumulate] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ] as const) {
        const words = [transA && 'A^T', transB && 'B^T', bias && 'bias', accumulate && 'accumulate'];
        test(`odd sizes, batches: ${words.filter(Boolean).join(' ') || 'plain'}`, () => {
          SHAPES.forEach(([M, N, K], i) => {
            const product = { M, N, K, transA, transB, accumulate, batch: 1 + (i % 3), imageRows: 5 };
            expect(worst({ library, product, bias }, 17 * i + 1)).toBeLessThan(BOUND);
          });
        });
      }
    }
  }
  test('sizes beyond one tile', () => {
    const product = { M: 613, N: 1037, K: 41, transB: true, batch: 1 };
    expect(worst({ library, product, bias: true }, 9)).toBeLessThan(BOUND);
  });
});

test.each([
  ['float', () => native],
  ['double', () => new Native(doublePath)],
] as const)(
  'several products at once give equal bits every time, %s build',
  (name, open) => {
    if (name === 'double' && !existsSync(doublePath)) return;
    const library = open();
    library.init(2);
    const size = library.actBytes;
    // The double build calls OpenBLAS, whose serial build takes no lock when it hands out work memory;
    // few rows make many short calls, which is where two threads got the same buffer
    // (cuda/blas_memory.cpp). Batches put calls side by side on the pool.
    for (const [M, N, K, batch, rounds] of [
      [13, 64, 300, 64, 150],
      [24, 256, 100, 32, 100],
      [300, 1100, 200, 1, 50],
    ] as const) {
      using A = library.alloc(size * batch * M * K);
      using B = library.alloc(size * batch * K * N);
      using C = library.alloc(size * batch * M * N);
      const next = noise(11);
      for (const memory of [A, B]) {
        const all = size === 8 ? memory.f64() : memory.f32();
        for (let i = 0; i < all.length; i++) all[i] = next();
      }
      const command = gemm(library, { M, N, K, transB: true, batch }, A.address, B.address, C.address);
      run(library, [command]);
      const first = Bun.hash(C.u8());
      let wrong = 0;
      for (let i = 0; i < rounds; i++) {
        library.fill(C.address, 0xff, size * batch * M * N);
        run(library, [command]);
        if (Bun.hash(C.u8()) !== first) wrong++;
      }
      expect(wrong).toBe(0);
    }
  },
  300_000,
);
