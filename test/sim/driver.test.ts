// The stand-in driver through the program's own bindings: what a careful client may do works, and what it
// must not do is refused with the status that the driver has for it.
import { beforeEach, describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import type { Cuda } from '../../ffi/cuda.ts';
import { cString, Pinned } from '../../ffi/memory.ts';
import * as sim from './stand-in.ts';

let cuda: Cuda;
beforeEach(() => {
  cuda = sim.freshCuda();
});

const OUT = new Pinned(64);
const out = () => Number(new DataView(OUT.buffer).getBigUint64(0, true));

describe('devices and contexts', () => {
  test('one sm_90 that says what it is', () => {
    expect(cuda.deviceFacts(0)).toEqual({
      ordinal: 0,
      name: 'Stand-in GPU (no hardware)',
      capability: 90,
      memory: 2 ** 31,
      multiprocessors: 132,
      sharedOptin: 227 * 1024,
    });
    expect(cuda.version).toBe(13000);
    expect(sim.statusOf(() => cuda.device(1))).toBe(101);
  });

  test('calls need a context, and objects theirs', () => {
    const stream = cuda.streamCreate();
    sim.standIn().cuCtxSetCurrent(0n);
    expect(sim.statusOf(() => cuda.alloc(8))).toBe(201);
    expect(sim.standIn().cuCtxCreate_v2(OUT.address as never, 0, 0)).toBe(0);
    const other = out();
    expect(sim.statusOf(() => cuda.streamSynchronize(stream))).toBe(400);
    expect(sim.standIn().cuCtxDestroy_v2(BigInt(other))).toBe(0);
  });

  test('entry points by name', () => {
    expect(sim.standIn().cuGetProcAddress_v2(cString('cuMemAlloc'), OUT.bytes, 13000, 0n, null)).toBe(0);
    expect(out()).toBeGreaterThan(0);
    expect(sim.standIn().cuGetProcAddress_v2(cString('cuNothing'), OUT.bytes, 13000, 0n, null)).toBe(500);
  });
});

describe('memory', () => {
  test('is aligned, not a number when fresh, and counted', () => {
    const before = cuda.memoryInfo();
    const address = cuda.alloc(1000);
    expect(address % 256).toBe(0);
    expect(sim.fromDevice(cuda, address, 250)).toEqual(Array(250).fill(Number.NaN));
    expect(before.free - cuda.memoryInfo().free).toBe(1024);
    cuda.free(address);
    expect(cuda.memoryInfo()).toEqual(before);
  });

  test('copies are checked against live allocations', () => {
    const address = cuda.alloc(400);
    const host = new Float32Array(100);
    expect(sim.statusOf(() => cuda.toDevice(address, host))).toBe(0);
    expect(sim.statusOf(() => cuda.toDevice(address + 4, host))).toBe(1);
    expect(sim.message()).toContain('400 bytes at byte 4 leave allocation');
    expect(sim.statusOf(() => cuda.toHost(host, address - 4))).toBe(1);
    expect(sim.statusOf(() => cuda.memset(address, 0, 401))).toBe(1);
    cuda.free(address);
    expect(sim.statusOf(() => cuda.toHost(host, address))).toBe(1);
    expect(sim.message()).toContain('is freed memory');
    expect(sim.statusOf(() => cuda.free(address))).toBe(1);
    expect(sim.statusOf(() => cuda.free(sim.onDevice(cuda, [1, 2]) + 4))).toBe(1);
  });

  test('runs out', () => {
    sim.set('SIM_MEMORY', '1048576');
    expect(cuda.alloc(1_000_000)).toBeGreaterThan(0);
    expect(() => cuda.alloc(100_000)).toThrow(/no memory for 0\.1 MiB more.*0\.0 MiB of 1\.0 MiB are free/);
  });

  test('bytes, rows of bytes and copies on the device', () => {
    const from = sim.onDevice(cuda, sim.range(8));
    const to = cuda.alloc(32);
    cuda.memset(to, 0, 32);
    cuda.copy(to + 8, from + 4, 8);
    expect(sim.fromDevice(cuda, to, 8)).toEqual([0, 0, 1, 2, 0, 0, 0, 0]);
  });
});

describe('streams and events', () => {
  test('work waits until somebody waits for it', () => {
    const kernel = sim.kernelsOf(cuda, 'broken')('good_scale');
    const x = sim.onDevice(cuda, [1, 2, 3]);
    const y = cuda.alloc(12);
    const stream = cuda.streamCreate();
    const event = cuda.eventCreate(false);
    sim.launch(cuda, kernel, [x, y, 3, { real: 2 }], { stream });
    cuda.eventRecord(event, stream);
    const before = sim.launches('good_scale');
    // A stream that does not wait for the null stream is not waited for by a copy in it.
    expect(sim.fromDevice(cuda, y, 3)).toEqual([Number.NaN, Number.NaN, Number.NaN]);
    expect(sim.standIn().cuStreamQuery(BigInt(stream))).toBe(600);
    cuda.eventSynchronize(event);
    expect(sim.launches('good_scale')).toBe(before + 1);
    expect(sim.fromDevice(cuda, y, 3)).toEqual([2, 4, 6]);
    expect(sim.standIn().cuEventQuery(BigInt(event))).toBe(0);
  });

  test('a blocking stream is waited for by a copy in the null stream', () => {
    const kernel = sim.kernelsOf(cuda, 'broken')('good_scale');
    const x = sim.onDevice(cuda, [1, 2, 3]);
    sim.standIn().cuStreamCreate(OUT.address as never, 0);
    sim.launch(cuda, kernel, [x, x, 3, { real: 2 }], { stream: out() });
    expect(sim.fromDevice(cuda, x, 3)).toEqual([2, 4, 6]);
  });

  test('streams wait for each other through events alone', () => {
    const kernel = sim.kernelsOf(cuda, 'broken')('good_scale');
    const [first, second] = [cuda.streamCreate(), cuda.streamCreate()];
    const event = cuda.eventCreate(false);
    const x = sim.onDevice(cuda, [1]);
    const [y, z] = [cuda.alloc(4), cuda.alloc(4)];
    const chain = (wait: boolean) => {
      cuda.memset(y, 255, 4);
      cuda.synchronize();
      sim.launch(cuda, kernel, [x, y, 1, { real: 2 }], { stream: first });
      if (wait) cuda.eventRecord(event, first);
      if (wait) cuda.streamWaitEvent(second, event);
      sim.launch(cuda, kernel, [y, z, 1, { real: 2 }], { stream: second });
      cuda.streamSynchronize(second);
      return sim.fromDevice(cuda, z, 1);
    };
    expect(chain(true)).toEqual([4]);
    expect(chain(false)).toEqual([Number.NaN]);
  });

  test('time between events', () => {
    const stream = cuda.streamCreate();
    const [start, end, untimed] = [cuda.eventCreate(true), cuda.eventCreate(true), cuda.eventCreate(false)];
    cuda.eventRecord(start, stream);
    cuda.eventRecord(end, stream);
    expect(sim.statusOf(() => cuda.eventElapsed(start, end))).toBe(600);
    cuda.eventSynchronize(end);
    expect(cuda.eventElapsed(start, end)).toBeGreaterThanOrEqual(0);
    expect(sim.statusOf(() => cuda.eventElapsed(start, untimed))).toBe(400);
  });

  test('dead handles are refused', () => {
    const stream = cuda.streamCreate();
    const event = cuda.eventCreate(false);
    cuda.streamDestroy(stream);
    cuda.eventDestroy(event);
    expect(sim.statusOf(() => cuda.streamSynchronize(stream))).toBe(400);
    expect(sim.statusOf(() => cuda.eventRecord(event, 0))).toBe(400);
    expect(sim.statusOf(() => cuda.streamDestroy(stream))).toBe(400);
    expect(sim.statusOf(() => cuda.graphLaunch(stream, 0))).toBe(1);
  });
});

describe('launches', () => {
  test('sizes beyond those of the device are refused', () => {
    const kernel = sim.kernelsOf(cuda, 'broken')('race');
    const y = cuda.alloc(4);
    const status = (size: Parameters<typeof sim.launch>[3]) =>
      sim.statusOf(() => sim.launch(cuda, kernel, [y], size));
    expect(status({ threads: 1024 })).toBe(0);
    expect(status({ threads: 1025 })).toBe(1);
    expect(status({ threads: 0 })).toBe(1);
    expect(status({ blocks: 0 })).toBe(1);
    expect(status({ shared: 48 * 1024 })).toBe(0);
    expect(status({ shared: 48 * 1024 + 1 })).toBe(1);
    expect(sim.statusOf(() => cuda.allowShared(kernel, 227 * 1024 + 1))).toBe(1);
    cuda.allowShared(kernel, 227 * 1024);
    expect(status({ shared: 227 * 1024 })).toBe(0);
    cuda.synchronize();
  });

  test('images, modules and kernels that are not there', () => {
    const load = (text: string) => sim.statusOf(() => cuda.moduleLoad(new TextEncoder().encode(`${text}\0`)));
    expect(load('nonsense')).toBe(200);
    expect(load('sim no-such-set')).toBe(200);
    const fatbin = Uint8Array.of(0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0);
    expect(sim.statusOf(() => cuda.moduleLoad(fatbin))).toBe(209);
    const module = cuda.moduleLoad(cString('sim bf16 exact'));
    expect(cuda.moduleFunction(module, 'no_such_kernel')).toBeNull();
    const kernel = cuda.moduleFunction(module, 'fill');
    cuda.moduleUnload(module);
    expect(sim.statusOf(() => sim.launch(cuda, kernel!, [0, 0, 0, 0]))).toBe(400);
  });
});

describe('failures on demand', () => {
  test('the Nth call of a name fails, and a lost device stays lost', () => {
    sim.set('SIM_FAIL', `cuStreamSynchronize:${sim.calls('cuStreamSynchronize') + 2}:719`);
    cuda.streamSynchronize(0);
    expect(sim.statusOf(() => cuda.streamSynchronize(0))).toBe(719);
    expect(sim.statusOf(() => cuda.alloc(8))).toBe(719);
    expect(cuda.lost).toBe(true);
    cuda = sim.freshCuda();
    expect(sim.statusOf(() => cuda.alloc(8))).toBe(0);
  });

  test('counts and complaints are left in a file', () => {
    const log = `${sim.FOLDER}/log-of-test.json`;
    const script = `
      import * as sim from './test/sim/stand-in.ts';
      const cuda = sim.freshCuda();
      cuda.alloc(4096);
      sim.statusOf(() => cuda.alloc(0));
      sim.statusOf(() => cuda.free(12345));
    `;
    const run = (code: string) => {
      const child = Bun.spawnSync([process.execPath, '-e', code], { env: { ...process.env, SIM_LOG: log } });
      return [child.exitCode, child.stderr.toString()];
    };
    expect(run(script)).toEqual([0, '']);
    const written = JSON.parse(readFileSync(log, 'utf8'));
    expect(written.calls.cuMemAlloc_v2).toBe(2);
    expect(written.peak_bytes).toBe(4096);
    expect(written.complaints).toHaveLength(1);
  });
});
