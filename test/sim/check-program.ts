// Check programs of this folder: they print `ok ...` or `FAILED ...`, a line a check, then the counts.
import { expect } from 'bun:test';

/** Runs a program and returns the lines that begin with FAILED; its exit code has to agree with them. */
export function failedChecks(command: string[]): string[] {
  const { stdout, stderr, exitCode } = Bun.spawnSync(command);
  expect(stderr.toString()).toBe('');
  const lines = stdout.toString().trimEnd().split('\n');
  expect(lines.at(-1)).toMatch(/^[1-9]\d* checks, \d+ failed$/);
  const failed = lines.filter((line) => line.startsWith('FAILED'));
  expect(exitCode).toBe(failed.length > 0 ? 1 : 0);
  return failed;
}
