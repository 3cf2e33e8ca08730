// The stand-in cuBLASLt through the program's own bindings: products against plain sums, and what the library
// refuses.
import { beforeAll, describe, expect, test } from 'bun:test';
import { CublasLt, type DataType, type LayoutSpec, openCublasLtLibrary } from '../../ffi/cublaslt.ts';
import type { Cuda } from '../../ffi/cuda.ts';
import { Pinned } from '../../ffi/memory.ts';
import * as sim from './stand-in.ts';

let cuda: Cuda;
let blas: CublasLt;
let stream: number;
let workspace: number;
const WORKSPACE = 1 << 20;
const SCALARS = new Pinned(16);
const ALGORITHM = new Pinned(64);

beforeAll(() => {
  cuda = sim.freshCuda();
  blas = new CublasLt(openCublasLtLibrary([`${sim.FOLDER}/libcublasLt.so.13`]));
  stream = cuda.streamCreate();
  workspace = cuda.alloc(WORKSPACE);
});

let seed = 1;
const noise = () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.fround(seed / 2 ** 31 - 1);
};

const bits = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0]!;
const rounded = (value: number) => (bits(value) + 0x7fff + ((bits(value) >>> 16) & 1)) >>> 16;
const fromBits = (half: number) => new Float32Array(Uint32Array.of(half << 16).buffer)[0]!;

/** Device memory with values of a type, beginning `shift` bytes past an aligned address. */
function put(type: DataType, values: readonly number[], shift = 0): number {
  const data = type === 'f32' ? Float32Array.from(values) : Uint16Array.from(values.map(rounded));
  const address = cuda.alloc(data.byteLength + shift) + shift;
  cuda.toDevice(address, data);
  return address;
}
function take(type: DataType, address: number, count: number): number[] {
  if (type === 'f32') return sim.fromDevice(cuda, address, count);
  const data = new Uint16Array(count);
  cuda.toHost(data, address);
  return [...data].map(fromBits);
}
const exactly = (type: DataType, value: number) => (type === 'f32' ? value : fromBits(rounded(value)));

interface Case {
  M: number;
  N: number;
  K: number;
  input?: DataType;
  output?: DataType;
  transA?: boolean;
  transB?: boolean;
  batch?: number;
  beta?: number;
  bias?: boolean;
  pad?: number;
  shift?: number;
  align?: number;
  workspaceBytes?: number;
}

/** All algorithms for a product, each run once: the results, and the result of plain sums. */
function product(c: Case): { results: number[][]; expected: number[]; spaces: number[] } {
  const { M, N, K, input = 'f32', output = 'f32', transA = false, transB = false, batch = 1 } = c;
  const { beta = 0, pad = 0, shift = 0, align = 16, workspaceBytes = WORKSPACE } = c;
  const spec = (type: DataType, rows: number, columns: number): LayoutSpec => {
    const ld = rows + pad;
    return { type, rows, columns, ld, batch, stride: ld * columns };
  };
  const a = transA ? spec(input, K, M) : spec(input, M, K);
  const b = transB ? spec(input, N, K) : spec(input, K, N);
  const d = spec(output, M, N);
  const fresh = (s: LayoutSpec) => Array.from({ length: s.stride * batch }, () => exactly(s.type, noise()));
  const [valuesA, valuesB, valuesC] = [fresh(a), fresh(b), fresh(d)];
  const valuesBias = Array.from({ length: M }, () => exactly(output, noise()));
  const [A, B] = [put(input, valuesA, shift), put(input, valuesB, shift)];
  const bias = c.bias ? put(output, valuesBias) : 0;

  const at = (s: LayoutSpec, n: number, row: number, column: number) => n * s.stride + column * s.ld + row;
  const expected = [...valuesC];
  for (let n = 0; n < batch; n++) {
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let sum = 0;
        for (let k = 0; k < K; k++) {
          const x = valuesA[transA ? at(a, n, k, i) : at(a, n, i, k)]!;
          sum += x * valuesB[transB ? at(b, n, j, k) : at(b, n, k, j)]!;
        }
        const place = at(d, n, i, j);
        expected[place] = sum + beta * valuesC[place]! + (c.bias ? valuesBias[i]! : 0);
      }
    }
  }

  const descriptor = blas.descriptor(
    transA,
    transB,
    bias ? { type: output, address: bias, stride: 0 } : null,
  );
  const layouts = { A: blas.layout(a), B: blas.layout(b), C: blas.layout(d), D: blas.layout(d) };
  const limits = { workspace: workspaceBytes, align: { A: align, B: align, C: align, D: align } };
  const algorithms = blas.algorithms(descriptor, layouts, limits, 8);
  const scalars = new Float32Array(SCALARS.buffer);
  const results = algorithms.map((algorithm) => {
    scalars.set([1, beta]);
    ALGORITHM.bytes.set(algorithm.bytes);
    const D = put(output, beta === 0 ? valuesC.map(() => Number.NaN) : valuesC, shift);
    blas.matmul(
      ...([descriptor, SCALARS.address, A, layouts.A, B, layouts.B, SCALARS.address + 4] as const),
      ...([D, layouts.C, D, layouts.D, ALGORITHM.address, workspace, workspaceBytes, stream] as const),
      () => JSON.stringify(c),
    );
    scalars.set([Number.NaN, Number.NaN]);
    cuda.streamSynchronize(stream);
    const got = take(output, D, d.stride * batch);
    for (let p = 0; p < got.length; p++) if (p % d.ld >= M) got[p] = expected[p]!;
    return got;
  });
  return { results, expected, spaces: algorithms.map((algorithm) => algorithm.workspace) };
}

