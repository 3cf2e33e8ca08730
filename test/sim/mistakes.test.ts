// Tests of the test: broken kernels, wrong arguments, freed and early-used buffers and forbidden calls inside
// a capture are each noticed by the stand-in driver. What it notices here it notices in the program too.
import { beforeEach, describe, expect, test } from 'bun:test';
import { ptr } from 'bun:ffi';
import type { Cuda } from '../../ffi/cuda.ts';
import * as sim from './stand-in.ts';

const N = 70; // threads beyond two warps
const x0 = sim.range(N);
const turned = x0.toReversed();

let cuda: Cuda;
let kernel: (name: string) => number;
let stream: number;
beforeEach(() => {
  cuda = sim.freshCuda();
  kernel = sim.kernelsOf(cuda, 'broken');
  stream = cuda.streamCreate();
});

/** The status of waiting for what was queued. */
const outcome = () => sim.statusOf(() => cuda.synchronize());

describe('broken kernels', () => {
  const turn = (name: string, order: string) => {
    sim.set('SIM_ORDER', order);
    const x = sim.onDevice(cuda, x0);
    const y = cuda.alloc(4 * N);
    sim.launch(cuda, kernel(name), [x, y, N], { threads: 96, shared: 4 * N });
    return sim.fromDevice(cuda, y, N);
  };

  test('a missing barrier shows in every order of threads', () => {
    for (const order of ['forward', 'reverse', 'random']) {
      expect(turn('good_turn', order)).toEqual(turned);
      expect(turn('no_barrier', order)).not.toEqual(turned);
    }
  });

  test('a barrier that only some threads reach', () => {
    sim.launch(cuda, kernel('lame_barrier'), [cuda.alloc(4 * N), N]);
    expect(outcome()).toBe(719);
    expect(sim.message()).toStartWith('lame_barrier: ');
    expect(outcome()).toBe(719); // and so does every later call
  });

  test('writes outside an allocation: one element, and far away', () => {
    for (const distance of [1, -1, 2 ** 24]) {
      cuda = sim.freshCuda();
      const y = cuda.alloc(4 * N);
      sim.launch(cuda, sim.kernelsOf(cuda, 'broken')('wild_write'), [y, N, distance]);
      expect(outcome()).toBe(700);
      expect(sim.message()).toMatch(distance === 2 ** 24 ? /wild_write: memory fault/ : /wrote beside/);
    }
  });

  test('races show under another order', () => {
    const results = (name: string, size: { blocks?: number; threads?: number }) =>
      ['forward', 'reverse', 'random'].map((order) => {
        sim.set('SIM_ORDER', order);
        const y = sim.onDevice(cuda, [0]);
        sim.launch(cuda, kernel(name), [y], size);
        return sim.fromDevice(cuda, y, 1)[0]!;
      });
    expect(new Set(results('race', { threads: 64 })).size).toBeGreaterThan(1);
    expect(new Set(results('block_race', { blocks: 9 })).size).toBeGreaterThan(1);
  });

  test('scratch is not a number until it is written', () => {
    const y = cuda.alloc(4);
    sim.launch(cuda, kernel('fresh_scratch'), [y], { shared: 64 });
    expect(sim.fromDevice(cuda, y, 1)).toEqual([Number.NaN]);
  });
});

describe('arguments', () => {
  test('an integer where a pointer belongs', () => {
    const [x, y] = [sim.onDevice(cuda, x0), cuda.alloc(4 * N)];
    sim.launch(cuda, kernel('good_scale'), [N, x, y, { real: 2 }]);
    expect(outcome()).toBe(700);
    expect(sim.message()).toContain('good_scale');
  });

  test('a host address where a device address belongs', () => {
    const host = cuda.hostAlloc(4 * N);
    const pageable = new Float32Array(N);
    const y = cuda.alloc(4 * N);
    host.bytes.fill(0);
    sim.launch(cuda, kernel('good_scale'), [host.address, y, N, { real: 2 }]); // pinned: allowed
    expect(outcome()).toBe(0);
    expect(sim.statusOf(() => cuda.toDeviceAsync(host.address, host.address, 4, stream))).toBe(0);
    expect(sim.statusOf(() => cuda.toDevice(y, pageable))).toBe(0);
    expect(sim.statusOf(() => cuda.toDeviceAsync(y, y, 4, stream))).toBe(1);
    expect(sim.message()).toContain('a device address where a host address belongs');
  });

  test('freed memory, at the time the kernel runs', () => {
    const [x, y] = [sim.onDevice(cuda, x0), cuda.alloc(4 * N)];
    sim.launch(cuda, kernel('good_scale'), [x, y, N, { real: 2 }], { stream });
    cuda.free(x);
    expect(outcome()).toBe(700);
    expect(sim.message()).toMatch(/good_scale: argument slot 0: 0x\w+ is freed memory/);
  });

  test('the parameters are copied when a kernel is queued', () => {
    const [x, y] = [sim.onDevice(cuda, x0), cuda.alloc(4 * N)];
    const parameters = new sim.Parameters([x, y, N, { real: 2 }]);
    cuda.launch(kernel('good_scale'), 1, 64, 0, stream, parameters.address);
    parameters.put([0, 0, 0, { real: 0 }]);
    cuda.synchronize();
    expect(sim.fromDevice(cuda, y, N)).toEqual(x0.map((v) => 2 * v));
  });
});

