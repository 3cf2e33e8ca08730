// The GPU kernels inside the executable (or in build/ of the source tree): machine code for each compute
// mode, and the sources for NVRTC. Imported only when a GPU is opened, so that all else works before they are
// built.

import { join } from 'node:path';
import bf16 from '../build/microdiff_bf16.fatbin' with { type: 'file' };
import bf16Exact from '../build/microdiff_bf16_exact.fatbin' with { type: 'file' };
import f32 from '../build/microdiff_f32.fatbin' with { type: 'file' };
import f32Exact from '../build/microdiff_f32_exact.fatbin' with { type: 'file' };
import source from '../build/kernels.cu' with { type: 'file' };
import sourceExact from '../build/kernels_exact.cu' with { type: 'file' };

/** Compute modes: what activations and weights are on the GPU. Sums and statistics are float32 in both. */
export type GpuMode = 'bf16' | 'f32';

/** One of the two compilations of a mode: the `exact` one has no contraction to fused multiply-adds. */
export interface GpuCode {
  readonly exact: boolean;
  /** For cuModuleLoadData; empty where the build had no nvcc. */
  readonly fatbin: Uint8Array;
  /** The text that the fatbin was made of, and what NVRTC needs to hear to make the same. */
  readonly source: string;
  readonly options: readonly string[];
}

/** The code of a mode: the exact part and the rest. MICRODIFF_GPU_CODE names a folder to take it from. */
export async function embeddedGpuCode(mode: GpuMode): Promise<GpuCode[]> {
  const folder = process.env.MICRODIFF_GPU_CODE;
  const place = (embedded: string, name: string) => (folder ? join(folder, name) : embedded);
  const fatbins = mode === 'bf16' ? [bf16, bf16Exact] : [f32, f32Exact];
  const names = ['', '_exact'].map((suffix) => `microdiff_${mode}${suffix}.fatbin`);
  const bytes = await Promise.all(fatbins.map((path, i) => Bun.file(place(path, names[i]!)).bytes()));
  const sources = [place(source, 'kernels.cu'), place(sourceExact, 'kernels_exact.cu')];
  const texts = await Promise.all(sources.map((path) => Bun.file(path).text()));
  const define = mode === 'f32' ? ['-DACT_IS_FLOAT'] : [];
  return [false, true].map((exact, i) => ({
    exact,
    fatbin: bytes[i]!,
    source: texts[i]!,
    options: ['-std=c++17', `-fmad=${!exact}`, ...define],
  }));
}
