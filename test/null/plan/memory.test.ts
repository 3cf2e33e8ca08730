// The memory planner on thousands of random lifetimes: nothing that lives at the same time overlaps, and the
// verifier sees every corruption of a placement.
import { describe, expect, test } from 'bun:test';
import {
  ARENA_ALIGN,
  type Lifetime,
  type Placement,
  planMemory,
  verifyMemory,
} from '../../../src/plan/memory.ts';
import { dice } from './random-graph.ts';

/** Random lifetimes over some nodes; some take over the memory of one that ends where they begin. */
function randomLifetimes(seed: number): Lifetime[] {
  const draw = dice(seed);
  const nodes = 1 + draw(40);
  const list: Lifetime[] = [];
  const taken = new Set<number>();
  for (let id = 0; id < 1 + draw(60); id++) {
    const first = draw(nodes);
    const last = Math.min(nodes, first + draw(draw(4) === 0 ? nodes : 5));
    const donor = list.find((l) => l.last === first && l.first < first && !taken.has(l.id));
    const takes = donor && draw(2) === 0 && last > first ? donor.id : undefined;
    if (takes !== undefined) taken.add(takes);
    list.push({ id, bytes: 1 + draw(5000), first, last, ...(takes === undefined ? {} : { takes }) });
  }
  return list;
}

const at = (p: Placement, l: Lifetime) => p.offsets.get(l.id) ?? Number.NaN;

/** Node by node: the pairs of buffers that live there and share a byte, handovers left out. */
function clashes(lifetimes: readonly Lifetime[], p: Placement, guard: number): string[] {
  const found: string[] = [];
  for (let node = 0; node <= 41; node++) {
    const live = lifetimes.filter((l) => l.first <= node && node <= l.last);
    for (const [i, a] of live.entries()) {
      for (const b of live.slice(i + 1)) {
        if (a.takes === b.id || b.takes === a.id) continue;
        const apart = at(p, a) + a.bytes + guard <= at(p, b) || at(p, b) + b.bytes + guard <= at(p, a);
        if (!apart) found.push(`${a.id} and ${b.id} at node ${node}`);
      }
    }
  }
  return found;
}

describe('random lifetimes', () => {
  test('3000 plans: no clash, aligned, between what lives at once and the sum of all', () => {
    for (let seed = 1; seed <= 3000; seed++) {
      const lifetimes = randomLifetimes(seed);
      const guard = seed % 3 === 0 ? 256 : 0;
      const placement = planMemory(lifetimes, guard);
      verifyMemory(lifetimes, placement);
      const faults = clashes(lifetimes, placement, guard);
      if (faults.length > 0) throw new Error(`seed ${seed}: ${faults[0]}`);
      for (const l of lifetimes) {
        expect(at(placement, l) % ARENA_ALIGN).toBe(0);
        if (l.takes !== undefined) expect(at(placement, l)).toBe(placement.offsets.get(l.takes)!);
      }
      const rounded = (l: Lifetime) => Math.ceil((l.bytes + guard) / ARENA_ALIGN) * ARENA_ALIGN;
      const sum = (list: readonly Lifetime[]) => list.reduce((total, l) => total + rounded(l), 0);
      expect(placement.arenaBytes).toBeLessThanOrEqual(sum(lifetimes));
      for (let node = 0; node <= 41; node += 7) {
        const live = lifetimes.filter((l) => l.first <= node && node < l.last);
        expect(placement.arenaBytes).toBeGreaterThanOrEqual(sum(live));
      }
    }
  });

  test('2000 corrupted placements: the verifier throws exactly where buffers clash', () => {
    let caught = 0;
    for (let seed = 1; seed <= 2000; seed++) {
      const lifetimes = randomLifetimes(seed);
      const placement = planMemory(lifetimes);
      const draw = dice(seed + 7);
      const victim = lifetimes[draw(lifetimes.length)]!;
      const target = lifetimes[draw(lifetimes.length)]!;
      const offsets = new Map(placement.offsets).set(victim.id, at(placement, target));
      const arenaBytes = placement.arenaBytes + 8192;
      const verify = () => verifyMemory(lifetimes, { offsets, arenaBytes });
      if (clashes(lifetimes, { offsets, arenaBytes }, 0).length > 0) {
        expect(verify, `seed ${seed}`).toThrow('live at the same time in the same memory');
        caught += 1;
      } else {
        verify();
      }
    }
    expect(caught).toBeGreaterThan(200);
  });
});

describe('what cannot be', () => {
  const one: Lifetime = { id: 0, bytes: 100, first: 0, last: 2 };
  const two: Lifetime = { id: 1, bytes: 100, first: 2, last: 3 };

  test('no place, off the grid, beyond the end', () => {
    const verify = (place: [number, number][], arenaBytes = 1024) =>
      verifyMemory([one], { offsets: new Map(place), arenaBytes });
    expect(() => verify([])).toThrow('buffer 0: was given no place');
    expect(() => verify([[0, 128]])).toThrow('buffer 0: misplaced at 128');
    expect(() => verify([[0, 1024]])).toThrow('buffer 0: misplaced at 1024');
  });

  test('a handover is allowed at one node only', () => {
    const offsets = new Map([
      [0, 0],
      [1, 0],
    ]);
    verifyMemory([one, { ...two, takes: 0 }], { offsets, arenaBytes: 256 });
    expect(() => verifyMemory([one, two], { offsets, arenaBytes: 256 })).toThrow('buffers 0 and 1');
    const early = { ...two, first: 1, takes: 0 };
    expect(() => verifyMemory([one, early], { offsets, arenaBytes: 256 })).toThrow('buffers 0 and 1');
  });

  test('memory is taken over from one that ends there, by one', () => {
    const take = (l: Lifetime) => ({ ...l, takes: 0 });
    expect(() => planMemory([one, take({ ...two, first: 1 })])).toThrow('cannot take over');
    expect(() => planMemory([take(two)])).toThrow('buffer 1: cannot take over the memory of buffer 0');
    expect(() => planMemory([one, take(two), take({ ...two, id: 2 })])).toThrow('cannot take over');
  });
});
