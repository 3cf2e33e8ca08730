// Matrix products of MicroDiT_Tiny_2 (batch 8, mask 0.75) against the yardstick: plain 1024^3 OpenBLAS
// products, one a core, summed. Usage: bun bench/gemm.ts [threads] [rounds] [bf16]. Rounds are interleaved
// and the best one counts, so that other work on the machine touches shape and yardstick alike.

import { Pinned } from '../ffi/memory.ts';
import { openNative } from '../ffi/native.ts';

interface Shape {
  readonly use: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly op: 'NT' | 'NN' | 'TN';
  readonly batch?: number;
  readonly imageRows?: number;
}

const shapes: Shape[] = [
  { use: 'mixer qkv', M: 2048, N: 1536, K: 512, op: 'NT' },
  { use: 'mixer out', M: 2048, N: 512, K: 512, op: 'NT' },
  { use: 'mixer ffn', M: 2048, N: 1024, K: 512, op: 'NT' },
  { use: 'mixer qkv dx', M: 2048, N: 512, K: 1536, op: 'NN' },
  { use: 'mixer out dx', M: 2048, N: 512, K: 512, op: 'NN' },
  { use: 'mixer qkv dw', M: 1536, N: 512, K: 2048, op: 'TN' },
  { use: 'mixer out dw', M: 512, N: 512, K: 2048, op: 'TN' },
  { use: 'experts, mixer', M: 512, N: 1024, K: 512, op: 'NN', batch: 8 },
  { use: 'experts dx, mixer', M: 512, N: 512, K: 1024, op: 'NT', batch: 8 },
  { use: 'experts dw, mixer', M: 512, N: 1024, K: 512, op: 'TN', batch: 8 },
  { use: 'backbone qkv', M: 512, N: 1536, K: 512, op: 'NT' },
  { use: 'backbone out', M: 512, N: 512, K: 512, op: 'NT' },
  { use: 'backbone ffn', M: 512, N: 2048, K: 512, op: 'NT' },
  { use: 'backbone ffn down', M: 512, N: 512, K: 2048, op: 'NT' },
  { use: 'backbone narrow ffn', M: 512, N: 256, K: 512, op: 'NT' },
  { use: 'backbone qkv dx', M: 512, N: 512, K: 1536, op: 'NN' },
  { use: 'backbone qkv dw', M: 1536, N: 512, K: 512, op: 'TN' },
  { use: 'experts, backbone', M: 128, N: 2048, K: 512, op: 'NN', batch: 8 },
  { use: 'experts dw, backbone', M: 512, N: 2048, K: 128, op: 'TN', batch: 8 },
  { use: 'caption kv', M: 616, N: 1024, K: 512, op: 'NT' },
  { use: 'caption kv dw', M: 1024, N: 512, K: 616, op: 'TN' },
  { use: 'caption in', M: 616, N: 512, K: 1024, op: 'NT' },
  { use: 'adaLN', M: 8, N: 3072, K: 512, op: 'NT' },
  { use: 'forward, 256 rows an image', M: 1024, N: 1536, K: 512, op: 'NT', imageRows: 256 },
  { use: 'forward, 64 rows an image', M: 512, N: 1536, K: 512, op: 'NT', imageRows: 64 },
  { use: 'forward, 77 rows an image', M: 308, N: 1024, K: 512, op: 'NT', imageRows: 77 },
  { use: 'forward, 1 row an image', M: 8, N: 3072, K: 512, op: 'NT', imageRows: 1 },
];

const native = await openNative();
native.init(Number(process.argv[2] ?? 0));
native.bf16(process.argv[4] === 'bf16');
const rounds = Number(process.argv[3] ?? 15);
const held: unknown[] = [];

function matrix(count: number): number {
  const memory = native.alloc(4 * count);
  const all = memory.f32(0, count);
  for (let i = 0; i < count; i++) all[i] = ((i * 7919) % 1000) / 1000 - 0.5;
  held.push(memory);
  return memory.address;
}

/** One command; returns a function that runs it and gives the seconds it took. */
function timed(kernel: string, blocks: number, slots: readonly number[]): () => number {
  const packed = new Pinned(24 + 8 * slots.length);
  const view = new DataView(packed.buffer);
  view.setUint32(0, native.kernel(kernel), true);
  view.setUint32(4, slots.length, true);
  view.setBigUint64(8, BigInt(blocks), true);
  slots.forEach((slot, i) => {
    view.setBigInt64(24 + 8 * i, BigInt(slot), true);
  });
  held.push(packed);
  return () => native.replayTimed(packed.address, packed.bytes.length, 1)[0]! / 1e9;
}

const n = 1024;
const square = native.threads * n * n;
const yardstick = timed('blas_square', native.threads, [matrix(square), matrix(square), matrix(square), n]);

function product(shape: Shape): () => number {
  const { M, N, K, op, batch = 1, imageRows = 0 } = shape;
  const [transA, transB] = [op === 'TN', op === 'NT'];
  const addresses = [matrix(batch * M * K), matrix(batch * N * K), matrix(batch * M * N), 0];
  const sizes = [M, N, K, transA ? M : K, transB ? K : N, N, transA ? 1 : 0, transB ? 1 : 0];
  return timed('gemm', 0, [...addresses, ...sizes, batch, M * K, N * K, M * N, 0, transA ? 1 : 0, imageRows]);
}

const runs = shapes.map((shape) => ({ shape, run: product(shape), best: Number.POSITIVE_INFINITY }));
let yard = Number.POSITIVE_INFINITY;
for (let round = 0; round < rounds; round++) {
  yard = Math.min(yard, yardstick());
  for (const entry of runs) entry.best = Math.min(entry.best, entry.run(), entry.run());
}
const yardRate = (native.threads * 2 * n ** 3) / yard / 1e9;
console.log(`${native.threads} threads, x86-64-v${native.isa}, OpenBLAS ${native.blasCore}`);
console.log(`yardstick ${yardRate.toFixed(1)} GFLOP/s`);
console.log('use'.padEnd(28), 'op', 'batch', '    M     N     K', ' GFLOP/s', ' ratio');
let total = 0;
let ideal = 0;
for (const { shape, best } of runs) {
  const { use, M, N, K, op, batch = 1 } = shape;
  const flop = 2 * batch * M * N * K;
  const rate = flop / best / 1e9;
  const sizes = [M, N, K].map((v) => String(v).padStart(5)).join(' ');
  const numbers = [rate.toFixed(1).padStart(8), (rate / yardRate).toFixed(3).padStart(6)];
  console.log(use.padEnd(28), op, String(batch).padStart(5), sizes, ...numbers);
  if (shape.imageRows) continue;
  total += best;
  ideal += flop / yardRate / 1e9;
}
console.log(`all training shapes, one of each: ratio ${(ideal / total).toFixed(3)}`);
