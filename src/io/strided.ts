// Tensors whose elements do not lie in a row: how far they reach, and their bytes in row-major order.

import { DTYPE_BYTES } from './dtype.ts';
import type { StoredTensor } from './torch_names.ts';

type Layout = Pick<StoredTensor, 'shape' | 'strides' | 'dtype'>;

/** Whether the elements lie in row-major order without gaps. */
export function isContiguous(layout: Layout): boolean {
  return runElements(layout) === layout.shape.reduce((product, length) => product * length, 1);
}

/** Bytes from the first element to the end of the last. */
export function spanBytes({ shape, strides, dtype }: Layout): number {
  const last = shape.reduce((at, length, i) => at + (length - 1) * strides[i]!, 0);
  return (last + 1) * DTYPE_BYTES[dtype];
}

/** Bytes that follow each other without a gap, beginning with any row. */
export function runBytes(layout: Layout): number {
  return runElements(layout) * DTYPE_BYTES[layout.dtype];
}

/** Elements of the last axes that lie in a row. */
function runElements({ shape, strides }: Layout): number {
  let run = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const length = shape[axis]!;
    if (length === 0) return 0;
    if (length !== 1 && strides[axis] !== run) break;
    run *= length;
  }
  return run;
}

/**
 * The tensor's bytes in row-major order from byte `at` on, `length` of them, as runs that lie in a row:
 * `copy` puts `bytes` of them to place `to`, where `from` counts from the tensor's first element.
 */
export function gather(
  layout: Layout,
  at: number,
  length: number,
  copy: (to: number, from: number, bytes: number) => void,
): void {
  const { shape, strides, dtype } = layout;
  const size = DTYPE_BYTES[dtype];
  const run = runElements(layout);
  // Axes outside the run; the run is one more axis, of stride 1.
  let [outer, product] = [shape.length, 1];
  while (product < run) product *= shape[--outer]!;
  const place = new Array<number>(outer).fill(0);
  const first = at / size;
  let rest = Math.floor(first / run);
  let within = first % run;
  let element = 0;
  for (let axis = outer - 1; axis >= 0; axis--) {
    place[axis] = rest % shape[axis]!;
    rest = Math.floor(rest / shape[axis]!);
    element += place[axis]! * strides[axis]!;
  }
  for (let done = 0; done < length; ) {
    const bytes = Math.min((run - within) * size, length - done);
    copy(done, (element + within) * size, bytes);
    done += bytes;
    within = 0;
    for (let axis = outer - 1; axis >= 0; axis--) {
      place[axis]! += 1;
      element += strides[axis]!;
      if (place[axis]! < shape[axis]!) break;
      element -= shape[axis]! * strides[axis]!;
      place[axis] = 0;
    }
  }
}
