// The goldens of a small network through the CUDA backend on the stand-ins, every kernel in its GPU form: in
// float32 within the bounds of float32 code, in bfloat16 with float32's routing.
import { afterAll, describe, expect, test } from 'bun:test';
import { copyFileSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TRAINING } from '../../src/cli/verify.ts';
import { verify } from '../../src/eval/verify.ts';
import { bothBackends } from '../cpu/op-case.ts';
import { standInGpu } from './gpu.ts';
import { complaints } from './stand-in.ts';

const GOLDENS = new URL('../goldens/microdit', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'microdiff-sim-'));
afterAll(() => rmSync(folder, { recursive: true }));
const files = /^nano_bias\.(info|weights|forward|activations|train|grads_mask75|step1_mask75)\./;
for (const file of readdirSync(GOLDENS))
  if (files.test(file)) copyFileSync(join(GOLDENS, file), join(folder, file));

describe('goldens', () => {
  const { f32: recorder } = bothBackends();
  for (const precision of ['fp32', 'bf16'] as const) {
    test(precision, async () => {
      const gpu = await standInGpu({ precision });
      const options = precision === 'bf16' ? { recorder } : {};
      const groups = await Array.fromAsync(verify(folder, { backend: gpu, training: TRAINING, ...options }));
      gpu.close();
      const wanted = ['nano_bias outputs', 'nano_bias activations', 'nano_bias mask75 gradients'];
      expect(groups.map(({ group }) => group)).toEqual(expect.arrayContaining(wanted));
      expect(groups.filter(({ status }) => status !== 'pass')).toEqual([]);
      // Neither path may stand in for the other: rounding shows.
      const { error } = groups.find(({ group }) => group === 'nano_bias outputs')!;
      if (precision === 'bf16') expect(error!).toBeGreaterThan(1e-3);
      else expect(error!).toBeLessThan(1e-5);
      expect(complaints()).toBe(0);
    });
  }
});
