// Tensor-core attention under emulation: values, gradients, canaries and equal bits in three orders of
// threads, by its check program; what barriers and waits are for shows when one is taken away.
import { describe, expect, test } from 'bun:test';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { nullBackend } from '../../src/backend/null.ts';
import { backward } from '../../src/plan/backward.ts';
import { attention } from '../../src/plan/ops/attention.ts';
import { freeze } from '../../src/plan/plan.ts';
import { columns } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
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

test('plans name the form where heads and views fit it', () => {
  const forms = (H: number, D: number, from: number) => {
    const t = new Trace();
    const wide = t.input('qkv', [2, 77, 3 * H * D + 8], 'act', true);
    const at = (i: number) => columns(wide, from + i * H * D, from + (i + 1) * H * D);
    const y = attention(at(0), at(1), at(2), H);
    t.output('y', y);
    for (const [input, gradient] of backward(t, [[y, t.input('dy', y.shape, 'act')]]))
      t.output(`d.${input.storage.name}`, gradient);
    const { launches } = freeze('attention', t, { elemBytes: nullBackend().elemBytes }).program;
    return launches
      .filter(({ kernel }) => /^attention_[fb]wd/.test(kernel))
      .map(({ tensorForm }) => tensorForm);
  };
  expect(forms(3, 32, 8)).toEqual([
    { kernel: 'attention_fwd_mma32', blocks: 12, threads: 128, scratch: 16384 },
    { kernel: 'attention_bwd_mma32', blocks: 24, threads: 128, scratch: 17408 },
  ]);
  expect(forms(1, 64, 0)).toEqual([
    { kernel: 'attention_fwd_mma64', blocks: 4, threads: 128, scratch: 32768 },
    { kernel: 'attention_bwd_mma64', blocks: 8, threads: 128, scratch: 33792 },
  ]);
  expect(forms(2, 48, 0)).toEqual([null, null]);
  expect(forms(3, 32, 4)).toEqual([null, null]);
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
