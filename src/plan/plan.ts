// The frozen plan: nodes with every buffer placed, ready for a backend, with a printed form and a hash.
import type { ElemBytes, Launch, Place, Program } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { type Lifetime, planMemory, verifyMemory } from './memory.ts';
import { type Node, operandBytes, pointerKinds } from './op.ts';
import { cols, isContiguous, rows, shapeText, type Storage, type Tensor, touches } from './tensor.ts';
import type { Trace } from './trace.ts';

/** Where the host finds a named input or output. */
export interface Port extends Place {
  readonly shape: readonly number[];
}

export interface Plan {
  readonly name: string;
  readonly nodes: readonly Node[];
  readonly program: Program;
  readonly inputs: ReadonlyMap<string, Port>;
  readonly outputs: ReadonlyMap<string, Port>;
  readonly flops: number;
  readonly bytes: number;
  /** Where each arena buffer lies, and the nodes between which it lives. */
  readonly arena: readonly ArenaBuffer[];
  /** sha256 over the launch list: equal hash, equal work. */
  readonly hash: string;
}

export interface ArenaBuffer {
  /** Number of the storage, as the printed plan gives it. */
  readonly id: number;
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

export interface FreezeOptions {
  readonly elemBytes: ElemBytes;
  /** Bytes left free after every arena buffer, for canaries. */
  readonly guard?: number;
  /** No memory is used twice: for canaries, and to find errors of lifetimes. */
  readonly keepAll?: boolean;
}

/** Places every buffer of a trace and turns its nodes into launches. Verifies the placement. */
export function freeze(name: string, trace: Trace, options: FreezeOptions): Plan {
  const { elemBytes } = options;
  for (const [key, t] of trace.outputs) {
    if (!isContiguous(t)) throw new Failure({ what: `output ${key}`, why: 'is a strided view' });
  }
  const spans = lifetimesOf(trace, elemBytes);
  const lifetimes = options.keepAll
    ? spans.map((s) => ({ ...s, first: 0, last: trace.nodes.length, takes: undefined }))
    : spans;
  const placement = planMemory(lifetimes, options.guard);
  verifyMemory(lifetimes, placement);

  const unit = Math.max(...Object.values(elemBytes));
  const start = (s: Storage) => {
    if (s.space === 'arena') return placement.offsets.get(s.id) ?? 0;
    return s.base * (s.space === 'input' ? unit : elemBytes[s.elem]);
  };
  const spaceBytes: Record<string, number> = { arena: placement.arenaBytes };
  const place = (t: Tensor): Place => {
    const { storage } = t;
    const offset = start(storage) + t.offset * elemBytes[storage.elem];
    const extent = t.offset + (rows(t) - 1) * t.ld + cols(t);
    if (extent > storage.count) {
      throw new Failure({
        what: `tensor ${storage.name}`,
        why: `a view ends at ${extent} of ${storage.count}`,
      });
    }
    const end = start(storage) + storage.count * elemBytes[storage.elem];
    spaceBytes[storage.space] = Math.max(spaceBytes[storage.space] ?? 0, end);
    return { space: storage.space, offset, elem: storage.elem };
  };
  const port = (t: Tensor): Port => ({ ...place(t), shape: t.shape });
  verifyBeside(trace.nodes);
  const launches: Launch[] = trace.nodes.map((node) => {
    const spec = node.op.launch(node);
    checkKinds(node, spec.pointers);
    return {
      kernel: node.op.name,
      pointers: spec.pointers.map((t) => (t ? place(t) : null)),
      ints: spec.ints ?? [],
      reals: spec.reals ?? [],
      blocks: spec.blocks,
      scratch: (spec.scratch ?? 0) * elemBytes.real,
      lanes: spec.lanes ?? 0,
      tensorForm: spec.tensorForm ?? null,
      ...(node.op.beside ? { beside: true as const } : {}),
    };
  });
  return {
    name,
    nodes: trace.nodes,
    inputs: new Map([...trace.inputs].map(([key, t]) => [key, port(t)])),
    outputs: new Map([...trace.outputs].map(([key, t]) => [key, port(t)])),
    program: { launches, spaceBytes },
    flops: trace.nodes.reduce((sum, n) => sum + n.op.flops(n), 0),
    bytes: trace.nodes.reduce((sum, n) => sum + (n.op.bytes ?? operandBytes)(n, elemBytes), 0),
    arena: lifetimes.map((l) => ({ ...l, offset: placement.offsets.get(l.id)! })),
    hash: new Bun.CryptoHasher('sha256').update(JSON.stringify(launches)).digest('hex'),
  };
}

/** Throws where a node may touch what another one works on beside it. */
function verifyBeside(nodes: readonly Node[]): void {
  const held: { readonly node: Node; readonly t: Tensor }[] = [];
  for (const node of nodes) {
    const operands = [...node.inputs, ...node.outputs].filter((t) => t !== null);
    for (const t of operands) {
      const found = held.find((other) => touches(other.t, t));
      if (!found && !(node.op.beside && t.storage.space === 'arena')) continue;
      const why = found
        ? `touches ${t.storage.name} while ${found.node.op.name} works on ${found.t.storage.name}`
        : `works beside others on ${t.storage.name}, whose memory they take over`;
      throw new Failure({ what: `op ${node.op.name}`, why });
    }
    if (node.op.beside) held.push(...operands.map((t) => ({ node, t })));
  }
}

/** Throws where a kernel would read or write another kind of element than lies there. */
function checkKinds({ op }: Node, pointers: readonly (Tensor | null)[]): void {
  for (const [i, { name, kind }] of pointerKinds(op).entries()) {
    const found = pointers[i]?.storage.elem;
    if (!found || found === kind || (kind === 'any' && found !== 'i32')) continue;
    throw new Failure({
      what: `op ${op.name}`,
      why: `takes ${kind} as ${name}, ${pointers[i]?.storage.name} is ${found}`,
    });
  }
}

/** Stable text form: one line an op, then the arena map. Arena buffers carry their number: `gemm.C%12`. */
export function printPlan(plan: Plan): string {
  const { launches, spaceBytes } = plan.program;
  const lines = plan.nodes.map((node, i) => {
    const place = (t: Tensor | null, k: number) => {
      if (!t) return `${k}:none`;
      const { name, space, id } = t.storage;
      return `${name}${space === 'arena' ? `%${id}` : ''}${shapeText(t)}`;
    };
    const out = node.outputs.map((t, k) => (node.accumulate[k] ? '+' : '') + place(t, k)).join(' ');
    const launch = launches[i]!;
    const inputs = node.inputs.map(place).join(', ');
    return `${String(i).padStart(4)} ${out} = ${node.op.name}(${inputs}) x${launch.blocks}`;
  });
  const map = [...plan.arena]
    .sort((a, b) => a.offset - b.offset || a.first - b.first)
    .map(({ id, name, offset, bytes, first, last }) => {
      return `  ${String(offset).padStart(12)} +${bytes}  ${name}%${id}  ops ${first}..${last}`;
    });
  const spaces = Object.entries(spaceBytes).map(([space, bytes]) => `${space} ${bytes} B`);
  const gflop = (plan.flops / 1e9).toFixed(3);
  return [
    `plan ${plan.name}: ${plan.nodes.length} ops, ${gflop} GFLOP, ${spaces.join(', ')}`,
    `hash ${plan.hash}`,
    ...lines,
    'arena',
    ...map,
    '',
  ].join('\n');
}

/** First and last node that touches each arena storage; outputs of the plan live to its end. */
function lifetimesOf(trace: Trace, elemBytes: ElemBytes): (Lifetime & { name: string })[] {
  const spans = new Map<number, { storage: Storage; first: number; last: number }>();
  const touch = (t: Tensor | null, at: number) => {
    if (t?.storage.space !== 'arena') return;
    const span = spans.get(t.storage.id);
    if (span) span.last = Math.max(span.last, at);
    else spans.set(t.storage.id, { storage: t.storage, first: at, last: at });
  };
  for (const [i, node] of trace.nodes.entries()) {
    for (const t of node.inputs) {
      if (t?.storage.space === 'arena' && !spans.has(t.storage.id)) {
        throw new Failure({
          what: `op ${node.op.name}`,
          why: `reads ${t.storage.name} before it is written`,
        });
      }
      touch(t, i);
    }
    for (const adding of [false, true]) {
      for (const [k, t] of node.outputs.entries()) {
        if ((node.accumulate[k] ?? false) !== adding) continue;
        if (adding && t?.storage.space === 'arena' && !spans.has(t.storage.id)) {
          throw new Failure({
            what: `op ${node.op.name}`,
            why: `adds to ${t.storage.name} before it is written`,
          });
        }
        touch(t, i);
      }
    }
  }
  for (const t of trace.outputs.values()) touch(t, trace.nodes.length);
  const taken = new Set<number>();
  const takes = new Map<number, number>();
  for (const [i, node] of trace.nodes.entries()) {
    for (const [out, input] of node.op.inPlace ?? []) {
      const a = node.inputs[input]?.storage;
      const b = node.outputs[out]?.storage;
      const from = a && spans.get(a.id);
      const to = b && spans.get(b.id);
      if (!from || !to || a === b || taken.has(a.id) || takes.has(b.id) || node.accumulate[out]) continue;
      const alone = node.inputs.filter((t) => t?.storage === a).length === 1;
      if (from.last === i && to.first === i && a.count === b.count && a.elem === b.elem && alone) {
        taken.add(a.id);
        takes.set(b.id, a.id);
      }
    }
  }
  return [...spans.values()].map(({ storage, first, last }) => ({
    id: storage.id,
    name: storage.name,
    bytes: storage.count * elemBytes[storage.elem],
    first,
    last,
    takes: takes.get(storage.id),
  }));
}
