// A backend that computes nothing and writes down what it is asked to do, for runner.c: `script` holds a word
// list a line, `data` the bytes that were written.
//   image FILE                       GPU code, all kernels of which are known from then on
//   region ID BYTES                  device memory, cleared
//   write ID OFFSET BYTES AT         from data, at AT
//   fill ID OFFSET BYTES BYTE
//   program ID LAUNCHES              then for each: launch KERNEL BLOCKS THREADS SHARED SLOTS, and its slots,
//                                    a line each: p REGION OFFSET (p - 0: null), i INTEGER, d BITS
//   run ID
//   read ID OFFSET BYTES             the runner appends these bytes to its output file
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GpuCode } from '../../ffi/gpu-code.ts';
import type { Backend, ElemBytes, Launch, Numbers, Program, Region } from '../../src/backend/backend.ts';
import { threadsFor } from '../../src/backend/cuda/program.ts';
import { checkProgram } from '../../src/backend/null.ts';

/** Threads of a block of the products in gemm.cu. */
const PRODUCT_THREADS = 256;

export class Recorder implements Backend {
  readonly name = 'recorder';
  readonly #lines: string[] = [];
  readonly #data: Uint8Array[] = [];
  readonly #ids = new Map<Region, number>();
  #dataBytes = 0;
  #programs = 0;

  constructor(readonly elemBytes: ElemBytes) {}

  alloc(bytes: number): Region {
    const size = Math.max(bytes, 8);
    const region: Region = { bytes: size, address: 4096 * (this.#ids.size + 1), free: () => {} };
    this.#say('region', this.#ids.size, size);
    this.#ids.set(region, this.#ids.size);
    return region;
  }

  write(region: Region, offset: number, data: Numbers): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
    this.#say('write', this.#id(region), offset, bytes.length, this.#dataBytes);
    this.#data.push(bytes);
    this.#dataBytes += bytes.length;
  }

  read(region: Region, offset: number, into: Numbers): void {
    this.#say('read', this.#id(region), offset, into.byteLength);
  }

  fill(region: Region, byte: number, offset = 0, bytes = region.bytes - offset): void {
    this.#say('fill', this.#id(region), offset, bytes, byte);
  }

  synchronize(): void {}

  load(program: Program, regions: Readonly<Record<string, Region>>): ReturnType<Backend['load']> {
    checkProgram(program, regions);
    const id = this.#programs++;
    const launches = program.launches.filter(({ kernel, blocks }) => kernel === 'gemm' || blocks > 0);
    this.#say('program', id, launches.length);
    for (const launch of launches) this.#launch(launch, regions);
    return { run: () => this.#say('run', id), runTimed: () => new Float64Array(program.launches.length) };
  }

  /** Writes the folder that runner.c takes. `images` beside the GPU code: fatbins by name. */
  save(folder: string, code: readonly GpuCode[], images: Readonly<Record<string, Uint8Array>> = {}): void {
    mkdirSync(folder, { recursive: true });
    const all = { ...images };
    for (const { exact, fatbin } of code) all[exact ? 'exact.fatbin' : 'kernels.fatbin'] = fatbin;
    for (const [name, bytes] of Object.entries(all)) writeFileSync(join(folder, name), bytes);
    const script = [...Object.keys(all).map((name) => `image ${name}`), ...this.#lines];
    writeFileSync(join(folder, 'script'), `${script.join('\n')}\n`);
    writeFileSync(join(folder, 'data'), Buffer.concat(this.#data));
  }

  #launch(launch: Launch, regions: Readonly<Record<string, Region>>): void {
    const { pointers, ints, reals } = launch;
    const form = this.elemBytes.act === 2 ? launch.tensorForm : null;
    const slots = pointers.length + ints.length + reals.length;
    if (launch.kernel === 'gemm') {
      const [M = 0, N = 0] = ints;
      const blocks = Math.ceil((M * N * (ints[8] ?? 1)) / PRODUCT_THREADS);
      const name = `gemm_${pointers[0]!.elem}_${pointers[2]!.elem}`;
      this.#say('launch', name, blocks, PRODUCT_THREADS, 0, slots);
    } else {
      const { kernel, blocks, scratch } = form ?? launch;
      this.#say('launch', kernel, blocks, form ? form.threads : threadsFor(launch.lanes), scratch, slots);
    }
    for (const p of pointers) this.#say('p', p ? this.#id(regions[p.space]!) : '-', p?.offset ?? 0);
    for (const n of ints) this.#say('i', n);
    const bits = new DataView(new ArrayBuffer(8));
    for (const r of reals) {
      bits.setFloat64(0, r);
      this.#say('d', bits.getBigUint64(0).toString());
    }
  }

  #id(region: Region): number {
    return this.#ids.get(region)!;
  }

  #say(...words: (string | number)[]): void {
    this.#lines.push(words.join(' '));
  }
}
