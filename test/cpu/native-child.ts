// Run by native.test.ts with a number of threads: prints a hash of what some commands computed.

import { openNative } from '../../ffi/native.ts';
import { gemm, noise, run } from './native-commands.ts';

const native = await openNative();
native.init(Number(process.argv[2]));
const hash = new Bun.CryptoHasher('sha1');

const count = 50_021;
const x = native.alloc(4 * count);
const y = native.alloc(4 * count);
const next = noise(5);
x.f32().forEach((_, i, all) => {
  all[i] = 8 * next();
});
for (let f = 0; f < 6; f++) {
  const commands = Array.from({ length: 13 }, (_, part) => {
    const first = part * 4001;
    const pointers = [x.address + 4 * first, y.address + 4 * first];
    return {
      kernel: native.kernel('math_map'),
      blocks: 1,
      pointers,
      integers: [Math.min(4001, count - first), f],
    };
  });
  const pointers = [y.address, x.address, y.address];
  const add = { kernel: native.kernel('add'), blocks: 501, pointers, integers: [count, 100] };
  run(native, [...commands, add, add]);
  hash.update(y.u8());
}

for (const [M, N, K] of [
  [700, 513, 77],
  [33, 1100, 512],
  [1, 7, 9],
] as const) {
  const A = native.alloc(4 * M * K);
  const B = native.alloc(4 * K * N);
  const C = native.alloc(4 * M * N);
  for (const memory of [A, B]) {
    memory.f32().forEach((_, i, all) => {
      all[i] = next();
    });
  }
  for (let i = 0; i < 3; i++) {
    const shape = { M, N, K, transB: i > 0, accumulate: i > 1 };
    run(native, [gemm(native, shape, A.address, B.address, C.address)]);
    hash.update(C.u8());
  }
}
console.log(hash.digest('hex'));
