// `microdiff verify --device cuda` on the goldens of the autoencoder and of CLIP's text tower, by the
// stand-ins: what passes, and what it says of the way that convolutions go.
import { afterAll, beforeAll, expect, test } from 'bun:test';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FOLDER } from './stand-in.ts';

const MAIN = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const GOLDENS = new URL('../goldens', import.meta.url).pathname;
const code = mkdtempSync(join(tmpdir(), 'microdiff-code-'));
afterAll(() => rmSync(code, { recursive: true }));
beforeAll(() => {
  for (const mode of ['bf16', 'f32'])
    for (const part of ['', '_exact'])
      writeFileSync(join(code, `microdiff_${mode}${part}.fatbin`), `sim ${mode}\0`);
  for (const name of ['kernels.cu', 'kernels_exact.cu']) writeFileSync(join(code, name), '');
});

function verify(part: string, flags: readonly string[], env: Record<string, string> = {}) {
  const command = [
    process.execPath,
    MAIN,
    'verify',
    join(GOLDENS, part),
    '--device',
    'cuda',
    '--json',
    ...flags,
  ];
  const surroundings = { MICRODIFF_CUDA_PATH: FOLDER, MICRODIFF_GPU_CODE: code, ...env };
  const child = Bun.spawnSync(command, { env: { ...process.env, ...surroundings }, stdin: 'ignore' });
  const { device, groups, passed } = JSON.parse(child.stdout.toString());
  const said: readonly string[] = child.stderr.toString().match(/^.*convolutions.*$/gm) ?? [];
  return { code: child.exitCode, device, groups: groups.length, passed, said };
}

const good = { code: 0, device: 'cuda:0', passed: true };

test('vae in bf16: cuDNN', () => {
  const said = ['convolutions: cuDNN 9.8.0'];
  expect(verify('vae', [])).toEqual({ ...good, groups: 5, said });
});

test('vae in fp32, where im2col is asked for', () => {
  const said = ['convolutions: im2col and cuBLASLt, as MICRODIFF_CONVOLUTIONS says'];
  const env = { MICRODIFF_CONVOLUTIONS: 'im2col' };
  expect(verify('vae', ['--precision', 'fp32'], env)).toEqual({ ...good, groups: 5, said });
});

test('clip-text: nothing is said of convolutions', () => {
  expect(verify('clip-text', [])).toEqual({ ...good, groups: 3, said: [] });
});
