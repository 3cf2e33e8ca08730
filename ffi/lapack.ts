// Linear algebra in float64 for statistics, typed: symmetric eigenvalues, singular values, products. Matrices
// are row-major and dense, and every call runs on the calling thread.
import { Failure } from '../src/io/failure.ts';
import { expectZero } from './call.ts';
import { type Library, openLibrary } from './library.ts';
import { type Native, openNative } from './native.ts';
import { textFrom } from './memory.ts';

const SYMBOLS = {
  md_symmetric_eigen: { args: ['i32', 'i64', 'ptr', 'ptr'], returns: 'i32' },
  md_singular_values: { args: ['i64', 'i64', 'ptr', 'ptr'], returns: 'i32' },
  md_product_f64: {
    args: ['i32', 'i32', 'i64', 'i64', 'i64', 'ptr', 'ptr', 'ptr'],
    returns: 'void',
  },
  md_add_scatter_f64: { args: ['i64', 'i64', 'ptr', 'ptr'], returns: 'void' },
  md_error: { args: ['ptr', 'i64'], returns: 'i64' },
} as const;

/** Zeros over a buffer of their own, whose address C may use during a call. */
export function doubles(count: number): Float64Array<ArrayBuffer> {
  return new Float64Array(new ArrayBuffer(8 * count));
}

export class Lapack {
  readonly #c: Library<typeof SYMBOLS>['calls'];

  /** Over an opened library, which is started here where nobody has. */
  constructor(native: Native) {
    if (native.threads === 0) native.init(0);
    const fix = 'Run make build';
    this.#c = openLibrary({
      name: 'the native library',
      candidates: [native.path],
      required: SYMBOLS,
      fix,
    }).calls;
  }

  /**
   * Eigenvalues [n] of a symmetric matrix a [n, n], of which the lower triangle is read, the smallest first.
   * a is destroyed; with `vectors`, row i of it becomes the unit eigenvector of value i.
   */
  symmetricEigen(a: Float64Array, n: number, { vectors = false } = {}): Float64Array<ArrayBuffer> {
    expectLength('matrix', a, n * n);
    const values = doubles(n);
    this.#check('eigenvalues', this.#c.md_symmetric_eigen(vectors ? 1 : 0, n, a, values));
    return values;
  }

  /** Singular values of a [rows, columns], the largest first. a is destroyed. */
  singularValues(a: Float64Array, rows: number, columns: number): Float64Array<ArrayBuffer> {
    expectLength('matrix', a, rows * columns);
    const values = doubles(Math.min(rows, columns));
    this.#check('singular values', this.#c.md_singular_values(rows, columns, a, values));
    return values;
  }

  /** op(a) op(b) [m, n], k deep; a is [m, k], or [k, m] with transA; b [k, n], or [n, k] with transB. */
  product(
    a: Float64Array,
    b: Float64Array,
    { m, n, k, transA = false, transB = false }: ProductForm,
  ): Float64Array<ArrayBuffer> {
    expectLength('left operand', a, m * k);
    expectLength('right operand', b, k * n);
    const c = doubles(m * n);
    this.#c.md_product_f64(transA ? 1 : 0, transB ? 1 : 0, m, n, k, a, b, c);
    return c;
  }

  /** Adds x^T x of x [rows, columns] to the lower triangle of c [columns, columns]. */
  addScatter(x: Float64Array, rows: number, columns: number, c: Float64Array): void {
    expectLength('rows', x, rows * columns);
    expectLength('scatter', c, columns * columns);
    this.#c.md_add_scatter_f64(rows, columns, x, c);
  }

  #check(name: string, status: number): void {
    if (status !== 0)
      expectZero(
        name,
        status,
        textFrom((out, size) => this.#c.md_error(out, size)),
      );
  }
}

export interface ProductForm {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA?: boolean;
  readonly transB?: boolean;
}

function expectLength(what: string, values: Float64Array, count: number): void {
  if (values.length === count) return;
  throw new Failure({ what, why: `has ${values.length} numbers, ${count} are needed` });
}

/** LAPACK in the program's own library. */
export async function openLapack(): Promise<Lapack> {
  return new Lapack(await openNative());
}
