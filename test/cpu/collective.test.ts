// Collective operations of three processes on the CPU, in both precisions, and what becomes of those that
// wait for one that is gone.
import { describe, expect, test } from 'bun:test';
import { Native } from '../../ffi/native.ts';
import { RankLost } from '../../src/io/failure.ts';
import { allGather, allReduce, broadcast, reduce } from '../../src/plan/ops/collective.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Trace } from '../../src/plan/trace.ts';
import { cpuBackendOver } from '../../src/backend/cpu.ts';
import { COUNT, exchanged, PLACES, value } from './collective-case.ts';

const RANKS = 3;

describe.each(['libmicrodiff.so', 'libmicrodiff_f64.so'])('%s', (name) => {
  const library = new URL(`../../build/${name}`, import.meta.url).pathname;
  const native = new Native(library);
  native.init(1);
  const backend = cpuBackendOver(native);
  const invitation = native.groupFile(RANKS);
  const start = (rank: number) =>
    Bun.spawn([process.execPath, 'test/cpu/collective-case.ts', library, invitation, `${rank}`, `${RANKS}`], {
      stdout: 'pipe',
    });

  test('sums, parts and copies, and then a rank that is gone', async () => {
    const others = [1, 2].map(start);
    await backend.group!.join(invitation, { rank: 0, ranks: RANKS });
    const own = exchanged(backend, 0, RANKS);
    const all = [own, ...(await Promise.all(others.map(async (it) => JSON.parse(await it.stdout.text()))))];
    const sum = (i: number) => value(0, i) + value(1, i) + value(2, i);
    for (const [rank, got] of all.entries()) {
      expect(got.allReduce).toEqual(PLACES.map(sum)); // multiples of 1/64: sums are exact
      expect(got.reduce).toEqual(PLACES.map((i) => (rank === 2 ? sum(i) : value(rank, i))));
      expect(got.allGather).toEqual(PLACES.map((i) => value(Math.floor(i / COUNT), i)));
      expect(got.broadcast).toEqual(PLACES.map((i) => value(1, i)));
    }
    // The others have ended: whoever calls them now is told so, and does not wait for ever.
    await Promise.all(others.map((it) => it.exited));
    const lost = () => exchanged(backend, 0, RANKS);
    expect(lost).toThrow(RankLost);
    expect(lost).toThrow(/^rank 1: is gone/);
    expect(() => exchanged(backend, 1, RANKS)).toThrow(RankLost);
    expect(() => native.joinGroup(invitation, 0, RANKS)).toThrow('is rank 0 of 3 already');
  });
});

test('a buffer that cannot be cut into parts is refused', () => {
  const rank = { rank: 0, ranks: 3 };
  const frozen = (op: (trace: Trace) => void) => () => {
    const trace = new Trace();
    op(trace);
    freeze('x', trace, { elemBytes: { act: 4, real: 4, i32: 4 } });
  };
  const tensor = (trace: Trace) => trace.fixed('x', 'x', [64], 0, { elem: 'real' });
  expect(frozen((trace) => allGather(tensor(trace), rank))).toThrow('is cut into 3 parts');
  expect(frozen((trace) => allReduce(tensor(trace)))).not.toThrow();
  expect(frozen((trace) => broadcast(tensor(trace), 1))).not.toThrow();
  expect(frozen((trace) => reduce(tensor(trace), 1))).not.toThrow();
});

test('a process in no group is told so', () => {
  const path = new URL('../../build/libmicrodiff.so', import.meta.url).pathname;
  const script = `import { Native } from './ffi/native.ts';
    import { cpuBackendOver } from './src/backend/cpu.ts';
    import { exchanged } from './test/cpu/collective-case.ts';
    const native = new Native('${path}'); native.init(1);
    try { exchanged(cpuBackendOver(native), 0, 1); } catch (error) { console.log(error.message); }`;
  const { stdout } = Bun.spawnSync([process.execPath, '-e', script]);
  expect(stdout.toString()).toContain('all_reduce: this process is in no group of ranks');
});
