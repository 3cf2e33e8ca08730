// The GPU kernels as functions of loaded modules: from the embedded machine code, or where the driver does
// not take it, compiled here by the machine's own NVRTC and kept in a cache.

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { CudaFailure, IMAGE_REFUSED } from '../../../ffi/cuda-status.ts';
import type { GpuCode } from '../../../ffi/gpu-code.ts';
import { Nvrtc, openNvrtcLibrary } from '../../../ffi/nvrtc.ts';
import { candidates, loaderReason } from '../../../ffi/places.ts';
import { EXIT, Failure } from '../../io/failure.ts';
import type { CudaDevice } from './device.ts';

/** Dynamic shared memory that every kernel may have without asking. */
const SHARED_FREE = 48 * 1024;

/** A kernel that can be launched. */
export interface Kernel {
  readonly name: string;
  readonly handle: number;
  /** Threads that a block of it may have: its registers set a limit. */
  readonly maxThreads: number;
}

export class Kernels {
  readonly #device: CudaDevice;
  readonly #modules: readonly number[];
  readonly #found = new Map<string, Kernel>();
  readonly #allowed = new Map<string, number>();

  constructor(device: CudaDevice, modules: readonly number[]) {
    this.#device = device;
    this.#modules = modules;
  }

  /** A kernel by name. Throws a Failure if no module has it. */
  find(name: string): Kernel {
    const known = this.#found.get(name);
    if (known) return known;
    const { cuda } = this.#device;
    for (const module of this.#modules) {
      const handle = cuda.moduleFunction(module, name);
      if (handle === null) continue;
      const maxThreads = cuda.functionAttribute(handle, 'maxThreadsPerBlock');
      const kernel = { name, handle, maxThreads };
      this.#found.set(name, kernel);
      return kernel;
    }
    throw new Failure({ what: `kernel ${name}`, why: 'the GPU code has none', fix: 'Run make build' });
  }

  /** Lets a kernel use so many bytes of dynamic shared memory; a Failure where the GPU has not that much. */
  allowShared({ name, handle }: Kernel, bytes: number): void {
    if (bytes <= Math.max(SHARED_FREE, this.#allowed.get(name) ?? 0)) return;
    const { cuda, facts } = this.#device;
    const most = facts.sharedOptin - cuda.functionAttribute(handle, 'staticShared');
    if (bytes > most) {
      throw new Failure({
        what: `kernel ${name}`,
        why: `needs ${bytes} bytes of shared memory a block, ${facts.name} has ${most}`,
        fix: 'Use a GPU with more (A100, H100), or a smaller model.input_size or model.width',
        code: EXIT.missing,
      });
    }
    cuda.allowShared(handle, bytes);
    this.#allowed.set(name, bytes);
  }

  close(): void {
    for (const module of this.#modules) this.#device.cuda.moduleUnload(module);
  }
}

/** Loads both parts of the code of a mode. `notice` gets one line where NVRTC has to compile. */
export async function loadKernels(
  device: CudaDevice,
  code: readonly GpuCode[],
  notice: (line: string) => void,
): Promise<Kernels> {
  const modules: number[] = [];
  let compiler: Promise<Nvrtc> | undefined;
  let noticed = false;
  const once = (line: string) => {
    if (!noticed) notice(line);
    noticed = true;
  };
  for (const part of code) {
    const refusal = part.fatbin.length > 0 ? loadInto(modules, device, part.fatbin) : null;
    if (part.fatbin.length > 0 && refusal === null) continue;
    compiler ??= openCompiler(device, refusal);
    const image = compile(await compiler, device, part, refusal, once);
    const second = loadInto(modules, device, image);
    if (second) throw second;
  }
  return new Kernels(device, modules);
}

/** Loads an image; returns the driver's refusal where other code may do, throws everything else. */
function loadInto(modules: number[], device: CudaDevice, image: Uint8Array): CudaFailure | null {
  try {
    modules.push(device.cuda.moduleLoad(image));
    return null;
  } catch (error) {
    if (error instanceof CudaFailure && IMAGE_REFUSED.has(error.status)) return error;
    throw error;
  }
}

/** The machine's NVRTC; of releases newer than the driver, only where there is no other. */
async function openCompiler(device: CudaDevice, refusal: CudaFailure | null): Promise<Nvrtc> {
  const driver = Math.floor(device.cuda.version / 1000);
  const newer = (path: string) => Number(/\.so\.(\d+)/.exec(path)?.[1] ?? 0) > driver;
  const paths = candidates('nvrtc');
  const ordered = [...paths.filter((path) => !newer(path)), ...paths.filter(newer)];
  const reason = await loaderReason();
  try {
    return new Nvrtc(openNvrtcLibrary(ordered, reason));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const said = refusal ? `the driver (CUDA ${driver}) refuses the built ones` : 'the build has none';
    throw new Failure({
      what: `GPU kernels for ${device.facts.name}`,
      why: `${said}, and they cannot be compiled here: ${error.message}`,
      fix: 'Install NVIDIA driver 580 or newer (CUDA 13), or NVRTC',
      code: EXIT.missing,
    });
  }
}

function compile(
  nvrtc: Nvrtc,
  device: CudaDevice,
  part: GpuCode,
  refusal: CudaFailure | null,
  notice: (line: string) => void,
): Uint8Array {
  const { capability } = device.facts;
  const known = nvrtc.architectures;
  const newest = Math.max(...known.filter((each) => each <= capability), 0);
  const exactly = known.length === 0 || known.includes(capability);
  const target = exactly ? `sm_${capability}` : `compute_${newest}`;
  const options = [...part.options, `--gpu-architecture=${target}`];
  const release = nvrtc.version.join('.');
  const hash = new Bun.CryptoHasher('sha256')
    .update(JSON.stringify([part.source, options, nvrtc.path, release]))
    .digest('hex');
  const kept = join(cacheFolder(), `kernels-${hash.slice(0, 32)}.${exactly ? 'cubin' : 'ptx'}`);
  if (existsSync(kept)) return readFileSync(kept);
  const why = refusal ? 'the driver does not take the built ones' : 'the build has none';
  notice(`compiling GPU kernels for ${target} with NVRTC ${release}: ${why}`);
  const name = part.exact ? 'kernels_exact.cu' : 'kernels.cu';
  const { image } = nvrtc.compile({ name, source: part.source, headers: {}, options });
  keep(kept, image);
  return image;
}

/** Writes beside and renames: two processes may do it at once. Without a place to keep it, it is not kept. */
function keep(path: string, image: Uint8Array): void {
  try {
    mkdirSync(cacheFolder(), { recursive: true });
    const beside = `${path}.${process.pid}`;
    writeFileSync(beside, image);
    renameSync(beside, path);
  } catch {
    // A full or read-only disk: the next start compiles again.
  }
}

function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'microdiff');
}
