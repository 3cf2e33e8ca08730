// The bench command on the smallest model: keys of its JSON, which are fixed, and sums that must agree.
import { expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { STAGE_1, writeRandomSet } from '../../src/data/stream/bench.ts';

const MAIN = `${import.meta.dir}/../../src/cli/main.ts`;

function bench(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [process.execPath, MAIN, 'bench', ...args, '--repeats', '1', '--threads', '1'],
    { env: { PATH: '/bin', MICRODIFF_DEVICE: 'cpu' } },
  );
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

const KEYS = [
  ...['images_per_s', 'ms_per_step', 'ms_per_step_best', 'gflop_per_image', 'tflops', 'mfu', 'device'],
  ...['threads', 'batch', 'sgemm_gflops', 'bytes_planned', 'bytes_peak', 'vs_reference', 'cpu_bf16'],
];

test('train: the keys of --json, and numbers that fit together', () => {
  const { code, out, err } = bench('train', '--preset', 'nano', '--batch', '2', '--json', '--ops');
  expect([code, err]).toEqual([0, 'train nano: 1 repeats after warming up\n']);
  const { ops, ...result } = JSON.parse(out);
  expect(Object.keys(result)).toEqual(KEYS);
  expect(result).toMatchObject({ device: 'cpu', threads: 1, batch: 2, vs_reference: null, cpu_bf16: false });
  expect(result.images_per_s).toBeCloseTo(2000 / result.ms_per_step);
  expect(result.mfu).toBeCloseTo((1000 * result.tflops) / result.sgemm_gflops);
  const names = ops.map(({ op }: { op: string }) => op);
  expect(names).toEqual(expect.arrayContaining(['gemm', 'attention_bwd', 'norm_bwd', 'adamw', 'edm_loss']));
  expect(ops.reduce((sum: number, { share }: { share: number }) => sum + share, 0)).toBeCloseTo(1);
});

test('sample: pictures, evaluations and their FLOPs fit together; one step is one evaluation', () => {
  const of = (steps: string) => {
    const { code, out } = bench('sample', '--preset', 'nano', '--batch', '2', '--steps', steps, '--json');
    expect(code).toBe(0);
    return JSON.parse(out);
  };
  const [one, three] = [of('1'), of('3')];
  expect(Object.keys(one)).toEqual(KEYS);
  expect(one.images_per_s).toBeCloseTo(2000 / one.ms_per_step, 1);
  expect(three.images_per_s).toBeCloseTo(2000 / (5 * three.ms_per_step), 1);
  // Captions are read once, the network runs five times in place of one.
  expect(three.gflop_per_image / one.gflop_per_image).toBeGreaterThan(2);
  expect(three.gflop_per_image / one.gflop_per_image).toBeLessThan(5);
});

test('sample --plain: the savings are fewer operations and the same pictures', () => {
  const words = ['sample', '--preset', 'nano', '--batch', '2', '--steps', '3', '--plain'];
  const { code, out } = bench(...words, '--json');
  expect(code).toBe(0);
  const result = JSON.parse(out);
  const compared = ['vs_plain', 'vs_plain_processor', 'plain_difference', 'vs_plain_flops'];
  expect(Object.keys(result)).toEqual([...KEYS, ...compared]);
  expect(result.vs_plain_flops).toBeGreaterThan(1.15);
  expect(result.vs_plain).toBeGreaterThan(0);
  expect(result.plain_difference).toBeLessThan(1e-5);
  expect(result.plain_difference).toBeGreaterThan(0);
  expect(bench(...words).out).toContain('times as fast as without');
  expect(bench('train', '--plain').code).toBe(2);
});

test('ops: the table of a training step', () => {
  const { code, out } = bench('ops', '--preset', 'nano', '--batch', '2');
  expect(code).toBe(0);
  for (const word of ['gemm', 'attention_bwd', 'GB/s', 'memory']) expect(out).toContain(word);
});

test('forward: a page to read; captions of a recipe are words', () => {
  const { code, out } = bench('forward', '--recipe', 'tiny', '--batch', '2', '--mask', '0.5', '--ops');
  expect(code).toBe(0);
  for (const word of ['images/s', 'ms a pass', 'MFU', 'device', 'lookup_words', 'gather_rows']) {
    expect(out).toContain(word);
  }
  expect(out).not.toContain('reference');
});

test.each([
  [['train', '--preset', 'nona'], 'nona'],
  [['train', '--preset', 'nano', '--recipe', 'tiny'], '--preset: given together with --recipe'],
  [['sideways'], 'sideways: not a what of bench'],
])('%j is refused in one line, exit 2', (args, message) => {
  const { code, out, err } = bench(...args);
  expect([code, out]).toEqual([2, '']);
  expect(err).toContain(message);
});

test('the data stream beside a plain read, on a set of the user', () => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-data-'));
  writeRandomSet(join(folder, 'set'), STAGE_1, 4e6);
  const { code, out } = bench('data', join(folder, 'set'), '--batch', '8', '--json');
  rmSync(folder, { recursive: true });
  const result = JSON.parse(out);
  expect([code, result.images, result.batch]).toEqual([0, 24, 8]);
  expect(result.ratio).toBeCloseTo(result.stream_gb_per_s / result.sequential_gb_per_s, 6);
  expect(bench('train', 'set').code).toBe(2);
});
