// The GPU backend over the stand-in driver, with the kernels that the emulator runs.

import { type CudaBackend, cudaBackend, type CudaOptions } from '../../src/backend/cuda/backend.ts';
import { FOLDER } from './stand-in.ts';

process.env.MICRODIFF_CUDA_PATH = FOLDER;

export function standInGpu(options: CudaOptions = {}): Promise<CudaBackend> {
  const fatbin = new TextEncoder().encode(options.precision === 'fp32' ? 'sim f32\0' : 'sim bf16\0');
  const code = [{ exact: false, fatbin, source: '', options: [] }];
  return cudaBackend({ code, ...options });
}
