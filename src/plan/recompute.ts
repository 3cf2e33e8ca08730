// Recomputation: forward results that only gradients read again are made a second time, right before they
// are read, so that their memory is free in between. Costs work, saves memory, changes no bit of a gradient.
import type { Node } from './op.ts';
import type { Storage, Tensor } from './tensor.ts';
import type { Trace } from './trace.ts';

/**
 * What is made again. `cheap`: results of ops whose row says so (norms, activations, moved rows). `blocks`:
 * everything but what the model keeps (`Trace.keep`: the stream between two blocks).
 */
export type Recompute = 'none' | 'cheap' | 'blocks';
export const RECOMPUTE: readonly Recompute[] = ['none', 'cheap', 'blocks'];

/**
 * Rewrites the nodes of a trace, of which those from `first` on are the backward part: every reader there of
 * a forward result that is not kept reads a second copy, made by the same ops from what is kept.
 */
export function recompute(trace: Trace, first: number, level: Recompute): void {
  if (level === 'none') return;
  const makers = makersOf(trace.nodes.slice(0, first));
  const again = (node: Node) => level === 'blocks' || node.op.cheap === true;
  const copies = new Map<number, Tensor>();
  const rewritten: Node[] = [];

  /** The copy of a tensor, or the tensor itself where it is kept. */
  const copyOf = (t: Tensor): Tensor => {
    const { storage } = t;
    const maker = makers.get(storage.id);
    if (!maker || trace.kept.has(storage.id) || !again(maker)) return t;
    if (!copies.has(storage.id)) repeat(maker);
    return { ...t, storage: copies.get(storage.id)!.storage };
  };
  const repeat = (node: Node): void => {
    const inputs = node.inputs.map((t) => t && copyOf(t));
    const outputs = node.outputs.map((t) => {
      if (!t) return null;
      const { elem, count, name } = t.storage;
      const memory = trace.fresh({ shape: [count], elem }, `${name} again`);
      copies.set(t.storage.id, memory);
      return { ...t, storage: memory.storage };
    });
    rewritten.push({ ...node, inputs, outputs });
  };

  for (const node of trace.nodes.slice(first)) {
    const inputs = node.inputs.map((t) => t && copyOf(t));
    rewritten.push({ ...node, inputs });
  }
  trace.nodes.splice(first, trace.nodes.length - first, ...rewritten);
}

/** The node that makes each arena storage, where one node alone makes all of it and nothing else. */
function makersOf(forward: readonly Node[]): Map<number, Node> {
  const makers = new Map<number, Node>();
  const spoilt = new Set<number>();
  const isOwn = ({ space }: Storage) => space === 'arena';
  for (const node of forward) {
    const storages = node.outputs.filter((t) => t !== null).map((t) => t.storage);
    const alone = storages.every(isOwn) && !node.accumulate.some(Boolean);
    for (const { id } of storages) {
      if (!alone || makers.has(id)) spoilt.add(id);
      makers.set(id, node);
    }
  }
  for (const node of forward) {
    const ids = node.outputs.filter((t) => t !== null).map((t) => t.storage.id);
    if (ids.some((id) => spoilt.has(id))) for (const id of ids) makers.delete(id);
  }
  return makers;
}