describe('host buffers', () => {
  test('one that changes before its copy ran', () => {
    const host = cuda.hostAlloc(8);
    const floats = new Float32Array(host.bytes.buffer, host.bytes.byteOffset, 2);
    const y = cuda.alloc(8);
    const before = sim.complaints();
    floats.set([1, 2]);
    cuda.toDeviceAsync(y, host.address, 8, stream);
    cuda.streamSynchronize(stream);
    expect(sim.complaints()).toBe(before);
    cuda.toDeviceAsync(y, host.address, 8, stream);
    floats.set([3, 4]);
    cuda.streamSynchronize(stream);
    expect(sim.fromDevice(cuda, y, 2)).toEqual([3, 4]);
    expect(sim.complaints()).toBe(before + 1);
    expect(sim.message()).toContain('its host buffer changed before the copy ran');
  });

  test('one that is read before its copy ran', () => {
    const host = cuda.hostAlloc(8);
    const floats = new Float32Array(host.bytes.buffer, host.bytes.byteOffset, 2);
    floats.set([9, 9]);
    cuda.toHostAsync(host.address, sim.onDevice(cuda, [1, 2]), 8, stream);
    expect([...floats]).toEqual([Number.NaN, Number.NaN]);
    cuda.streamSynchronize(stream);
    expect([...floats]).toEqual([1, 2]);
  });

  test('device memory read by the host', () => {
    const script = `
      import { bytesAt } from './ffi/memory.ts';
      import * as sim from './test/sim/stand-in.ts';
      const cuda = sim.freshCuda();
      const address = sim.onDevice(cuda, [1, 2]);
      console.log('before');
      console.log(bytesAt(address, 8)[0]);
    `;
    const { exitCode, stdout } = Bun.spawnSync([process.execPath, '-e', script], { stderr: 'ignore' });
    expect(stdout.toString()).toBe('before\n');
    expect(exitCode).not.toBe(0);
  });
});

