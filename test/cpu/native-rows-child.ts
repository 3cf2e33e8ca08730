// Run by native-rows.test.ts with a number of threads: prints a hash of many products.

import { openNative } from '../../ffi/native.ts';
import { gemm, noise, run } from './native-commands.ts';

const native = await openNative();
native.init(Number(process.argv[2]));
const hash = new Bun.CryptoHasher('sha1');
const next = noise(29);
const SHAPES = [
  [2048, 512, 512],
  [513, 1537, 129],
  [616, 1024, 300],
  [1, 3072, 512],
  [37, 2000, 513],
  [1000, 16, 1025],
  [64, 64, 64],
] as const;

for (const [M, N, K] of SHAPES) {
  using A = native.alloc(4 * M * K);
  using B = native.alloc(4 * N * K);
  using C = native.alloc(4 * M * N);
  for (const memory of [A, B]) {
    const all = memory.f32();
    for (let i = 0; i < all.length; i++) all[i] = next();
  }
  for (const [transA, transB] of [
    [false, true],
    [false, false],
    [true, false],
  ] as const) {
    for (const imageRows of [0, Math.max(1, M >> 3)]) {
      run(native, [gemm(native, { M, N, K, transA, transB, imageRows }, A.address, B.address, C.address)]);
      hash.update(C.u8());
    }
  }
}
console.log(hash.digest('hex'));
