// Kernel gemm against float64 products: odd sizes, all transposes, bias, accumulation, batches, untouched
// surroundings; equal bits every time when several threads are at work; the double build; and bf16 products,
// where the processor has them, with what becomes of numbers that are not ordinary.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { NativeMemory } from '../../ffi/memory.ts';
import { Native, openNative } from '../../ffi/native.ts';
import { gemm, noise, type Product, run } from './native-commands.ts';

const native = await openNative();
native.init(2);
const hasBf16 = native.isa === 4 && native.cpuFeatures.includes('avx512bf16');
const doublePath = join(import.meta.dir, '../../build/libmicrodiff_f64.so');

const CANARY = 12345.5;
type Floats = Float32Array | Float64Array;

interface Case {
  readonly library: Native;
  readonly product: Product & { readonly batch: number };
  readonly bias: boolean;
  /** What packing makes of an operand's number. */
  readonly packed?: (x: number) => number;
}

const bits = new Uint32Array(1);
const number = new Float32Array(bits.buffer);
/** x rounded to bf16, nearest, ties to even; denormal numbers become zero, as in the processor. */
function toBf16(x: number): number {
  number[0] = Math.abs(x) < 2 ** -126 ? 0 : x;
  if (Number.isFinite(x)) bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return number[0]!;
}

/** Runs one product with padded rows and canaries; the largest error in units of epsilon * sum |a b|. */
function worst({ library, product, bias, packed = (x) => x }: Case, seed: number): number {
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
          const left = packed(a[p * strideA + (product.transA ? k * lda + i : i * lda + k)]!);
          const right = packed(b[p * strideB + (product.transB ? j * ldb + k : k * ldb + j)]!);
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
  ['bf16', () => native],
  ['the double build', () => new Native(doublePath)],
] as const)('gemm against float64, %s', (name, open) => {
  if (name === 'the double build' ? !existsSync(doublePath) : name === 'bf16' && !hasBf16) {
    test.skip(`${name}: not here`, () => {});
    return;
  }
  const library = open();
  library.init(2);
  // bf16 products are held to float32's bound on operands that are rounded, which is all that they round.
  const packed = name === 'bf16' ? toBf16 : (x: number) => x;
  beforeAll(() => library.bf16(name === 'bf16'));
  afterAll(() => library.bf16(false));
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
            expect(worst({ library, product, bias, packed }, 17 * i + 1)).toBeLessThan(BOUND);
          });
        });
      }
    }
  }
  test('sizes beyond one tile', () => {
    const product = { M: 613, N: 1037, K: 41, transB: true, batch: 1 };
    expect(worst({ library, product, bias: true, packed }, 9)).toBeLessThan(BOUND);
  });
});

describe.skipIf(!hasBf16)('bf16 products', () => {
  beforeAll(() => native.bf16(true));
  afterAll(() => native.bf16(false));

  test('are off by at most 2^-7 of sum |a b| (half a unit in the last of 8 bits for each operand)', () => {
    const product = { M: 150, N: 100, K: 801, transB: true, batch: 1 };
    const error = worst({ library: native, product, bias: false }, 3) * 2 ** -23;
    expect(error).toBeLessThan(2 ** -7);
    expect(error).toBeGreaterThan(2 ** -20);
  });

  test('denormal sums become zero', () => {
    using memory = native.alloc(3 * 64);
    memory.f32().fill(2 ** -70);
    const [a, b, c] = [0, 64, 128].map((offset) => memory.address + offset);
    run(native, [gemm(native, { M: 1, N: 1, K: 2 }, a!, b!, c!)]);
    expect(memory.f32()[32]).toBe(0);
  });

  const ordinary = [1, -1.00390625, 1.01171875, 1 + 2 ** -8 + 2 ** -20, 3e38, -1e-30, 2 ** -126];
  const special = [1e-39, -(2 ** -149), Infinity, -Infinity, Number.NaN, 3.4028234e38, 0, -0];
  const values = [...ordinary, ...special, 5, 7];
  // Sizes for each way of packing: alone, in vectors, and what is left over beside them.
  test.each([1, 8, 17, 49])('round to nearest even and keep NaN and infinities, %d depths', (K) => {
    const size = values.length;
    for (const transA of [false, true]) {
      for (const transB of [false, true]) {
        for (const side of ['A', 'B'] as const) {
          // The operand under test has the values at one depth and zeros elsewhere, the other one ones.
          using special = native.alloc(4 * size * K);
          using ones = native.alloc(4 * 40 * K);
          using C = native.alloc(4 * size * 40);
          const depth = K >> 1;
          const acrossRows = side === 'A' ? transA : !transB;
          for (const [i, value] of values.entries())
            special.f32()[acrossRows ? depth * size + i : i * K + depth] = value;
          ones.f32().fill(1);
          const [M, N] = side === 'A' ? [size, 40] : [40, size];
          const [a, b] = side === 'A' ? [special, ones] : [ones, special];
          run(native, [gemm(native, { M, N, K, transA, transB }, a.address, b.address, C.address)]);
          const got = C.f32(0, M * N);
          for (let at = 0; at < M * N; at++) {
            const value = values[side === 'A' ? Math.floor(at / N) : at % N]!;
            // Sums begin at +0, which takes the sign from a zero.
            expect(got[at]).toBe(toBf16(value) + 0);
          }
        }
      }
    }
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