const distance = (x: readonly number[], y: readonly number[]) =>
  Math.max(...x.map((value, i) => Math.abs(value - y[i]!)));

describe('products', () => {
  const cases: Case[] = [
    { M: 5, N: 7, K: 3 },
    { M: 16, N: 24, K: 128, transA: true },
    { M: 16, N: 24, K: 100, transB: true, beta: 1 },
    { M: 33, N: 9, K: 65, transA: true, transB: true, bias: true, pad: 3 },
    { M: 8, N: 16, K: 64, batch: 3, bias: true, beta: 1 },
    { M: 16, N: 24, K: 128, input: 'bf16', output: 'bf16', bias: true },
    { M: 16, N: 24, K: 128, input: 'bf16', output: 'f32', beta: 1, transB: true },
    { M: 5, N: 7, K: 9, input: 'bf16', output: 'bf16', align: 2 },
  ];
  for (const each of cases) {
    test(JSON.stringify(each), () => {
      const { results, expected } = product(each);
      expect(results.length).toBeGreaterThan(0);
      const bound = each.output === 'bf16' ? 2 ** -8 * 20 : 1e-5;
      for (const result of results) expect(distance(result, expected)).toBeLessThan(bound);
    });
  }

  test('algorithms have workspaces of their own and differ in rounding', () => {
    const shape = { M: 16, N: 24, K: 512 };
    const { results, spaces } = product(shape);
    expect(spaces).toEqual([16 * 24 * 4, 0, 0]);
    expect(distance(results[0]!, results[1]!)).toBeGreaterThan(0);
    expect(product({ ...shape, workspaceBytes: 1000 }).spaces).toEqual([0, 0]);
  });

  test('a product is captured and replayed', () => {
    const one: LayoutSpec = { type: 'f32', rows: 1, columns: 1, ld: 1, batch: 1, stride: 1 };
    const layout = blas.layout(one);
    const [A, B, D] = [put('f32', [3]), put('f32', [5]), put('f32', [1])];
    const scalars = new Float32Array(SCALARS.buffer);
    scalars.set([1, 1]);
    cuda.beginCapture(stream, 'global');
    const descriptor = blas.descriptor(false, false, null);
    blas.matmul(
      ...([descriptor, SCALARS.address, A, layout, B, layout, SCALARS.address + 4, D, layout, D] as const),
      ...([layout, 0, workspace, WORKSPACE, stream] as const),
      () => '',
    );
    const executable = cuda.graphInstantiate(cuda.endCapture(stream));
    scalars.set([0, 0]);
    for (const sum of [16, 31]) {
      cuda.graphLaunch(executable, stream);
      cuda.streamSynchronize(stream);
      expect(take('f32', D, 1)).toEqual([sum]);
    }
  });
});

