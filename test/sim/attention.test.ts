// Tensor-core attention under emulation: values, gradients, canaries and equal bits in three orders of
// threads, by its check program; what barriers and waits are for shows when one is taken away.
import { describe, expect, test } from 'bun:test';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { failedChecks } from './check-program.ts';

const SOURCE = readFileSync('cuda/attention_mma.cu', 'utf8');

test('shapes', () => {
  expect(failedChecks(['build/sim/attention-check'])).toEqual([]);
});

test('arguments are those of the plain kernels', () => {
  const plain = readFileSync('cuda/attention.cu', 'utf8').replace(/ *\/\/.*$/gm, '');
  const fields = (text: string, name: string) =>
    new RegExp(`^struct ${name} \\{\\n([\\s\\S]*?long [^;]*;)`, 'm').exec(text)?.[1];
  expect(fields(SOURCE, 'attention_fwd_mma')).toBe(fields(plain, 'attention_fwd')!);
  expect(fields(SOURCE, 'attention_bwd_mma')).toBe(fields(plain, 'attention_bwd')!);
});

describe('a kernel without one of its', () => {
  const folder = 'build/sim/broken';
  const flags = ['-std=c++17', '-O1', '-march=x86-64-v3', '-DMD_EMULATED', '-Wno-unknown-pragmas'];
  const places = (call: string) => [...SOURCE.matchAll(new RegExp(`\\b${call}\\(\\);`, 'g'))];

  /** Compiles the source without the call at `at` and links it with the checks. */
  function without(call: string, at: number): string {
    mkdirSync(folder, { recursive: true });
    const name = `${folder}/${call}_${at}`;
    writeFileSync(`${name}.cu`, SOURCE.slice(0, at) + SOURCE.slice(at + call.length + 2));
    const unit = ['-x', 'c++', 'cuda/kernel_unit.h', '-x', 'none', 'build/sim/attention-check.o'];
    const emulator = ['build/sim/emulator.o', 'build/sim/emulator-warp.o'];
    const source = [`-DKERNEL_SOURCE="${process.cwd()}/${name}.cu"`, '-Itest/sim', '-iquote', 'cuda'];
    const { stderr, exitCode } = Bun.spawnSync([
      'g++',
      ...flags,
      ...source,
      ...unit,
      ...emulator,
      '-o',
      name,
    ]);
    expect(stderr.toString()).toBe('');
    expect(exitCode).toBe(0);
    return name;
  }

  for (const [call, which] of [
    ['block_sync', 1],
    ['block_sync', 2],
    ['copy_wait', 3],
    ['__syncwarp', 0],
  ] as const) {
    test(`${call} (${which})`, () => {
      const program = without(call, places(call)[which]!.index);
      expect(failedChecks([program, 'few']).length).toBeGreaterThan(0);
    });
  }
});
