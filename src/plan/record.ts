// A frozen plan as plain data, for programs that read it.
import type { Plan } from './plan.ts';
import type { Tensor } from './tensor.ts';

/** Name, shape, row distance and region of an operand; null where an optional one is absent. */
const operand = (t: Tensor | null) =>
  t && {
    id: t.storage.id,
    name: t.storage.name,
    shape: t.shape,
    ld: t.ld,
    elem: t.storage.elem,
    space: t.storage.space,
  };

/** Ops in order, the arena map, sizes and sums. */
export function planRecord(plan: Plan) {
  const { launches, spaceBytes } = plan.program;
  return {
    name: plan.name,
    hash: plan.hash,
    flops: plan.flops,
    bytes: plan.bytes,
    space_bytes: spaceBytes,
    ops: plan.nodes.map((node, i) => ({
      op: node.op.name,
      inputs: node.inputs.map(operand),
      outputs: node.outputs.map(operand),
      accumulate: node.accumulate,
      attrs: node.attrs,
      blocks: launches[i]!.blocks,
      flops: node.op.flops(node),
    })),
    arena: plan.arena.map(({ id, name, offset, bytes, first, last }) => ({
      id,
      name,
      offset,
      bytes,
      first,
      last,
    })),
  };
}
