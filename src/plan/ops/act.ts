// Ops: GELU (tanh, erf and quick forms), ReLU, SwiGLU and the plain sum, with their gradients.
import {
  type Attrs,
  type Backward,
  defineOp,
  type LaunchSpec,
  type Node,
  need,
  type Op,
  refuse,
} from '../op.ts';
import { cols, count, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

/** Elements that one block works on, about: whole rows of 16 KiB. */
const BLOCK_ELEMENTS = 4096;

const flag = (add: boolean | undefined) => (add ? 1 : 0);

function checkSame(op: string, x: Tensor, ...others: (Tensor | null)[]): void {
  for (const t of others) {
    if (t && (rows(t) !== rows(x) || cols(t) !== cols(x))) refuse(op, 'operands differ in shape', x, t);
  }
}

/** Launch of an elementwise kernel: pointers, then rows C span, the row distances, and the add flags. */
function elementwise(node: Node, flags: readonly number[] = []): LaunchSpec {
  const operands = [...node.inputs, ...node.outputs];
  const x = need(node.inputs[0], node.op.name);
  const span = Math.max(1, Math.floor(BLOCK_ELEMENTS / cols(x)));
  return {
    pointers: operands,
    ints: [rows(x), cols(x), span, ...operands.map((t) => t?.ld ?? 0), ...flags],
    blocks: Math.ceil(rows(x) / span),
  };
}

function sameShape(op: string) {
  return ([x, ...others]: readonly (Tensor | null)[], _attrs: Attrs) => {
    const X = need(x, op);
    checkSame(op, X, ...others);
    return [{ shape: X.shape, elem: X.storage.elem }];
  };
}

/** The two rows of an activation y = f(x) whose gradient is computed from x again. */
function activation(name: string, formula: string, slope: string, flops: number): Op {
  const bwd = defineOp({
    name: `${name}_bwd`,
    formula: slope,
    inputs: ['x', 'dy'],
    outputs: ['dx'],
    shape: sameShape(`${name}_bwd`),
    fields: { pointers: 'act x dy dx', ints: 'rows C span ldx lddy lddx add_dx' },
    launch: (node) => elementwise(node, [flag(node.accumulate[0])]),
    backward: 'only used for gradients',
    writes: ['either'],
    inPlace: [[0, 1]],
    tolerance: { nmse: 1e-12, why: 'one float32 function of one number, a few units in the last place' },
    flops: (node) => 2 * flops * count(need(node.inputs[0], name)),
  });
  return defineOp({
    name: `${name}_fwd`,
    formula,
    inputs: ['x'],
    outputs: ['y'],
    shape: sameShape(`${name}_fwd`),
    fields: { pointers: 'act x y', ints: 'rows C span ldx ldy' },
    launch: (node) => elementwise(node),
    backward: (node, b: Backward) => {
      const [x = null] = node.inputs;
      const dy = b.grad(node.outputs[0] ?? null);
      const dx = dy && b.sink(x);
      if (dx) b.append(bwd, [x, dy], [dx]);
    },
    writes: ['set'],
    inPlace: [[0, 0]],
    cheap: true,
    tolerance: { nmse: 1e-12, why: 'one float32 function of one number, a few units in the last place' },
    flops: (node) => flops * count(need(node.inputs[0], name)),
  });
}

export const geluTanhFwd = activation(
  'gelu_tanh',
  'y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2',
  "dx = dy gelu_tanh'(x)",
  12,
);

export const geluErfFwd = activation(
  'gelu_erf',
  'y = x (1 + erf(x / sqrt(2))) / 2',
  'dx = dy (Phi(x) + x phi(x))',
  25,
);

export const geluQuickFwd = activation(
  'gelu_quick',
  'y = x sigmoid(1.702 x)',
  'dx = dy s (1 + 1.702 x (1 - s)); s = sigmoid(1.702 x)',
  18,
);

export const reluFwd = activation('relu', 'y = max(x, 0)', 'dx = dy where x > 0', 1);

/** GELU in its tanh form (PyTorch's approximate='tanh'), elementwise: x [.., C] -> [.., C]. */
export function geluTanh(x: Tensor): Tensor {
  return traceOf(x).emit(geluTanhFwd, [x])[0]!;
}

/** GELU in its exact form (erf), elementwise: x [.., C] -> [.., C]. */
export function geluErf(x: Tensor): Tensor {
  return traceOf(x).emit(geluErfFwd, [x])[0]!;
}

/** GELU in the quick form of the first CLIPs, elementwise: x [.., C] -> [.., C]. */
export function geluQuick(x: Tensor): Tensor {
  return traceOf(x).emit(geluQuickFwd, [x])[0]!;
}

/** max(x, 0), elementwise: x [.., C] -> `to`, of as many rows, or a new tensor [.., C]. */
export function relu(x: Tensor, to: Tensor | null = null): Tensor {
  if (!to) return traceOf(x).emit(reluFwd, [x])[0]!;
  checkSame('relu_fwd', x, to);
  traceOf(x).emitInto(reluFwd, [x], [{ tensor: to, accumulate: false }]);
  return to;
}

export const swigluBwd = defineOp({
  name: 'swiglu_bwd',
  formula: 'da = dy b s (1 + a (1 - s)); db = dy a s; s = sigmoid(a)',
  inputs: ['a', 'b', 'dy'],
  outputs: ['da?', 'db?'],
  shape: (inputs, attrs) => {
    const [one] = sameShape('swiglu_bwd')(inputs, attrs);
    return [one ?? null, one ?? null];
  },
  fields: { pointers: 'act a b dy da db', ints: 'rows C span lda ldb lddy ldda lddb add_da add_db' },
  launch: (node) => elementwise(node, [flag(node.accumulate[0]), flag(node.accumulate[1])]),
  backward: 'only used for gradients',
  writes: ['either', 'either'],
  tolerance: { nmse: 1e-12, why: 'one float32 sigmoid and a few products' },
  flops: (node) => 24 * count(need(node.inputs[0], 'swiglu_bwd')),
});

export const swigluFwd = defineOp({
  name: 'swiglu_fwd',
  formula: 'y = a sigmoid(a) b',
  inputs: ['a', 'b'],
  outputs: ['y'],
  shape: sameShape('swiglu_fwd'),
  fields: { pointers: 'act a b y', ints: 'rows C span lda ldb ldy' },
  launch: (node) => elementwise(node),
  backward: (node, b) => {
    const [a = null, second = null] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    if (!dy) return;
    const da = b.sink(a);
    const db = b.sink(second);
    b.append(swigluBwd, [a, second, dy], [da, db]);
  },
  writes: ['set'],
  inPlace: [
    [0, 0],
    [0, 1],
  ],
  cheap: true,
  tolerance: { nmse: 1e-12, why: 'one float32 sigmoid and two products' },
  flops: (node) => 18 * count(need(node.inputs[0], 'swiglu_fwd')),
});

/** silu(a) * b (Shazeer 2020, arXiv 2002.05202); a, b [.., F] may be columns of one buffer. */
export function swiglu(a: Tensor, b: Tensor): Tensor {
  return traceOf(a).emit(swigluFwd, [a, b])[0]!;
}

export const addBwd = defineOp({
  name: 'add_bwd',
  formula: 'da = dy; db = dy',
  inputs: ['dy'],
  outputs: ['da?', 'db?'],
  shape: (inputs, attrs) => {
    const [one] = sameShape('add_bwd')(inputs, attrs);
    return [one ?? null, one ?? null];
  },
  fields: { pointers: 'act dy da db', ints: 'rows C span lddy ldda lddb add_da add_db' },
  launch: (node) => elementwise(node, [flag(node.accumulate[0]), flag(node.accumulate[1])]),
  backward: 'only used for gradients',
  writes: ['either', 'either'],
  tolerance: { nmse: 1e-13, why: 'at most one float32 sum' },
  flops: (node) => count(need(node.inputs[0], 'add_bwd')),
});

export const addFwd = defineOp({
  name: 'add_fwd',
  formula: 'y = a + b',
  inputs: ['a', 'b'],
  outputs: ['y'],
  shape: sameShape('add_fwd'),
  fields: { pointers: 'act a b y', ints: 'rows C span lda ldb ldy' },
  launch: (node) => elementwise(node),
  backward: (node, b) => {
    const [first = null, second = null] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    if (!dy) return;
    const da = b.sink(first);
    const db = b.sink(second);
    b.append(addBwd, [dy], [da, db]);
  },
  writes: ['set'],
  inPlace: [
    [0, 0],
    [0, 1],
  ],
  cheap: true,
  tolerance: { nmse: 1e-13, why: 'one float32 sum' },
  flops: (node) => count(need(node.inputs[0], 'add_fwd')),
});

/** a + b, elementwise; a, b [.., C], each possibly a strided view. */
export function add(a: Tensor, b: Tensor): Tensor {
  return traceOf(a).emit(addFwd, [a, b])[0]!;
}
