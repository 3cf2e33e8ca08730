// The build of the GPU kernels, as far as it needs no compiler: one text out of many sources, and the rules
// that the compilers' reports are held to.
import { describe, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const CUDA = `${import.meta.dir}/../../cuda`;
const sources = readdirSync(CUDA)
  .filter((name) => name.endsWith('.cu'))
  .sort();

function shell(...command: string[]): { code: number; out: string; err: string } {
  const child = Bun.spawnSync(['sh', ...command], { stdin: 'ignore' });
  return { code: child.exitCode, out: child.stdout.toString(), err: child.stderr.toString() };
}

describe('one text of all sources', () => {
  const { code, out } = shell(`${CUDA}/concat.sh`, ...sources.map((name) => `cuda/${name}`));
  const parts = [...out.matchAll(/^#line 1 "cuda\/(.+)"$/gm)].map(([, name]) => name!);

  test('holds every source once, headers first', () => {
    expect(code).toBe(0);
    expect(parts.filter((name) => name.endsWith('.cu'))).toEqual(sources);
    expect(new Set(parts).size).toBe(parts.length);
    expect(parts[0]).toBe('block.h');
    expect(parts.findLastIndex((name) => name.endsWith('.h'))).toBeLessThan(parts.indexOf(sources[0]!));
  });

  test('includes nothing of this folder, and of the system only what is guarded', () => {
    for (const [, name] of out.matchAll(/^#include "(.*)"/gm)) expect(readdirSync(CUDA)).not.toContain(name!);
    const rtc = out.replace(/^#ifdef __CUDACC_RTC__\n([\s\S]*?)^#else\n[\s\S]*?^#endif\n/gm, '$1');
    expect(out).toContain('#include <');
    expect(rtc).not.toContain('#include <');
  });

  test('each file lies in a namespace, line for line', () => {
    const lines = out.split('\n');
    for (const name of sources) {
      const at = lines.indexOf(`#line 1 "cuda/${name}"`);
      expect(lines[at - 1]).toBe(`namespace ${name.replace('.cu', '_cu')} {`);
      const text = readFileSync(`${CUDA}/${name}`, 'utf8').trimEnd().split('\n');
      const copied = lines.slice(at + 1, at + 1 + text.length);
      expect(copied).toEqual(text.map((line) => (line.startsWith('#include "') ? '' : line)));
      expect(lines[at + 1 + text.length]).toBe('}');
    }
  });
});

describe('rules for compiled kernels', () => {
  const folder = mkdtempSync(join(tmpdir(), 'microdiff-fatbin-'));
  const check = (file: string, text: string) => {
    const path = join(folder, file);
    writeFileSync(path, text);
    const result = shell(`${CUDA}/check-fatbin.sh`, path);
    rmSync(path);
    return result;
  };
  const report = (sm: string, { stack = 0, spills = 0, shared = 128 } = {}) =>
    `ptxas info    : Compiling entry function 'norm_fwd' for '${sm}'
ptxas info    : Function properties for norm_fwd
    ${stack} bytes stack frame, ${spills} bytes spill stores, ${spills * 2} bytes spill loads
ptxas info    : Used 28 registers, used 1 barriers, ${shared} bytes smem, 456 bytes cmem[0]
`;

  test('a sound kernel is a row of the table', () => {
    const { code, out, err } = check('bf16.sm_90.log', report('sm_90', { stack: 40 }));
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(/^bf16 +norm_fwd +28\/40 +128$/m);
  });

  test('spills on sm_90 are a fault, on sm_80 a mark in the table', () => {
    const { code, err } = check('bf16.sm_90.log', report('sm_90', { spills: 8 }));
    expect([code, err]).toEqual([1, 'check-fatbin: bf16.sm_90: norm_fwd spills 24 bytes\n']);
    const other = check('bf16.sm_80.log', report('sm_80', { spills: 8 }));
    expect(other.code).toBe(0);
    expect(other.out).toContain('28!24');
  });

  test('more than 48 KiB of static shared memory is a fault', () => {
    expect(check('f32.sm_120.log', report('sm_120', { shared: 49152 })).code).toBe(0);
    const { code, err } = check('f32.sm_120.log', report('sm_120', { shared: 49153 }));
    expect([code, err]).toEqual([
      1,
      'check-fatbin: f32.sm_120: norm_fwd has 49153 bytes of static shared memory\n',
    ]);
  });

  test('so is a warning, and a log without kernels', () => {
    const warning = 'cuda/norm.cu(7): warning #177-D: variable "x" was declared but never referenced\n';
    const { code, err } = check('bf16.sm_80.log', report('sm_80') + warning);
    expect(code).toBe(1);
    expect(err).toContain('bf16.sm_80: cuda/norm.cu(7): warning #177-D');
    expect(check('bf16.sm_80.log', '').code).toBe(1);
  });
});