describe('capture', () => {
  const captured = (inside: () => void) => {
    cuda.beginCapture(stream, 'global');
    const status = sim.statusOf(inside);
    const end = sim.statusOf(() => cuda.graphDestroy(cuda.endCapture(stream)));
    return [status, end];
  };

  test('forbids allocation, waiting and copies that wait, and does not survive them', () => {
    const y = cuda.alloc(4 * N);
    const event = cuda.eventCreate(false);
    cuda.eventRecord(event, stream);
    expect(captured(() => sim.launch(cuda, kernel('race'), [y], { stream }))).toEqual([0, 0]);
    expect(captured(() => cuda.alloc(64))).toEqual([900, 901]);
    expect(captured(() => cuda.free(y))).toEqual([900, 901]);
    expect(captured(() => cuda.hostAlloc(64))).toEqual([900, 901]);
    expect(captured(() => cuda.synchronize())).toEqual([900, 901]);
    expect(captured(() => cuda.streamSynchronize(stream))).toEqual([900, 901]);
    expect(captured(() => cuda.eventSynchronize(event))).toEqual([900, 901]);
    expect(captured(() => cuda.toDevice(y, new Float32Array(1)))).toEqual([900, 901]);
    expect(captured(() => cuda.toHost(new Float32Array(1), y))).toEqual([900, 901]);
    cuda.synchronize();
  });

  test('a graph owns its arguments, runs only when launched and waited for, again and again', () => {
    const [x, y] = [sim.onDevice(cuda, x0), sim.onDevice(cuda, Array(N).fill(0))];
    cuda.beginCapture(stream, 'global');
    sim.launch(cuda, kernel('good_scale'), [x, x, N, { real: 2 }], { stream });
    sim.launch(cuda, kernel('good_turn'), [x, y, N], { stream, shared: 4 * N });
    const graph = cuda.endCapture(stream);
    expect(cuda.graphNodes(graph)).toBe(2);
    const executable = cuda.graphInstantiate(graph);
    cuda.graphDestroy(graph);
    expect(sim.fromDevice(cuda, x, N)).toEqual(x0);
    for (const times of [2, 4, 8]) {
      cuda.graphLaunch(executable, stream);
      cuda.streamSynchronize(stream);
      expect(sim.fromDevice(cuda, y, N)).toEqual(turned.map((v) => times * v));
    }
    cuda.graphExecDestroy(executable);
    expect(sim.statusOf(() => cuda.graphLaunch(executable, stream))).toBe(1);
  });

  test('a graph whose memory is gone', () => {
    const [x, y] = [sim.onDevice(cuda, x0), cuda.alloc(4 * N)];
    cuda.beginCapture(stream, 'global');
    sim.launch(cuda, kernel('good_scale'), [x, y, N, { real: 2 }], { stream });
    const executable = cuda.graphInstantiate(cuda.endCapture(stream));
    cuda.free(y);
    cuda.graphLaunch(executable, stream);
    expect(outcome()).toBe(700);
    expect(sim.message()).toContain('argument slot 1');
  });

  test('branches need events that fork and join them', () => {
    const side = cuda.streamCreate();
    const [fork, join] = [cuda.eventCreate(false), cuda.eventCreate(false)];
    const [x, y, z] = [sim.onDevice(cuda, [1]), sim.onDevice(cuda, [0]), sim.onDevice(cuda, [0])];
    const capture = (joins: boolean) => {
      cuda.beginCapture(stream, 'global');
      sim.launch(cuda, kernel('good_scale'), [x, y, 1, { real: 2 }], { stream });
      cuda.eventRecord(fork, stream);
      cuda.streamWaitEvent(side, fork);
      sim.launch(cuda, kernel('good_scale'), [y, z, 1, { real: 2 }], { stream: side });
      cuda.eventRecord(join, side);
      if (joins) cuda.streamWaitEvent(stream, join);
      return cuda.endCapture(stream);
    };
    expect(sim.statusOf(() => capture(false))).toBe(904);
    const executable = cuda.graphInstantiate(capture(true));
    for (const order of ['forward', 'reverse', 'random']) {
      sim.set('SIM_ORDER', order);
      cuda.graphLaunch(executable, stream);
      cuda.synchronize();
      expect(sim.fromDevice(cuda, z, 1)).toEqual([4]);
      cuda.memset(z, 0, 4);
      cuda.synchronize(); // the stream does not wait for the null stream, in which the fill is
    }
  });

  test('a missing edge shows when the order is turned', () => {
    const side = cuda.streamCreate();
    const [fork, join] = [cuda.eventCreate(false), cuda.eventCreate(false)];
    const [x, y, z] = [sim.onDevice(cuda, [1]), sim.onDevice(cuda, [0]), sim.onDevice(cuda, [0])];
    cuda.beginCapture(stream, 'global');
    cuda.eventRecord(fork, stream); // too early: the side does not wait for the first kernel
    cuda.streamWaitEvent(side, fork);
    sim.launch(cuda, kernel('good_scale'), [x, y, 1, { real: 2 }], { stream });
    sim.launch(cuda, kernel('good_scale'), [y, z, 1, { real: 2 }], { stream: side });
    cuda.eventRecord(join, side);
    cuda.streamWaitEvent(stream, join);
    const executable = cuda.graphInstantiate(cuda.endCapture(stream));
    sim.set('SIM_ORDER', 'reverse');
    cuda.graphLaunch(executable, stream);
    cuda.synchronize();
    expect(sim.fromDevice(cuda, z, 1)).toEqual([0]);
  });

  test('work outside cannot be waited for inside, nor the other way round', () => {
    const other = cuda.streamCreate();
    const event = cuda.eventCreate(false);
    cuda.eventRecord(event, other);
    expect(captured(() => cuda.streamWaitEvent(stream, event))).toEqual([905, 901]);
    expect(sim.statusOf(() => cuda.beginCapture(0, 'global'))).toBe(900);
    expect(sim.statusOf(() => cuda.endCapture(stream))).toBe(401);
    const pageable = new Float32Array(4);
    const y = cuda.alloc(16);
    expect(captured(() => cuda.toDeviceAsync(y, ptr(pageable), 16, stream))).toEqual([900, 901]);
  });
});