describe('refused', () => {
  const made = (type: DataType, rows: number, columns: number, ld = rows) =>
    blas.layout({ type, rows, columns, ld, batch: 1, stride: 0 });
  const none = { workspace: 0, align: { A: 16, B: 16, C: 16, D: 16 } };
  const plain = () => blas.descriptor(false, false, null);

  test('shapes, leading dimensions and types that do not fit', () => {
    const square = made('f32', 8, 8);
    const all = { A: square, B: square, C: square, D: square };
    const found = (layouts: typeof all) => blas.algorithms(plain(), layouts, none, 4).length;
    expect(found(all)).toBe(2);
    expect(() => found({ ...all, A: made('f32', 8, 7) })).toThrow(/INVALID_VALUE/);
    expect(() => found({ ...all, B: made('f32', 8, 8, 7) })).toThrow(/INVALID_VALUE/);
    expect(found({ ...all, A: made('bf16', 8, 8) })).toBe(0);
    const half = made('bf16', 8, 8);
    expect(found({ A: square, B: square, C: half, D: half })).toBe(0);
    expect(found({ A: half, B: half, C: square, D: square })).toBe(2);
  });

  test('a bias of another type than the result', () => {
    const [half, full] = [made('bf16', 8, 8), made('f32', 8, 8)];
    const descriptor = blas.descriptor(false, false, { type: 'bf16', address: workspace, stride: 0 });
    const found = (C: number) => blas.algorithms(descriptor, { A: half, B: half, C, D: C }, none, 4).length;
    expect(found(half)).toBe(2);
    expect(found(full)).toBe(0);
  });

  test('tensor cores without 16-byte alignment of addresses, rows and batches', () => {
    const algorithms = (ld: number, align: number) => {
      const matrix = made('bf16', 8, 8, ld);
      const limits = { ...none, align: { A: align, B: 16, C: 16, D: 16 } };
      return blas.algorithms(plain(), { A: matrix, B: matrix, C: matrix, D: matrix }, limits, 4).length;
    };
    expect(algorithms(8, 16)).toBe(2);
    expect(algorithms(12, 16)).toBe(1);
    expect(algorithms(8, 8)).toBe(1);
    expect(algorithms(8, 1)).toBe(0);
  });

  const matmul = (A: number, D: number, algorithm: number, bytes: number, K = 8) => {
    const [a, b, d] = [made('bf16', 8, K), made('bf16', K, 8), made('bf16', 8, 8)];
    const B = put('bf16', Array(8 * K).fill(1));
    new Float32Array(SCALARS.buffer).set([1, 0]);
    blas.matmul(
      ...([plain(), SCALARS.address, A, a, B, b, SCALARS.address + 4, D, d, D, d] as const),
      ...([algorithm, workspace, bytes, stream] as const),
      () => 'in the test',
    );
  };
  /** The address of the library's favourite algorithm for the product of `matmul`. */
  const favourite = (K: number) => {
    const [A, B, D] = [made('bf16', 8, K), made('bf16', K, 8), made('bf16', 8, 8)];
    const limits = { ...none, workspace: WORKSPACE };
    ALGORITHM.bytes.set(blas.algorithms(plain(), { A, B, C: D, D }, limits, 1)[0]!.bytes);
    return ALGORITHM.address;
  };
  const fresh = () => put('bf16', Array(512).fill(1));

  test('an address less aligned than the algorithm needs', () => {
    expect(() => matmul(fresh(), fresh(), favourite(8), 0)).not.toThrow();
    expect(() => matmul(fresh() + 2, fresh(), favourite(8), 0)).toThrow(
      /NOT_SUPPORTED.*in the test|in the test/,
    );
    expect(() => matmul(fresh() + 2, fresh(), 0, 0)).not.toThrow(); // the library chooses one that can
    cuda.synchronize();
  });

  test('a workspace smaller than the algorithm needs', () => {
    const D = fresh();
    expect(() => matmul(fresh(), D, favourite(64), 255, 64)).toThrow(/INVALID_VALUE/);
    expect(() => matmul(fresh(), D, favourite(64), 256, 64)).not.toThrow();
    cuda.synchronize();
    expect(take('bf16', D, 1)).toEqual([64]);
  });

  test('a result over its inputs, unless they are other columns of one matrix', () => {
    const all = put('bf16', Array(1024).fill(1));
    expect(() => matmul(all, all + 16, 0, 0)).toThrow(/INVALID_VALUE/);
    expect(sim.message()).toContain('D lies over A or B');
    const [a, d] = [made('bf16', 8, 8, 32), made('bf16', 8, 8, 32)];
    const B = put('bf16', Array(64).fill(1));
    const columns = (D: number) =>
      blas.matmul(
        ...([plain(), SCALARS.address, all, a, B, made('bf16', 8, 8), SCALARS.address + 4] as const),
        ...([D, d, D, d, 0, workspace, 0, stream] as const),
        () => '',
      );
    expect(() => columns(all + 16)).not.toThrow();
    expect(() => columns(all + 14)).toThrow(/INVALID_VALUE/);
    cuda.synchronize();
  });

  test('memory that is not live when the product runs, and descriptors that are gone', () => {
    const descriptor = plain();
    blas.descriptorDestroy(descriptor);
    expect(() => blas.descriptorDestroy(descriptor)).toThrow(/INVALID_VALUE/);
    const D = put('bf16', Array(64).fill(1));
    matmul(fresh(), D, 0, 0);
    cuda.free(D);
    expect(sim.statusOf(() => cuda.synchronize())).toBe(700);
    expect(sim.message()).toMatch(/cublasLtMatmul: D: 0x\w+ is freed memory/);
  });
});
