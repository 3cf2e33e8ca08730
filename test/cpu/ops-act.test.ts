// GELU in its three forms, SwiGLU and the sum: values, gradients, strided views, extreme arguments.
import { describe, expect, test } from 'bun:test';
import { add, geluErf, geluQuick, geluTanh, swiglu } from '../../src/plan/ops/act.ts';
import { columns, slices } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { checkOp, randomInput } from './op-case.ts';

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const tanhForm = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

const quickForm = (x: number) => x * sigmoid(1.702 * x);

/** Distribution function of the normal law by its series; for |x| up to about 8. */
function phi(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 300; n++) {
    term *= -(x * x) / 2 / n;
    sum += term / (2 * n + 1);
  }
  return 0.5 + sum / Math.sqrt(2 * Math.PI);
}

describe('gelu', () => {
  test('tanh form', () => {
    checkOp({
      inputs: { x: randomInput([3, 5, 7], 1, 4) },
      build: ({ x }) => [geluTanh(x!)],
      reference: ({ x }) => [x!.map(tanhForm)],
    });
  });

  test('erf form', () => {
    checkOp({
      inputs: { x: randomInput([3, 5, 7], 2, 4) },
      build: ({ x }) => [geluErf(x!)],
      reference: ({ x }) => [x!.map((v) => v * phi(v))],
    });
  });

  test('quick form', () => {
    checkOp({
      inputs: { x: randomInput([3, 5, 7], 5, 4) },
      build: ({ x }) => [geluQuick(x!)],
      reference: ({ x }) => [x!.map(quickForm)],
    });
  });

  test('over columns of one buffer, more rows than a block has', () => {
    checkOp({
      inputs: { x: randomInput([37, 299], 3, 3) },
      forwardOnly: true,
      build: ({ x }) => [geluTanh(columns(x!, 1, 150)), geluErf(columns(x!, 150, 299))],
      reference: ({ x }) => {
        const part = (from: number, to: number) => x!.filter((_, i) => i % 299 >= from && i % 299 < to);
        return [part(1, 150).map(tanhForm), part(150, 299).map((v) => v * phi(v))];
      },
    });
    checkOp({
      inputs: { x: randomInput([3, 9], 4, 3) },
      build: ({ x }) => [
        geluTanh(columns(x!, 1, 4)),
        geluErf(columns(x!, 4, 9)),
        geluQuick(columns(x!, 2, 7)),
      ],
    });
  });

  test('far from 0 it is 0 or x', () => {
    const values = [-1e30, -300, -20, 20, 300, 1e30];
    checkOp({
      inputs: { x: { shape: [6], values } },
      forwardOnly: true,
      build: ({ x }) => [geluTanh(x!), geluErf(x!), geluQuick(x!)],
      reference: () => [1, 2, 3].map(() => values.map((v) => Math.max(v, 0))),
    });
  });
});

describe('swiglu', () => {
  const reference = (a: Float64Array, b: Float64Array) => a.map((v, i) => v * sigmoid(v) * b[i]!);

  test('two tensors', () => {
    checkOp({
      inputs: { a: randomInput([2, 3, 17], 1, 4), b: randomInput([2, 3, 17], 2) },
      build: ({ a, b }) => [swiglu(a!, b!)],
      reference: ({ a, b }) => [reference(a!, b!)],
    });
  });

  test('two halves of one product', () => {
    checkOp({
      inputs: { x: randomInput([5, 26], 3, 3) },
      build: ({ x }) => [swiglu(columns(x!, 0, 13), columns(x!, 13, 26))],
      reference: ({ x }) => [
        reference(
          x!.filter((_, i) => i % 26 < 13),
          x!.filter((_, i) => i % 26 >= 13),
        ),
      ],
    });
  });

  test('one tensor twice, and the same operand used by two', () => {
    checkOp({
      inputs: { a: randomInput([4, 9], 4, 2), b: randomInput([4, 9], 5) },
      build: ({ a, b }) => [swiglu(a!, a!), swiglu(b!, a!)],
      reference: ({ a, b }) => [reference(a!, a!), reference(b!, a!)],
    });
  });
});

describe('add', () => {
  test('tensors, views and a tensor with itself', () => {
    checkOp({
      inputs: { a: randomInput([4, 3, 10], 1), b: randomInput([4, 3, 5], 2) },
      build: ({ a, b }) => [
        add(columns(a!, 0, 5), b!),
        add(columns(a!, 5, 10), columns(a!, 0, 5)),
        add(b!, b!),
        add(slices(b!, 1, 3), slices(b!, 2, 4)),
      ],
      reference: ({ a, b }) => {
        const left = a!.filter((_, i) => i % 10 < 5);
        const right = a!.filter((_, i) => i % 10 >= 5);
        const plus = (x: Float64Array, y: Float64Array) => x.map((v, i) => v + y[i]!);
        return [
          plus(left, b!),
          plus(left, right),
          plus(b!, b!),
          plus(b!.subarray(15, 45), b!.subarray(30, 60)),
        ];
      },
    });
  });

  test('shapes that differ are refused, by name', () => {
    const t = new Trace();
    const a = t.input('a', [2, 3]);
    const b = t.input('b', [3, 2]);
    expect(() => add(a, b)).toThrow('op add_fwd: operands differ in shape: [2, 3], [3, 2]');
    expect(() => swiglu(a, b)).toThrow('op swiglu_fwd');
  });
});
