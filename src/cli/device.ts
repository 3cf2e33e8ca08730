// Flags that choose where to compute, and the backend they mean. Never another device than the one asked for.

import type { Backend } from '../backend/backend.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { choice, int } from '../recipe/field.ts';
import { flag, type FlagValues } from './flags.ts';

export const DEVICE_FLAGS = {
  device: flag(choice('cpu', ['cpu', 'cuda'], 'Where to compute')),
  threads: flag(int(0, { min: 0, max: 1024 }, 'Threads on the CPU (0 = one a core)')),
};

/** The backend that the flags ask for; a Failure (code 3) with the reason when it cannot be had. */
export async function openDevice(values: FlagValues<typeof DEVICE_FLAGS>): Promise<Backend> {
  if (values.device === 'cuda') {
    throw new Failure({
      what: '--device cuda',
      why: 'this version computes on the CPU only',
      fix: 'Leave the flag out, or say --device cpu',
      code: EXIT.missing,
    });
  }
  const { cpuBackend } = await import('../backend/cpu.ts');
  return cpuBackend(values.threads);
}
