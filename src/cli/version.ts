// What `--version` prints: version, commit, Bun, and the processor's instruction set.

import { readFileSync } from 'node:fs';
import { version } from '../../package.json';
import { commit } from './commit.ts' with { type: 'macro' };

export { version };

/** Commit of the sources that this program was built from. */
export const builtFrom: string = commit();

/** Instruction set as the kernels are compiled for it, from the flags in /proc/cpuinfo. */
export function instructionSet(flags: ReadonlySet<string> = cpuFlags()): string {
  if (['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'].every((flag) => flags.has(flag))) {
    return 'x86-64-v4';
  }
  return ['avx2', 'fma', 'bmi2', 'f16c'].every((flag) => flags.has(flag)) ? 'x86-64-v3' : process.arch;
}

/** The feature flags that the kernel lists for the first processor; empty where there is no such list. */
export function cpuFlags(): ReadonlySet<string> {
  try {
    const line = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
    return new Set(line.trim().split(/\s+/));
  } catch {
    return new Set();
  }
}

/** One line: "microdiff 0.1.0 (0123456789ab, Bun 1.4.5, linux x86-64-v4)". */
export function versionLine(): string {
  return `microdiff ${version} (${builtFrom}, Bun ${Bun.version}, ${process.platform} ${instructionSet()})`;
}
