// The emulator of kernels: sums, shuffles, barriers, faults and matrix fragments, by its own check program;
// and the libraries of emulated kernels hold every kernel of cuda/.
import { describe, expect, test } from 'bun:test';
import { dlopen, FFIType } from 'bun:ffi';
import { readdirSync, readFileSync } from 'node:fs';

/** Runs a check program and fails with the lines that begin with FAILED. */
function passes(program: string): string {
  const { stdout, stderr, exitCode } = Bun.spawnSync([program]);
  const text = stdout.toString();
  expect(text.split('\n').filter((line) => line.startsWith('FAILED'))).toEqual([]);
  expect(stderr.toString()).toBe('');
  expect(exitCode).toBe(0);
  return text;
}

test('threads, warps, shared memory and faults', () => {
  expect(passes('build/sim/emulator-check')).toMatch(/^[5-9]\d checks, 0 failed$/m);
});

describe('emulated kernels', () => {
  const sources = readdirSync('cuda').filter((file) => file.endsWith('.cu'));
  const kernels = sources.flatMap((file) =>
    [...readFileSync(`cuda/${file}`, 'utf8').matchAll(/^KERNEL\((\w+)/gm)].map((match) => match[1]!),
  );

  for (const mode of ['bf16', 'f32']) {
    test(mode, () => {
      const library = dlopen(`build/sim/kernels_${mode}.so`, {
        sim_kernels_begin: { returns: FFIType.u64, args: [] },
        sim_kernels_end: { returns: FFIType.u64, args: [] },
      });
      const [begin, end] = [library.symbols.sim_kernels_begin(), library.symbols.sim_kernels_end()];
      expect(Number(end - begin) / 32).toBe(kernels.length);
      library.close();
    });
  }
});
