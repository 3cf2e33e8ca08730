// The same bits on 1, 2 and 3 threads: activations, attention and expert choice, forward and backward.
import { expect, test } from 'bun:test';
import { join } from 'node:path';

test('results do not depend on the number of threads', () => {
  const hashes = [1, 2, 3].map((threads) => {
    const child = Bun.spawnSync([process.execPath, join(import.meta.dir, 'ops-child.ts'), String(threads)]);
    expect(child.stderr.toString()).toBe('');
    return child.stdout.toString().trim();
  });
  expect(hashes[0]).toMatch(/^[0-9a-f]{40}$/);
  expect(new Set(hashes).size).toBe(1);
});
