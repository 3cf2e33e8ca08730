// doctor: the facts it reads, and the shape of its report.

import { describe, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { folder, gpus, memory, mountOptions, processor } from '../../../src/cli/machine.ts';
import { instructionSet } from '../../../src/cli/version.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;

describe('facts', () => {
  test('the mount that holds a path', () => {
    const mounts = [
      'overlay / overlay rw,relatime 0 0',
      'tmpfs /tmp tmpfs rw,nosuid,noexec 0 0',
      'disk /tmp/with\\040space ext4 ro 0 0',
      'tmpfs /run tmpfs rw,noexec 0 0',
      'tmpfs /run tmpfs rw 0 0',
    ].join('\n');
    expect(mountOptions('/tmp/a', mounts).has('noexec')).toBe(true);
    expect(mountOptions('/tmpa', mounts).has('noexec')).toBe(false);
    expect(mountOptions('/tmp/with space/b', mounts).has('ro')).toBe(true);
    expect(mountOptions('/run', mounts).has('noexec')).toBe(false);
    expect(mountOptions('/', mounts).has('relatime')).toBe(true);
  });

  test('folders, memory, processor', () => {
    expect(folder(tmpdir())).toMatchObject({ writable: true });
    expect(folder('/no/such/folder')).toMatchObject({ writable: false, freeBytes: 0 });
    expect(memory().available).toBeLessThanOrEqual(memory().total);
    expect(processor().cores).toBeGreaterThan(0);
  });

  test('instruction sets', () => {
    const v3 = ['avx2', 'fma', 'bmi2', 'f16c'];
    const v4 = ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'];
    expect(instructionSet(new Set([...v3, ...v4]))).toBe('x86-64-v4');
    expect(instructionSet(new Set([...v3, 'avx512f']))).toBe('x86-64-v3');
    expect(instructionSet(new Set(['sse2']))).toBe(process.arch);
  });

  test('cards as the driver shows them', () => {
    const root = mkdtempSync(join(tmpdir(), 'nvidia-'));
    try {
      expect(gpus(root)).toEqual({ names: [], driver: undefined });
      mkdirSync(join(root, 'gpus/0000:01:00.0'), { recursive: true });
      writeFileSync(join(root, 'version'), 'NVRM version: NVIDIA UNIX  580.1\nGCC version: 12\n');
      writeFileSync(join(root, 'gpus/0000:01:00.0/information'), 'Model: \t\t NVIDIA H100\nIRQ: 1\n');
      expect(gpus(root)).toEqual({ names: ['NVIDIA H100'], driver: 'NVIDIA UNIX  580.1' });
    } finally {
      rmSync(root, { recursive: true });
    }
  });
});

describe('report', () => {
  const run = (env: Record<string, string>, ...args: string[]) =>
    Bun.spawnSync([process.execPath, MAIN, 'doctor', ...args], { env: { PATH: '/bin', ...env } });

  test('a library that cannot be opened: reason, remedy, exit 3', () => {
    const { exitCode, stdout } = run({ MICRODIFF_NATIVE: '/no/such/library.so' });
    expect(exitCode).toBe(3);
    expect(stdout.toString()).toMatch(/^missing {4}.*\/no\/such\/library\.so.*\. /m);
    expect(stdout.toString()).toContain('device     none can be used');
  });

  test('a GPU library that does not open: every place with its reason', () => {
    const place = mkdtempSync(join(tmpdir(), 'gpu-'));
    try {
      writeFileSync(join(place, 'libcuda.so.1'), 'not a library');
      const { stdout } = run({ MICRODIFF_CUDA_PATH: `${place}:/no/such/folder` });
      expect(stdout.toString()).toMatch(/^driver {5}cannot be used$/m);
      expect(stdout.toString()).toMatch(new RegExp(`file too short.*: libcuda.so.1 in ${place}`));
      expect(stdout.toString()).toMatch(/No such file or directory.*: libcuda.so.1 in \/no\/such\/folder, /);
      const report = JSON.parse(run({ MICRODIFF_CUDA_PATH: place }, '--json').stdout.toString());
      const { driver } = report.gpu.libraries;
      expect(driver).toMatchObject({ path: null, error: expect.stringContaining('cannot load') });
      expect(driver.tried[0].path).toBe(join(place, 'libcuda.so.1'));
    } finally {
      rmSync(place, { recursive: true });
    }
  });

  test('--json has the same keys for ever', () => {
    const report = JSON.parse(run({ MICRODIFF_NATIVE: '/no/such/library.so' }, '--json').stdout.toString());
    expect(Object.keys(report)).toEqual([
      'microdiff',
      'cpu',
      'memory',
      'library',
      'temporary',
      'folder',
      'gpu',
      'problems',
    ]);
    expect(Object.keys(report.library)).toEqual(['path', 'isa', 'threads', 'blas', 'error']);
    expect(Object.keys(report.gpu)).toEqual(['found', 'driver', 'cuda', 'devices', 'libraries', 'used']);
    expect(Object.keys(report.gpu.libraries)).toEqual(['driver', 'cublaslt', 'cudnn', 'nccl', 'nvrtc']);
    expect(Object.keys(report.gpu.libraries.nccl)).toEqual(['path', 'version', 'error', 'tried']);
    expect(report.gpu.used).toBe(false);
  });
});
