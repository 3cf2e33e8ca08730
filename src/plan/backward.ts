// Backward: a reverse walk over a trace that appends the gradient ops of each node's row.
import { Failure } from '../io/failure.ts';
import { zero } from './ops/fill.ts';
import type { Backward, Node, Sink } from './op.ts';
import type { Elem } from '../backend/backend.ts';
import type { Tensor } from './tensor.ts';
import { cols, count, isContiguous, rows } from './tensor.ts';
import type { Trace } from './trace.ts';

/**
 * Appends to `trace` the gradient of an objective with respect to everything that needs one. `seeds` are
 * pairs of an output and the objective's gradient with respect to it, of the same shape. Parameter gradients
 * are added into space 'grad' at the parameter's own place; returns the gradients of inputs.
 */
export function backward(trace: Trace, seeds: readonly (readonly [Tensor, Tensor])[]): Map<Tensor, Tensor> {
  const walk = new Walk(trace, new Set(seeds.map(([output]) => output.storage.id)));
  for (const [output, gradient] of seeds) walk.seed(output, gradient);
  const forward = trace.nodes.slice();
  for (const node of forward.reverse()) walk.visit(node);
  return walk.inputGradients();
}

/** The gradient of one storage, and which of its regions have been written so far. */
interface Gradient {
  readonly whole: Tensor;
  readonly written: Set<string>;
  /** Regions of consumers overlap in part or leave gaps: zero it first, then only add. */
  readonly zeroed: boolean;
}

class Walk implements Pick<Backward, 'grad'> {
  private readonly gradients = new Map<number, Gradient>();
  private readonly readers = new Map<number, Tensor[]>();
  private readonly wholes = new Map<number, Tensor>();

  constructor(
    private readonly trace: Trace,
    seeded: ReadonlySet<number>,
  ) {
    for (const t of trace.inputs.values()) this.wholes.set(t.storage.id, t);
    const live = liveNodes(trace.nodes, seeded);
    for (const node of trace.nodes) {
      for (const t of node.outputs) if (t && !this.wholes.has(t.storage.id)) this.wholes.set(t.storage.id, t);
      if (!live.has(node)) continue;
      for (const t of node.inputs) {
        if (!t?.needsGrad || t.parameter) continue;
        const list = this.readers.get(t.storage.id) ?? [];
        list.push(t);
        this.readers.set(t.storage.id, list);
      }
    }
  }

  seed(output: Tensor, gradient: Tensor): void {
    const { storage } = output;
    if (this.readers.has(storage.id) || count(output) !== storage.count) {
      throw new Failure({ what: `seed of ${storage.name}`, why: 'is read by other ops, or is only a part' });
    }
    this.gradients.set(storage.id, { whole: gradient, written: new Set([region(output)]), zeroed: true });
  }

  visit(node: Node): void {
    const arrived = node.outputs.some((t) => t && this.gradients.has(t.storage.id));
    if (!arrived || !node.inputs.some((t) => t?.needsGrad)) return;
    const rule = node.op.backward;
    if (typeof rule === 'string') {
      throw new Failure({ what: `op ${node.op.name}`, why: `has no gradient: ${rule}` });
    }
    rule(node, {
      grad: (t) => this.grad(t),
      sink: (t, elem) => this.sink(t, elem),
      wants: (t) => Boolean(t?.needsGrad),
      append: (op, inputs, outputs, attrs) => this.trace.emitInto(op, inputs, outputs, attrs),
    });
  }

  grad(output: Tensor | null): Tensor | null {
    if (!output) return null;
    const gradient = this.gradients.get(output.storage.id);
    return gradient ? viewLike(gradient.whole, output) : null;
  }

  private sink(input: Tensor | null, elem?: Elem): Sink | null {
    if (!input?.needsGrad) return null;
    if (input.parameter) {
      const { storage } = input;
      const flat = this.trace.fixed('grad', `${storage.name}.grad`, input.shape, storage.base, {
        elem: 'real',
      });
      return { tensor: { ...flat, offset: input.offset, ld: input.ld }, accumulate: true };
    }
    const gradient = this.gradients.get(input.storage.id) ?? this.open(input, elem);
    const key = region(input);
    const accumulate = gradient.zeroed || gradient.written.has(key);
    gradient.written.add(key);
    return { tensor: viewLike(gradient.whole, input), accumulate };
  }

  private open(input: Tensor, elem: Elem = input.storage.elem): Gradient {
    const { storage } = input;
    const whole = this.wholes.get(storage.id);
    if (!whole)
      throw new Failure({ what: `gradient of ${storage.name}`, why: 'nothing in this trace makes it' });
    const memory = this.trace.fresh({ shape: whole.shape, elem }, `d(${storage.name})`);
    const zeroed = !tiles(this.readers.get(storage.id) ?? [], storage.count);
    if (zeroed) zero(memory);
    const gradient = { whole: memory, written: new Set<string>(), zeroed };
    this.gradients.set(storage.id, gradient);
    return gradient;
  }

  inputGradients(): Map<Tensor, Tensor> {
    const result = new Map<Tensor, Tensor>();
    for (const input of this.trace.inputs.values()) {
      const gradient = this.gradients.get(input.storage.id);
      if (input.needsGrad && gradient) result.set(input, viewLike(gradient.whole, input));
    }
    return result;
  }
}

/** Nodes that the seeds depend on; from others no gradient comes, whatever they read. */
function liveNodes(nodes: readonly Node[], seeded: ReadonlySet<number>): Set<Node> {
  const wanted = new Set(seeded);
  const live = new Set<Node>();
  for (const node of nodes.toReversed()) {
    if (!node.outputs.some((t) => t && wanted.has(t.storage.id))) continue;
    live.add(node);
    for (const t of node.inputs) if (t?.needsGrad) wanted.add(t.storage.id);
  }
  return live;
}

/** The same view, on the gradient's storage. */
function viewLike(whole: Tensor, view: Tensor): Tensor {
  return { ...whole, offset: whole.offset + view.offset, shape: view.shape, ld: view.ld };
}

/** Names the elements of a view: equal text means the same elements. */
function region(t: Tensor): string {
  return isContiguous(t) ? `${t.offset}+${count(t)}` : `${t.offset}+${rows(t)}x${cols(t)}/${t.ld}`;
}

/** True where the readers' regions are pairwise equal or disjoint and cover the storage. */
function tiles(readers: readonly Tensor[], total: number): boolean {
  const distinct = [...new Map(readers.map((t) => [region(t), t])).values()];
  const covered = distinct.reduce((sum, t) => sum + count(t), 0);
  if (covered !== total) return false;
  return distinct.every((a, i) => distinct.slice(i + 1).every((b) => disjoint(a, b)));
}

function disjoint(a: Tensor, b: Tensor): boolean {
  const span = (t: Tensor) => [t.offset, t.offset + (rows(t) - 1) * t.ld + cols(t)] as const;
  const [a0, a1] = span(a);
  const [b0, b1] = span(b);
  if (a1 <= b0 || b1 <= a0) return true;
  if (a.ld !== b.ld) return false;
  const ca = a.offset % a.ld;
  const cb = b.offset % b.ld;
  return (ca + cols(a) <= cb && cb + cols(b) <= b.ld) || (cb + cols(b) <= ca && ca + cols(a) <= a.ld);
}
