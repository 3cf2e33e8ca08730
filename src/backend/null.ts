// The null backend: allocates nothing and runs nothing, but counts what it is asked for and checks every
// launch against the regions it is given.
import { Failure } from '../io/failure.ts';
import type { Backend, ElemBytes, Loaded, Numbers, Program, Region } from './backend.ts';

/** Checks programs without memory. Reads give zeros. */
export function nullBackend(
  elemBytes: ElemBytes = { act: 4, real: 4, i32: 4 },
): Backend & Required<Pick<Backend, 'memory'>> {
  let next = 4096;
  let [allocated, peak] = [0, 0];
  return {
    name: 'null',
    elemBytes,
    alloc(bytes): Region {
      // At least so much is taken, as by other backends.
      let taken = Math.max(bytes, 8);
      allocated += taken;
      peak = Math.max(peak, allocated);
      const free = () => {
        allocated -= taken;
        taken = 0;
      };
      const region = { bytes, address: next, free };
      next += Math.ceil((bytes + 4096) / 4096) * 4096;
      return region;
    },
    write: (region, offset, data) => checkRange('write', region, offset, data.byteLength),
    read(region, offset, into: Numbers) {
      checkRange('read', region, offset, into.byteLength);
      into.fill(0);
    },
    fill: (region, _byte, offset = 0, bytes = region.bytes - offset) =>
      checkRange('fill', region, offset, bytes),
    synchronize() {},
    memory: () => ({ allocated, peak }),
    load(program, regions): Loaded {
      checkProgram(program, regions);
      return { run: () => {}, runTimed: () => new Float64Array(program.launches.length) };
    },
  };
}

/** Throws unless every region is there and large enough and every number fits its slot. */
export function checkProgram(program: Program, regions: Readonly<Record<string, Region>>): void {
  for (const [space, bytes] of Object.entries(program.spaceBytes)) {
    const region = regions[space];
    if (!region && bytes > 0) throw new Failure({ what: `region ${space}`, why: 'is not bound' });
    if (region && region.bytes < bytes) {
      throw new Failure({
        what: `region ${space}`,
        why: `has ${region.bytes} bytes, the program needs ${bytes}`,
      });
    }
  }
  for (const { kernel, pointers, ints, reals, blocks } of program.launches) {
    for (const p of pointers) {
      const region = p && regions[p.space];
      if (p && (!region || p.offset < 0 || p.offset >= region.bytes)) {
        throw new Failure({ what: `kernel ${kernel}`, why: `points outside of region ${p.space}` });
      }
    }
    if (![...ints, blocks].every(Number.isSafeInteger) || reals.some(Number.isNaN)) {
      throw new Failure({
        what: `kernel ${kernel}`,
        why: `bad arguments ${ints} ${reals} over ${blocks} blocks`,
      });
    }
  }
}

function checkRange(call: string, region: Region, offset: number, bytes: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + bytes > region.bytes) {
    throw new Failure({
      what: `backend ${call}`,
      why: `${bytes} bytes at ${offset} of a ${region.bytes}-byte region`,
    });
  }
}
