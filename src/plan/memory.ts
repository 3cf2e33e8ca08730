// The memory planner: lifetimes of arena storages to offsets, and a verifier that proves that nothing
// overlaps.
import { Failure } from '../io/failure.ts';

/** A buffer that lives from node `first` to node `last`, both included. */
export interface Lifetime {
  readonly id: number;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
  /** Id of the buffer whose memory this one takes over at `first`, when that one ends there. */
  readonly takes?: number;
}

export interface Placement {
  readonly offsets: ReadonlyMap<number, number>;
  readonly arenaBytes: number;
}

export const ARENA_ALIGN = 256;

/**
 * Places buffers by size: the largest first, each at the lowest offset where it meets no buffer that lives at
 * the same time. `guard` extra bytes are left after each buffer (canaries in tests).
 */
export function planMemory(lifetimes: readonly Lifetime[], guard = 0): Placement {
  const groups = mergeTakeovers(lifetimes);
  const order = [...groups].sort((a, b) => b.bytes - a.bytes || a.first - b.first || a.id - b.id);
  const placed: (Lifetime & { offset: number; end: number })[] = [];
  const offsets = new Map<number, number>();
  let arenaBytes = 0;
  for (const g of order) {
    const size = roundUp(g.bytes + guard);
    const rivals = placed
      .filter((p) => p.first <= g.last && g.first <= p.last)
      .sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const r of rivals) {
      if (offset + size <= r.offset) break;
      offset = Math.max(offset, r.end);
    }
    placed.push({ ...g, offset, end: offset + size });
    for (const member of g.members) offsets.set(member, offset);
    arenaBytes = Math.max(arenaBytes, offset + size);
  }
  return { offsets, arenaBytes };
}

/**
 * Throws where two buffers that live at the same node overlap. A buffer that takes over another's memory may
 * share it at exactly the node where the one ends and the other begins.
 */
export function verifyMemory(lifetimes: readonly Lifetime[], placement: Placement): void {
  const at = (l: Lifetime) => {
    const offset = placement.offsets.get(l.id);
    if (offset === undefined) throw new Failure({ what: `buffer ${l.id}`, why: 'was given no place' });
    if (offset % ARENA_ALIGN !== 0 || offset + l.bytes > placement.arenaBytes) {
      throw new Failure({ what: `buffer ${l.id}`, why: `misplaced at ${offset}` });
    }
    return offset;
  };
  const byStart = [...lifetimes].sort((a, b) => at(a) - at(b));
  for (const [i, a] of byStart.entries()) {
    const end = at(a) + a.bytes;
    for (let j = i + 1; j < byStart.length; j++) {
      const b = byStart[j]!;
      if (at(b) >= end) break;
      const together = a.first <= b.last && b.first <= a.last;
      const handover = (b.takes === a.id && b.first === a.last) || (a.takes === b.id && a.first === b.last);
      if (together && !handover) {
        throw new Failure({
          what: `buffers ${a.id} and ${b.id}`,
          why: 'live at the same time in the same memory',
        });
      }
    }
  }
}

interface Group extends Lifetime {
  readonly members: readonly number[];
}

/** Chains of takeovers become one buffer that lives from the first to the last of the chain. */
function mergeTakeovers(lifetimes: readonly Lifetime[]): Group[] {
  const byId = new Map(lifetimes.map((l) => [l.id, l]));
  const taken = new Map<number, Lifetime>();
  for (const l of lifetimes) {
    if (l.takes === undefined) continue;
    const from = byId.get(l.takes);
    if (!from || from.last !== l.first || taken.has(l.takes)) {
      throw new Failure({ what: `buffer ${l.id}`, why: `cannot take over the memory of buffer ${l.takes}` });
    }
    taken.set(l.takes, l);
  }
  return lifetimes
    .filter((l) => l.takes === undefined)
    .map((head) => {
      const members: number[] = [];
      let bytes = 0;
      let last = head.last;
      for (let l: Lifetime | undefined = head; l; l = taken.get(l.id)) {
        members.push(l.id);
        bytes = Math.max(bytes, l.bytes);
        last = l.last;
      }
      return { id: head.id, bytes, first: head.first, last, members };
    });
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ARENA_ALIGN) * ARENA_ALIGN;
}
