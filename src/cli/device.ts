// Flags that choose where to compute, and the backend they mean. A device that was asked for is never
// replaced by another; `auto` says what it chose, where there is a driver or where it was asked for.

import { availableParallelism } from 'node:os';
import type { Backend } from '../backend/backend.ts';
import type { ConvolutionWay } from '../backend/cuda/convolutions.ts';
import { Failure } from '../io/failure.ts';
import { bool, choice, int, text } from '../recipe/field.ts';
import { flag, type FlagValues, usage } from './flags.ts';
import type { Log } from './log.ts';

export const DEVICE_FLAGS = {
  device: flag(
    text(undefined, 'Where to compute (default: MICRODIFF_DEVICE, else auto: a GPU if there is one)'),
    {
      hint: 'auto|cpu|cuda|cuda:N',
    },
  ),
  precision: flag(choice('bf16', ['bf16', 'fp32'], 'Arithmetic on a GPU; sums are float32 in both')),
  'no-graph': flag(bool(false, 'On a GPU, queue kernel after kernel; gives the same numbers, slower')),
  threads: flag(int(0, { min: 0, max: 1024 }, 'Threads on the CPU (0 = one a core)')),
};

/** Flags of commands whose numbers need not be those of float32. */
export const COMPUTE_FLAGS = {
  ...DEVICE_FLAGS,
  'cpu-bf16': flag(bool(false, 'On the CPU, round the operands of matrix products to bf16 (AVX-512 BF16)')),
};

const WAYS: readonly ConvolutionWay[] = ['auto', 'cudnn', 'im2col'];

type Values = FlagValues<typeof DEVICE_FLAGS> & Partial<FlagValues<typeof COMPUTE_FLAGS>>;

/**
 * The backend that the flags ask for; a Failure (code 3) with the reason when it cannot be had. `placed`: the
 * number of this process among those of the machine that compute together.
 */
export async function openDevice(
  values: Values,
  log: Pick<Log, 'info'>,
  env: Readonly<NodeJS.ProcessEnv> = process.env,
  placed: { readonly local: number; readonly locals: number | null } | null = null,
): Promise<Backend> {
  const asked = parseDevice(values.device ?? env.MICRODIFF_DEVICE ?? 'auto');
  const chosen = asked === 'auto' ? await chooseDevice() : { device: asked, why: '', driver: true };
  // Where there is nothing to choose from, the line would be noise unless it was asked for.
  if (chosen.why && (chosen.driver || values.device !== undefined))
    log.info(`device: ${chosen.device === 'cpu' ? 'cpu' : 'cuda:0'}, ${chosen.why}`);
  if (chosen.device === 'cpu') {
    const { cpuBackend } = await import('../backend/cpu.ts');
    const threads = values.threads || (placed?.locals ? share(placed.locals) : 0);
    return cpuBackend(threads, { bf16: values['cpu-bf16'] ?? false });
  }
  if (values['cpu-bf16']) throw usage('--cpu-bf16', 'is of the CPU', 'Leave it out, or say --device cpu');
  const { cudaBackend } = await import('../backend/cuda/backend.ts');
  return cudaBackend({
    ordinal: placed ? await ordinalOf(placed.local, values.device) : chosen.device,
    precision: values.precision,
    graph: !values['no-graph'],
    convolutions: convolutionWay(env),
    notice: (line) => log.info(line),
  });
}

/** Threads of each of so many processes of this machine. */
const share = (processes: number) => Math.max(1, Math.floor(availableParallelism() / processes));

/** The GPU of a rank: that of its number on the machine, or the only one that it is shown. */
async function ordinalOf(local: number, device: string | undefined): Promise<number> {
  if (device?.includes(':')) {
    throw usage('--device', `${device} names one GPU, and there are several ranks`, 'Say --device cuda');
  }
  const { openCuda } = await import('../../ffi/cuda.ts');
  return (await openCuda()).deviceCount === 1 ? 0 : local;
}

/** What MICRODIFF_CONVOLUTIONS asks for on a GPU. Throws a Failure (code 2) for anything else. */
export function convolutionWay(env: Readonly<NodeJS.ProcessEnv> = process.env): ConvolutionWay {
  const word = env.MICRODIFF_CONVOLUTIONS || 'auto';
  const way = WAYS.find((each) => each === word);
  if (way) return way;
  throw usage('MICRODIFF_CONVOLUTIONS', `${word} is none of ${WAYS.join(', ')}`, 'Leave it unset');
}

/** `auto`, `cpu`, or the number of a GPU. Throws a Failure (code 2) for anything else. */
export function parseDevice(word: string): 'auto' | 'cpu' | number {
  if (word === 'auto' || word === 'cpu') return word;
  const number = /^cuda(?::(\d{1,3}))?$/.exec(word);
  if (number) return Number(number[1] ?? 0);
  throw usage(
    '--device',
    `${word} is none of auto, cpu, cuda, cuda:N`,
    'microdiff doctor lists what is here',
  );
}

/** The first GPU where a driver shows one, else the CPU; a driver that does not work counts as none. */
async function chooseDevice(): Promise<{ device: 'cpu' | number; why: string; driver: boolean }> {
  const { openCuda } = await import('../../ffi/cuda.ts');
  const { LibraryMissing } = await import('../../ffi/library.ts');
  try {
    const cuda = await openCuda();
    if (cuda.deviceCount === 0) return { device: 'cpu', why: 'the NVIDIA driver shows no GPU', driver: true };
    const { name, memory } = cuda.deviceFacts(0);
    return { device: 0, why: `${name}, ${(memory / 2 ** 30).toFixed(0)} GiB`, driver: true };
  } catch (error) {
    if (error instanceof LibraryMissing)
      return { device: 'cpu', why: 'no NVIDIA driver was found', driver: false };
    if (error instanceof Failure) return { device: 'cpu', why: error.message, driver: true };
    throw error;
  }
}
