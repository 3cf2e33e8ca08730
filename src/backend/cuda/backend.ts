// The GPU backend: regions in device memory, programs replayed as graphs, products by cuBLASLt, convolutions
// by cuDNN.

import { type CublasLt, openCublasLt } from '../../../ffi/cublaslt.ts';
import type { DeviceFacts } from '../../../ffi/cuda.ts';
import type { GpuCode } from '../../../ffi/gpu-code.ts';
import { loaderReason } from '../../../ffi/places.ts';
import { Failure } from '../../io/failure.ts';
import type { Backend, Elem, Region } from '../backend.ts';
import { checkProgram } from '../null.ts';
import { Collectives } from './collectives.ts';
import { type ConvolutionChoice, ConvolutionLibrary, type ConvolutionWay } from './convolutions.ts';
import { CudaRegion, openDevice } from './device.ts';
import { loadKernels } from './modules.ts';
import { type ProductChoices, Products } from './products.ts';
import { CudaProgram } from './program.ts';

/** bf16: activations and weights in bfloat16, sums in float32. fp32: all in float32, without tensor cores. */
export type Precision = 'bf16' | 'fp32';

export interface CudaOptions {
  /** Number of the GPU, as the driver counts them. */
  readonly ordinal?: number;
  readonly precision?: Precision;
  /** Replay runs as graphs; false gives the same numbers to the bit, launch by launch. */
  readonly graph?: boolean;
  /** Time cuBLASLt's proposals for each shape instead of taking its favourite. */
  readonly tune?: boolean;
  /** Algorithms of an earlier run on this kind of GPU. */
  readonly choices?: ProductChoices | null;
  /** Convolutions by cuDNN, or in bands of im2col and cuBLASLt. */
  readonly convolutions?: ConvolutionWay;
  /** Gets a line about what takes long, and about the library of convolutions once it is known. */
  readonly notice?: (line: string) => void;
  /** Kernels in place of the embedded ones, threads of every block, and plain forms only: for tests. */
  readonly code?: readonly GpuCode[];
  readonly threads?: number;
  readonly tensorForms?: boolean;
}

/** Dense bf16 products in TFLOP/s by the name that the driver gives, from the makers' data sheets. */
const PEAK_TFLOPS: readonly (readonly [RegExp, number])[] = [
  [/H100 PCIe/, 756],
  [/H100 NVL/, 835],
  [/H100|H200|GH200/, 989],
  [/A100/, 312],
  [/B200/, 2250],
  [/L40S/, 362],
];

/** What a GPU has beyond a backend. */
export interface CudaBackend extends Backend {
  readonly facts: DeviceFacts;
  readonly precision: Precision;
  /** Path and version of the libraries in use; cuDNN's once a network with convolutions was traced. */
  readonly libraries: { readonly driver: string; readonly cublaslt: string; readonly cudnn: string | null };
  /** Engines chosen for convolutions so far. */
  readonly convolutionChoices: readonly ConvolutionChoice[];
  /** Algorithms chosen so far, to be stored with a run. */
  readonly choices: ProductChoices;
  memory(): { readonly allocated: number; readonly peak: number };
  /** Gives the GPU back; regions and programs are gone with it. */
  close(): void;
}

