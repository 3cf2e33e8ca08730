// What the CUDA driver's statuses mean to a user: a Failure with the call, the driver's own words, our sizes,
// and what to do.

import { EXIT, Failure } from '../src/io/failure.ts';

/** Statuses that the program acts on (CUresult in cuda.h). */
export const CUDA = {
  outOfMemory: 2,
  noDevice: 100,
  invalidDevice: 101,
  invalidImage: 200,
  noBinary: 209,
  invalidPtx: 218,
  unsupportedPtx: 222,
  notFound: 500,
  notReady: 600,
} as const;

/** The module loader does not take the image: other kernels, or a newer driver, may do. */
export const IMAGE_REFUSED: ReadonlySet<number> = new Set([200, 209, 218, 221, 222, 223]);

/** After one of these every further call fails: the process has lost the device. */
const LOST: ReadonlySet<number> = new Set([
  214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999,
]);

const REPORT = 'This is a fault of microdiff: please report it';
const DRIVER = 'Install a newer NVIDIA driver (580 or later for CUDA 13), or see nvidia-smi';
const LOST_FIX =
  'The GPU is lost to this process; the last checkpoint is intact: start the same command again to go on ' +
  'from it, and look at dmesg for NVIDIA messages (Xid) if it happens again';

const FIXES: ReadonlyMap<number, string> = new Map([
  [1, REPORT],
  [3, REPORT],
  [34, 'This is the stub of a toolkit: take its folder out of LD_LIBRARY_PATH, and install the driver'],
  [36, DRIVER],
  [46, 'Another process may hold the GPU alone: see nvidia-smi, or choose another with --device cuda:N'],
  [100, 'Start the machine or container with a GPU (docker: --gpus all), or say --device cpu'],
  [101, 'Choose one of the devices that microdiff doctor lists'],
  [500, REPORT],
  [701, REPORT],
  [802, 'Start the fabric manager (systemctl start nvidia-fabricmanager), or wait until it is ready'],
  [803, "The kernel's driver and libcuda differ in version: restart the machine"],
  [804, "Take CUDA's compat folder out of LD_LIBRARY_PATH and MICRODIFF_CUDA_PATH"],
]);
const MISSING: ReadonlySet<number> = new Set([34, 36, 46, 100, 101, 802, 803, 804]);

/** Thrown for a driver's status; `status` is the CUresult. */
export class CudaFailure extends Failure {
  constructor(
    readonly status: number,
    parts: ConstructorParameters<typeof Failure>[0],
  ) {
    super(parts);
  }

  /** Nothing can be done with the device any more in this process. */
  get lost(): boolean {
    return isLost(this.status);
  }
}

export function isLost(status: number): boolean {
  return LOST.has(status);
}

export interface Words {
  /** The driver's name for the status, CUDA_ERROR_…, and its sentence. */
  readonly name: string;
  readonly text: string;
}

/** The Failure for a status of `call`; `sizes` are ours, as in "over 12 blocks of 256 threads". */
export function cudaFailure(call: string, status: number, words: Words, sizes = ''): CudaFailure {
  const said = [words.name, words.text].filter((word) => word !== '').join(', ');
  const why = `${said || 'unknown error'} (status ${status})`;
  const capture = status >= 900 && status <= 908;
  const fix =
    FIXES.get(status) ??
    (isLost(status) ? LOST_FIX : capture ? `${REPORT}; --no-graph avoids it` : undefined);
  const code = MISSING.has(status) ? EXIT.missing : EXIT.failed;
  return new CudaFailure(status, {
    what: sizes ? `${call} ${sizes}` : call,
    why,
    ...(fix ? { fix } : {}),
    code,
  });
}

/**
 * Memory of the device ran out: how much was asked for, what is free. Zero `total`: the driver did not say.
 */
export function outOfMemory(call: string, bytes: number, free: number, total: number): CudaFailure {
  const left = total > 0 ? `${mebibytes(free)} of ${mebibytes(total)} are free` : 'what is free is not known';
  return new CudaFailure(CUDA.outOfMemory, {
    what: call,
    why: `the GPU has no memory for ${mebibytes(bytes)} more (${bytes} bytes): ${left}`,
    fix:
      'Lower train.micro_batch (sampling: --batch-size), or end other programs on this GPU (nvidia-smi); ' +
      'info --plan shows what a step needs',
  });
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0)} MiB`;
}
