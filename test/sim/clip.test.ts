// CLIP's text tower on the stand-in GPU, in both precisions: golden numbers.
import { expect, test } from 'bun:test';
import { verifyClipText } from '../../src/eval/clip-text.ts';
import { standInGpu } from './gpu.ts';

const GOLDENS = new URL('../goldens/clip-text', import.meta.url).pathname;

test.each(['bf16', 'fp32'] as const)('%s', async (precision) => {
  const backend = await standInGpu({ precision });
  const results = [...verifyClipText(GOLDENS, backend)];
  expect(results.filter(({ status }) => status !== 'pass')).toEqual([]);
  expect(results).toHaveLength(3);
  backend.close();
});