/** Opens a GPU; a Failure (code 3) with reason and remedy where that cannot be. */
export async function cudaBackend(options: CudaOptions = {}): Promise<CudaBackend> {
  const { ordinal = 0, precision = 'bf16', graph = true, tune = false, choices = null } = options;
  const { notice = () => {}, threads = 0, tensorForms = true, convolutions: way = 'auto' } = options;
  const device = await openDevice(ordinal);
  let products: Products;
  let lt: CublasLt;
  let kernels: Awaited<ReturnType<typeof loadKernels>>;
  try {
    kernels = await loadKernels(device, options.code ?? (await embedded(precision)), notice);
    lt = await openCublasLt();
    const act = precision === 'bf16' ? 'bf16' : 'f32';
    const typeOf = (elem: Elem) => (elem === 'act' ? act : 'f32');
    products = new Products(lt, device, typeOf, { tune, choices });
  } catch (error) {
    device.close();
    throw error;
  }
  const convolutions = new ConvolutionLibrary(device, {
    ...{ way, precision, reason: await loaderReason(), notice },
  });
  const act = precision === 'bf16' ? 'bf16' : 'f32';
  const collectives = new Collectives(device, (elem) =>
    elem === 'act' ? act : elem === 'real' ? 'f32' : elem,
  );
  const libraryOf = (kernel: string) => {
    if (kernel === 'gemm') return products;
    if (Collectives.takes(kernel)) return collectives;
    return kernel === 'conv' && tensorForms ? convolutions.open() : null;
  };
  const programOptions = { graph, threads, tensorForms: tensorForms && precision === 'bf16' };
  const programs = new Set<CudaProgram>();
  const peak = PEAK_TFLOPS.find(([name]) => name.test(device.facts.name));
  return {
    name: `cuda:${ordinal}`,
    ...(precision === 'bf16' && peak ? { peakTflops: peak[1] } : {}),
    facts: device.facts,
    precision,
    get libraries() {
      const { library: cudnn } = convolutions;
      return { driver: device.cuda.path, cublaslt: `${lt.path} (${lt.version})`, cudnn };
    },
    get convolutionChoices() {
      return convolutions.choices;
    },
    group: collectives,
    convolvesWhole: () => convolutions.open() !== null,
    elemBytes: { act: precision === 'bf16' ? 2 : 4, real: 4, i32: 4 },
    get choices() {
      return products.choices;
    },
    takeChoices: (saved) => products.take(saved),
    freeBytes: () => device.cuda.memoryInfo().free,
    memory: () => ({ allocated: device.allocated, peak: device.peak }),
    synchronize: () => device.cuda.streamSynchronize(device.stream),
    close() {
      if (device.closed) return;
      for (const program of [...programs]) program.release();
      collectives.close();
      convolutions.close();
      products.close();
      kernels.close();
      device.close();
    },
    alloc: (bytes) => new CudaRegion(device, Math.max(bytes, 8)),
    write: (region, offset, data) => device.write(within('write', region, offset, data.byteLength), data),
    read: (region, offset, into) => device.read(within('read', region, offset, into.byteLength), into),
    fill(region, byte, offset = 0, bytes = region.bytes - offset) {
      const address = within('fill', region, offset, bytes);
      if (bytes > 0) device.cuda.memsetAsync(address, byte, bytes, device.stream);
    },
    load(program, regions) {
      checkProgram(program, regions);
      const own = Object.fromEntries(
        Object.entries(regions).map(([space, region]) => [space, cudaRegion(region)]),
      );
      const loaded = new CudaProgram(device, kernels, libraryOf, program, own, programOptions, (ended) => {
        programs.delete(ended);
        for (const region of Object.values(own)) region.users.delete(ended);
      });
      programs.add(loaded);
      for (const region of Object.values(own)) region.users.add(loaded);
      return loaded;
    },
  };
}

async function embedded(precision: Precision): Promise<readonly GpuCode[]> {
  const { embeddedGpuCode } = await import('../../../ffi/gpu-code.ts');
  return embeddedGpuCode(precision === 'bf16' ? 'bf16' : 'f32');
}

function cudaRegion(region: Region): CudaRegion {
  if (!(region instanceof CudaRegion)) {
    throw new Failure({ what: 'region', why: 'belongs to another backend' });
  }
  return region;
}

/** Address of a part of a region; throws where the part leaves it. */
function within(call: string, region: Region, offset: number, bytes: number): number {
  const own = cudaRegion(region);
  const sound = Number.isSafeInteger(offset) && Number.isSafeInteger(bytes) && offset >= 0 && bytes >= 0;
  if (!sound || offset + bytes > own.bytes) {
    throw new Failure({
      what: `backend ${call}`,
      why: `${bytes} bytes at ${offset} of a ${own.bytes}-byte region`,
    });
  }
  return own.address + offset;
}
