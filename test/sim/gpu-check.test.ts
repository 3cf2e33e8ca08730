// The check of a build on a GPU, as far as it goes without one: what it says where there is none, and its
// steps on the stand-in driver.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-gpu-check-'));
const code = join(folder, 'code');
afterAll(() => rmSync(folder, { recursive: true }));

/** GPU code as the stand-in driver knows it: the name of a set of emulated kernels. */
beforeAll(() => {
  mkdirSync(code);
  for (const mode of ['bf16', 'f32']) {
    for (const part of ['', '_exact'])
      writeFileSync(join(code, `microdiff_${mode}${part}.fatbin`), `sim ${mode}\0`);
  }
  writeFileSync(join(code, 'gemm.fatbin'), 'sim gemm\0');
  for (const name of ['kernels.cu', 'kernels_exact.cu']) writeFileSync(join(code, name), '');
});

function check(steps: readonly string[], env: Record<string, string> = {}) {
  const command = ['sh', 'test/gpu/check.sh', '--out', join(folder, 'out'), ...steps];
  const child = Bun.spawnSync(command, { env: { ...process.env, ...env }, stdin: 'ignore' });
  return { code: child.exitCode, out: child.stdout.toString(), err: child.stderr.toString() };
}

describe('check.sh', () => {
  test.skipIf(existsSync('/dev/nvidiactl') || existsSync('/dev/dxg'))(
    'without a GPU: code 3, one line',
    () => {
      const { code: status, out, err } = check([]);
      expect([status, out]).toEqual([3, '']);
      expect(err).toMatch(/^gpu-check: no NVIDIA GPU here [^\n]+\n$/);
    },
  );

  const sim = { MICRODIFF_CUDA_PATH: resolve('build/sim'), MICRODIFF_GPU_CODE: code };

  test('an unknown step is refused', () => {
    expect(check(['everything'], sim)).toMatchObject({ code: 2, out: '' });
  });

  test('doctor, and the plan that the C program replays', () => {
    const { code: status, out } = check(['doctor', 'sanitizer'], { ...sim, PATH: `${process.env.PATH}` });
    const report = JSON.parse(readFileSync(join(folder, 'out', 'gpu-check.json'), 'utf8'));
    const names = report.outcomes.map(({ name, result }: { name: string; result: string }) => [name, result]);
    expect(names).toContainEqual(['doctor', 'pass']);
    expect(names).toContainEqual(['runner', 'pass']);
    expect(out).toMatch(/^pass +\d+\.\d s {2}runner/m);
    expect([status, report.failed]).toEqual([0, 0]);
  });

  test('a step that fails is counted, and its last words are kept', () => {
    const { code: status, out } = check(['sanitizer'], { ...sim, MICRODIFF_GPU_CODE: folder });
    expect(status).toBe(1);
    expect(out).toMatch(/^fail .* runner/m);
  });
});
