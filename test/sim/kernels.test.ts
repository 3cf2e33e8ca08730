// Every op of the table in its GPU form against the CPU, by the very check that runs on a real GPU
// (test/gpu/kernels.test.ts), here on the stand-ins with blocks of one warp.
import { expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FOLDER } from './stand-in.ts';

test('every op in both modes, and the forms on tensor cores', () => {
  const cache = mkdtempSync(join(tmpdir(), 'microdiff-sim-'));
  const file = new URL('../gpu/kernels.test.ts', import.meta.url).pathname;
  const { stderr, exitCode } = Bun.spawnSync([process.execPath, 'test', file, '--timeout=250000'], {
    env: {
      ...process.env,
      MICRODIFF_CUDA_PATH: FOLDER,
      MICRODIFF_TEST_BLOCKS: '32',
      XDG_CACHE_HOME: cache,
      SIM_QUIET: '1',
    },
  });
  rmSync(cache, { recursive: true });
  const failures = stderr.toString().match(/^(?:\(fail\)|error:).*$/gm) ?? [];
  expect([exitCode, failures]).toEqual([0, []]);
  expect(Number(/^ *(\d+) pass$/m.exec(stderr.toString())?.[1])).toBeGreaterThan(70);
});
