// plot: a run's curves as a PNG, in a file or on stdout; runs that are not there.

import { afterAll, describe, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readPngText } from '../../../src/io/png.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;
const folder = mkdtempSync(join(tmpdir(), 'plot-'));
afterAll(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, 'run'));
writeFileSync(
  join(folder, 'run/metrics.jsonl'),
  Array.from({ length: 20 }, (_, i) => `{"step":${i},"loss":${1 / (i + 1)}}\n`).join(''),
);

function run(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, 'plot', ...args], {
    cwd: folder,
  });
  return { code: exitCode, out: stdout, err: stderr.toString() };
}

describe('plot', () => {
  test('writes a PNG and says where', () => {
    const { code, out, err } = run('run', 'run/metrics.jsonl', '-o', 'a.png');
    expect([code, out.toString(), err]).toEqual([0, 'a.png\n', '']);
    expect(readPngText(join(folder, 'a.png')).width).toBeGreaterThan(100);
  });

  test('-o - writes it on stdout', () => {
    const { code, out } = run('run', '-o', '-', '--title', 'x');
    expect(code).toBe(0);
    expect(out.subarray(1, 4).toString()).toBe('PNG');
  });

  test('a run that is not there, and a folder that is none', () => {
    expect(run('none')).toMatchObject({ code: 1, err: expect.stringContaining('none') });
    expect(run('.').err).toContain('metrics.jsonl');
    expect(run().code).toBe(2);
  });
});
