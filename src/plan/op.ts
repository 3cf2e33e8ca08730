// The op table: one row per op says everything about it. Nothing else in the program switches on op names.
import { Failure } from '../io/failure.ts';
import { product, shapeText, type Tensor } from './tensor.ts';
import type { Elem, TensorForm } from '../backend/backend.ts';

export type Attrs = Readonly<Record<string, number>>;

/** One op of a trace: a table row, what it reads, what it writes, numbers. Absent operands are null. */
export interface Node {
  readonly op: Op;
  readonly inputs: readonly (Tensor | null)[];
  readonly outputs: readonly (Tensor | null)[];
  readonly attrs: Attrs;
  /** Per output: add to what is there instead of setting it. */
  readonly accumulate: readonly boolean[];
}

/** Shape and element kind of an output that the trace shall place in the arena; null: not wanted. */
export type OutputSpec = { readonly shape: readonly number[]; readonly elem: Elem } | null;

/** What the kernel of a node is called with. Order and names of the fields are those of `fields`. */
export interface LaunchSpec {
  readonly pointers: readonly (Tensor | null)[];
  readonly ints?: readonly number[];
  readonly reals?: readonly number[];
  /** Independent blocks; 0 where the kernel cuts its own grid. */
  readonly blocks: number;
  /** Reals of scratch memory that one block needs. */
  readonly scratch?: number;
  /** Extent of the block's inner loops, by which a GPU chooses its threads; left out: not known. */
  readonly lanes?: number;
  /** The same work by another entry point that uses tensor cores on bf16; null where the sizes do not fit. */
  readonly tensorForm?: TensorForm | null;
}

/** Where the gradient of an input goes: a tensor, and whether it is set or added to. */
export interface Sink {
  readonly tensor: Tensor;
  readonly accumulate: boolean;
}

/** What a backward rule may do (implemented by src/plan/backward.ts). */
export interface Backward {
  /** The gradient that has arrived for an output of the node, or null where nothing depends on it. */
  grad(output: Tensor | null): Tensor | null;
  /**
   * Where to write the gradient of an input, or null where none is wanted. Ask once per input and node.
   * `elem`
   * is the kind that the rule writes where that differs from the input's; a parameter's gradient is always
   * real.
   */
  sink(input: Tensor | null, elem?: Elem): Sink | null;
  /** Whether a gradient of this input is wanted at all. */
  wants(input: Tensor | null): boolean;
  /** Appends an op that writes into the given sinks; a spec in place of a sink gets new arena memory. */
  append(op: Op, inputs: (Tensor | null)[], outputs: (Sink | OutputSpec)[], attrs?: Attrs): (Tensor | null)[];
}

export interface Op {
  /** Also the kernel's name. */
  readonly name: string;
  /** The formula in one line, shapes included. */
  readonly formula: string;
  /** Names of the operands, in order, for messages and printed plans; a trailing ? marks an optional one. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Shapes of the outputs. Throws (use `refuse`) where the inputs do not fit. */
  shape(inputs: readonly (Tensor | null)[], attrs: Attrs): OutputSpec[];
  /**
   * Fields of the kernel's argument struct: pointers, then integers, then reals. Checked against the source.
   * Pointers with their element kinds: `act x w; real mean`; `any` is act or real.
   */
  readonly fields: { readonly pointers: string; readonly ints?: string; readonly reals?: string };
  launch(node: Node): LaunchSpec;
  /** Appends the gradient ops, or says why there is no gradient. */
  readonly backward: ((node: Node, b: Backward) => void) | string;
  /** Per output: whether the kernel can only set, only add, or do either. */
  readonly writes: readonly ('set' | 'add' | 'either')[];
  /** Pairs [output, input] that may share memory when the input ends here. */
  readonly inPlace?: readonly (readonly [number, number])[];
  /** Little work for its bytes: gradients may have its result made again rather than kept (recompute.ts). */
  readonly cheap?: true;
  /** Largest normalised mean square error of float32 against float64, with the reason for the number. */
  readonly tolerance: { readonly nmse: number; readonly why: string };
  /**
   * Runs beside the nodes that follow it, to the plan's end: on a GPU on a second stream. What it works on
   * nobody touches meanwhile, and it lies outside of the arena (`freeze` sees to it).
   */
  readonly beside?: true;
  /** Its operations are those of matrix products: what tensor cores do, and what a model's FLOPs count. */
  readonly products?: 'gemm' | 'attention';
  /** Floating point operations; bytes are those of all operands unless given. */
  flops(node: Node): number;
  bytes?(node: Node, elemBytes: Readonly<Record<Elem, number>>): number;
}

const table = new Map<string, Op>();

/** Enters a row into the table. */
export function defineOp(op: Op): Op {
  if (table.has(op.name)) throw new Failure({ what: `op ${op.name}`, why: 'defined twice' });
  table.set(op.name, op);
  return op;
}

/** All rows, in the order of their definition. */
export function opTable(): readonly Op[] {
  return [...table.values()];
}

/** The error of a shape rule: names the op and the shapes. */
export function refuse(op: string, why: string, ...tensors: (Tensor | null)[]): never {
  throw new Failure({ what: `op ${op}`, why: `${why}: ${tensors.map(shapeText).join(', ')}` });
}

/** Element kinds of the pointers of a row's `fields`, in order. */
export function pointerKinds(op: Op): readonly { readonly name: string; readonly kind: Elem | 'any' }[] {
  return op.fields.pointers.split('; ').flatMap((group) => {
    const [kind = '', ...names] = group.split(' ');
    if (kind !== 'act' && kind !== 'real' && kind !== 'i32' && kind !== 'any') {
      throw new Failure({ what: `op ${op.name}`, why: `pointers of no known kind: ${group}` });
    }
    return names.map((name) => ({ name, kind }));
  });
}

/** An operand that a rule cannot do without. */
export function need(tensor: Tensor | null | undefined, op: string): Tensor {
  if (!tensor) throw new Failure({ what: `op ${op}`, why: 'a required operand is missing' });
  return tensor;
}

/** Bytes that a node moves when every operand is read or written once. */
export function operandBytes(node: Node, elemBytes: Readonly<Record<Elem, number>>): number {
  const once = [...node.inputs, ...node.outputs].reduce(
    (sum, t) => sum + (t ? product(t.shape) * elemBytes[t.storage.elem] : 0),
    0,
  );
  const again = node.outputs.reduce(
    (sum, t, i) => sum + (t && node.accumulate[i] ? product(t.shape) * elemBytes[t.storage.elem] : 0),
    0,
  );
  return once + again;
}
