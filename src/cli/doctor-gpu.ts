// The GPU part of doctor: devices, driver, and each library with the path that opened or every place tried.

import { basename, dirname } from 'node:path';
import { type DeviceFacts, openCuda } from '../../ffi/cuda.ts';
import { openCublasLtLibrary } from '../../ffi/cublaslt.ts';
import { cudnnRelease, openCudnnLibrary } from '../../ffi/cudnn.ts';
import { LibraryMissing, type Tried } from '../../ffi/library.ts';
import { Nccl, openNcclLibrary } from '../../ffi/nccl.ts';
import { Nvrtc, openNvrtcLibrary } from '../../ffi/nvrtc.ts';
import { candidates, type GpuLibrary, loaderReason } from '../../ffi/places.ts';
import type { ConvolutionWay } from '../backend/cuda/convolutions.ts';
import { gpus } from './machine.ts';

export interface GpuLibraryReport {
  /** The file that opened. */
  readonly path: string | null;
  readonly version: string | null;
  /** Why it cannot be used, in one line. */
  readonly error: string | null;
  /** Files that did not open, in order, with the loader's own reasons. */
  readonly tried: readonly Tried[];
}

export interface GpuReport {
  /** Cards that the kernel's driver shows, and its version line. */
  readonly found: readonly string[];
  readonly driver: string | null;
  /** CUDA version that the driver speaks. */
  readonly cuda: string | null;
  readonly devices: readonly DeviceFacts[];
  readonly libraries: Readonly<Record<GpuLibrary, GpuLibraryReport>>;
}

/** What each library is for, as the page calls it. */
const TITLES: Readonly<Record<GpuLibrary, string>> = {
  driver: 'driver',
  cublaslt: 'cuBLASLt',
  cudnn: 'cuDNN',
  nccl: 'NCCL',
  nvrtc: 'NVRTC',
};

/** Looks at everything; nothing of it need be there. */
export async function examineGpu(): Promise<GpuReport> {
  const cards = gpus();
  const reason = await loaderReason();
  let devices: DeviceFacts[] = [];
  let cuda: string | null = null;
  const driver = await report(async () => {
    const opened = await openCuda();
    cuda = release(opened.version);
    devices = Array.from({ length: opened.deviceCount }, (_, ordinal) => opened.deviceFacts(ordinal));
    return { path: opened.path, version: `CUDA ${cuda}` };
  });
  const libraries = {
    driver,
    cublaslt: await report(() => {
      const { path, calls, tried } = openCublasLtLibrary(candidates('cublaslt'), reason);
      const version = calls.cublasLtGetVersion();
      const parts = [Math.floor(version / 10000), Math.floor(version / 100) % 100, version % 100];
      return { path, version: parts.join('.'), tried };
    }),
    cudnn: await report(() => {
      const { path, calls, tried } = openCudnnLibrary(candidates('cudnn'), reason);
      return { path, version: cudnnRelease(calls.cudnnGetVersion()), tried };
    }),
    nccl: await report(() => {
      const library = openNcclLibrary(candidates('nccl'), reason);
      const { version } = new Nccl(library);
      const parts = [Math.floor(version / 10000), Math.floor(version / 100) % 100, version % 100];
      return { path: library.path, version: parts.join('.'), tried: library.tried };
    }),
    nvrtc: await report(() => {
      const library = openNvrtcLibrary(candidates('nvrtc'), reason);
      return { path: library.path, version: new Nvrtc(library).version.join('.'), tried: library.tried };
    }),
  };
  return { found: cards.names, driver: cards.driver ?? null, cuda, devices, libraries };
}

/** Whether `--device auto` computes on the first GPU: it is new enough, and the libraries are there. */
export function isUsable({ devices, libraries }: GpuReport): boolean {
  return (devices[0]?.capability ?? 0) >= 80 && libraries.cublaslt.path !== null;
}

/** Rows of the page: name and words. `convolutions` is what the environment says about them. */
export function gpuRows(gpu: GpuReport, convolutions: ConvolutionWay): [string, string][] {
  const cards =
    gpu.found.length > 0 ? gpu.found.join(', ') : gpu.driver ? 'a driver, but no card' : 'none found';
  const rows: [string, string][] =
    gpu.devices.length === 0 ? [['GPU', cards]] : gpu.devices.map((device) => ['GPU', deviceWords(device)]);
  if (gpu.driver) rows.push(['', gpu.driver]);
  for (const [library, { path, version, error, tried }] of Object.entries(gpu.libraries)) {
    const title = TITLES[library as GpuLibrary];
    const use = library === 'cudnn' ? convolutionWords(path !== null, convolutions) : '';
    if (path !== null && error === null) rows.push([title, `${version}, ${path}${use}`]);
    else rows.push([title, `cannot be used${use}`], ...triedRows(tried));
    if (error !== null && tried.length === 0) rows.push(['', error]);
  }
  return rows;
}

/** What computes convolutions, where cuDNN opens or does not. */
function convolutionWords(opens: boolean, way: ConvolutionWay): string {
  if (way === 'im2col') return ', convolutions by im2col and cuBLASLt as MICRODIFF_CONVOLUTIONS says';
  if (opens) return ', used for convolutions';
  return way === 'auto' ? ', convolutions by im2col and cuBLASLt' : ', convolutions cannot be computed';
}

/** Places with the same reason share a row: `No such file or directory: libx.so.2, libx.so.1 in A, B`. */
function triedRows(tried: readonly Tried[]): [string, string][] {
  const groups = new Map<string, string[]>();
  for (const { path, reason } of tried) {
    const words = reason.replaceAll(path, '').replace(/^[\s:]+/, '');
    groups.set(words, [...(groups.get(words) ?? []), path]);
  }
  return [...groups].map(([words, paths]) => {
    const names = [...new Set(paths.map((path) => basename(path)))];
    const places = [...new Set(paths.map((path) => dirname(path)))];
    return ['', `${words}: ${names.join(', ')} in ${places.join(', ')}`];
  });
}

function deviceWords({ ordinal, name, capability, memory, multiprocessors }: DeviceFacts): string {
  const size = `${(memory / 2 ** 30).toFixed(1)} GiB`;
  return `cuda:${ordinal} ${name}, sm_${capability}, ${size}, ${multiprocessors} multiprocessors`;
}

/** 13010 is 13.1. */
function release(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

interface Opened {
  readonly path: string;
  readonly version: string;
  readonly tried?: readonly Tried[];
}

async function report(open: () => Opened | Promise<Opened>): Promise<GpuLibraryReport> {
  try {
    const { path, version, tried = [] } = await open();
    return { path, version, error: null, tried };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const tried = error instanceof LibraryMissing ? error.tried : [];
    return { path: null, version: null, error: why, tried };
  }
}
