// Tensors of a trace: a storage (what the memory planner places) and strided row-major views of it.
import type { Elem } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';

/** One piece of memory. In space 'arena' the planner decides `base`; elsewhere it is fixed, in elements. */
export interface Storage {
  readonly id: number;
  readonly elem: Elem;
  readonly count: number;
  readonly space: string;
  readonly name: string;
  readonly base: number;
}

/** The trace that a tensor belongs to, as far as a tensor needs to know it. */
export interface Owner {
  readonly serial: number;
}

/**
 * Row-major view: the last axis is contiguous, rows (all other axes flattened) lie `ld` elements apart.
 * `parameter` says that the tensor's storage is a trainable parameter, whose gradient lives in space 'grad'.
 */
export interface Tensor {
  readonly owner: Owner;
  readonly storage: Storage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly ld: number;
  readonly needsGrad: boolean;
  readonly parameter: boolean;
}

/** Product of a list of extents. */
export function product(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** Extent of the last axis. */
export function cols(x: Tensor): number {
  return x.shape.at(-1) ?? 1;
}

/** Product of all axes but the last. */
export function rows(x: Tensor): number {
  return product(x.shape.slice(0, -1));
}

export function count(x: Tensor): number {
  return product(x.shape);
}

export function isContiguous(x: Tensor): boolean {
  return x.ld === cols(x) || rows(x) === 1;
}

export function shapeText(x: Tensor | null): string {
  return x ? `[${x.shape.join(', ')}]` : 'none';
}

/** View of columns from..to-1 of the last axis: x [.., C] -> [.., to - from]. */
export function columns(x: Tensor, from: number, to: number): Tensor {
  if (!(0 <= from && from < to && to <= cols(x))) {
    throw new Failure({ what: 'columns', why: `${from}..${to} is not inside ${shapeText(x)}` });
  }
  return { ...x, offset: x.offset + from, shape: [...x.shape.slice(0, -1), to - from] };
}

/** View of entries from..to-1 of the first axis. */
export function slices(x: Tensor, from: number, to: number): Tensor {
  const n = x.shape[0] ?? 0;
  if (x.shape.length < 2 || !(0 <= from && from < to && to <= n)) {
    throw new Failure({ what: 'slices', why: `${from}..${to} is not inside ${shapeText(x)}` });
  }
  const rowsPer = rows(x) / n;
  return { ...x, offset: x.offset + from * rowsPer * x.ld, shape: [to - from, ...x.shape.slice(1)] };
}

/** The same elements under another shape. A strided view keeps its last axis. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const last = shape.at(-1) ?? 1;
  const fits = product(shape) === count(x) && (last === cols(x) || isContiguous(x));
  if (!fits) {
    throw new Failure({ what: 'reshape', why: `${shapeText(x)} (rows ${x.ld} apart) to [${shape}]` });
  }
  return { ...x, shape, ld: last === cols(x) ? x.ld : last };
}

/** First element of a tensor in its space, and the one behind its last: `base` counts where it is fixed. */
export function spanOf(x: Tensor): readonly [number, number] {
  const begin = x.storage.base + x.offset;
  return [begin, begin + (rows(x) - 1) * x.ld + cols(x)];
}

/** Whether the extents of two tensors meet in one memory. */
export function touches(a: Tensor, b: Tensor): boolean {
  if (a.storage.space !== b.storage.space) return false;
  if (a.storage.space === 'arena' && a.storage.id !== b.storage.id) return false;
  const [[a0, a1], [b0, b1]] = [spanOf(a), spanOf(b)];
  return a0 < b1 && b0 < a1;
}
