// The native library: kernel table, replay and its refusals, pool results at 1, 2 and 3 threads, memory.

import { describe, expect, test } from 'bun:test';
import { join } from 'node:path';
import { Pinned } from '../../ffi/memory.ts';
import { openNative } from '../../ffi/native.ts';
import { Failure } from '../../src/io/failure.ts';
import { noise, pack, run } from './native-commands.ts';

const native = await openNative();
native.init(2);

describe('start', () => {
  test('a second init with the same number is fine, with another one is refused', () => {
    native.init(2);
    expect(native.threads).toBe(2);
    expect(() => native.init(3)).toThrow('cannot change to 3');
  });
  test('names processor, kernels and BLAS core', () => {
    expect([3, 4]).toContain(native.isa);
    expect(native.actBytes).toBe(4);
    expect(native.cpuFeatures).toContain('x86-64-v3');
    expect(native.blasCore.length).toBeGreaterThan(2);
  });
  test('kernels by name and by index', () => {
    const names = native.kernelNames();
    expect(names[0]).toBe('gemm');
    expect(new Set(names).size).toBe(names.length);
    for (const [index, name] of names.entries()) expect(native.kernel(name)).toBe(index);
    expect(native.kernelSlots(native.kernel('add'))).toBe(5);
    expect(() => native.kernel('no_such_kernel')).toThrow(
      'kernel no_such_kernel: the native library has none',
    );
  });
});

describe('replay', () => {
  test('commands run in order, each seeing what the one before wrote', () => {
    const count = 100_003;
    const span = 1000;
    const blocks = Math.ceil(count / span);
    using x = native.alloc(4 * count + 64);
    using y = native.alloc(4 * count + 64);
    x.f32().fill(7);
    y.f32().fill(7);
    const [fill, scale, add] = [native.kernel('fill'), native.kernel('scale'), native.kernel('add')];
    const commands = [
      { kernel: fill, blocks, pointers: [x.address], integers: [count, span], reals: [1.5] },
      ...Array.from({ length: 60 }, (_, i) =>
        i % 2
          ? { kernel: scale, blocks, pointers: [x.address, x.address], integers: [count, span], reals: [0.5] }
          : { kernel: add, blocks, pointers: [x.address, x.address, x.address], integers: [count, span] },
      ),
      { kernel: scale, blocks, pointers: [x.address, y.address], integers: [count, span], reals: [2] },
    ];
    const packed = pack(commands);
    for (let i = 0; i < 20; i++) native.replay(packed.address, packed.bytes.length);
    expect(y.f32(0, count).every((v) => v === 3)).toBe(true);
    expect(y.f32(4 * count, 16).every((v) => v === 7)).toBe(true);
    const times = native.replayTimed(packed.address, packed.bytes.length, commands.length);
    expect(times.every((ns) => ns > 0 && ns < 1e9)).toBe(true);
  });
  test('malformed commands are refused by number and name', () => {
    using x = native.alloc(64);
    const good = {
      kernel: native.kernel('fill'),
      blocks: 1,
      pointers: [x.address],
      integers: [16, 16],
      reals: [1],
    };
    const bytes = pack([good]).bytes.length;
    const cut = pack([good, good]);
    expect(() => native.replay(cut.address, bytes + 10)).toThrow('command 1: 10 bytes left');
    expect(() => native.replay(cut.address, 2 * bytes - 8)).toThrow(
      'command 1: fill is cut off 8 bytes early',
    );
    expect(() => run(native, [{ ...good, integers: [16] }])).toThrow('command 0: fill takes 4 slots');
    expect(() => run(native, [{ ...good, kernel: 9999 }])).toThrow('no kernel has the index 9999');
  });
});

test('results are equal to the bit at 1, 2 and 3 threads, and with either kernel set', () => {
  const hashes = (isa: string) =>
    [1, 2, 3].map((threads) => {
      const child = Bun.spawnSync(
        [process.execPath, join(import.meta.dir, 'native-child.ts'), String(threads)],
        {
          env: { ...process.env, MICRODIFF_ISA: isa },
        },
      );
      expect(child.stderr.toString()).toBe('');
      return child.stdout.toString().trim();
    });
  const best = hashes('');
  expect(best[0]).toMatch(/^[0-9a-f]{16,}$/);
  expect(new Set(best).size).toBe(1);
  expect(new Set(hashes('3')).size).toBe(1);
}, 300_000);

describe('memory', () => {
  test('is zeroed and aligned, large blocks to 2 MiB', () => {
    for (const bytes of [1, 4096, 5_000_001]) {
      using memory = native.alloc(bytes);
      expect(memory.address % (bytes > 2 ** 21 ? 2 ** 21 : 64)).toBe(0);
      expect(memory.u8().every((b) => b === 0)).toBe(true);
    }
  });
  test('copy and fill', () => {
    using a = native.alloc(1000);
    using b = native.alloc(1000);
    const next = noise(3);
    a.u8().forEach((_, i, bytes) => {
      bytes[i] = 256 * next();
    });
    native.copy(b.address, a.address, 1000);
    expect(Buffer.compare(a.u8(), b.u8())).toBe(0);
    native.fill(b.address + 10, 0xff, 5);
    expect([...b.u8(9, 7)].slice(1, 6)).toEqual([255, 255, 255, 255, 255]);
    expect(b.u8()[15]).toBe(a.u8()[15]!);
  });
  test('use after free is refused, a view beyond the end too, and so is too much', () => {
    const memory = native.alloc(128);
    expect(() => memory.f32(0, 33)).toThrow(RangeError);
    memory.free();
    memory.free();
    expect(() => memory.address).toThrow(Failure);
    expect(() => native.alloc(2 ** 52)).toThrow('no memory for');
  });
  test('what C writes through an address arrives, however much rubbish is collected meanwhile', () => {
    const pinned = new Pinned(800);
    const list = new Float32Array(pinned.buffer);
    const command = {
      kernel: native.kernel('fill'),
      blocks: 1,
      pointers: [pinned.address],
      integers: [200, 200],
    };
    for (let i = 0; i < 200; i++) {
      const packed = pack([{ ...command, reals: [i] }]);
      const rubbish = Array.from({ length: 50 }, () => new Float32Array(new ArrayBuffer(4096)).fill(-1));
      if (i % 10 === 0) Bun.gc(true);
      native.replay(packed.address, packed.bytes.length);
      expect(rubbish[49]![1023]).toBe(-1);
      expect(list[0]).toBe(i);
      expect(list[199]).toBe(i);
    }
  });
});
