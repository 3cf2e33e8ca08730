// Tracing: calls of ops become a list of nodes over symbolic tensors. Model code runs once, here.
import type { Elem } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { Attrs, Node, Op, OutputSpec, Sink } from './op.ts';
import { product, type Storage, type Tensor } from './tensor.ts';

/** Elements between the starts of two tensors in a flat region: 64 x 4 B = 256 B. */
export const ALIGN = 64;

let serial = 0;

export class Trace {
  readonly serial = ++serial;
  readonly nodes: Node[] = [];
  readonly inputs = new Map<string, Tensor>();
  readonly outputs = new Map<string, Tensor>();
  /** Storages whose values stay until their gradients are made, however much is recomputed. */
  readonly kept = new Set<number>();
  private storages = 0;
  private inputEnd = 0;

  /** A tensor that the host fills before each run, in space 'input'. */
  input(name: string, shape: readonly number[], elem: Elem = 'real', needsGrad = false): Tensor {
    if (this.inputs.has(name)) throw new Failure({ what: `input ${name}`, why: 'named twice in one trace' });
    const count = product(shape);
    const tensor = this.tensor({ shape, elem, space: 'input', name, base: this.inputEnd, needsGrad });
    this.inputEnd += Math.ceil(count / ALIGN) * ALIGN;
    this.inputs.set(name, tensor);
    return tensor;
  }

  /** A tensor at a fixed place of a flat region that outlives the run ('weight', 'state', ...). */
  fixed(
    space: string,
    name: string,
    shape: readonly number[],
    base: number,
    options: FixedOptions = {},
  ): Tensor {
    const { elem = 'act', parameter = false } = options;
    return this.tensor({ shape, elem, space, name, base, needsGrad: parameter, parameter });
  }

  /** New arena memory. */
  fresh(spec: { shape: readonly number[]; elem: Elem }, name: string, needsGrad = false): Tensor {
    return this.tensor({ ...spec, space: 'arena', name, base: 0, needsGrad });
  }

  /** Keeps a tensor readable by the host after each run, under a name. */
  output(name: string, tensor: Tensor): void {
    this.outputs.set(name, tensor);
  }

  /** Says that a tensor is not to be made a second time: what others are made from again. */
  keep(...tensors: readonly Tensor[]): void {
    for (const { storage } of tensors) this.kept.add(storage.id);
  }

  /** Appends one op; its outputs get new arena memory. */
  emit(op: Op, inputs: (Tensor | null)[], attrs: Attrs = {}): Tensor[] {
    const needsGrad = typeof op.backward === 'function' && inputs.some((t) => t?.needsGrad);
    const outputs = op
      .shape(inputs, attrs)
      .map((spec, i) => (spec ? this.fresh(spec, `${op.name}.${op.outputs[i]}`, needsGrad) : null));
    this.push(op, inputs, outputs, attrs, []);
    return outputs.filter((t) => t !== null);
  }

  /** Appends one op that writes into given places; specs get new arena memory. */
  emitInto(
    op: Op,
    inputs: (Tensor | null)[],
    sinks: (Sink | OutputSpec)[],
    attrs: Attrs = {},
  ): (Tensor | null)[] {
    const wanted = op.shape(inputs, attrs);
    const outputs = sinks.map((sink, i) => {
      if (!sink) return null;
      if (!('tensor' in sink)) return this.fresh(sink, `${op.name}.${op.outputs[i]}`);
      const shape = wanted[i]?.shape;
      if (shape && product(shape) !== product(sink.tensor.shape)) {
        throw new Failure({ what: `op ${op.name}`, why: `writes [${shape}] into [${sink.tensor.shape}]` });
      }
      return sink.tensor;
    });
    const accumulate = sinks.map((sink) => sink !== null && 'tensor' in sink && sink.accumulate);
    accumulate.forEach((add, i) => {
      const writes = op.writes[i];
      if (outputs[i] && ((add && writes === 'set') || (!add && writes === 'add'))) {
        throw new Failure({
          what: `op ${op.name}`,
          why: `cannot ${add ? 'add to' : 'set'} ${op.outputs[i]}`,
        });
      }
    });
    this.push(op, inputs, outputs, attrs, accumulate);
    return outputs;
  }

  private push(
    op: Op,
    inputs: (Tensor | null)[],
    outputs: (Tensor | null)[],
    attrs: Attrs,
    accumulate: boolean[],
  ): void {
    for (const t of [...inputs, ...outputs]) {
      if (t && t.owner !== this)
        throw new Failure({ what: `op ${op.name}`, why: 'operand of another trace' });
    }
    this.nodes.push({ op, inputs, outputs, attrs, accumulate });
  }

  private tensor(p: {
    shape: readonly number[];
    elem: Elem;
    space: string;
    name: string;
    base: number;
    needsGrad: boolean;
    parameter?: boolean;
  }): Tensor {
    if (p.shape.length === 0 || p.shape.some((n) => !Number.isSafeInteger(n) || n <= 0)) {
      throw new Failure({ what: `tensor ${p.name}`, why: `impossible shape [${p.shape}]` });
    }
    const storage: Storage = {
      id: this.storages++,
      elem: p.elem,
      count: product(p.shape),
      space: p.space,
      name: p.name,
      base: p.base,
    };
    return {
      owner: this,
      storage,
      offset: 0,
      shape: p.shape,
      ld: p.shape.at(-1) ?? 1,
      needsGrad: p.needsGrad,
      parameter: p.parameter ?? false,
    };
  }
}

interface FixedOptions {
  readonly elem?: Elem;
  readonly parameter?: boolean;
}

/** The trace of a tensor, to append ops to. */
export function traceOf(tensor: Tensor): Trace {
  if (!(tensor.owner instanceof Trace)) throw new Failure({ what: 'tensor', why: 'belongs to no trace' });
  return tensor.owner;
}
