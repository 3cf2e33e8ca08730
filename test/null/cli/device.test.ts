// --device: what cannot be had is refused with the reason, never replaced.

import { expect, test } from 'bun:test';
import { openDevice } from '../../../src/cli/device.ts';
import { Failure } from '../../../src/io/failure.ts';

test('cuda is refused with exit code 3', async () => {
  const refusal = await openDevice({ device: 'cuda', threads: 0 }).catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(Failure);
  expect(refusal).toMatchObject({ code: 3, message: expect.stringContaining('computes on the CPU only') });
});
