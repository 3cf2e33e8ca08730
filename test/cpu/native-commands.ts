// Packs commands for the native library's tests: one header and 8-byte slots each (cuda/native.h,
// md_command).

import { Pinned } from '../../ffi/memory.ts';
import type { Native } from '../../ffi/native.ts';

export interface Command {
  readonly kernel: number;
  readonly blocks: number;
  readonly scratch?: number;
  readonly pointers: readonly number[];
  readonly integers: readonly number[];
  readonly reals?: readonly number[];
}

/** The commands back to back, in memory that C may read while the result is held. */
export function pack(commands: readonly Command[]): Pinned {
  const sizes = commands.map(
    (c) => 24 + 8 * (c.pointers.length + c.integers.length + (c.reals?.length ?? 0)),
  );
  const packed = new Pinned(sizes.reduce((sum, size) => sum + size, 0));
  const view = new DataView(packed.buffer);
  let at = 0;
  commands.forEach((command, i) => {
    view.setUint32(at, command.kernel, true);
    view.setUint32(at + 4, (sizes[i]! - 24) / 8, true);
    view.setBigUint64(at + 8, BigInt(command.blocks), true);
    view.setBigUint64(at + 16, BigInt(command.scratch ?? 0), true);
    at += 24;
    for (const address of command.pointers) {
      view.setBigUint64(at, BigInt(address), true);
      at += 8;
    }
    for (const integer of command.integers) {
      view.setBigInt64(at, BigInt(integer), true);
      at += 8;
    }
    for (const value of command.reals ?? []) {
      view.setFloat64(at, value, true);
      at += 8;
    }
  });
  return packed;
}

export function run(native: Native, commands: readonly Command[]): void {
  const packed = pack(commands);
  native.replay(packed.address, packed.bytes.length);
}

export interface Product {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly lda?: number;
  readonly ldb?: number;
  readonly ldc?: number;
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly batch?: number;
  readonly strideA?: number;
  readonly strideB?: number;
  readonly strideC?: number;
  readonly strideBias?: number;
  readonly accumulate?: boolean;
  readonly imageRows?: number;
}

/** A "gemm" command; leading dimensions and strides left out are those of dense matrices. */
export function gemm(native: Native, p: Product, A: number, B: number, C: number, bias = 0): Command {
  const lda = p.lda ?? (p.transA ? p.M : p.K);
  const ldb = p.ldb ?? (p.transB ? p.K : p.N);
  const ldc = p.ldc ?? p.N;
  return {
    kernel: native.kernel('gemm'),
    blocks: 0,
    pointers: [A, B, C, bias],
    integers: [
      ...[p.M, p.N, p.K, lda, ldb, ldc, p.transA ? 1 : 0, p.transB ? 1 : 0, p.batch ?? 1],
      ...[p.strideA ?? (p.transA ? p.K : p.M) * lda, p.strideB ?? (p.transB ? p.N : p.K) * ldb],
      ...[p.strideC ?? p.M * ldc, p.strideBias ?? 0, p.accumulate ? 1 : 0, p.imageRows ?? 0],
    ],
  };
}

/** Reproducible numbers in [-1, 1). */
export function noise(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  };
}
