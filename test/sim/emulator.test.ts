// The emulator of kernels: sums, shuffles, barriers, faults and matrix fragments, by its own check program;
// and the libraries of emulated kernels hold every kernel of cuda/.
import { dlopen, FFIType } from 'bun:ffi';
import { describe, expect, test } from 'bun:test';
import { readdirSync, readFileSync } from 'node:fs';
import { failedChecks } from './check-program.ts';

test('threads, warps, shared memory and faults', () => {
  expect(failedChecks(['build/sim/emulator-check'])).toEqual([]);
});

describe('emulated kernels', () => {
  const kernels = (files: string[]) =>
    files.flatMap((file) => readFileSync(`cuda/${file}`, 'utf8').match(/^KERNEL(_OF)?\(/gm) ?? []).length;
  const sources = readdirSync('cuda').filter((file) => file.endsWith('.cu'));
  const counts = { bf16: kernels(sources), f32: kernels(sources.filter((file) => !file.includes('_mma'))) };

  for (const [mode, count] of Object.entries(counts)) {
    test(mode, () => {
      const library = dlopen(`build/sim/kernels_${mode}.so`, {
        sim_kernels_begin: { returns: FFIType.u64, args: [] },
        sim_kernels_end: { returns: FFIType.u64, args: [] },
      });
      const [begin, end] = [library.symbols.sim_kernels_begin(), library.symbols.sim_kernels_end()];
      expect(Number(end - begin) / 32).toBe(count);
      library.close();
    });
  }
});
