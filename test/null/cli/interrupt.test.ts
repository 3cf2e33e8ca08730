// Signals: the first one is a wish that the command sees between two steps, the second one ends the program
// at once.

import { expect, test } from 'bun:test';

const INTERRUPT = `${import.meta.dir}/../../../src/cli/interrupt.ts`;
const LOG = `${import.meta.dir}/../../../src/cli/log.ts`;

/** A program that works until it is told to stop, says so, and then takes `after` ms to save. */
const program = (after: number) => `
  import { watchSignals } from ${JSON.stringify(INTERRUPT)};
  import { createLog } from ${JSON.stringify(LOG)};
  const interrupt = watchSignals(createLog());
  console.log('ready');
  while (!interrupt.stopRequested) await Bun.sleep(5);
  await Bun.sleep(${after});
  console.log('saved');
  process.exit(interrupt.exitCode);
`;

async function signalled(after: number, ...signals: NodeJS.Signals[]) {
  const child = Bun.spawn([process.execPath, '-e', program(after)], { stdout: 'pipe', stderr: 'pipe' });
  const reader = child.stdout.getReader();
  let out = new TextDecoder().decode((await reader.read()).value);
  for (const signal of signals) {
    child.kill(signal);
    await Bun.sleep(60);
  }
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    out += new TextDecoder().decode(part.value);
  }
  return { code: await child.exited, out, err: await child.stderr.text() };
}

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 143],
] as const)('%s saves first and exits %d', async (signal, code) => {
  const result = await signalled(0, signal);
  expect(result.code).toBe(code);
  expect(result.out).toBe('ready\nsaved\n');
  expect(result.err).toContain(`${signal}: saving, then stopping (once more ends at once)`);
});

test('a second signal ends at once', async () => {
  const result = await signalled(20000, 'SIGINT', 'SIGTERM');
  expect(result).toMatchObject({ code: 143, out: 'ready\n' });
});
