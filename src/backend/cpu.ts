// The CPU backend: regions in native memory, programs packed once into commands that one call replays.
import { type NativeMemory, Pinned } from '../../ffi/memory.ts';
import { type Native, openNative } from '../../ffi/native.ts';
import { bytesOf } from '../io/dtype.ts';
import { Failure } from '../io/failure.ts';
import type { Backend, ElemBytes, Group, Loaded, Program, Rank, Region } from './backend.ts';
import { checkProgram } from './null.ts';

/** A region and the native memory that holds it. */
class CpuRegion implements Region {
  constructor(readonly memory: NativeMemory) {}

  get bytes(): number {
    return this.memory.byteLength;
  }

  get address(): number {
    return this.memory.address;
  }

  free(): void {
    this.memory.free();
  }
}

const HEADER_BYTES = 24;
const SLOT_BYTES = 8;

/** What can be chosen about products on the CPU. */
export interface CpuOptions {
  /** Round operands of matrix products to bf16, sum in float32; a Failure (code 3) where it cannot be. */
  readonly bf16?: boolean;
}

/** The backend over the product's library. `threads` 0 takes every processor that this process may use. */
export async function cpuBackend(threads = 0, { bf16 = false }: CpuOptions = {}): Promise<Backend> {
  const native = await openNative();
  native.init(threads);
  native.bf16(bf16);
  return cpuBackendOver(native);
}

/** The backend over an opened and started library (tests use the float64 build as well). */
export function cpuBackendOver(native: Native): Backend {
  const elemBytes: ElemBytes = { act: native.actBytes, real: native.actBytes, i32: 4 };
  return {
    name: 'cpu',
    elemBytes,
    group: cpuGroup(native),
    alloc: (bytes) => new CpuRegion(native.alloc(Math.max(bytes, SLOT_BYTES))),
    write: (region, offset, data) => cpuRegion(region).memory.u8(offset, data.byteLength).set(bytesOf(data)),
    read: (region, offset, into) => bytesOf(into).set(cpuRegion(region).memory.u8(offset, into.byteLength)),
    fill(region, byte, offset = 0, bytes = region.bytes - offset) {
      cpuRegion(region).memory.u8(offset, 0);
      if (offset < 0 || offset + bytes > region.bytes) {
        throw new Failure({ what: 'fill', why: `${bytes} bytes at ${offset} of ${region.bytes}` });
      }
      native.fill(region.address + offset, byte, bytes);
    },
    synchronize() {},
    load(program, regions): Loaded {
      checkProgram(program, regions);
      const commands = packCommands(native, program, regions);
      const { length } = program.launches;
      return {
        run: () => native.replay(commands.address, commands.bytes.byteLength),
        runTimed: () => native.replayTimed(commands.address, commands.bytes.byteLength, length),
      };
    },
  };
}

/** Ranks of one machine, over memory that they share. */
function cpuGroup(native: Native): Group {
  let joined: Rank | null = null;
  return {
    get rank() {
      return joined;
    },
    invite: async (ranks) => native.groupFile(ranks),
    async join(invitation, rank) {
      native.joinGroup(invitation, rank.rank, rank.ranks);
      joined = rank;
    },
    leave() {}, // the others see it when this process ends
  };
}

function cpuRegion(region: Region): CpuRegion {
  if (!(region instanceof CpuRegion))
    throw new Failure({ what: 'region', why: 'belongs to another backend' });
  return region;
}

/**
 * Per launch: u32 kernel, u32 slots, u64 blocks, u64 scratch bytes, then 8-byte slots: pointers, ints,
 * reals.
 */
function packCommands(native: Native, program: Program, regions: Readonly<Record<string, Region>>): Pinned {
  const slots = (l: Program['launches'][number]) => l.pointers.length + l.ints.length + l.reals.length;
  const bytes = program.launches.reduce((sum, l) => sum + HEADER_BYTES + SLOT_BYTES * slots(l), 0);
  const packed = new Pinned(bytes);
  const out = new DataView(packed.buffer);
  let at = 0;
  const put64 = (n: number) => {
    out.setBigInt64(at, BigInt(n), true);
    at += 8;
  };
  for (const launch of program.launches) {
    const kernel = native.kernel(launch.kernel);
    if (native.kernelSlots(kernel) !== slots(launch)) {
      const why = `takes ${native.kernelSlots(kernel)} arguments, the op table gives ${slots(launch)}`;
      throw new Failure({ what: `kernel ${launch.kernel}`, why, fix: 'Run make build' });
    }
    out.setUint32(at, kernel, true);
    out.setUint32(at + 4, slots(launch), true);
    at += 8;
    put64(launch.blocks);
    put64(launch.scratch);
    for (const p of launch.pointers) put64(p ? regions[p.space]!.address + p.offset : 0);
    for (const n of launch.ints) put64(n);
    for (const r of launch.reals) {
      out.setFloat64(at, r, true);
      at += 8;
    }
  }
  return packed;
}
