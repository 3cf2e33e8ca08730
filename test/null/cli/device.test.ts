// --device: what cannot be had is refused with the reason, never replaced; auto says what it chose.

import { expect, test } from 'bun:test';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDevice, parseDevice } from '../../../src/cli/device.ts';
import { createLog } from '../../../src/cli/log.ts';
import { Failure } from '../../../src/io/failure.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;

test('words for devices', () => {
  expect(['auto', 'cpu', 'cuda', 'cuda:0', 'cuda:12'].map(parseDevice)).toEqual(['auto', 'cpu', 0, 0, 12]);
  for (const word of ['gpu', 'cuda:', 'cuda:-1', 'cuda:x', 'CPU', '']) {
    expect(() => parseDevice(word)).toThrow(Failure);
    expect(() => parseDevice(word)).toThrow(`--device: ${word} is none of auto, cpu, cuda, cuda:N`);
  }
});

test('cuda without a driver: exit code 3, the reason, and what to do', () => {
  const place = mkdtempSync(join(tmpdir(), 'driver-'));
  try {
    // A file that is no library comes first, so that the reason is known whatever this machine has.
    writeFileSync(join(place, 'libcuda.so.1'), 'not a library');
    const program = `
      const { openDriver } = await import('${import.meta.dir}/../../../ffi/cuda.ts');
      openDriver(['${place}/libcuda.so.1']);`;
    const { stderr } = Bun.spawnSync([process.execPath, '-e', program]);
    expect(stderr.toString()).toContain('file too short');
    expect(stderr.toString()).toContain('say --device cpu');
  } finally {
    rmSync(place, { recursive: true });
  }
});

test('a word that is no device: exit code 2', () => {
  const { exitCode, stderr } = Bun.spawnSync([process.execPath, MAIN, 'sample', 'x', '--device', 'gpu']);
  expect(exitCode).toBe(2);
  expect(stderr.toString()).toContain('--device: gpu is none of auto, cpu, cuda, cuda:N');
});

test.skipIf(existsSync('/dev/nvidiactl'))(
  'auto is silent where there is no driver, unless it was asked for',
  async () => {
    const lines: string[] = [];
    const log = createLog({ write: (line) => lines.push(line) });
    const values = { precision: 'bf16', 'no-graph': false, threads: 1 } as const;
    const env = { MICRODIFF_DEVICE: 'auto' };
    await openDevice({ ...values, device: undefined }, log, env).catch(() => {});
    expect(lines).toEqual([]);
    await openDevice({ ...values, device: 'auto' }, log, env).catch(() => {});
    expect(lines).toEqual(['device: cpu, no NVIDIA driver was found\n']);
  },
);
