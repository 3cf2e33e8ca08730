// The C program that replays a plan for debugging tools, against the stand-in driver: what it trains equals
// what the CPU backend trains.
import { afterAll, expect, test } from 'bun:test';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { cpuBackend } from '../../src/backend/cpu.ts';
import { nmse } from '../cpu/op-case.ts';
import { Recorder } from '../gpu/recorder.ts';
import { smallTraining } from '../gpu/small-training.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-runner-'));
afterAll(() => rmSync(folder, { recursive: true }));

const sim = (set: string) => new TextEncoder().encode(`sim ${set}\0`);
const code = { exact: false, fatbin: sim('bf16'), source: '', options: [] };

function replay(): { code: number; out: string; err: string } {
  const child = Bun.spawnSync(['build/gpu/runner', folder, join(folder, 'out')], {
    env: { ...process.env, MICRODIFF_CUDA_PATH: resolve('build/sim') },
    stdin: 'ignore',
  });
  return { code: child.exitCode, out: child.stdout.toString(), err: child.stderr.toString() };
}

test('two steps of training', async () => {
  const recorder = new Recorder({ act: 2, real: 4, i32: 4 });
  const { master, m } = smallTraining(recorder, 2);
  for (const region of [master, m]) recorder.read(region, 0, new Float32Array(region.bytes / 4));
  recorder.save(folder, [code], { 'gemm.fatbin': sim('gemm') });
  const { code: status, out } = replay();
  expect(out).toMatch(/^\d{3,} launches, \d{4,} floats read, 0 of them not finite\n$/);
  expect(status).toBe(0);

  const cpu = await cpuBackend();
  const want = smallTraining(cpu, 2);
  const numbers = (from: typeof master) => {
    const values = new Float32Array(from.bytes / 4);
    cpu.read(from, 0, values);
    return values;
  };
  const got = new Float32Array(readFileSync(join(folder, 'out')).buffer);
  const weights = master.bytes / 4;
  expect(nmse(got.subarray(weights), numbers(want.m)), 'first moments').toBeLessThan(1e-2);
  expect(nmse(got.subarray(0, weights), numbers(want.master)), 'weights').toBeLessThan(1e-3);
});

test('a kernel that no image has, and a script that ends too early, are refused', () => {
  const script = readFileSync(join(folder, 'script'), 'utf8');
  writeFileSync(join(folder, 'script'), script.replace(/^launch \w+/m, 'launch nothing_like_it'));
  expect(replay()).toMatchObject({ code: 2, err: 'runner: no image has the kernel: nothing_like_it\n' });
  writeFileSync(join(folder, 'script'), script.slice(0, script.indexOf('launch') + 20));
  expect(replay().code).toBe(2);
});
