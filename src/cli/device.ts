// Flags that choose where to compute, and the backend they mean. Never another device than the one asked for.

import type { Backend } from '../backend/backend.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { bool, choice, int } from '../recipe/field.ts';
import { flag, type FlagValues } from './flags.ts';

export const DEVICE_FLAGS = {
  device: flag(choice('cpu', ['cpu', 'cuda'], 'Where to compute')),
  threads: flag(int(0, { min: 0, max: 1024 }, 'Threads on the CPU (0 = one a core)')),
};

/** Flags of commands whose numbers need not be those of float32. */
export const COMPUTE_FLAGS = {
  ...DEVICE_FLAGS,
  'cpu-bf16': flag(bool(false, 'On the CPU, round the operands of matrix products to bf16 (AVX-512 BF16)')),
};

type DeviceValues = FlagValues<typeof DEVICE_FLAGS> & Partial<FlagValues<typeof COMPUTE_FLAGS>>;

/** The backend that the flags ask for; a Failure (code 3) with the reason when it cannot be had. */
export async function openDevice(values: DeviceValues): Promise<Backend> {
  if (values.device === 'cuda') {
    throw new Failure({
      what: '--device cuda',
      why: 'this version computes on the CPU only',
      fix: 'Leave the flag out, or say --device cpu',
      code: EXIT.missing,
    });
  }
  const { cpuBackend } = await import('../backend/cpu.ts');
  return cpuBackend(values.threads, { bf16: values['cpu-bf16'] ?? false });
}
