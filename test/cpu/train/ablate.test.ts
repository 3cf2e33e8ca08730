// The command ablate: runs, table and plot; the same command again measures nothing anew, cells come one by
// one, and what would make a comparison unfair is refused before anything is trained.
import { afterAll, expect, test } from 'bun:test';
import { existsSync } from 'node:fs';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

async function heldOut(folder: string, count: number): Promise<void> {
  const { encodePng } = await import('../../../src/io/png.ts');
  for (let i = 0; i < count; i++) {
    const data = new Uint8Array(8 * 8 * 3).map((_, at) => (at * (i + 7)) % 251);
    await Bun.write(place.at(folder, `${i}.png`), encodePng({ width: 8, height: 8, channels: 3, data }));
    await Bun.write(place.at(folder, `${i}.txt`), 'a red circle');
  }
}

test('two cells on shapes, held-out pictures in a folder, and again', async () => {
  await heldOut('held', 4);
  const args = ['ablate', 'tiny', '-o', 'out', '--held', 'held', '--steps', '4', '--points', '2'];
  const cells = ['--cells', 'deferred-75,naive-75', '--json'];
  const first = await place.run([...args, ...cells]);
  expect([first.code, first.err.includes('error')]).toEqual([0, false]);
  const records = first.out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(records.map(({ name }) => name)).toEqual(['deferred-75', 'naive-75']);
  for (const { points } of records) {
    expect(points.length).toBeGreaterThanOrEqual(2);
    for (const { loss, ci95, eflop } of points) {
      expect(ci95[0] < loss && loss < ci95[1] && eflop > 0).toBe(true);
    }
  }
  expect(JSON.parse(place.read('out', 'results.json'))).toEqual(records);
  const table = place.read('out', 'table.md').split('\n');
  expect(table).toHaveLength(5);
  // The other cell's loss is off the first's by the difference of the two, image by image.
  const ends = records.map(({ points }) => points.at(-1).loss);
  const told = Number(/\| ([+-]\d\.\d+) \(\+-\d/.exec(table.find((row) => row.includes('naive'))!)?.[1]);
  expect(told).toBeCloseTo(ends[1] - ends[0], 3);
  expect(Buffer.from(await Bun.file(place.at('out', 'ablation.png')).bytes()).toString('latin1', 1, 4)).toBe(
    'PNG',
  );
  const again = await place.run([...args, ...cells]);
  expect([again.code, again.out]).toEqual([0, first.out]);
}, 120_000);

test('cells one by one are the same comparison, with other held-out pictures measured anew', async () => {
  await heldOut('held', 4);
  await heldOut('more', 6);
  const args = ['ablate', 'tiny', '-o', 'single', '--steps', '4', '--points', '2', '--json'];
  const cells = (names: string, held = 'held') => place.run([...args, '--cells', names, '--held', held]);
  await cells('naive-75');
  const two = await cells('deferred-75,deferred-75');
  expect(two.code).toBe(0);
  expect(JSON.parse(place.read('single', 'results.json'))).toEqual(
    JSON.parse(place.read('out', 'results.json')),
  );
  expect(place.read('single', 'table.md')).toBe(place.read('out', 'table.md'));
  const losses = (out: string) =>
    out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).points.at(-1).loss);
  const other = await cells('deferred-75', 'more');
  const [before, after] = [losses(two.out), losses(other.out)];
  expect(after).toHaveLength(2);
  for (const [i, loss] of after.entries()) expect(Math.abs(loss - before[i])).toBeGreaterThan(1e-6);
}, 120_000);

test('drawn shapes are compared on scenes of their own', async () => {
  const args = ['ablate', 'tiny', '-o', 'scenes', '--steps', '4', '--points', '1', '--count', '20', '--json'];
  const { code, out } = await place.run([...args, '--cells', 'naive-75']);
  const losses = JSON.parse(place.read('scenes', 'naive-75', 'loss.json')).points.at(-1).each;
  expect([code, new Set(losses).size]).toEqual([0, 20]);
  const run = ['eval', 'loss', '-m', 'scenes/naive-75', '--count', '20', '--json'];
  const loss = await place.run(run);
  expect(JSON.parse(loss.out)).toMatchObject({ data: 'held-out shapes', count: 20 });
  expect(JSON.parse(loss.out).loss).toBeCloseTo(JSON.parse(out).points.at(-1).loss, 6);
}, 60_000);

test('an unfair comparison is refused before anything is trained', async () => {
  await heldOut('one', 1);
  const args = ['ablate', 'tiny', '--cells', 'smaller', '--points', '2'];
  const none = await place.run([...args, '-o', 'none', '--steps', '4', '--data', 'one']);
  expect([none.code, none.err]).toEqual([
    2,
    'error: ablate: there is no held-out data to compare on. Write --held FOLDER\n',
  ]);
  const few = await place.run([...args, '-o', 'none', '--steps', '4', '--held', 'one']);
  expect([few.code, few.err]).toEqual([1, expect.stringContaining('one: has fewer than two images')]);
  expect(existsSync(place.at('none'))).toBe(false);
  // Cells of the first test are there, with four steps of the first.
  const longer = await place.run([...args, '-o', 'out', '--steps', '8', '--held', 'held']);
  expect([longer.code, longer.err]).toEqual([
    2,
    expect.stringContaining('out/deferred-75: is a run of 4 + 1 steps, not of 8 + 1, and'),
  ]);
  const rate = ['--set', 'optimizer.lr=0.5', '--steps', '4', '--held', 'held'];
  const other = await place.run([...args, '-o', 'out', ...rate]);
  expect([other.code, other.err]).toEqual([2, expect.stringContaining('(optimizer.lr differs)')]);
  expect(existsSync(place.at('out', 'smaller'))).toBe(false);
}, 60_000);
