// Run by native-rows.test.ts with a number of threads, bf16 or nothing, and MICRODIFF_ISA: prints the
// instruction set and a hash of many products; throws where a part of a product, computed by itself, differs
// in a bit from that part of the whole.

import { openNative } from '../../ffi/native.ts';
import { gemm, noise, run } from './native-commands.ts';

const native = await openNative();
native.init(Number(process.argv[2]));
native.bf16(process.argv[3] === 'bf16');
const hash = new Bun.CryptoHasher('sha1');
const next = noise(29);
const below = (n: number) => Math.min(n - 1, Math.floor(((next() + 1) / 2) * n));

function filled(count: number) {
  const memory = native.alloc(4 * count);
  const all = memory.f32();
  for (let i = 0; i < all.length; i++) all[i] = next();
  return memory;
}

/** The bits of floats. */
const bits = (floats: Float32Array) => new Uint32Array(floats.buffer, floats.byteOffset, floats.length);

const all = [false, true];
const VARIANTS = all.flatMap((transA) =>
  all.flatMap((transB) =>
    all.flatMap((withBias) => all.map((accumulate) => ({ transA, transB, withBias, accumulate }))),
  ),
);

/** The whole product, twice in a batch, and `parts` random parts of it in rows and columns. */
function compare(M: number, N: number, K: number, variant: (typeof VARIANTS)[number], parts: number): void {
  const { transA, transB, withBias, accumulate } = variant;
  using A = filled(M * K);
  using B = filled(N * K);
  using before = filled(M * N);
  using biases = filled(N);
  using C = native.alloc(4 * 2 * M * N);
  using D = native.alloc(4 * M * N);
  const [lda, ldb] = [transA ? M : K, transB ? K : N];
  const bias = (column: number) => (withBias ? biases.address + 4 * column : 0);
  for (const half of [0, 1]) C.f32(4 * half * M * N, M * N).set(before.f32(0, M * N));
  const batch = { batch: 2, strideA: 0, strideB: 0, strideC: M * N, lda, ldb };
  const kind = { transA, transB, accumulate };
  run(native, [gemm(native, { M, N, K, ...kind, ...batch }, A.address, B.address, C.address, bias(0))]);
  const whole = bits(C.f32(0, 2 * M * N));
  hash.update(C.u8(0, 4 * M * N));
  for (let i = 0; i < M * N; i++) if (whole[i] !== whole[M * N + i]) throw new Error('the batch differs');
  for (let part = 0; part < parts; part++) {
    const [row, column] = part === 0 ? [0, 0] : [below(M), below(N)];
    const rows = part === 1 ? 1 : 1 + below(part % 2 ? Math.min(40, M - row) : M - row);
    const columns = part === 0 ? N : 1 + below(N - column);
    D.f32(0, M * N).set(before.f32(0, M * N));
    const product = { M: rows, N: columns, K, ...kind, lda, ldb, ldc: N, imageRows: part % 3 };
    const a = A.address + 4 * (transA ? row : row * lda);
    const b = B.address + 4 * (transB ? column * ldb : column);
    run(native, [gemm(native, product, a, b, D.address + 4 * (row * N + column), bias(column))]);
    const alone = bits(D.f32(0, M * N));
    for (let i = row; i < row + rows; i++) {
      for (let j = column; j < column + columns; j++) {
        if (alone[i * N + j] === whole[i * N + j]) continue;
        const where = `${rows} x ${columns} at ${row}, ${column} of ${M} x ${N} x ${K}`;
        throw new Error(`element ${i}, ${j} of ${where} differs: ${JSON.stringify(variant)}`);
      }
    }
  }
}

for (const variant of VARIANTS) {
  for (const [M, N, K] of [
    [40, 70, 1],
    [77, 33, 130],
    [150, 200, 385],
    [290, 65, 801],
  ] as const)
    compare(M, N, K, variant, 12);
}
// Beyond what is packed at a time, and beyond what one thread does alone.
const plain = { transA: false, transB: false, withBias: false, accumulate: false };
compare(140, 1100, 2000, { ...plain, transB: true, withBias: true }, 3);
compare(1537, 129, 513, { ...plain, transA: true, accumulate: true }, 3);
compare(8, 3072, 512, { ...plain, transB: true }, 3);
console.log(native.isa, hash.digest('hex'));
