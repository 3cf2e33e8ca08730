// Kernel gemm: an element's bits depend on its row of A and its column of B alone, not on the rows and
// columns beside it, its place, the batch, the number of threads or, in float32, the instruction set.

import { expect, test } from 'bun:test';
import { join } from 'node:path';
import { openNative } from '../../ffi/native.ts';

/** The child's instruction set and hash of products; it fails where parts differ from the whole. */
function products(isa: number, threads: number, operands = ''): [string, string] {
  const child = Bun.spawnSync(
    [process.execPath, join(import.meta.dir, 'native-rows-child.ts'), String(threads), operands],
    { env: { ...process.env, MICRODIFF_ISA: String(isa) } },
  );
  expect(child.stderr.toString()).toBe('');
  const [used = '', hash = ''] = child.stdout.toString().trim().split(' ');
  expect(hash).toMatch(/^[0-9a-f]{40}$/);
  return [used, hash];
}

test('equal bits in parts and the whole, on 1, 2 and 3 threads, by AVX2 and by AVX-512', () => {
  const all = [3, 4].flatMap((isa) => [1, 2, 3].map((threads) => products(isa, threads)));
  // A processor without AVX-512 runs the v3 kernels twice.
  expect(all.map(([isa]) => isa).slice(0, 3)).toEqual(['3', '3', '3']);
  expect(new Set(all.map(([, hash]) => hash)).size).toBe(1);
}, 300_000);

test.skipIf(!(await openNative()).cpuFeatures.includes('avx512bf16'))(
  'the same of bf16 products, which are not those of float32',
  () => {
    const all = [1, 2, 3].map((threads) => products(4, threads, 'bf16')[1]);
    expect(new Set(all).size).toBe(1);
    expect(all[0]).not.toBe(products(4, 1)[1]);
  },
  300_000,
);

test('bf16 products are refused with exit code 3 where the processor or its kernels have none', () => {
  const main = join(import.meta.dir, '../../src/cli/main.ts');
  const child = Bun.spawnSync([process.execPath, main, 'bench', 'train', '--recipe', 'tiny', '--cpu-bf16'], {
    env: { ...process.env, MICRODIFF_ISA: '3' },
  });
  expect(child.stderr.toString()).toContain(
    'bf16 products: bf16 dot products need the kernels for x86-64-v4',
  );
  expect(child.exitCode).toBe(3);
});
